"""egs/paper: the plan that a dry run prints is complete, and all that it names exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, World, call, run_program
from transformers import AutoTokenizer

from blsp.base.config import load_config, plain
from blsp.base.files import read_json
from blsp.model.prompts import Prompter
from blsp.training.dataset import AlignmentData

FOLDER = ROOT / "egs/paper"
SYSTEMS = {"text_llm": "text", "whisper_llm": "whisper", "ctc_llm": "ctc", "asr_pretrain": "speech", "blsp": "speech",
           "blsp_rp": "speech", "blsp_kd": "speech"}  # fmt: skip
TRAINED = ("ctc_llm", "asr_pretrain", "blsp", "blsp_rp", "blsp_kd")
EVALUATION = ("librispeech", "tedlium3", "must-c", "covost2", "snips", "fsc", "slue-voxceleb", "gigaspeech", "bstc", "mslt")
QA = ROOT / "recipes/gigaspeech/conf/qa.yaml"


def paper(*options: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Without a PATH to the project's Python: a dry run needs none."""
    env = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    command = ["bash", FOLDER / "run.sh", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


def plan(*options: object, cwd: Path = ROOT) -> list[list[str]]:
    """The commands of a dry run in words; those in brackets, which recipes run, begin with "["."""
    done = paper("--dry-run", *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    return [["[", *shlex.split(line[1:-1])] if line.startswith("[") else shlex.split(line) for line in lines]


@pytest.fixture(scope="module")
def whole() -> list[list[str]]:
    return plan("--stage", -1)


def value_of(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def recipe_of(words: list[str]) -> str:
    return Path(words[0]).parent.name


def calls(plan: list[list[str]], first: int, last: int) -> list[list[str]]:
    """The calls of recipes with these stages."""
    stages = ["--stage", str(first), "--stop-stage", str(last)]
    return [words for words in plan if words[0].endswith("run.sh") and words[1:5] == stages]


def test_the_script_is_valid_bash_and_short() -> None:
    assert subprocess.run(["bash", "-n", FOLDER / "run.sh"]).returncode == 0
    assert (FOLDER / "run.sh").stat().st_mode & 0o111, "not executable"
    assert len((FOLDER / "run.sh").read_text().splitlines()) <= 70


def test_all_that_the_plan_names_exists(whole: list[list[str]]) -> None:
    for words in whole:
        if words[0] != "[" and words[0] != "python":
            assert os.access(words[0], os.X_OK), words[0]
        if words[0] == "[" and words[1] == "python" and words[2] != "-m":
            assert words[2] == "local/prepare.py"
        if "-m" in words:
            module = value_of(words, "-m")
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
        if "--config" in words and words[0] != "[":
            config = Path(value_of(words, "--config"))
            assert config.is_absolute()
            assert config.exists() or config == QA, config
    assert (FOLDER / "conf/tables.yaml").exists()


@pytest.mark.skipif(not QA.exists(), reason="recipes/gigaspeech has no questions yet")
def test_the_questions_have_a_configuration_with_the_task_of_table_3() -> None:
    config = load_config(QA)
    assert config["tasks"]["qa"]["metric"] == "accept_rate"
    assert config["tasks"]["qa"]["sets"] == ["TEST"]


def test_overrides_of_the_plan_are_keys_of_the_configurations(whole: list[list[str]]) -> None:
    given = [words for words in whole if words[0].endswith("run.sh") and "--" in words and "--config" in words]
    for words in given:
        path = Path(value_of(words, "--config"))
        if path.exists():
            load_config(path, words[words.index("--") + 1 :])
    assert len(given) > 70


def test_every_corpus_is_prepared_once_and_downloaded_where_that_is_open(whole: list[list[str]]) -> None:
    prepared = [recipe_of(words) for words in calls(whole, 0, 1)]
    assert sorted(prepared) == sorted({*EVALUATION, "commonvoice"})
    open_to_all = {path.parents[1].name for path in ROOT.glob("recipes/*/local/archives.tsv")}
    assert {recipe_of(words) for words in calls(whole, -1, -1)} == open_to_all - {"speechocean762"}  # not of the paper
    (alpaca,) = calls(whole, 0, 3)
    assert recipe_of(alpaca) == "alpaca"


def test_folders_of_the_corpora_are_the_recipes_defaults(whole: list[list[str]]) -> None:
    for words in whole:
        if words[0].endswith("run.sh") and "--corpus-dir" in words:
            default = re.search(r"^corpus_dir=corpora/(\S+)", Path(words[0]).read_text(), re.MULTILINE)[1]
            assert value_of(words, "--corpus-dir") == str(FOLDER / "corpora" / default)


def test_every_system_is_trained_on_the_three_corpora_and_evaluated_on_all(whole: list[list[str]]) -> None:
    trained = {Path(value_of(words, "--exp-dir")).name: words for words in calls(whole, 2, 3)}
    assert tuple(trained) == TRAINED
    for system, words in trained.items():
        config = load_config(value_of(words, "--config"), words[words.index("--") + 1 :])
        assert config["system"] == system
        assert {name.partition("/")[0] for name in config["train_sets"]} == {"librispeech", "gigaspeech", "commonvoice"}
        prepared = {Path(value_of(w, "--data-dir")) for w in calls(whole, 0, 1)}
        assert {Path(value_of(words, "--data-dir")) / name.partition("/")[0] for name in config["train_sets"]} <= prepared
    evaluated = {}
    for words in calls(whole, 4, 5):
        system = next(w for w in words if w.startswith("--system=")).partition("=")[2]
        evaluated[system, recipe_of(words)] = words
        assert f"--input={SYSTEMS[system]}" in words
        if system in TRAINED:
            assert value_of(words, "--model") == f"{value_of(trained[system], '--exp-dir')}/model"
    assert set(evaluated) == {(system, name) for system in SYSTEMS for name in EVALUATION}
    assert len({value_of(words, "--exp-dir") for words in evaluated.values()}) == len(evaluated)


def test_the_corpora_are_those_that_the_recipes_train_on() -> None:
    config = load_config(FOLDER / "conf/blsp.yaml")
    ours = {f"{name}/{s}" for name in ("librispeech", "gigaspeech", "commonvoice")
            for s in load_config(ROOT / "recipes" / name / "conf/blsp.yaml")["train_sets"]}  # fmt: skip
    assert set(config["train_sets"]) == ours
    for name in TRAINED:
        other = load_config(FOLDER / f"conf/{name}.yaml")
        same = ("train_sets", "dev_sets", "corpus", "encoder", "llm", "epochs", "batch_size")
        assert {key: other[key] for key in same} == {key: config[key] for key in same}
        ours, recipe = plain(other), plain(load_config(ROOT / f"recipes/librispeech/conf/{name}.yaml"))
        differing = {key for key in recipe if ours[key] != recipe[key]}
        assert differing - {"epochs"} == {"corpus", "llm", "train_sets", "dev_sets", "test_sets", "tasks"}
        assert ("epochs" in differing) == (name == "ctc_llm")


def test_sets_of_several_data_directories_train_together(prepared: World, tmp_path: Path) -> None:
    """RECIPE/SET is a name of a set like another, from behaviours to the model."""
    for name in ("one", "other"):
        shutil.copytree(prepared.data, tmp_path / "data" / name)
    (tmp_path / "data/other/train_clean_100/responses.repetition.jsonl").unlink()
    sets = ["--train_sets=[one/train_clean_100, other/train_clean_100]", "--dev_sets=[one/dev_clean]", "--test_sets=[]"]
    common = ("--config", prepared.config, "--data-dir", tmp_path / "data")
    overrides = ("--", *sets, "--epochs=1")
    call("continuation", *common, *overrides)
    log = tmp_path / "log"
    assert run_program("train", *common, "--exp-dir", tmp_path / "exp", *overrides, log=log) == 0, log.read_text()
    model = read_json(tmp_path / "exp/model/config.json")
    assert model["provenance"]["configuration"]["train_sets"] == ["one/train_clean_100", "other/train_clean_100"]
    alone = len(AlignmentData(prepared.data, ["train_clean_100"], {"continuation": 1, "repetition": 1}, prompter(prepared)))
    assert f"; {2 * alone // 8} steps of 8 pairs" in log.read_text()


def prompter(world: World) -> Prompter:
    return Prompter(AutoTokenizer.from_pretrained(world.llm))


def test_the_tables_come_last_and_the_command_reproduces_a_line(whole: list[list[str]]) -> None:
    tables = whole[-1]
    assert tables[:3] == ["python", "-m", "blsp.bin.tables"]
    assert value_of(tables, "--command") == "./egs/paper/run.sh --systems {system} --recipes {corpus} --seed {seed}"
    assert value_of(tables, "--out") == str(FOLDER / "exp")
    for option in ("--config", "--paper"):
        assert Path(value_of(tables, option)).exists()


def test_only_a_run_that_is_told_to_writes_the_record(tmp_path: Path) -> None:
    assert value_of(plan("--record")[-1], "--out") == str(FOLDER)
    common = ("--systems", "text_llm", "--recipes", "fsc", "--exp-dir", "exp")
    tables = plan(*common, "--limit", 10, "--", "--lr=1", cwd=tmp_path)[-1]
    assert value_of(tables, "--out") == f"{tmp_path}/exp"
    assert value_of(tables, "--command").endswith("'--limit' '10' '--' '--lr=1'")
    assert value_of(plan(*common, "--llm", "some/llm", cwd=tmp_path)[-1], "--out") == f"{tmp_path}/exp"
    for options in (["--limit", "10"], ["--llm", "some/llm"], ["--", "--lr=1"]):
        done = paper("--dry-run", "--record", *options)
        assert done.returncode == 2
        assert f"--record is for the paper's experiment, without {' '.join(options)}" in done.stderr


def test_systems_recipes_stages_and_seed_can_be_picked(tmp_path: Path) -> None:
    picked = plan("--systems", "blsp,text_llm", "--recipes", "must-c", "--seed", 7, "--exp-dir", "e", cwd=tmp_path)
    assert [recipe_of(w) for w in calls(picked, 0, 1)] == ["librispeech", "gigaspeech", "commonvoice", "must-c"]
    assert [value_of(w, "--exp-dir") for w in calls(picked, 2, 3)] == [f"{tmp_path}/e/seed7/blsp"]
    assert "--seed=7" in calls(picked, 2, 3)[0]
    assert len(calls(picked, 4, 5)) == 2
    only_text = plan("--systems", "text_llm", "--recipes", "fsc", "--llm", "hub/llm")
    assert [recipe_of(w) for w in only_text if w[0].endswith("run.sh")] == ["fsc", "fsc"]  # no corpus to train on, no Alpaca
    assert "--llm=hub/llm" in only_text[-2]
    decoding = plan("--stage", 4, "--stop-stage", 4)
    assert {tuple(w[1:5]) for w in decoding if w[0] != "["} == {("--stage", "4", "--stop-stage", "4")}
    (training,) = plan("--stage", 3, "--stop-stage", 3, "--systems", "blsp", "--llm", "x", "--", "--lr=1e-4")[::2]
    assert training[-1] == "--lr=1e-4"


def test_paths_mean_what_they_mean_where_the_command_is_typed(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    options = ("--corpora-dir", "some where", "--data-dir", "d", "--llm", "llm", "--systems", "blsp", "--recipes", "fsc")
    words = plan(*options, cwd=tmp_path)
    assert value_of(calls(words, 0, 1)[0], "--corpus-dir") == f"{tmp_path}/some where/LibriSpeech"
    assert value_of(calls(words, 0, 1)[0], "--data-dir") == f"{tmp_path}/d/librispeech"
    assert f"--llm={tmp_path}/llm" in calls(words, 2, 3)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--systems", "gpt"], "'gpt' is not a system"),
        (["--recipes", "commonvoice"], "'commonvoice' is not one to evaluate on"),
        (["--recipes", "alpaca"], "'alpaca' is not one to evaluate on"),
        (["--tasks", "asr"], "unknown option '--tasks'"),
    ],
)
def test_wrong_options_end_with_status_2_and_one_line(options: list[str], message: str) -> None:
    done = paper("--dry-run", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_help_shows_every_option() -> None:
    done = paper("--help")
    assert done.returncode == 0
    for name in ("systems", "recipes", "corpora-dir", "data-dir", "exp-dir", "encoder", "llm", "seed", "stage", "stop-stage",
                 "ngpu", "nj", "limit", "record", "dry-run"):  # fmt: skip
        assert f"--{name} " in done.stdout


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    before = sorted(FOLDER.rglob("*"))
    plan(cwd=tmp_path)
    assert sorted(FOLDER.rglob("*")) == before
    assert not list(tmp_path.iterdir())


ASR = "Please repeat the following words."
ST = "Please translate the following English text into {} text."
SNIPS = ("Please classify the intent of the text, choose from [DecreaseBrightness, IncreaseBrightness, SetLightBrightness,"
         " SetLightColor, SwitchLightOff, SwitchLightOn].")  # fmt: skip
FSC = ("Please classify the intent of the text, choose from [bring newspaper, deactivate lamp, change language English,"
       " deactivate music, increase heat, change language Korean, change language none, bring shoes, change language German,"
       " activate lights, bring socks, change language Chinese, decrease heat, decrease volume, increase volume,"
       " activate music, activate lamp, bring juice].")  # fmt: skip
SLUE = "Please classify the emotional tone of the text as either positive, negative, or neutral."
MUST_C = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "nl": "Dutch", "pt": "Portuguese",
          "ro": "Romanian", "ru": "Russian"}  # fmt: skip
COVOST = {"ca": "Catalan", "de": "German", "id": "Indonesian", "sl": "Slovenian", "sv": "Swedish"}


def test_the_instructions_are_those_of_table_11() -> None:
    """Typed in from the paper; the recipes' configurations have them to the letter."""
    expected = {"librispeech": {"asr": ASR}, "tedlium3": {"asr": ASR}, "snips": {"ic": SNIPS}, "fsc": {"ic": FSC},
                "slue-voxceleb": {"sa": SLUE},
                "must-c": {f"st_{code}": ST.format(language) for code, language in MUST_C.items()},
                "covost2": {f"st_{code}": ST.format(language) for code, language in COVOST.items()}}  # fmt: skip
    for name, instructions in expected.items():
        config = load_config(ROOT / "recipes" / name / "conf" / ("blsp.yaml" if name == "librispeech" else "evaluate.yaml"))
        assert {task: spec["instruction"] for task, spec in config["tasks"].items()} == instructions
