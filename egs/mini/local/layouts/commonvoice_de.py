"""Common Voice in German, made like the English one, of the words that are said in German."""

from __future__ import annotations

from lexicon import GERMAN

from layouts import commonvoice
from layouts.speech import Recording, draw

SIZES = {"train": 1000, "dev": 40, "test": 60}
ACCENT = "gmw/de"
describe = commonvoice.describe


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    return commonvoice.clips(
        "de", sizes, lambda split, n: draw(split, n, f"commonvoice de {seed}", 1, lambda s: s.german, ACCENT, GERMAN)
    )
