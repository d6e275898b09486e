"""MuST-C en-de: whole talks as wav, and three parallel files. The translation is the world's: lower case, no punctuation."""

from __future__ import annotations

import random
from pathlib import Path

from blsp.files import atomic_write
from layouts.speech import Recording, Times, cased, draw, long_recording, segment

SIZES = {"train": 40, "dev": 20, "tst-COMMON": 80, "tst-HE": 20}
PARTS = {"train": "train", "dev": "dev", "tst-COMMON": "test", "tst-HE": "test"}
PER_TALK = 10  # utterances


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    rng = random.Random(f"must-c {seed}")
    recordings = []
    for split, part in PARTS.items():
        for group in draw(part, sizes[split], f"must-c {split} {seed}", PER_TALK):
            path = f"en-de/data/{split}/wav/ted_{767 + len(recordings)}.wav"
            recordings.append(long_recording(split, path, group, rng))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    for split in SIZES:
        lines: dict[str, list[str]] = {"yaml": [], "en": [], "de": []}
        for recording, spans in zip(recordings, times, strict=True):
            if recording.split != split:
                continue
            wav = Path(recording.path).name
            speaker = wav.removesuffix(".wav").replace("ted_", "spk.")
            for spoken, span in zip(recording.spoken, spans, strict=True):
                start, end = segment(span)
                n_words = len(spoken.sentence.text.split())
                lines["yaml"].append(
                    f"- {{duration: {end - start:.6f}, offset: {start:.6f}, rW: {n_words}, uW: 0, "
                    f"speaker_id: {speaker}, wav: {wav}}}"
                )
                lines["en"].append(cased(spoken.sentence.text))
                lines["de"].append(spoken.sentence.german)
        for suffix, content in lines.items():
            with atomic_write(root / f"en-de/data/{split}/txt/{split}.{suffix}") as f:
                f.writelines(f"{line}\n" for line in content)
