"""Stage 0 of the SNIPS SmartLights close-field corpus: English smart-home commands with their intents.

    smart-lights-en-close-field/           <- --corpus-dir
        dataset.json                       {"intents": {INTENT: {"utterances": [{"data": [{"text": ...}, ...]}]}}, ...}
        speech_corpus/
            metadata.json                  {"0": {"filename": "0.wav", "text": ..., "worker": {"id": ...}}, ...}
            audio/0.wav ...

A recording has no intent of its own: its text is looked up, without regard to case and spacing, among the queries of
dataset.json. There is no official split, so all recordings form one set, close_field, with the table `intent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.files import InputError, read_json
from blsp.data import preparation
from blsp.data.corpus_files import glob
from blsp.data.preparation import Found, Rejected, Sets

INTENTS = {
    "DecreaseBrightness",
    "IncreaseBrightness",
    "SetLightBrightness",
    "SetLightColor",
    "SwitchLightOff",
    "SwitchLightOn",
}


def parse(corpus_dir: Path) -> Sets:
    metadata = corpus_dir / "speech_corpus" / "metadata.json"
    if not metadata.exists() and not (corpus_dir / "dataset.json").exists():
        return {}
    return {"close_field": lambda: recordings(corpus_dir / "dataset.json", metadata)}


def recordings(dataset: Path, metadata: Path) -> Iterator[Found | Rejected]:
    """Every recording of metadata.json, and every audio file that metadata.json does not name."""
    intents = intents_by_text(dataset)
    entries = read_json(metadata)
    if not isinstance(entries, dict):
        raise InputError(f'{metadata}: expected {{"0": {{"filename": ..., "text": ...}}, ...}}; unpack it again')
    audio_dir = metadata.parent / "audio"
    named = set()
    for key, entry in entries.items():
        if not isinstance(entry, dict):
            named.add(f"{key}.wav")
            yield Rejected(key, "broken entry: not an object")
            continue
        filename = entry.get("filename") or f"{key}.wav"
        named.add(str(filename))
        text = entry.get("text") or entry.get("sentence")
        if not isinstance(filename, str) or not (text is None or isinstance(text, str)):
            yield Rejected(key, "broken entry: filename or text is not a string")
            continue
        found_in = intents.get(normalized(text), set()) if text else set()
        if text and text.strip() and len(found_in) != 1:
            yield Rejected(key, intent_fault(found_in))
            continue
        intent = next(iter(found_in), None)
        if intent is not None and intent not in INTENTS:
            yield Rejected(key, f"unknown label: {intent}")
            continue
        worker = entry.get("worker")
        spk = worker.get("id", "") if isinstance(worker, dict) else ""
        native = "_".join(key.split())  # an id holds no white space
        spk = native if spk in ("", None) else "_".join(str(spk).split())  # without a worker: its own speaker
        yield Found(
            name=key,
            utt_id=native if spk == native else f"{spk}-{native}",
            spk=spk,
            audio=audio_dir / filename,
            text=text,
            tables={"intent": intent} if intent else {},
        )
    for path in glob(audio_dir, "*.wav"):
        if path.name not in named:
            yield Rejected(path.name, "no transcript: not in metadata.json")


def intents_by_text(dataset: Path) -> dict[str, set[str]]:
    """Normalized text of a query -> the intents that have it."""
    value = read_json(dataset)
    try:
        return _collect(value["intents"])
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{dataset}: expected intents.INTENT.utterances[].data[].text; unpack it again") from None


def _collect(intents: dict[str, Any]) -> dict[str, set[str]]:
    by_text: dict[str, set[str]] = {}
    for intent, content in intents.items():
        for query in content["utterances"]:
            text = normalized("".join(part["text"] for part in query["data"]))
            by_text.setdefault(text, set()).add(intent)
    return by_text


def intent_fault(found_in: set[str]) -> str:
    if not found_in:
        return "missing label: no query of dataset.json has its text"
    return f"ambiguous label: its text is a query of {' and '.join(sorted(found_in))}"


def normalized(text: str) -> str:
    return " ".join(text.casefold().split())


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
