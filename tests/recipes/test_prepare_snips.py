"""SNIPS SmartLights: the intent of a recording through its text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recipe_run import prepared, refused, rejected, table, write_audio

QUERIES = {
    "SwitchLightOn": [["Turn on the lights in the ", "living room"], ["Light it up"], ["Both"]],
    "IncreaseBrightness": [["Brighter\u00a0please"], ["Both"]],
    "MakeCoffee": [["Coffee"]],
}


def write(root: Path, metadata: Any, audio: tuple[str, ...] = ()) -> Path:
    intents = {
        intent: {"utterances": [{"data": [{"text": part} for part in parts]} for parts in queries]}
        for intent, queries in QUERIES.items()
    }
    for name in audio:
        write_audio(root / "speech_corpus" / "audio" / name)
    (root / "speech_corpus").mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({"language": "en", "intents": intents}))
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    (root / "speech_corpus" / "metadata.json").write_text(text)
    return root


def entry(number: int, text: str, worker: str | None = "w1", key: str = "text") -> dict[str, Any]:
    return {"filename": f"{number}.wav", key: text, "worker": {"id": worker} if worker else None}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("snips")
    metadata = {
        "0": entry(0, "turn on the LIGHTS in the living room\n"),
        "1": entry(1, "Brighter please", key="sentence"),
        "2": entry(2, "Light it up", worker=None),
        "3": entry(3, "Both"),
        "4": entry(4, "Nobody asked this"),
        "5": entry(5, "Coffee"),
        "6": entry(6, ""),
        "7": entry(7, "Light it up"),
        "8": "not an object",
        "9": entry(9, "Light it up") | {"filename": "../../../outside.wav"},
        "10": entry(10, "Light it up") | {"filename": "a 'b'; touch pwned.wav"},
    }
    audio = tuple(f"{i}.wav" for i in (0, 1, 2, 3, 4, 5, 6, 8, 1310)) + ("a 'b'; touch pwned.wav",)
    write(root / "corpus", metadata, audio)
    write_audio(root / "outside.wav")
    prepared("snips", root / "corpus", root / "data")
    return root / "data" / "close_field"


def test_intent_is_found_without_regard_to_case_and_spacing(data: Path) -> None:
    assert table(data / "intent") == {
        "w1-0": "SwitchLightOn",
        "w1-1": "IncreaseBrightness",
        "2": "SwitchLightOn",
        "w1-10": "SwitchLightOn",
    }
    assert table(data / "text")["w1-0"] == "turn on the LIGHTS in the living room"
    assert table(data / "utt2spk") == {"w1-0": "w1", "w1-1": "w1", "2": "2", "w1-10": "w1"}


def test_the_others_are_named(data: Path) -> None:
    faults = rejected(data)
    assert faults["3"] == "ambiguous label: its text is a query of IncreaseBrightness and SwitchLightOn"
    assert faults["4"].startswith("missing label")
    assert faults["5"] == "unknown label: MakeCoffee"
    assert "not an object" in faults["8"]
    assert "no transcript" in faults["1310.wav"]
    assert set(faults) == {"3", "4", "5", "6", "7", "8", "9", "1310.wav"}


def test_odd_and_damaged_audio(tmp_path: Path) -> None:
    root = write(tmp_path / "corpus", {str(i): entry(i, "Light it up", f"w{i}") for i in range(8)}, ("7.wav",))
    audio = root / "speech_corpus" / "audio"
    write_audio(audio / "0.wav", rate=44100, channels=2)
    write_audio(audio / "1.wav", rate=8000, subtype="PCM_U8")
    write_audio(audio / "2.wav", subtype="PCM_24")
    write_audio(audio / "3.wav", seconds=0.0)
    write_audio(audio / "4.wav", seconds=0.05)
    write_audio(audio / "5.wav", seconds=30.5)
    (audio / "6.wav").write_bytes(b"")
    (audio / "7.wav").write_bytes((audio / "7.wav").read_bytes()[:4000])
    log = prepared("snips", root, tmp_path / "data")
    data = tmp_path / "data" / "close_field"
    assert {utt: float(x) for utt, x in table(data / "utt2dur").items()} == {"w0-0": 0.5, "w1-1": 0.5, "w2-2": 0.5}
    assert set(rejected(data)) == {"3", "4", "5", "6", "7"}
    assert "kept 3 + rejected 5 = found 8" in log and "mended" in log


@pytest.mark.parametrize("broken", ['{"0": {"filename": "0.wav", "te', "[1, 2]"])
def test_broken_metadata(tmp_path: Path, broken: str) -> None:
    write(tmp_path / "corpus", broken, ("0.wav",))
    assert "metadata.json" in refused("snips", tmp_path / "corpus", tmp_path / "data")


def test_broken_dataset(tmp_path: Path) -> None:
    write(tmp_path / "corpus", {"0": entry(0, "Both")}, ("0.wav",))
    (tmp_path / "corpus" / "dataset.json").write_text('{"intents": ["x"]}')
    assert "dataset.json" in refused("snips", tmp_path / "corpus", tmp_path / "data")
