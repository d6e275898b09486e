"""TED-LIUM 3: whole talks in NIST SPHERE with their stm files. In dev and test the pauses are gaps that scoring ignores."""

from __future__ import annotations

import random
from pathlib import Path

import soundfile

from blsp.base.files import atomic_write
from layouts.speech import Recording, Times, draw, gender, long_recording, segment

SIZES = {"train": 40, "dev": 20, "test": 80}
PER_TALK = 20  # utterances


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    rng = random.Random(f"tedlium3 {seed}")
    recordings = []
    for year, split in enumerate(SIZES, 2009):
        for number, group in enumerate(draw(split, sizes[split], f"tedlium3 {seed}", PER_TALK)):
            path = f"legacy/{split}/sph/Speaker{split.capitalize()}{number}_{year}.sph"
            recordings.append(long_recording(split, path, group, rng))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    for recording, spans in zip(recordings, times, strict=True):
        path = root / recording.path
        with atomic_write(path.parent.parent / "stm" / f"{path.stem}.stm") as f:
            f.writelines(f"{line}\n" for line in stm(recording, spans, soundfile.info(path).duration))


def stm(recording: Recording, times: Times, duration: float) -> list[str]:
    """The lines of a talk: training talks have noise marked and no gaps."""
    talk = Path(recording.path).stem
    label = "<NA>" if recording.split == "train" else f"<o,f0,{gender(recording.spoken[0].voice)}>"
    lines, behind = [], 0.0

    def gap(end: float) -> None:
        if recording.split != "train":
            lines.append(f"{talk} 1 inter_segment_gap {behind:.2f} {end:.2f} <o,,unknown> ignore_time_segment_in_scoring")

    for number, (spoken, span) in enumerate(zip(recording.spoken, times, strict=True)):
        start, end = segment(span)
        gap(start)
        noise = "{NOISE} " if recording.split == "train" and number % 5 == 0 else ""
        lines.append(f"{talk} 1 {talk} {start:.2f} {end:.2f} {label} {noise}{spoken.sentence.text}")
        behind = end
    gap(duration)
    return lines
