"""MuST-C: whole TED talks, and parallel files of segment times, English sentences and their translations.

    MUST-C/                                         --corpus-dir: the parent of the directions
        en-de/data/{train,dev,tst-COMMON,tst-HE}/
            wav/ted_767.wav
            txt/train.yaml  train.en  train.de
        en-es/ ...

Line i of the English file, line i of the translation and entry i of the yaml file belong together. An entry stands on a line:

    - {duration: 3.500000, offset: 16.080000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}

One set per split and direction that is there, such as tst_COMMON_en_de. Segments are named <talk>_<i>, where i counts the
segments of the talk by their offset. The texts are kept as they are, "(Laughter)" and "CA:" included; a segment that has
nothing but such an event is rejected.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from blsp import command, corpus_files, preparation
from blsp.files import InputError
from blsp.preparation import Found, Rejected, Sets

SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")
DIRECTION = re.compile(r"en-([a-z]{2,3}(?:-[A-Za-z]+)?)")
# A line of the published files; others are left to a YAML parser, which is some fifty times slower.
PLAIN_ENTRY = re.compile(r"- *\{((?:[A-Za-z_]+: [\w./-]+(?:, *|(?=\})))+)\} *")
EVENT = re.compile(r"\([^()]*\)")  # (Laughter)
# The base loader knows only strings, lists and mappings: no tag of a file makes an object.
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def parse(corpus_dir: Path) -> Sets:
    """One set per split of each direction."""
    sets = {}
    for direction in corpus_files.glob(corpus_dir, "en-*"):
        if not (match := DIRECTION.fullmatch(direction.name)):
            continue
        for split in SPLITS:
            folder = direction / "data" / split
            if folder.is_dir():
                name = f"{split}-{direction.name}".replace("-", "_")
                sets[name] = partial(utterances, folder, split, match[1])
    return sets


@dataclass(frozen=True)
class Segment:
    """An entry of the yaml file."""

    talk: str  # name of the wav file without .wav
    wav: str
    spk: str
    start: float  # seconds
    end: float  # seconds


def utterances(folder: Path, split: str, language: str) -> Iterator[Found | Rejected]:
    """The segments of one split and direction, then the recordings that have none."""
    entries_file, english_file, translation_file = (folder / "txt" / f"{split}.{end}" for end in ("yaml", "en", language))
    for path in (entries_file, english_file, translation_file):
        if not path.is_file():
            raise InputError(f"{path}: no such file; unpack the archive of en-{language} again")
    entries = read_entries(entries_file)
    english = corpus_files.read_lines(english_file)
    translations = corpus_files.read_lines(translation_file)
    for path, lines in ((english_file, english), (translation_file, translations)):
        if len(lines) != len(entries):
            raise InputError(
                f"{path}: has {len(lines)} lines where {entries_file.name} has {len(entries)} entries; "
                "the three files are parallel, so unpack the archive again"
            )

    segments = [segment_of(entry) for entry in entries]
    ids = names(segments)
    for number, (segment, text, translation) in enumerate(zip(segments, english, translations, strict=True), 1):
        if isinstance(segment, str):
            yield Rejected(f"{entries_file.name}:{number}", segment)
            continue
        if EVENT.search(text) and not any(c.isalnum() for c in EVENT.sub("", text)):
            yield Rejected(ids[number - 1], f"garbage-only transcript: {text.strip()}")
            continue
        yield Found(
            name=ids[number - 1],
            utt_id=f"{segment.spk}-{ids[number - 1]}",
            spk=segment.spk,
            audio=folder / "wav" / segment.wav,
            text=text,
            rec_id=segment.talk,
            start=segment.start,
            end=segment.end,
            tables={f"translation.{language}": translation},
        )
    used = {segment.wav for segment in segments if not isinstance(segment, str)}
    for wav in corpus_files.glob(folder / "wav", "*.wav"):
        if wav.name not in used:
            yield Rejected(wav.name, f"no segment of {entries_file.name} lies in the recording")


def read_entries(path: Path) -> list[Any]:
    """The entries of a yaml file as mappings of strings; an entry that cannot be read is None.

    Published files have one entry a line and are read line by line, so that a broken line costs one segment. Any other
    YAML is read whole.
    """
    lines = corpus_files.read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    if all(line.startswith("- {") for line in lines):
        return [read_entry(line) for line in lines]
    try:
        entries = yaml.load("\n".join(lines), Loader=LOADER)
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        if read_entry(lines[0]) is not None:
            return [read_entry(line) for line in lines]
        raise InputError(f"{path}: is not YAML, or was cut off ({' '.join(str(e).split())}); unpack the archive again") from None
    if not isinstance(entries, list):
        raise InputError(f"{path}: is not a list of segments; unpack the archive again")
    return entries


def read_entry(line: str) -> Any:
    """The mapping in one line "- {key: value, ...}"; None if it is broken."""
    if match := PLAIN_ENTRY.fullmatch(line):
        return dict(pair.split(": ", 1) for pair in match[1].rstrip(", ").split(", "))
    try:
        return yaml.load(line, Loader=LOADER)[0]
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError):
        return None


def segment_of(entry: Any) -> Segment | str:
    """The segment that an entry describes, or what is wrong with the entry."""
    if not isinstance(entry, dict):
        return "broken line: not a mapping of duration, offset and wav"
    wav, offset, duration = (str(entry.get(key, "")).strip() for key in ("wav", "offset", "duration"))
    if not wav:
        return "the entry has no wav"
    start, length = seconds(offset), seconds(duration)
    if start is None or length is None:
        return f"offset {offset!r} or duration {duration!r} is not a number of seconds"
    talk = wav.removesuffix(".wav").replace("/", "_")
    return Segment(talk, wav, str(entry.get("speaker_id") or talk).strip(), start, round(start + length, 6))


def names(segments: list[Segment | str]) -> list[str]:
    """<talk>_<i> for each segment. Offsets are compared as numbers: as strings, 10.0 would come before 9.0."""
    of_talk: dict[str, list[int]] = defaultdict(list)
    for number, segment in enumerate(segments):
        if not isinstance(segment, str):
            of_talk[segment.talk].append(number)
    result = [""] * len(segments)
    for talk, numbers in of_talk.items():
        for i, number in enumerate(sorted(numbers, key=lambda n: segments[n].start)):
            result[number] = f"{talk}_{i}"
    return result


def seconds(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
