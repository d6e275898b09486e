"""speechocean762: wav per speaker beside Kaldi's tables, some with tabs and some with spaces, and ages of the speakers.

The world has no children's voices: both halves of the test set have the same, and half of the speakers are
called young.
"""

from __future__ import annotations

from pathlib import Path

from blsp.base.files import atomic_write
from layouts.speech import Recording, Times, clip, draw, gender

SIZES = {"train": 40, "test_adults": 40, "test_children": 40}
PER_SPEAKER = 4  # utterances
FIRST = {"train": 1, "test_adults": 3001, "test_children": 5001}  # number of the first speaker
TABLES = ("wav.scp", "text", "utt2spk", "spk2utt", "spk2age", "spk2gender")
SEPARATORS = {"utt2spk": " ", "spk2utt": " "}  # a tab in the others


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    recordings = []
    for split, size in sizes.items():
        part = split.partition("_")[0]
        for number, group in enumerate(draw(part, size, f"speechocean762 {split} {seed}", PER_SPEAKER), FIRST[split]):
            for index, spoken in enumerate(group):
                path = f"WAVE/SPEAKER{number:04d}/{number:05d}{index * 7 + 11:04d}.WAV"
                recordings.append(clip(split, path, spoken))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    for split in ("train", "test"):
        tables: dict[str, dict[str, str]] = {name: {} for name in TABLES}
        for recording in (r for r in recordings if r.split.partition("_")[0] == split):
            (spoken,) = recording.spoken
            utt, spk = Path(recording.path).stem, Path(recording.path).parent.name.removeprefix("SPEAKER")
            tables["wav.scp"][utt] = recording.path
            tables["text"][utt] = spoken.sentence.text.upper()
            tables["utt2spk"][utt] = spk
            tables["spk2utt"][spk] = f"{tables['spk2utt'].get(spk, '')} {utt}".strip()
            tables["spk2age"][spk] = age(recording.split, int(spk))
            tables["spk2gender"][spk] = gender(spoken.voice)[0]
        for name, values in tables.items():
            with atomic_write(root / split / name) as f:
                f.writelines(f"{key}{SEPARATORS.get(name, chr(9))}{value}\n" for key, value in sorted(values.items()))


def age(split: str, number: int) -> str:
    young = split == "test_children" or (split == "train" and number % 2 == 0)
    return str(6 + number % 10 if young else 19 + number % 25)
