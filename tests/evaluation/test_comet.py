"""COMET beside BLEU: computed in an environment of its own, filled in where it is missing, never in the way of other scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, call, mtimes

from blsp.base.files import InputError, read_json, write_jsonl
from blsp.data.data_dir import write_table
from blsp.evaluation import comet, metrics

COMET_PYTHON = ROOT / ".venv-comet" / "bin" / "python"
installed = pytest.mark.skipif(not COMET_PYTHON.exists(), reason="tools/setup_comet.sh has not been run")
CONFIG = """
system: tiny
input: speech
scoring_normalizer: lower
comet: some/model
tasks:
  de: {sets: [a, b], instruction: T, reference: translation.de, metric: bleu}
  asr: {sets: [a], instruction: R, reference: text, metric: wer}
"""
# Speaks as tools/comet_score.py does: the score is the share of translations that are the reference.
STAND_IN = """\
import json, os, sys
program, option, model = sys.argv[1:]
assert program.endswith("tools/comet_score.py") and option == "--model"
if model == "no/model":
    print(json.dumps({"error": "no/model: is not here"}), flush=True)
    sys.exit(1)
for line in sys.stdin:
    texts = json.loads(line)
    assert len(texts["src"]) == len(texts["mt"]) == len(texts["ref"])
    open(os.environ["CALLS"], "a").write(texts["name"].rpartition("/")[2] + "\\n")
    if texts["name"].endswith(os.environ.get("DIE_AT", "nowhere")):
        print("out of memory", file=sys.stderr)
        sys.exit(9)
    score = sum(m == r for m, r in zip(texts["mt"], texts["ref"])) / len(texts["mt"])
    print(json.dumps({"name": texts["name"], "score": score, "n": len(texts["mt"]), "version": "0"}), flush=True)
