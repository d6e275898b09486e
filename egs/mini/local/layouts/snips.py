"""SNIPS SmartLights, close field: wav files, the queries with their intents, and who said which.

The corpus has six labels and the world eight others, so a fixed mapping stands in: INTENT_OF. The mini LLM has never seen
these labels. The world's own are kept beside, in references/close_field/world_intent.
"""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

from world import Sentence, sample_sentences

from blsp.base.files import write_json
from blsp.data.data_dir import write_table
from layouts.speech import Recording, Times, cased, clip, draw, gender

SIZES = {"close_field": 80}
INTENT_OF = {
    "buy": "SwitchLightOn",
    "repair": "SwitchLightOn",
    "destroy": "SwitchLightOff",
    "steal": "SwitchLightOff",
    "clean": "IncreaseBrightness",
    "hide": "DecreaseBrightness",
    "find": "SetLightBrightness",
    "give": "SetLightColor",
}
NEVER_SAID = 5  # queries without a recording


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    groups = draw("test", sizes["close_field"], f"snips {seed}")
    return [clip("close_field", f"speech_corpus/audio/{i}.wav", spoken) for i, (spoken,) in enumerate(groups)]


def describe(root: Path, recordings: list[Recording], times: list[Times]) -> None:
    metadata, intents, world = {}, {}, {}
    said = [recording.spoken[0].sentence for recording in recordings]
    others = [s for s in sample_sentences("train", NEVER_SAID, "snips, never said") if s not in said]
    for sentence in [*said, *others]:
        intents.setdefault(INTENT_OF[sentence.intent], {"utterances": []})["utterances"].append({"data": query(sentence)})
    for recording in recordings:
        spoken, name = recording.spoken[0], Path(recording.path).name
        key = name.removesuffix(".wav")
        draw_worker = random.Random(spoken.voice)
        worker = str(uuid.UUID(int=draw_worker.getrandbits(128)))
        about = {"age": draw_worker.randint(20, 60), "gender": gender(spoken.voice), "country": "United States"}
        metadata[key] = {"filename": name, "text": cased(spoken.sentence.text), "worker": {"id": worker, **about}}
        world[f"{worker}-{key}"] = spoken.sentence.intent
    write_json(root / "dataset.json", {"language": "en", "intents": intents, "entities": {}})
    write_json(root / "speech_corpus" / "metadata.json", metadata)
    write_table(root / "references" / "close_field" / "world_intent", world)


def query(sentence: Sentence) -> list[dict[str, Any]]:
    """The text in pieces, the thing as a slot."""
    thing = f"{sentence.adjective.english} {sentence.thing.english}"
    before, behind = cased(sentence.text).split(thing)
    return [{"text": before}, {"text": thing, "entity": "thing", "slot_name": "thing"}, {"text": behind}]
