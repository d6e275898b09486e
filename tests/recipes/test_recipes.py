"""run.sh of every recipe: one table of contents, checked options, errors in one line; READMEs name what exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, World, call, load_file

from blsp.base.files import InputError
from blsp.data import preparation

MARK = "# --- the same in every recipe from here on ---"
SCRIPTS = sorted(ROOT.glob("recipes/*/run.sh"))
STAGES = [
    "blsp.bin.download",
    "local/prepare.py",
    "blsp.bin.features",
    "blsp.bin.encode",
    "blsp.bin.continuation",
    "blsp.bin.train",
    "blsp.bin.decode",
    "blsp.bin.score",
]
LIBRISPEECH = ROOT / "recipes/librispeech/run.sh"


def bash(script: Path, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", script, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


def commands(script: Path, *arguments: object, cwd: Path = ROOT) -> list[list[str]]:
    """The commands that a dry run prints, in words."""
    done = bash(script, "--dry-run", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("==")]
    return [shlex.split(line) for line in lines]


def value_of(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.parent.name)
def test_every_script_is_valid_bash_and_short(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert script.stat().st_mode & 0o111, "not executable"
    assert len(script.read_text().splitlines()) <= 65


def test_the_tail_is_the_same_in_every_recipe() -> None:
    assert LIBRISPEECH in SCRIPTS
    tails = {script: script.read_text().partition(MARK)[2] for script in SCRIPTS}
    assert all(tails.values())
    assert len(set(tails.values())) == 1, [s.parent.name for s, t in tails.items() if t != tails[LIBRISPEECH]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.parent.name)
def test_a_dry_run_prints_the_stages_commands_and_writes_nothing(script: Path) -> None:
    before = sorted(script.parent.iterdir())
    printed = commands(script, "--stage", -1, "--skip-stages=")
    stages = ["blsp.bin.llm_sft" if name == "blsp.bin.train" and "alpaca" in script.parts else name for name in STAGES]
    assert [words[2] if words[1] == "-m" else words[1] for words in printed] == stages
    config = script.parent / value_of(printed[2], "--config")
    assert config.exists()
    assert sorted(script.parent.iterdir()) == before


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.parent.name)
def test_help_shows_every_option_with_its_default(script: Path) -> None:
    done = bash(script, "--help")
    assert done.returncode == 0
    declared = re.findall(r"^([a-z_]+)=\S* +# ", script.read_text(), re.MULTILINE)
    assert {"stage", "stop_stage", "corpus_dir", "data_dir", "config", "exp_dir", "model", "ngpu", "nj", "limit"} <= set(
        declared
    )
    for name in (*declared, "help"):
        assert f"--{name.replace('_', '-')} " in done.stdout, name


def test_stages_can_be_picked() -> None:
    assert [words[2] for words in commands(LIBRISPEECH, "--stage", 3, "--stop-stage", 4)] == [
        "blsp.bin.train",
        "blsp.bin.decode",
    ]
    assert len(commands(LIBRISPEECH)) == 7  # 0 to 5, two of them stage 1
    assert [words[2] for words in commands(LIBRISPEECH, "--skip-stages", "0 1 2 3 4")] == ["blsp.bin.score"]


def test_hyphens_underscores_and_both_ways_to_give_a_value() -> None:
    for option in (["--stop-stage", "0"], ["--stop_stage", "0"], ["--stop-stage=0"], ["--stop_stage=0"]):
        assert len(commands(LIBRISPEECH, *option)) == 1


def test_overrides_reach_every_stage_untouched(tmp_path: Path) -> None:
    overrides = ["--lr=1e-4", "--tasks.asr.instruction=a 'b' \"c\" $(touch x) `touch y` *"]
    for words in commands(LIBRISPEECH, "--", *overrides, cwd=tmp_path):
        assert words[words.index("--") + 1 :] == overrides
    assert not list(tmp_path.iterdir())


def test_paths_mean_what_they_mean_where_the_command_is_typed(tmp_path: Path) -> None:
    options = ["--corpus-dir", "some where", "--data-dir=data", "--config=my.yaml", "--exp-dir=/absolute"]
    prepare, *_, decode, _ = commands(LIBRISPEECH, *options, cwd=tmp_path)
    assert value_of(prepare, "--corpus-dir") == f"{tmp_path}/some where"
    assert value_of(prepare, "--data-dir") == f"{tmp_path}/data"
    assert value_of(decode, "--config") == f"{tmp_path}/my.yaml"
    assert value_of(decode, "--exp-dir") == "/absolute"
    assert value_of(decode, "--model") == "/absolute/model"


def test_several_processes_train_under_torchrun() -> None:
    encode, continuation, train, decode = commands(LIBRISPEECH, "--ngpu", 2, "--stage", 1, "--stop-stage", 4)[1:]
    assert train[:6] == ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "blsp.bin.train"]
    assert {value_of(words, "--ngpu") for words in (encode, continuation, decode)} == {"2"}
    _, tune = commands(ROOT / "recipes/alpaca/run.sh", "--ngpu", 8, "--limit", 100, "--", "--llm=models/other")
    assert tune[:6] == ["torchrun", "--standalone", "--nproc-per-node", "8", "-m", "blsp.bin.llm_sft"]
    assert tune[-2:] == ["--", "--llm=models/other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nothing", "1"], "unknown option '--nothing'"),
        (["--_called_from=/"], "unknown option '--_called_from=/'"),
        (["--PATH=/"], "unknown option '--PATH=/'"),
        (["stage"], "'stage' is not an option"),
        (["--stage"], "option '--stage' needs a value"),
        (["--config"], "option '--config' needs a value"),
        (["--stage", "two"], "'--stage two' is not a number"),
        (["--limit=1;true"], "is not a number"),
        (["--dry-run=perhaps"], "neither true nor false"),
    ],
)
def test_wrong_options_end_with_status_2_and_the_list(arguments: list[str], message: str) -> None:
    done = bash(LIBRISPEECH, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "--stop-stage" in done.stderr
    assert "--help" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_values_are_data(tmp_path: Path) -> None:
    (score,) = commands(LIBRISPEECH, "--exp-dir", "$(touch x)`touch y`;touch z", "--stage=5", cwd=tmp_path)
    assert value_of(score, "--exp-dir") == f"{tmp_path}/$(touch x)`touch y`;touch z"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", ["features", "continuation", "train", "decode", "score"])
def test_wrong_paths_and_broken_configurations_end_in_one_line(world: World, tmp_path: Path, program: str) -> None:
    exp_dir = ["--exp-dir", tmp_path / "exp"] if program in ("train", "decode", "score") else []
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "empty.yaml").write_text("seed: 1\n")
    absent = tmp_path / "absent"
    for config, overrides, pattern in (
        (absent, [], "absent: cannot be read"),
        (tmp_path / "broken.yaml", [], r"broken\.yaml"),
        (tmp_path / "empty.yaml", [], "the configuration has no"),
        (world.config, ["--nothing=1"], "no such key"),
        (world.config, [], "absent|data|model|hyp"),
    ):
        with pytest.raises(InputError, match=pattern) as e:
            call(program, "--config", config, "--data-dir", absent, *exp_dir, "--", *overrides)
        assert "\n" not in str(e.value)


def test_stage_0_takes_its_window_and_limit_from_the_command(world: World, tmp_path: Path, capfd) -> None:
    module = load_file(ROOT / "recipes/librispeech/local/prepare.py")
    options = ["--config", world.config, "--corpus-dir", world.corpus, "--data-dir", tmp_path, "--nj", 1, "--limit", 4]
    preparation.main(module.parse, module.__doc__, [*map(str, options), "--", "--window=1.5"])
    for name in ("train_clean_100", "dev_clean", "test_clean"):
        kept = (tmp_path / name / "text").read_text().count("\n")
        rejected = (tmp_path / name / "rejected.tsv").read_text()
        assert kept + rejected.count("longer than 1.5 s") == 4
    with pytest.raises(InputError, match="no such folder"):
        preparation.main(module.parse, module.__doc__, ["--corpus-dir", str(tmp_path / "absent")])


def test_a_program_ends_with_status_1_and_one_line(tmp_path: Path) -> None:
    """As a user starts it; the other tests call the same function within their process."""
    done = subprocess.run(
        [sys.executable, "-m", "blsp.bin.score", "--config", "absent.yaml", "--exp-dir", "exp"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr == "score: absent.yaml: cannot be read (No such file or directory)\n"


READMES = sorted(  # of the checkout; what runs leave (exp/, data/, corpora/) is not
    page
    for pattern in ("*.md", "recipes/**/*.md", "egs/**/*.md", "tools/**/*.md")
    for page in ROOT.glob(pattern)
    if not re.search(r"/(exp|data|corpora)[\w-]*/", page.relative_to(ROOT).as_posix())
)
MADE = ("data/", "exp/", "corpora/", "models/", "path/", "my", "/", "~", "$", "http")  # what users have or runs make


def shell_lines(text: str) -> list[str]:
    """The commands of a page: lines of its indented or fenced blocks that begin with a program."""
    blocks = re.findall(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines]


@pytest.mark.parametrize("page", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_of_a_readme_exist(page: Path) -> None:
    for line in shell_lines(page.read_text()):
        folder = page.parent
        for part in re.split(r" && |;|\|", line):
            words = part.split("#")[0].split()
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if len(words) > 1 and words[0] == "cd":
                folder = ROOT / words[1] if (ROOT / words[1]).exists() else folder / words[1]
                assert folder.exists(), line
            elif words and words[0].startswith("./"):
                assert any((at / words[0]).exists() for at in (folder, ROOT)), line
            elif words[:2] == ["python", "-m"] and words[2].startswith("blsp.bin."):
                assert (ROOT / f"{words[2].replace('.', '/')}.py").exists(), line
            elif len(words) > 1 and words[0] in ("python", "bash", "source") and words[1].endswith((".py", ".sh")):
                assert any((at / words[1]).exists() for at in (folder, ROOT)), line


@pytest.mark.parametrize("page", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_readme_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http", "mailto:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_that_a_readme_names_exist(page: Path) -> None:
    for path in re.findall(r"`((?:blsp|recipes|egs|tools|tests|conf|local)/[\w./-]+\w)`", page.read_text()):
        assert any((at / path).exists() for at in (page.parent, ROOT)) or any(part in path for part in MADE[:4]), path
