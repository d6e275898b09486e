"""MSLT: German and French with their translations, one folder per split and language.

The .snt files are UTF-16 with a byte-order mark and CRLF. T1 has fillers and tags, T2 is fluent; some utterances have no T2.
The translation is the world's sentence: lower case, no punctuation.
"""

from __future__ import annotations

import codecs
import random
from collections.abc import Callable
from pathlib import Path

from french import french
from lexicon import ENGLISH, GERMAN, Lexicon
from world import Sentence

from blsp.base.files import atomic_write
from layouts.speech import Recording, Times, cased, clip, draw

SIZES = {"Test_DE": 60, "Dev_DE": 20, "Test_FR": 60, "Dev_FR": 20}
PARTS = {"Test": "test", "Dev": "dev"}
DATES = {"Test": "20160516", "Dev": "20160616"}
LANGUAGES: dict[str, tuple[str, Callable[[Sentence], str], Lexicon]] = {  # accent of the voices, what they say, of which words
    "DE": ("gmw/de", lambda sentence: sentence.german, GERMAN),
    "FR": ("roa/fr", french, ENGLISH),
}
WITHOUT_T2 = 10  # every so many utterances have only T1


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    recordings = []
    for split in SIZES:
        kind, language = split.split("_")
        accent, words, lexicon = LANGUAGES[language]
        groups = draw(PARTS[kind], sizes[split], f"mslt {language} {seed}", 1, words, accent, lexicon)
        for number, (spoken,) in enumerate(groups, 1):
            path = f"Data/MSLT_{split}_{DATES[kind]}/MSLT_{split}_{number:04d}.T0.{language.lower()}.wav"
            recordings.append(clip(split, path, spoken))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    for number, recording in enumerate(recordings, 1):
        spoken, path = recording.spoken[0], root / recording.path
        stem, language = path.name.split(".")[0], recording.split.split("_")[1].lower()
        write_snt(path.with_name(f"{stem}.T1.{language}.snt"), spontaneous(spoken.words))
        if number % WITHOUT_T2:
            write_snt(path.with_name(f"{stem}.T2.{language}.snt"), cased(spoken.words))
        write_snt(path.with_name(f"{stem}.T3.en.snt"), spoken.sentence.text)


def spontaneous(text: str) -> str:
    """With the tags of a transcriber."""
    words = text.split()
    words.insert(random.Random(text).randrange(1, len(words)), "<SPN/>")
    return " ".join(words)


def write_snt(path: Path, text: str) -> None:
    with atomic_write(path, "wb") as f:
        f.write(codecs.BOM_UTF16_LE + f"{text}\r\n".encode("utf-16-le"))
