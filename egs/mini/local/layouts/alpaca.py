"""Alpaca: text instructions about the world's training sentences, as a JSON list."""

from __future__ import annotations

import random
from pathlib import Path

from instructions import draw_example
from world import sample_sentences

from blsp.files import write_json
from layouts.speech import Recording, Times

SIZES = {"instructions": 400}


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    return []  # nothing is spoken


def describe(root: Path, recordings: list[Recording], times: list[Times], sizes: dict[str, int], seed: int) -> None:
    rng = random.Random(f"alpaca {seed}")
    sentences = sample_sentences("train", sizes["instructions"], f"alpaca {seed}") if sizes["instructions"] else []
    examples = [draw_example(sentence, rng) for sentence in sentences]
    rows = [{"instruction": e.instruction, "input": e.content, "output": e.response} for e in examples]
    write_json(root / "alpaca_data.json", rows)