"""


class Experiment:
    """Translations of two sets and one recognition task, without an environment for COMET at first."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        (folder / "e.yaml").write_text(CONFIG)
        for name in ("a", "b"):
            write_table(folder / "data" / name / "text", {"u1": "i see a dog here", "u2": "he sees the old house"})
            hypotheses = ("ich sehe hier einen Hund", "er sieht das Haus")
            references = ("ich sehe hier einen Hund", "er sieht das alte Haus")
            self.write(name, "de", hypotheses, references)
        self.write("a", "asr", ("i see", "he sees"), ("i see", "he sees"))
        monkeypatch.setenv("BLSP_COMET_PYTHON", str(folder / "absent"))
        monkeypatch.setenv("CALLS", str(folder / "calls"))

    def write(self, name: str, task: str, hypotheses: tuple[str, ...], references: tuple[str, ...]) -> None:
        rows = [
            {"utt_id": f"u{i}", "hypothesis": h, "reference": r, "finish_reason": "stop"}
            for i, (h, r) in enumerate(zip(hypotheses, references, strict=True), 1)
        ]
        write_jsonl(self.folder / f"exp/decode/{name}.{task}/hyp.jsonl", rows)

    def install(self) -> None:
        (self.folder / "stand_in.py").write_text(STAND_IN)
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{self.folder}/stand_in.py" "$@"\n')
        python.chmod(0o755)
        self.monkeypatch.setenv("BLSP_COMET_PYTHON", str(python))

    def run(self, *overrides: str) -> None:
        folder = self.folder
        options = ("--config", folder / "e.yaml", "--data-dir", folder / "data", "--exp-dir", folder / "exp")
        call("score", *options, "--", *overrides)

    def score(self, name: str) -> dict:
        return read_json(self.folder / f"exp/decode/{name}/score.json")

    def calls(self) -> list[str]:
        """Sets that were scored since the last call."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def times(self) -> dict[str, int]:
        return mtimes(self.folder / "exp", "decode/*/score.json")

    @property
    def table(self) -> str:
        return (self.folder / "exp/RESULTS.md").read_text()


@pytest.fixture
def exp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    return Experiment(tmp_path, monkeypatch)


def test_without_the_environment_the_other_scores_stand_and_say_what_to_do(exp, capfd) -> None:
    exp.run()
    assert exp.score("a.de")["bleu"] > 0 and "comet" not in exp.score("a.de")
    set_up = f"{ROOT}/tools/setup_comet.sh some/model installs COMET and downloads the model"
    message = f"is not there, or not all that it needs; {set_up}"
    assert message in exp.score("b.de")["comet_missing"]
    assert capfd.readouterr().out.count(message) == 1
    assert exp.table.count("COMET missing") == 2
    assert exp.score("a.asr")["wer"] == 0 and "comet_missing" not in exp.score("a.asr")
    before = exp.times()
    exp.run()
    assert exp.times() == before


def test_a_later_run_fills_in_comet_and_computes_nothing_else(exp, monkeypatch) -> None:
    exp.run()
    before, times = exp.score("a.de"), exp.times()
    exp.install()
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "bleu", lambda *_: pytest.fail("BLEU was computed again"))
        exp.run()
    assert exp.calls() == ["a.de", "b.de"]
    after = exp.score("a.de")
    assert after["comet"] == 50 and after["comet_signature"] == "model:some/model|precision:fp32|version:0"
    del before["comet_missing"]
    assert before.items() <= after.items() and "comet_missing" not in after
    assert exp.times()["decode/a.asr/score.json"] == times["decode/a.asr/score.json"]
    assert exp.table.count("COMET 50.0, chrF") == 2 and r"COMET model:some/model\|precision:fp32\|version:0 |" in exp.table
    times = exp.times()
    exp.run()
    assert exp.calls() == [] and exp.times() == times


def test_comet_is_computed_again_when_its_texts_or_its_model_change_and_only_then(exp) -> None:
    exp.install()
    exp.run()
    exp.calls()
    exp.write("b", "de", ("x", "y"), ("x", "y"))
    exp.run()
    assert exp.calls() == ["b.de"] and exp.score("b.de")["comet"] == 100
    write_table(exp.folder / "data/a/text", {"u1": "i see a cat here", "u2": "he sees the old house"})
    exp.run()
    assert exp.calls() == ["a.de"]  # another source, the same translations
    exp.run("--system=other")
    assert exp.calls() == [] and exp.score("a.de")["system"] == "other" and exp.score("a.de")["comet"] == 50
    exp.run("--comet=another/model")
    assert exp.calls() == ["a.de", "b.de"]


def test_comet_of_old_translations_never_stands_beside_new_ones(exp) -> None:
    exp.install()
    exp.run()
    exp.write("b", "de", ("x", "y"), ("x", "z"))
    exp.run("--comet=null")
    assert "comet" not in exp.score("b.de") and exp.score("a.de")["comet"] == 50


def test_a_death_on_the_way_keeps_what_was_scored(exp, monkeypatch) -> None:
    exp.install()
    monkeypatch.setenv("DIE_AT", "b.de")
    exp.run()
    assert exp.score("a.de")["comet"] == 50
    assert exp.score("b.de")["comet_missing"] == f"tools/comet_score.py ended with status 9; see {exp.folder}/exp/comet.log"
    assert (exp.folder / "exp/comet.log").read_text() == "out of memory\n"
    monkeypatch.delenv("DIE_AT")
    exp.calls()
    exp.run()
    assert exp.calls() == ["b.de"]


def test_an_absent_model_is_said_by_name(exp) -> None:
    exp.install()
    exp.run("--comet=no/model")
    assert exp.score("a.de")["comet_missing"] == "no/model: is not here"
    assert exp.calls() == []


def test_a_half_made_environment_is_none(exp, monkeypatch) -> None:
    exp.install()
    monkeypatch.delenv("BLSP_COMET_PYTHON")
    monkeypatch.setattr(comet, "ENVIRONMENT", exp.folder / "environment")
    (exp.folder / "environment" / "bin").mkdir(parents=True)
    (exp.folder / "environment" / "bin" / "python").symlink_to(exp.folder / "python")
    exp.run()
    assert "not all that it needs" in exp.score("a.de")["comet_missing"]
    (exp.folder / "environment" / "blsp-setup").touch()
    exp.run()
    assert exp.score("a.de")["comet"] == 50


def test_without_a_model_in_the_configuration_there_is_no_comet(exp) -> None:
    exp.install()
    exp.run("--comet=null")
    assert exp.calls() == [] and "COMET" not in exp.table
    assert not [key for key in exp.score("a.de") if key.startswith("comet")]


def comet_score(*arguments: object, python: Path | str = sys.executable, lines: str = "") -> subprocess.CompletedProcess[str]:
    command = [python, ROOT / "tools" / "comet_score.py", *arguments]
    return subprocess.run(
        [str(c) for c in command], input=lines, capture_output=True, text=True, env=os.environ | {"HF_HOME": "/x"}
    )


def test_scoring_downloads_nothing_and_names_the_command_that_does(tmp_path: Path) -> None:
    done = comet_score("--model", "Unbabel/wmt22-comet-da")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["error"].endswith("tools/setup_comet.sh Unbabel/wmt22-comet-da downloads it")
    (line,) = comet_score("--model", tmp_path).stdout.splitlines()
    assert json.loads(line)["error"].startswith(f"{tmp_path}/hparams.yaml: no such file; a COMET model is a folder with")


def test_set_up_refuses_options_in_one_line() -> None:
    done = subprocess.run([ROOT / "tools" / "setup_comet.sh", "--help"], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comet")
    subprocess.run([COMET_PYTHON, Path(__file__).with_name("tiny_comet.py"), folder], check=True, capture_output=True)
    return folder


@installed
@pytest.mark.slow
def test_comet_itself_scores_a_stage(exp, tiny: Path, monkeypatch) -> None:
    """Random weights: the figure means nothing, but it is what COMET's own command gives for the same texts."""
    monkeypatch.delenv("BLSP_COMET_PYTHON")
    exp.run(f"--comet={tiny}")
    score = exp.score("a.de")
    assert score["comet_signature"] == f"model:{tiny}|precision:fp32|version:2.2.7"
    texts = {
        "s": ["i see a dog here", "he sees the old house"],
        "t": ["ich sehe hier einen Hund", "er sieht das Haus"],
        "r": ["ich sehe hier einen Hund", "er sieht das alte Haus"],
    }
    for name, lines in texts.items():
        (exp.folder / name).write_text("".join(f"{line}\n" for line in lines))
    command = [COMET_PYTHON.with_name("comet-score"), "--gpus", "0", "--model", tiny / "checkpoints" / "model.ckpt"]
    command += [part for name in texts for part in (f"-{name}", name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=exp.folder, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert score["comet"] == pytest.approx(
        100 * float(done.stdout.split()[-1]), abs=0.2
    )  # the command computes in half precision
    # Other weights in the same folder are another model.
    checkpoint = tiny / "checkpoints" / "model.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    exp.run(f"--comet={tiny}")
    assert "model.ckpt: cannot be loaded" in exp.score("a.de")["comet_missing"]


@installed
@pytest.mark.slow
def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "hparams.yaml").write_text("class_identifier: regression_metric\n")
    code = (
        "import os, sys, torch\n"
        "class Code:\n"
        "    def __reduce__(self): return (os.mkdir, (sys.argv[2],))\n"
        "torch.save({'state_dict': {}, 'hyper_parameters': {}, 'x': Code()}, sys.argv[1])\n"
    )
    subprocess.run([COMET_PYTHON, "-c", code, tmp_path / "checkpoints" / "model.ckpt", tmp_path / "ran"], check=True)
    done = comet_score("--model", tmp_path, python=COMET_PYTHON)
    assert "Weights only load failed" in json.loads(done.stdout)["error"]
    assert not (tmp_path / "ran").exists()


def test_a_model_of_ones_own_is_not_to_be_downloaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BLSP_COMET_PYTHON", str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"setup_comet\.sh installs COMET$"):  # a folder is not downloaded
        list(comet.scores([], str(tmp_path), tmp_path / "log"))
