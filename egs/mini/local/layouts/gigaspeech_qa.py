"""GigaSpeech's test set with long segments, which are asked about: passages of 40 to 60 words (Appendix C).

references/TEST/{question,answer} has a question about each, by rule, and its answer.
"""

from __future__ import annotations

import random
from pathlib import Path

from passages import Passage, draw_passage

from blsp.data.data_dir import write_table
from layouts import gigaspeech
from layouts.speech import PARTS, Recording, Spoken, Times

SIZES = {"test": 100}
SENTENCES = 5  # of a passage, 46 words
PER_RECORDING = 5  # passages


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    rng = random.Random(f"gigaspeech qa {seed}")
    drawn = [draw_passage("test", SENTENCES, rng) for _ in range(sizes["test"])]
    people, recordings = PARTS["test"], []
    for number, start in enumerate(range(0, len(drawn), PER_RECORDING)):
        group = drawn[start : start + PER_RECORDING]
        how = people.voices[number % len(people.voices)], rng.choice(people.rates), rng.choice(people.pitches)
        spoken = tuple(Spoken(sentence, sentence.text, *how) for passage in group for sentence in passage.sentences)
        heard, pauses = [], []
        for i in range(len(spoken) + 1):
            if i % SENTENCES:  # within a passage
                heard.append("silence")
                pauses.append(round(rng.uniform(0.3, 0.6), 2))
            else:
                heard.append(rng.choice(list(gigaspeech.GARBAGE)))
                pauses.append(round(rng.uniform(0.6, 0.9), 2) if 0 < i < len(spoken) else 1.0)
        path = gigaspeech.place("test", number)
        recordings.append(Recording("test", path, spoken, tuple(pauses), gaps=tuple(heard)))
    return recordings


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    gigaspeech.describe(root, recordings, times, SENTENCES)
    questions, answers = {}, {}
    for recording in recordings:
        for number, spoken in enumerate(gigaspeech.segments(recording, SENTENCES)):
            sid = gigaspeech.sid(recording, 2 * number + 1)
            passage = Passage(tuple(s.sentence for s in spoken))
            questions[sid], answers[sid] = passage.question(random.Random(sid))
    write_table(root / "references" / "TEST" / "question", questions)
    write_table(root / "references" / "TEST" / "answer", answers)
