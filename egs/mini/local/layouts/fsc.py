"""Fluent Speech Commands: wav files per speaker and one csv per split.

The corpus labels an utterance with one of 19 pairs of an action and an object; the world has eight intents. A fixed mapping
stands in: the intent gives the action (ACTION_OF), the kind of the thing gives the object. The mini LLM has never seen these
labels. The world's own are kept beside, in references/SPLIT/world_intent.
"""

from __future__ import annotations

import csv
import random
import uuid
from pathlib import Path

from lexicon import THINGS
from world import Sentence

from blsp.base.files import atomic_write
from blsp.data.data_dir import write_table
from layouts.speech import Recording, Spoken, Times, cased, clip, draw, gender

SIZES = {"train": 40, "valid": 20, "test": 80}
PARTS = {"train": "train", "valid": "dev", "test": "test"}
ACTION_OF = {
    "buy": "bring",
    "give": "bring",
    "find": "activate",
    "repair": "increase",
    "destroy": "decrease",
    "clean": "change language",
    "hide": "deactivate",
    "steal": "deactivate",
}
OBJECTS = {
    "activate": ("lamp", "lights", "music"),
    "deactivate": ("lamp", "lights", "music"),
    "bring": ("juice", "newspaper", "shoes", "socks"),
    "change language": ("none", "Chinese", "English", "German", "Korean"),
    "increase": ("heat", "volume"),
    "decrease": ("heat", "volume"),
}
KINDS = sorted({thing.kind for thing in THINGS})
LOCATION_OF = {"building": "none", "outdoors": "washroom", "room": "kitchen"}
COLUMNS = ("", "path", "speakerId", "transcription", "action", "object", "location")
ABOUT = ("speakerId", "Self-reported fluency level ", "First Language spoken", "Current language used for work/school",
         "Gender", "ageRange")  # fmt: skip


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    recordings = []
    for split, part in PARTS.items():
        for number, (spoken,) in enumerate(draw(part, sizes[split], f"fsc {seed}")):
            name = uuid.UUID(int=random.Random(f"{split} {number} {seed}").getrandbits(128))
            path = f"wavs/speakers/{speaker(split, spoken)}/{name}.wav"
            recordings.append(clip(split, path, spoken))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    people = {}
    for split in SIZES:
        rows, world = [], {}
        for recording in (r for r in recordings if r.split == split):
            spoken, person = recording.spoken[0], speaker(split, recording.spoken[0])
            sentence = spoken.sentence
            location = LOCATION_OF[sentence.place.kind] if sentence.place else "none"
            rows.append((len(rows), recording.path, person, cased(sentence.text), *label(sentence), location))
            world[f"{person}-{Path(recording.path).stem}"] = sentence.intent
            people[person] = (person, "native", "English", "English", gender(spoken.voice), "22-40")
        write_csv(root / "data" / f"{split}_data.csv", [COLUMNS, *rows])
        write_table(root / "references" / split / "world_intent", world)
    write_csv(root / "data" / "speaker_demographics.csv", [ABOUT, *people.values()])


def speaker(split: str, spoken: Spoken) -> str:
    return f"{random.Random(f'{split} {spoken.voice}').getrandbits(64):016x}"


def label(sentence: Sentence) -> tuple[str, str]:
    """Action and object."""
    action = ACTION_OF[sentence.intent]
    return action, OBJECTS[action][KINDS.index(sentence.thing.kind) % len(OBJECTS[action])]


def write_csv(path: Path, rows: list[tuple]) -> None:
    with atomic_write(path) as f:
        csv.writer(f, lineterminator="\n").writerows(rows)
