"""egs/mini/run.sh: its plan follows its tables, and a run leaves the record on results alone unless it is told to."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from blsp.base.config import load_config

MINI = ROOT / "egs/mini"


def bash(script: str, *options: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Without a PATH to the project's Python: a dry run needs none."""
    env = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(["bash", MINI / script, *map(str, options)], capture_output=True, text=True, cwd=cwd, env=env)


def plan(*options: object, cwd: Path = ROOT, script: str = "run.sh") -> list[list[str]]:
    """The commands of a dry run, in words."""
    done = bash(script, "--dry-run", *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def table(name: str) -> dict[str, list[str]]:
    lines = (MINI / "conf" / name).read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {first: rest for first, *rest in rows}


def value_of(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def of_recipe(plan: list[list[str]], name: str, first: int, last: int) -> list[list[str]]:
    stages = ["--stage", str(first), "--stop-stage", str(last)]
    return [words for words in plan if words[0] == f"../../recipes/{name}/run.sh" and words[1:5] == stages]


@pytest.mark.parametrize(("script", "lines"), [("run.sh", 95), ("local/plan.sh", 95), ("local/train_models.sh", 35)])
def test_the_scripts_are_valid_bash_and_short(script: str, lines: int) -> None:
    assert subprocess.run(["bash", "-n", MINI / script]).returncode == 0
    assert len((MINI / script).read_text().splitlines()) <= lines


def test_the_tables_name_what_exists() -> None:
    """And the tables of results know every corpus that has scores: one that they lack would be taken for the first."""
    assert set(table("recipes.tsv")) - {"alpaca"} < set(load_config(MINI / "conf/tables.yaml")["corpora"])
    for name, (source, configuration) in table("systems.tsv").items():
        if configuration not in ("none", "--config"):
            config = load_config(MINI / "conf" / configuration)
            assert (config["system"], config["input"]) == (name, source)
    for name, (made, *flags) in table("recipes.tsv").items():
        assert (MINI / "conf" / f"{name}.yaml").exists()
        assert (ROOT / "recipes" / name.removesuffix("-qa") / "run.sh").exists()
        assert made in ("trains", "decodes") and set(flags) <= {"yes", "no"}


def test_every_system_of_the_table_is_run_with_its_configuration_and_input() -> None:
    words = plan("--systems", "all")
    for name, (source, configuration) in table("systems.tsv").items():
        (decoding,) = [w for w in of_recipe(words, "librispeech", 4, 5) if value_of(w, "--exp-dir").endswith(f"seed1/{name}")]
        training = [w for w in of_recipe(words, "librispeech", 3, 3) if value_of(w, "--exp-dir").endswith(f"seed1/{name}")]
        assert len(training) == (configuration != "none")
        assert value_of(decoding, "--config") == str(
            MINI / "conf" / (f"{name}.yaml" if name.startswith("blsp") or training else "blsp.yaml")
        )
        if not training:
            assert decoding[-2:] == [f"--system={name}", f"--input={source}"]


def test_every_recipe_of_the_table_is_run_on_its_layout() -> None:
    words = plan("--recipes", "all")
    for name, (made, _, further) in table("recipes.tsv").items():
        mine = [w for w in words if "--corpus-dir" in w and value_of(w, "--corpus-dir").endswith(f"/corpora/{name}")]
        assert {w[0] for w in mine} == {f"../../recipes/{name.removesuffix('-qa')}/run.sh"}
        assert {value_of(w, "--config") for w in mine} == {str(MINI / "conf" / f"{name}.yaml")}
        assert [w[2] for w in mine] == (["0", "1"] if made == "trains" else ["0", "1", "4"])
        references = ["--references", f"corpora/{name}/references"]
        assert any(w[2:4] == references for w in words) == (further == "yes")
        assert any(w.startswith("--encoder=") for w in mine[0]) == (name != "alpaca")


def test_the_papers_tables_decode_with_every_system() -> None:
    words = plan("--full", "--model", "ignored")
    for name, (made, tables, _) in table("recipes.tsv").items():
        decoding = [w for w in of_recipe(words, name.removesuffix("-qa"), 4, 5) if f"{MINI}/corpora/{name}" in w]
        models = [value_of(w, "--model") for w in decoding]
        expected = [str(MINI / "exp/seed1" / system / "model") for system in table("systems.tsv")]
        assert models == (expected if tables == "yes" else [])
        assert made == "decodes" or tables == "no"
    assert len({value_of(w, "--exp-dir") for w in words if w[1:5] == ["--stage", "4", "--stop-stage", "5"]}) == 9 * 8 + 8


@pytest.mark.parametrize("options", [[], ["--full"], ["--recipes", "fsc"], ["--from-scratch", "--limit", "4", "--", "--lr=1"]])
def test_results_go_to_the_experiments_unless_they_are_to_be_recorded(tmp_path: Path, options: list[str]) -> None:
    tables = plan("--exp-dir", "e", *options, cwd=tmp_path)[-1]
    assert value_of(tables, "--exp-dir") == f"{tmp_path}/e"
    assert "--out" not in tables
    done = bash("run.sh", "--dry-run", "--record", *options)
    if "--limit" in options:
        assert done.returncode == 2
        assert "--record is for the experiment as it is, without --from-scratch --limit 4 -- --lr=1" in done.stderr
        (changed,) = [word for word in tables if word.startswith("--changed=")]
        assert shlex.split(changed) == ["--changed=--from-scratch", "--limit", "4", "--", "--lr=1"]
    else:
        assert value_of(shlex.split(done.stdout.splitlines()[-1]), "--out") == str(MINI)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--systems", "blsp gpt"], 2, "--systems: 'gpt' is not one of text_llm "),
        (["--recipes", "fsc,librispeech"], 2, "--recipes: 'librispeech' is not one of gigaspeech "),
        (["--systems", "blsp_*"], 2, "--systems: 'blsp_*' is not one of"),
        (["--systems", "x]$(touch$IFS/tmp/never)"], 2, "is not one of"),
    ],
)
def test_wrong_names_end_in_one_line(options: list[str], status: int, message: str) -> None:
    done = bash("run.sh", "--dry-run", *options)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not Path("/tmp/never").exists()


def test_the_models_are_trained_by_a_script_of_their_own(tmp_path: Path) -> None:
    (call,) = [w for w in plan("--from-scratch", "--exp-dir", "e", cwd=tmp_path) if w[0] == "local/train_models.sh"]
    trained = value_of(call, "--out-dir")
    assert trained == f"{tmp_path}/e/models"
    words = plan(*call[1:], script="local/train_models.sh")
    assert [value_of(w, "--out") for w in words[2:3] + words[-1:]] == [f"{trained}/whisper-mini", f"{trained}/llama-mini"]
    tuned = [w for w in words if "blsp.bin.llm_sft" in w]
    begin = [next(word for word in w if word.startswith("--llm=")).removeprefix("--llm=") for w in tuned]
    assert begin[1:] == [f"{value_of(w, '--exp-dir')}/model" for w in tuned[:-1]]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    before = sorted(MINI.rglob("*"))
    plan("--full", "--from-scratch", cwd=tmp_path)
    assert sorted(MINI.rglob("*")) == before
    assert not list(tmp_path.iterdir())
