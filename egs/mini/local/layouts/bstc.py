"""BSTC in the layout of CCMT 2019: Mandarin talks, and their sentences with times and translations.

The Mandarin comes from chinese.py; the translation is the world's sentence: lower case, no punctuation.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from chinese import chinese

from blsp.base.files import atomic_write
from layouts.speech import Recording, Times, draw, long_recording, segment

SIZES = {"dev": 60}
PER_TALK = 15  # sentences
ACCENT = "sit/cmn"


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    rng = random.Random(f"bstc {seed}")
    groups = draw("test", sizes["dev"], f"bstc {seed}", PER_TALK, words=chinese, accent=ACCENT)
    return [
        long_recording("dev", f"data/development_data/{number}.wav", group, rng) for number, group in enumerate(groups, 105)
    ]


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    for recording, spans in zip(recordings, times, strict=True):
        path = root / recording.path
        with atomic_write(path.with_suffix(".asr.json")) as f:
            for spoken, span in zip(recording.spoken, spans, strict=True):
                start, end = segment(span, digits=3)
                entry = {"offset": f"{start:.3f}", "duration": f"{end - start:.3f}", "wav": path.name,
                         "transcript": f"{spoken.words}。", "translation": spoken.sentence.text}  # fmt: skip
                f.write(json.dumps(entry, ensure_ascii=False) + "\n")
