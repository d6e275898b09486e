"""GigaSpeech: long Ogg-Opus recordings and one JSON file. XS to XL are nested; pauses of DEV and TEST are garbage segments."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import soundfile

from blsp.base.files import write_json
from layouts.speech import Recording, Spoken, Times, draw, long_recording, segment

SIZES = {"train": 400, "dev": 40, "test": 60}
PER_RECORDING = 20  # utterances
SOURCES = {"audiobook": "AUD", "podcast": "POD", "youtube": "YOU"}
NESTED = {"{XL}": 1, "{L}": 2, "{M}": 4, "{S}": 8, "{XS}": 16}  # every so many utterances belong to the subset
GARBAGE = {"silence": "<SIL>", "noise": "<NOISE>", "music": "<MUSIC>"}


def plan(sizes: dict[str, int], seed: int) -> list[Recording]:
    rng = random.Random(f"gigaspeech {seed}")
    recordings = []
    for split in SIZES:
        for number, group in enumerate(draw(split, sizes[split], f"gigaspeech {seed}", PER_RECORDING), 1):
            path = place(split, number)
            heard = () if split == "train" else tuple(rng.choice(list(GARBAGE)) for _ in range(len(group) + 1))
            recordings.append(long_recording(split, path, group, rng, gaps=heard))
    return recordings


def place(split: str, number: int) -> str:
    """Where a recording goes."""
    source, thousand = list(SOURCES)[number % len(SOURCES)], list(SIZES).index(split)
    return f"audio/{source}/P{thousand}{number // 100 + 1:03d}/{SOURCES[source]}{thousand}{number:09d}.opus"


def segments(recording: Recording, size: int) -> list[tuple[Spoken, ...]]:
    """What is said in each segment, `size` sentences."""
    return [recording.spoken[i : i + size] for i in range(0, len(recording.spoken), size)]


def sid(recording: Recording, number: int) -> str:
    """Of the recording's segment number 0, 1, ..., the pauses of DEV and TEST included."""
    return f"{Path(recording.path).stem}_S{number + 1:07d}"


def describe(root: Path, recordings: list[Recording], times: list[Times], size: int = 1) -> None:
    """Describe recordings whose segments have `size` sentences each."""
    audios = [audio(root, recording, spans, size) for recording, spans in zip(recordings, times, strict=True)]
    write_json(root / "GigaSpeech.json", {"dataset": "GigaSpeech", "language": "EN", "version": "v1.0.0", "audios": audios})


def audio(root: Path, recording: Recording, times: Times, size: int) -> dict[str, Any]:
    path = root / recording.path
    rows: list[dict[str, Any]] = []

    def add(start: float, end: float, text: str, subsets: list[str]) -> None:
        times = {"begin_time": start, "end_time": end}
        name = {"sid": sid(recording, len(rows)), "speaker": "N/A"}
        rows.append({**name, **times, "text_raw": "", "text_tn": text, "subsets": subsets})

    garbage, behind = recording.split != "train", 0.0
    for number, spoken in enumerate(segments(recording, size)):
        start, end = segment((times[number * size][0], times[number * size + len(spoken) - 1][1]), digits=3)
        text = " ".join(map(tagged, spoken))
        if garbage:
            add(behind, start, GARBAGE[recording.gaps[number * size]], [f"{{{recording.split.upper()}}}"])
            add(start, end, text, [f"{{{recording.split.upper()}}}"])
        else:
            add(start, end, text, [name for name, every in NESTED.items() if number % every == 0])
        behind = end
    info = soundfile.info(path)
    if garbage:
        add(behind, round(info.duration, 3), GARBAGE[recording.gaps[-1]], [f"{{{recording.split.upper()}}}"])
    return {
        "title": f"mini world {path.stem}",
        "url": "",
        "path": recording.path,
        "aid": path.stem,
        "source": recording.path.split("/")[1],
        "codec": "s16le",
        "channels": 1,
        "md5": hashlib.md5(path.read_bytes()).hexdigest(),
        "duration": round(info.duration, 3),
        "size": path.stat().st_size,
        "format": "opus",
        "sample_rate": 16000,
        "category": "N/A",
        "speaker": "N/A",
        "subsets": sorted({name for row in rows for name in row["subsets"]}),
        "segments": rows,
    }


def tagged(spoken: Spoken) -> str:
    """Upper case, punctuation as words."""
    words = spoken.sentence.text.upper().split()
    if spoken.sentence.adverb:
        words.insert(1, "<COMMA>")
    return " ".join([*words, "<PERIOD>"])
