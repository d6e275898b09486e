"""What programs say of themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


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
