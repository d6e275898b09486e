"""MuST-C, en-de and en-fr: whole talks as wav, and three parallel files for each direction, which share the talks.

The translation is the world's: lower case, no punctuation.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from french import french
from world import Sentence

from blsp.base.files import atomic_write
from layouts.speech import Recording, Times, cased, draw, long_recording, segment

SIZES = {"train": 40, "dev": 20, "tst-COMMON": 80, "tst-HE": 20}
PARTS = {"train": "train", "dev": "dev", "tst-COMMON": "test", "tst-HE": "test"}
PER_TALK = 10  # utterances
TARGETS: dict[str, Callable[[Sentence], str]] = {"de": lambda sentence: sentence.german, "fr": french}
FIRST = "de"  # the direction that the talks are written to


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    rng = random.Random(f"must-c {seed}")
    recordings = []
    for split, part in PARTS.items():
        for group in draw(part, sizes[split], f"must-c {split} {seed}", PER_TALK):
            path = f"en-{FIRST}/data/{split}/wav/ted_{767 + len(recordings)}.wav"
            recordings.append(long_recording(split, path, group, rng))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    for language, translate in TARGETS.items():
        for split in SIZES:
            describe_split(root / f"en-{language}", language, translate, split, recordings, times)


def describe_split(
    direction: Path,
    language: str,
    translate: Callable[[Sentence], str],
    split: str,
    recordings: list[Recording],
    times: list[Times],
) -> None:
    lines: dict[str, list[str]] = {"yaml": [], "en": [], language: []}
    folder = direction / "data" / split
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    for recording, spans in zip(recordings, times, strict=True):
        if recording.split != split:
            continue
        wav = Path(recording.path).name
        if language != FIRST:
            os.link(direction.parent / recording.path, folder / "wav" / wav)
        speaker = wav.removesuffix(".wav").replace("ted_", "spk.")
        for spoken, span in zip(recording.spoken, spans, strict=True):
            start, end = segment(span)
            n_words = len(spoken.sentence.text.split())
            lines["yaml"].append(
                f"- {{duration: {end - start:.6f}, offset: {start:.6f}, rW: {n_words}, uW: 0, "
                f"speaker_id: {speaker}, wav: {wav}}}"
            )
            lines["en"].append(cased(spoken.sentence.text))
            lines[language].append(translate(spoken.sentence))
    for suffix, content in lines.items():
        with atomic_write(folder / "txt" / f"{split}.{suffix}") as f:
            f.writelines(f"{line}\n" for line in content)
