"""CoVoST 2, English to German and to Mandarin: Common Voice 4 with paths that end in .mp3, and a table for each direction.

The translation is the world's: lower case, no punctuation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from chinese import chinese
from world import Sentence

from layouts.commonvoice import COLUMNS, RATE, row, write_tsv
from layouts.speech import Recording, Times, clip, draw

SIZES = {"train": 40, "dev": 20, "test": 80}
TARGETS: dict[str, Callable[[Sentence], str]] = {"de": lambda sentence: sentence.german, "zh-CN": chinese}
HOME = "cv-corpus-4-2019-12-10/en"


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    recordings = []
    for split in SIZES:
        for (spoken,) in draw(split, sizes[split], f"covost2 {seed}"):
            path = f"{HOME}/clips/common_voice_en_{18540000 + 11 * len(recordings)}.mp3"
            recordings.append(clip(split, path, spoken, RATE))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    rows = {recording: (*row(recording, ".mp3"), "en", "") for recording in recordings}
    columns = (*COLUMNS, "locale", "segment")
    for split in SIZES:
        write_tsv(root / HOME / f"{split}.tsv", columns, [rows[r] for r in recordings if r.split == split])
    write_tsv(root / HOME / "validated.tsv", columns, rows.values())
    # CoVoST's training set has sentences that Common Voice leaves out of its own: every other one here.
    labels = {r: r.split if r.split != "train" or i % 2 else "train_covost" for i, r in enumerate(recordings)}
    for language, translate in TARGETS.items():
        translations = [(rows[r][1], translate(r.spoken[0].sentence), labels[r]) for r in recordings]
        write_tsv(root / f"covost_v2.en_{language}.tsv", ("path", "translation", "split"), translations)
