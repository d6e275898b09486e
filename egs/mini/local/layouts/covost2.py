"""CoVoST 2, English to German: Common Voice 4 with paths that end in .mp3, and the table of translations.

The translation is the world's: lower case, no punctuation.
"""

from __future__ import annotations

from pathlib import Path

from layouts.commonvoice import COLUMNS, RATE, row, write_tsv
from layouts.speech import Recording, Times, clip, draw

SIZES = {"train": 40, "dev": 20, "test": 80}
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
    translations = [(rows[r][1], r.spoken[0].sentence.german, labels[r]) for r in recordings]
    write_tsv(root / "covost_v2.en_de.tsv", ("path", "translation", "split"), translations)
