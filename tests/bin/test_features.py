"""Features are of the mel bins that the encoder takes: compared where stage 1 begins, and where stages 3 and 4 read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import World, run_program

from blsp.base.files import write_json

WANTS = "wants 128 mel bins; set n_mels: 128 and run from stage 1"


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A Whisper's folder of 128 mel bins; nobody comes so far as to load it."""
    write_json(tmp_path / "large/config.json", {"model_type": "whisper", "num_mel_bins": 128})
    return tmp_path / "large"


def refusal(log: Path, program: str, *arguments: object) -> str:
    """What a program says that ends with status 1: one line, its last."""
    log.unlink(missing_ok=True)
    assert run_program(program, *arguments, log=log) == 1
    assert "Traceback" not in log.read_text()
    return log.read_text().splitlines()[-1]


def test_stage_1_compares_before_it_computes(world: World, wide: Path, tmp_path: Path) -> None:
    arguments = ("--config", world.config, "--data-dir", tmp_path / "data", "--nj", 1, "--", f"--encoder={wide}")
    assert f"{world.config}: n_mels is 80, but the encoder {wide} {WANTS}" in refusal(tmp_path / "log", "features", *arguments)
    # As many as the encoder takes: the next thing to be missed is the data.
    assert "n_mels" not in refusal(tmp_path / "log", "features", *arguments, "--n_mels=128")


def test_stages_3_and_4_compare_what_the_features_were_made_with(prepared: World, wide: Path, tmp_path: Path) -> None:
    common = ("--config", prepared.config, "--data-dir", prepared.data, "--exp-dir", tmp_path / "exp")
    said = refusal(tmp_path / "log", "train", *common, "--", f"--encoder={wide}")
    assert f"{prepared.data}/train_clean_100/feats.json: n_mels is 80, but the encoder {wide} {WANTS}" in said
    said = refusal(tmp_path / "log", "decode", *common, "--", "--input=whisper", f"--encoder={wide}")
    assert f"{prepared.data}/test_clean/feats.json: n_mels is 80, but the encoder {wide} {WANTS}" in said
    for source in ("speech", "ctc"):  # a model names its encoder beside it
        write_json(tmp_path / "model/config.json", {"model_type": "blsp", "encoder": "./../large"})
        said = refusal(tmp_path / "log", "decode", *common, "--model", tmp_path / "model", "--", f"--input={source}")
        assert WANTS in said


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    """A hub of one model, openai/whisper-large-v3."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/openai/whisper-large-v3/resolve/main/config.json"
            body = json.dumps({"model_type": "whisper", "num_mel_bins": 128}).encode()
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(body if known else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("reach", ["hub", "another name", "no network", "offline"])
def test_a_hub_name_is_compared_where_the_hub_can_be_reached(hub: ThreadingHTTPServer, tmp_path: Path, reach: str) -> None:
    port = hub.server_port if reach != "no network" else 9
    name = "openai/whisper-large-v3" if reach != "another name" else "no/such"
    env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
    env |= {"HF_HUB_OFFLINE": "1"} if reach == "offline" else {}
    code = f"""
import sys
from blsp.base import command
from blsp.base.pretrained import check_mel_bins
command.run(lambda: check_mel_bins({name!r}, 80, "small.yaml"))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    if reach == "hub":
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and f"{name} {WANTS}" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("config", [None, "{}", "[]", '{"num_mel_bins": null}'])
def test_a_folder_that_does_not_say_is_let_through(world: World, tmp_path: Path, config: str | None) -> None:
    (tmp_path / "encoder").mkdir()
    if config is not None:
        (tmp_path / "encoder/config.json").write_text(config)
    arguments = ("--config", world.config, "--data-dir", tmp_path / "data", "--", f"--encoder={tmp_path / 'encoder'}")
    assert "mel bins" not in refusal(tmp_path / "log", "features", *arguments)
