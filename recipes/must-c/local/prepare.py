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

import yaml

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import corpus_files, preparation
from blsp.data.preparation import Found, Rejected, Sets

SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")
DIRECTION = re.compile(r"en-([a-z]{2,3}(?:-[A-Za-z]+)?)")
# A line of the published files; others are left to a YAML parser.
PLAIN_ENTRY = re.compile(r"- *\{((?:[A-Za-z_]+: [\w./-]+(?:, |(?=\})))+)\} *")
EVENT = re.compile(r"\([^()]*\)")  # (Laughter)
LONGEST_ENTRY = 4096  # characters; libyaml needs quadratic time for a line of brackets
PARSER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # by libyaml, where PyYAML was built with it


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
            yield Rejected(f"{english_file.name}:{number}", segment)
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


def read_entries(path: Path) -> list[dict[str, str] | None]:
    """The entries of a yaml file as mappings of strings; None for one that cannot be read.

    Published files have one entry a line and are read line by line, so that a broken line costs one segment. Any other
    YAML is read whole, in ten times the time.
    """
    lines = [line for line in corpus_files.read_lines(path) if line.strip() and not line.startswith(("#", "---"))]
    if all(line.startswith("- {") for line in lines):
        return [read_entry(line) for line in lines]
    try:
        return list(read_yaml("\n".join(lines)))
    except (yaml.YAMLError, ValueError) as e:
        if any(map(PLAIN_ENTRY.fullmatch, lines)):
            return [read_entry(line) for line in lines]
        raise InputError(
            f"{path}: is not YAML, or was cut off ({' '.join(str(e).split())}); unpack the archive again"
        ) from None


def read_entry(line: str) -> dict[str, str] | None:
    """The mapping in one line "- {key: value, ...}"; None if it is broken."""
    if match := PLAIN_ENTRY.fullmatch(line):
        return dict(pair.split(": ", 1) for pair in match[1].rstrip(", ").split(", "))
    try:
        entries = list(read_yaml(line)) if len(line) < LONGEST_ENTRY else []
    except (yaml.YAMLError, ValueError):
        return None
    return entries[0] if len(entries) == 1 else None


def read_yaml(text: str) -> Iterator[dict[str, str] | None]:
    """The items of a YAML list, the scalars of a mapping as strings; an item that is no mapping is None.

    Reads the parser's events and builds no objects: no tag or alias of a file has an effect, and nesting costs nothing (the
    loaders of PyYAML recurse, the one in C until the process dies).
    """
    depth, is_mapping, scalars = 0, False, []
    for event in yaml.parse(text, Loader=PARSER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth == 1 and not isinstance(event, yaml.SequenceStartEvent):
                raise ValueError("expected a list of segments")
            if depth == 2:
                is_mapping, scalars = isinstance(event, yaml.MappingStartEvent), []
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            if depth == 1:
                pairs = zip(scalars[::2], scalars[1::2], strict=True) if is_mapping else ()
                yield {key: value for key, value in pairs if key and value} or None
            elif depth == 2:
                scalars.append(None)  # in the place of a nested value
        elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            if depth == 0:
                raise ValueError("expected a list of segments")
            if depth == 1:
                yield None
            elif depth == 2:
                scalars.append(getattr(event, "value", None))


def segment_of(entry: dict[str, str] | None) -> Segment | str:
    """The segment that an entry describes, or what is wrong with the entry."""
    if entry is None:
        return "broken line: not a mapping of duration, offset and wav"
    wav, offset, duration = (entry.get(key, "").strip() for key in ("wav", "offset", "duration"))
    if not wav:
        return "the entry has no wav"
    start, length = seconds(offset), seconds(duration)
    if start is None or length is None:
        return f"offset or duration is not a number of seconds: {offset!r}, {duration!r}"
    talk = "_".join(wav.removesuffix(".wav").replace("/", "_").split())  # an id holds no white space
    return Segment(talk, wav, entry.get("speaker_id", talk).strip(), start, round(start + length, 6))


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
