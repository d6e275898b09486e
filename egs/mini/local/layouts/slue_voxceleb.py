"""SLUE-VoxCeleb: each flac is a whole clip, of which the utterance is a part; around it the same person says something else.

The world's sentiments are the corpus' three; a few rows bear the labels of annotators who disagreed, and are rejected.
"""

from __future__ import annotations

from pathlib import Path

from layouts import speech
from layouts.commonvoice import write_tsv
from layouts.speech import Recording, Times, draw, segment

SIZES = {"fine-tune": 40, "dev": 20, "test": 80}
PARTS = {"fine-tune": "train", "dev": "dev", "test": "test"}
COLUMNS = ("id", "normalized_text", "speaker_id", "split", "sentiment", "start_second", "end_second")
BLIND = ("id", "speaker_id", "split", "start_second", "end_second")
DISPUTED = 20  # every so many clips have no label that annotators agreed on


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    recordings = []
    for thousand, (split, part) in enumerate(PARTS.items(), 11):
        # Two sentences a clip; the second is the utterance.
        for number, group in enumerate(draw(part, 2 * sizes[split], f"slue-voxceleb {seed}", 2)):
            person = speech.PARTS[part].voices.index(group[0].voice)
            path = f"{split}_raw/id{thousand}{person:03d}_MiniWorld_{number:05d}.flac"
            recordings.append(Recording(split, path, group, (0.3, 0.6, 0.4)))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    for split in SIZES:
        rows = []
        for recording, spans in zip(recordings, times, strict=True):
            if recording.split == split:
                name, sentence = Path(recording.path).stem, recording.spoken[1].sentence
                start, end = segment(spans[1])
                label = sentence.sentiment.capitalize()
                if len(rows) % DISPUTED == DISPUTED - 1:
                    label = "<mixed>" if len(rows) % (2 * DISPUTED) > DISPUTED else "Disagreement"
                rows.append((name, sentence.text, name.split("_")[0], split, label, f"{start:.2f}", f"{end:.2f}"))
        write_tsv(root / f"slue-voxceleb_{split}.tsv", COLUMNS, rows)
        if split == "test":
            hidden = [tuple(row[COLUMNS.index(column)] for column in BLIND) for row in rows]
            write_tsv(root / "slue-voxceleb_test_blind.tsv", BLIND, hidden)
