"""Alpaca: text instructions about the world's training sentences, as a JSON list; in ASCII, as the real one."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from instructions import draw_example
from world import stream_sentences

from blsp.base.files import write_json
from layouts.speech import Recording, Times

SIZES = {"instructions": 400}


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    return []  # nothing is spoken


def describe(root: Path, recordings: list[Recording], times: list[Times], sizes: dict[str, int], seed: int) -> None:
    rng = random.Random(f"alpaca {seed}")
    drawn = (draw_example(sentence, rng) for sentence in stream_sentences("train", f"alpaca {seed}"))
    examples = itertools.islice((e for e in drawn if (e.content + e.response).isascii()), sizes["instructions"])
    rows = [{"instruction": e.instruction, "input": e.content, "output": e.response} for e in examples]
    write_json(root / "alpaca_data.json", rows)
