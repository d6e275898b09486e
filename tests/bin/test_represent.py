"""Representations of two models side by side; a rerun does nothing, a killed run goes on, changed inputs count again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, World, call, mtimes, run_program, untrained_model
from safetensors import safe_open
from safetensors.numpy import load_file

from blsp.base.config import load_config
from blsp.base.files import InputError, read_json, write_json
from blsp.bin.represent import report
from blsp.data.data_dir import read_table, write_table

CONFIGS = [ROOT / "egs" / name / "conf/represent.yaml" for name in ("mini", "paper")]
TABLE_6 = {
    "CW": "Please continue the following sentence.",
    "SA": "Please classify the emotional tone of the following text.",
    "SR": "Please transcribe the following audio into English text.",
    "ST": "Please translate the following English text into German text.",
}
SETTINGS = {
    "set": "test_clean",
    "normalizer": "lower",
    "precision": "float32",
    "batch": 3,
    "instructions": {"ST": TABLE_6["ST"], "CW": TABLE_6["CW"]},  # not in the order of letters
    "picture": {"samples": 4, "joined": 2, "seed": 0, "perplexity": 5},
    "paper": {"first": {"paired": {"CW": 0.27, "ST": 0.176}, "speech": {"ST, CW": 0.991}}},
}
SYSTEMS = ("first", "second")


@pytest.fixture(scope="module")
def models(prepared: World, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(SYSTEMS):
        provenance = {"configuration": {"system": name}}
        parts = str(prepared.whisper), str(prepared.llm)
        untrained_model(prepared, seed).save_pretrained(folder / name / "model", *parts, provenance)
    (prepared.folder / "represent.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    return [folder / name / "model" for name in SYSTEMS]


def arguments(world: World, models: list[Path], exp_dir: Path, *overrides: str, limit: int = 0) -> tuple:
    config = world.folder / "represent.yaml"
    options = ("--data-dir", world.data, "--exp-dir", exp_dir, "--limit", limit, "--model", *models)
    return ("--config", config, *options, "--", *overrides)


@pytest.fixture(scope="module")
def compared(prepared: World, models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp_dir = tmp_path_factory.mktemp("exp")
    call("represent", *arguments(prepared, models, exp_dir))
    return exp_dir / "represent/test_clean"


def test_all_utterances_in_order_and_all_files(prepared: World, compared: Path) -> None:
    text = read_table(prepared.data / "test_clean/text")
    names = {"speech.safetensors", "text.safetensors", "similarities.json", "tsne.png"}
    assert {p.name for p in compared.iterdir()} == {"RESULTS.md", *SYSTEMS}
    for system in SYSTEMS:
        assert {p.name for p in (compared / system).iterdir()} == names
        for modality in ("speech", "text"):
            with safe_open(compared / system / f"{modality}.safetensors", "np") as f:
                assert f.metadata()["utt_ids"].split("\n") == list(text)
                assert {name: f.get_tensor(name).shape for name in f.keys()} == {"CW": (7, 32), "ST": (7, 32)}  # noqa: SIM118
        values = read_json(compared / system / "similarities.json")
        assert (values["system"], values["set"], values["n"]) == (system, "test_clean", 7)
        assert len(set(values["shown"])) == 4 and set(values["shown"]) <= set(text)
    first, second = (load_file(compared / system / "speech.safetensors")["CW"] for system in SYSTEMS)
    assert not np.allclose(first, second, atol=1e-2)


def test_singles_and_batches_have_the_same_states(prepared: World, models: list[Path], compared: Path, tmp_path: Path) -> None:
    call("represent", *arguments(prepared, models[:1], tmp_path, "--batch=1"))
    for modality in ("speech", "text"):
        ours = load_file(tmp_path / f"represent/test_clean/first/{modality}.safetensors")
        for name, states in load_file(compared / f"first/{modality}.safetensors").items():
            np.testing.assert_allclose(ours[name], states, rtol=1e-3, atol=1e-4)


def test_the_tables_say_what_was_measured(compared: Path) -> None:
    text = (compared / "RESULTS.md").read_text()
    values = {system: read_json(compared / system / "similarities.json") for system in SYSTEMS}
    paired, across = values["first"]["paired"], values["first"]["speech"]["CW"]["ST"]
    assert "|  | ST | CW |" in text and "|  | ST, CW |" in text
    assert f"| first | {paired['ST']:.3f} (0.176) | {paired['CW']:.3f} (0.270) |" in text
    assert f"| first, speech | {across:.3f} (0.991) |" in text
    assert f"| second | {values['second']['paired']['ST']:.3f} | {values['second']['paired']['CW']:.3f} |" in text
    assert f"| first, second, text | {values['first']['text']['CW']['ST']:.3f} |" in text  # of the one LLM
    assert "over 7 utterances" in text
    for picture in re.findall(r"\]\((.*png)\)", text):
        assert (compared / picture).read_bytes().startswith(b"\x89PNG")
    assert "In parentheses" not in report([values["second"]], SETTINGS["paper"])


def test_a_rerun_does_nothing(prepared: World, models: list[Path], compared: Path) -> None:
    before = mtimes(compared)
    call("represent", *arguments(prepared, models, compared.parents[1]))
    assert mtimes(compared) == before


def test_only_what_has_changed_is_made_again(
    prepared: World, models: list[Path], tmp_path: Path, copy_of: Callable[[World], World]
) -> None:
    world, folder = copy_of(prepared), tmp_path / "exp/represent/test_clean/first"

    def changed(*overrides: str, limit: int = 0) -> set[str]:
        before = mtimes(folder) if folder.exists() else {}
        call("represent", *arguments(world, models[:1], tmp_path / "exp", *overrides, limit=limit))
        return {name for name, time in mtimes(folder).items() if before.get(name) != time}

    results = {"similarities.json", "tsne.png"}
    assert changed() == {"speech.safetensors", "text.safetensors", *results}
    assert changed("--picture.seed=5") == results
    (folder / "tsne.png").unlink()
    assert changed("--picture.seed=5") == results
    table = read_table(world.data / "test_clean/text")
    table[next(iter(table))] += " at home"
    write_table(world.data / "test_clean/text", table)
    assert changed("--picture.seed=5") == {"text.safetensors", *results}
    assert changed("--picture.seed=5", limit=2) == {"speech.safetensors", "text.safetensors", *results}
    assert read_json(folder / "similarities.json")["n"] == 2


def test_killed_and_resumed_is_never_killed(prepared: World, models: list[Path], compared: Path, tmp_path: Path) -> None:
    def patch() -> None:
        from blsp.evaluation import representations

        save, saved = representations.save_states, []

        def dying(path: Path, *what: object) -> None:
            save(path, *what)
            saved.append(path)
            if len(saved) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        representations.save_states = dying

    given = arguments(prepared, models[:1], tmp_path)
    folder = tmp_path / "represent/test_clean/first"
    assert run_program("represent", *given, log=tmp_path / "log", patch=patch) == -signal.SIGKILL
    parts = mtimes(folder)
    assert len(parts) == 2 and not (folder / "speech.safetensors").exists()
    assert run_program("represent", *given, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    for modality in ("speech", "text"):
        resumed, whole = (load_file(f / f"{modality}.safetensors") for f in (folder, compared / "first"))
        assert resumed.keys() == whole.keys() and all(np.array_equal(resumed[name], whole[name]) for name in whole)
    assert not list(folder.glob("*.parts"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--set=absent", "holds none of absent"),
        ("--instructions=[a]", "instructions should be a mapping"),
        ("--picture.samples=0", r"picture.samples 0 should be a number, 1 at least"),
        ("--picture.perplexity=none", r"picture.perplexity 'none' should be a number, 1 at least"),
        ("--picture=3", "picture should have samples, joined, seed and perplexity"),
        ("--batch=0", "batch 0 should be a number of utterances"),
        ("--nothing=1", "has no such key"),
    ],
)
def test_settings_that_mean_nothing(prepared: World, models: list[Path], tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call("represent", *arguments(prepared, models, tmp_path, override))


def test_models_that_cannot_be_compared(prepared: World, models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent/config.json: cannot be read"):
        call("represent", *arguments(prepared, [models[0], tmp_path / "absent"], tmp_path))
    config = read_json(models[0] / "config.json")
    write_json(tmp_path / "same/config.json", config)
    with pytest.raises(InputError, match=r"same: is called first as .*first/model is"):
        call("represent", *arguments(prepared, [models[0], tmp_path / "same"], tmp_path))
    write_json(tmp_path / "out/config.json", config | {"provenance": {"configuration": {"system": "../up"}}})
    with pytest.raises(InputError, match="'../up' cannot be a folder's"):
        call("represent", *arguments(prepared, [tmp_path / "out"], tmp_path))
    write_json(tmp_path / "ctc/config.json", config | {"model_type": "blsp-ctc"})
    with pytest.raises(InputError, match="is not of a BLSP model"):
        call("represent", *arguments(prepared, [tmp_path / "ctc"], tmp_path))


def test_features_that_are_missing_name_their_stage(
    prepared: World, models: list[Path], tmp_path: Path, copy_of: Callable[[World], World]
) -> None:
    world = copy_of(prepared)
    (world.data / "test_clean/feats.json").unlink()
    with pytest.raises(InputError, match=r"test_clean/feats.json: is missing; run stage 1"):
        call("represent", *arguments(world, models, tmp_path))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parts[-3])
def test_the_experiments_ask_what_table_6_asks(path: Path) -> None:
    config = load_config(path)
    assert config.keys() == SETTINGS.keys() and config["picture"].keys() == SETTINGS["picture"].keys()
    assert TABLE_6.items() <= config["instructions"].items()
    assert config["picture"]["samples"] == 25


def test_the_papers_values_have_a_cell_each() -> None:
    config = load_config(CONFIGS[1])
    names = list(config["instructions"])
    pairs = {f"{a}, {b}" for i, a in enumerate(names) for b in names[i + 1 :]}
    assert {system: {kind: set(v) for kind, v in values.items()} for system, values in config["paper"].items()} == {
        system: {"paired": set(names), "speech": pairs} for system in ("asr_pretrain", "blsp")
    }


def test_help_says_what_is_read_and_written() -> None:
    shown = subprocess.run([sys.executable, "-m", "blsp.bin.represent", "--help"], capture_output=True, text=True, check=True)
    assert "writes  EXP_DIR/represent/SET/SYSTEM/" in shown.stdout and "--limit" in shown.stdout
