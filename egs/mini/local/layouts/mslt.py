"""MSLT: German and its translations, one folder per split; .snt files are UTF-16 with a byte-order mark and CRLF.

T1 has fillers and tags, T2 is fluent; some utterances have no T2. The translation is the world's sentence: lower case, no
punctuation.
"""

from __future__ import annotations

import codecs
import random
from pathlib import Path

from blsp.files import atomic_write
from layouts.speech import Recording, Times, cased, clip, draw

SIZES = {"Test": 60, "Dev": 20}
PARTS = {"Test": "test", "Dev": "dev"}
DATES = {"Test": "20160516", "Dev": "20160616"}
ACCENT = "gmw/de"
WITHOUT_T2 = 10  # every so many utterances have only T1


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    recordings = []
    for split, part in PARTS.items():
        groups = draw(part, sizes[split], f"mslt {seed}", words=lambda sentence: sentence.german, accent=ACCENT)
        for number, (spoken,) in enumerate(groups, 1):
            path = f"Data/MSLT_{split}_DE_{DATES[split]}/MSLT_{split}_DE_{number:04d}.T0.de.wav"
            recordings.append(clip(split, path, spoken))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    for number, recording in enumerate(recordings, 1):
        spoken, path = recording.spoken[0], root / recording.path
        stem = path.name.removesuffix(".T0.de.wav")
        write_snt(path.with_name(f"{stem}.T1.de.snt"), spontaneous(spoken.words))
        if number % WITHOUT_T2:
            write_snt(path.with_name(f"{stem}.T2.de.snt"), cased(spoken.words))
        write_snt(path.with_name(f"{stem}.T3.en.snt"), spoken.sentence.text)


def spontaneous(text: str) -> str:
    """With the tags of a transcriber."""
    words = text.split()
    words.insert(random.Random(text).randrange(1, len(words)), "<SPN/>")
    return " ".join(words)


def write_snt(path: Path, text: str) -> None:
    with atomic_write(path, "wb") as f:
        f.write(codecs.BOM_UTF16_LE + f"{text}\r\n".encode("utf-16-le"))
