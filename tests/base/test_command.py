"""What programs say of themselves."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import ROOT, World


def test_commit_marks_changed_code_but_not_new_results(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        program = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def told() -> str:
        program = [sys.executable, "-c", "from blsp.base import command; print(command.commit())"]
        return subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    for name in ("__init__.py", "base/__init__.py", "base/command.py", "base/files.py"):
        (tmp_path / "blsp/base").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "blsp" / name, tmp_path / "blsp" / name)
    for name in ("RESULTS.md", "results.jsonl"):
        (tmp_path / name).write_text("old\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    head = git("rev-parse", "--short", "HEAD")
    assert told() == head
    (tmp_path / "RESULTS.md").write_text("new\n")
    (tmp_path / "results.jsonl").write_text("new\n")
    assert told() == head
    (tmp_path / "blsp/base/command.py").open("a").write("# changed\n")
    assert told() == f"{head}+"


LIBRARY = """
import logging, sys
early = logging.getLogger("transformers.early")
from blsp.base import command

def main():
    logging.getLogger("transformers").addHandler(logging.StreamHandler())
    late = logging.getLogger("transformers.generation.late")
    for _ in range(2):
        early.warning("mind %s", "this")
        late.warning("mind that")
        late.warning("Passing `generation_config` together with itself")
    late.error("broken")
    logging.getLogger("ours").warning("as often")
    logging.getLogger("ours").warning("as often")
    from tqdm.auto import tqdm
    list(tqdm(range(3), desc="Loading weights"))
    assert not {"torch", "transformers"} & set(sys.modules)

command.run(main)
"""


@pytest.mark.parametrize(("rank", "told"), [("0", ["mind this", "mind that", "broken"]), ("1", ["broken"])])
def test_libraries_say_each_warning_once_and_show_no_bars_in_a_log(rank: str, told: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARY], capture_output=True, text=True, env={**os.environ, "RANK": rank})
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [*told, "as often", "as often"]


def test_on_a_terminal_only_long_work_has_a_bar() -> None:
    """Where a library's bar takes moments, none; where it takes longer than the delay, one."""
    program = """
import time
from blsp.base import command
from tqdm.auto import tqdm  # before run(), as where a program imports Transformers at its top

def main():
    list(tqdm(range(3), desc="short"))
    for _ in tqdm(range(3), desc="long"):
        time.sleep(0.2)

command.BAR_DELAY = 0.3
command.run(main)
"""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    done = subprocess.run([sys.executable, "-c", program], stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while chunk := os.read(ours, 4096):
            shown += chunk
    assert done.returncode == 0, shown
    assert b"long" in shown and b"short" not in shown


@pytest.mark.parametrize("program", ["decode", "train"])
def test_a_programs_log_holds_only_its_own_lines(prepared: World, tmp_path: Path, program: str) -> None:
    """Whisper's answers, and a training with SpeechBrain, as a user runs them, without a terminal."""
    words = ["--config", prepared.config, "--data-dir", prepared.data, "--exp-dir", tmp_path / "exp", "--"]
    words += {"decode": ["--input=whisper", "--system=whisper_llm"], "train": ["--epochs=1", "--examples=0"]}[program]
    command = [sys.executable, "-m", f"blsp.bin.{program}", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    ours = {
        "decode": r"\S+/hyp\.jsonl: 7 hypotheses",
        "train": r".* parameters are trained, .*|(text|speech) prompt: .*|step \d+( of \d+)?: .*|\S+/model: written; .*",
    }[program]
    assert done.stdout
    assert [line for line in done.stdout.splitlines() if not re.fullmatch(ours, line)] == []
