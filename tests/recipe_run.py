"""For the tests of recipes/*/local/prepare.py: write tiny audio, run the program as a user does, read its tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]


def write_audio(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1, **kwargs: str) -> None:
    """A quiet tone; the codec follows the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.1 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate, **kwargs)


def prepare(corpus: str, corpus_dir: Path, data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = ROOT / "recipes" / corpus / "local" / "prepare.py"
    command = [sys.executable, program, "--corpus-dir", corpus_dir, "--data-dir", data_dir, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""})


def prepared(corpus: str, corpus_dir: Path, data_dir: Path) -> str:
    """Run it, hold it to exit status 0 and its directories to Kaldi's rules, and give what it printed."""
    done = prepare(corpus, corpus_dir, data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    for utt2spk in data_dir.glob("*/utt2spk"):
        in_kaldi_form(utt2spk.parent)
    return done.stdout + done.stderr


def in_kaldi_form(folder: Path) -> None:
    """The rules of Kaldi's validate_data_dir.sh that a parser's ids can break."""
    lines = (folder / "utt2spk").read_bytes().split(b"\n")[:-1]
    assert lines == sorted(set(lines))
    assert lines == sorted(lines, key=lambda line: (line.split(b" ")[1], line)), "speaker ids are no prefixes of ids"
    utterances = list(table(folder / "utt2spk"))
    for name in ("text", "utt2dur", "segments", "intent", "sentiment", "translation.en"):
        assert not (folder / name).exists() or list(table(folder / name)) == utterances, f"{folder / name}"
    recordings = (
        {line.split(" ")[0] for line in table(folder / "segments").values()} if (folder / "segments").exists() else None
    )
    assert list(table(folder / "wav.scp")) == (utterances if recordings is None else sorted(recordings, key=str.encode))


def refused(corpus: str, corpus_dir: Path, data_dir: Path) -> str:
    """Run it, hold it to exit status 1 with one line and no half-written directory, and give the line."""
    done = prepare(corpus, corpus_dir, data_dir)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(data_dir.glob("*/*")), "a half-written directory is left"
    return done.stderr


def table(path: Path) -> dict[str, str]:
    """A Kaldi table."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return dict(line.split(" ", 1) for line in lines)


def rejected(data_dir: Path) -> dict[str, str]:
    """Name -> reason."""
    lines = (data_dir / "rejected.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    return dict(line.split("\t", 1) for line in lines)
