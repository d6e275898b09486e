"""All stages through recipes/librispeech/run.sh; a second run does nothing; a change redoes what depends on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, SETS, World, mtimes, recipe

from blsp.base.files import read_json, read_jsonl

TASKS = ("asr", "color")


class Run:
    """The options of an experiment on the tiny corpus."""

    def __init__(self, world: World, folder: Path):
        self.folder, self.data, self.exp = folder, folder / "data", folder / "exp"
        self.log = folder / "log"
        self.options = ["--corpus-dir", world.corpus, "--config", world.config, "--data-dir", self.data, "--nj", 1]

    def __call__(self, *options: object, exp: str = "exp") -> str:
        """Run the recipe; returns what it printed."""
        self.log.unlink(missing_ok=True)
        status = recipe("librispeech", *self.options, "--exp-dir", self.folder / exp, *options, log=self.log)
        assert status == 0, self.log.read_text()
        return self.log.read_text()


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(world, tmp_path_factory.mktemp("run"))
    run("--", "--epochs=1")
    return run


def test_all_stages_end_in_a_table(run: Run) -> None:
    for split, size in SETS.items():
        assert (run.data / split.replace("-", "_") / "feats.scp").read_text().count("\n") == size
    for task in TASKS:
        assert len(read_jsonl(run.exp / f"decode/test_clean.{task}/hyp.jsonl")) == SETS["test-clean"]
        assert read_json(run.exp / f"decode/test_clean.{task}/score.json")["n"] == SETS["test-clean"]
    table = (run.exp / "RESULTS.md").read_text()
    assert "| asr | test_clean | WER |" in table
    assert "| color | test_clean | accuracy |" in table


def test_a_second_run_does_nothing(run: Run) -> None:
    before = mtimes(run.folder)
    printed = run("--", "--epochs=1")
    after = mtimes(run.folder)
    assert {name for name in after if after[name] != before.get(name)} <= {"log", "exp/RESULTS.md", "exp/train.log"}
    assert printed.count("up to date") == len(SETS)
    assert "model: is there" in printed


def changed(run: Run, *overrides: str) -> set[str]:
    """The stages' outputs that a run with other values writes anew."""
    before = mtimes(run.folder)
    run("--", "--epochs=1", *overrides)
    after = mtimes(run.folder)
    new = {name for name in after if after[name] != before.get(name)}
    outputs = {"text", "feats.scp", "responses.continuation.jsonl", "model.safetensors", "hyp.jsonl", "score.json"}
    return {Path(name).name for name in new} & outputs


def test_a_changed_value_redoes_exactly_the_stages_that_depend_on_it(run: Run) -> None:
    """Each step changes one more value; what the step before has done stays."""
    values: list[str] = []
    for value, expected in (
        ("--log_interval=5", set()),
        ("--scoring_normalizer=lower", {"score.json"}),
        ("--decoding.max_new_tokens=5", {"hyp.jsonl", "score.json"}),
        ("--lr=1.0e-3", {"model.safetensors", "hyp.jsonl", "score.json"}),
        ("--generation.seed=3", {"responses.continuation.jsonl", "model.safetensors", "hyp.jsonl", "score.json"}),
    ):
        values.append(value)
        assert changed(run, *values) in (expected, expected - {"score.json"}), value  # equal hypotheses, equal scores


def test_the_cascades_need_no_training(run: Run) -> None:
    for source in ("text", "whisper"):
        options = ("--stage", 4, "--", f"--system={source}_llm", f"--input={source}")
        run(*options, exp=source)
        assert (run.folder / source / "RESULTS.md").read_text().startswith(f"# {source}_llm\n")
    assert "| transcript | test_clean | WER |" in (run.folder / "whisper/RESULTS.md").read_text()
    assert not (run.folder / "text" / "model").exists()


@pytest.mark.slow
def test_the_script_itself_runs(world: World, tmp_path: Path) -> None:
    run = Run(world, tmp_path)
    script = ["bash", ROOT / "recipes/librispeech/run.sh", *run.options, "--exp-dir", run.exp, "--", "--epochs=1"]
    done = subprocess.run([str(word) for word in script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| asr | test_clean | WER |" in (run.exp / "RESULTS.md").read_text()
