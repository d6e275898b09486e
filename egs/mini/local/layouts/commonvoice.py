"""Common Voice 2.0: mp3 clips of 48 kHz and tables of 8 columns, whose paths lack ".mp3"."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from blsp.base.files import atomic_write
from layouts.speech import Recording, Spoken, Times, cased, clip, draw, gender

SIZES = {"train": 400, "dev": 40, "test": 60}
COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent")
ACCENTS = {"en-us": "us", "gmw/en": "england", "en-gb-x-rp": "england", "gmw/de": "germany"}
RATE = 48000  # Hz


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    return clips("en", sizes, lambda split, n: draw(split, n, f"commonvoice {seed}"))


def clips(language: str, sizes: dict[str, int], say: Callable[[str, int], list[tuple[Spoken, ...]]]) -> list[Recording]:
    """One clip per utterance; `say` gives those of a split."""
    recordings = []
    for split, n in sizes.items():
        for (spoken,) in say(split, n):
            path = f"clips/common_voice_{language}_{17780000 + 37 * len(recordings)}.mp3"
            recordings.append(clip(split, path, spoken, RATE))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    tables: dict[str, list[Sequence[str]]] = {split: [] for split in (*SIZES, "validated", "invalidated", "other")}
    for recording in recordings:
        found = row(recording, extension="")
        tables[recording.split].append(found)
        tables["validated"].append(found)
    for name, rows in tables.items():
        write_tsv(root / f"{name}.tsv", COLUMNS, rows)


def row(recording: Recording, extension: str) -> tuple[str, ...]:
    """The 8 columns of a clip."""
    (spoken,) = recording.spoken
    path = Path(recording.path).stem + extension
    age = random.Random(path).choice(("", "twenties", "thirties", "fifties"))
    accent = ACCENTS[spoken.voice.partition("+")[0]]
    client = client_id(recording.split, spoken)
    return client, path, cased(spoken.words), "2", "0", age, gender(spoken.voice), accent


def client_id(split: str, spoken: Spoken) -> str:
    """A speaker: 128 hex digits."""
    return hashlib.sha512(f"{split} {spoken.voice}".encode()).hexdigest()


def write_tsv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with atomic_write(path) as f:
        f.writelines("\t".join(row) + "\n" for row in (columns, *rows))
