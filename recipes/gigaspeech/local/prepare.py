"""GigaSpeech: segments of long recordings, described by one large JSON file.

    GigaSpeech/                                     --corpus-dir
        GigaSpeech.json
        audio/{audiobook,podcast,youtube}/P0001/POD0000000001.opus
        TERMS_OF_ACCESS  files.yaml  dict/          not read

GigaSpeech.json holds {"dataset", "language", "version", "audios": [...]}; an audio is

    {"aid": "POD0000000001", "path": "audio/podcast/P0001/POD0000000001.opus", "subsets": ["{XL}", "{L}"], ...,
     "segments": [{"sid": "POD0000000001_S0000008", "begin_time": 159.0, "end_time": 167.52, "speaker": "N/A",
                   "text_tn": "AS DOUGLAS ADAMS ONCE SAID <COMMA> ...", "subsets": ["{XL}"]}, ...]}

One set per subset: XS, S, M, L and XL are nested, DEV and TEST stand alone. A recording may carry subsets that not all of
its segments have, so the segment's own list decides. The punctuation tags are removed from the text; a segment that has a
garbage tag is rejected. Speakers are not known: each segment is its own speaker.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import preparation
from blsp.data.corpus_files import encoding_of
from blsp.data.preparation import Found, Rejected, Sets

SUBSETS = ("XS", "S", "M", "L", "XL", "DEV", "TEST")
PUNCTUATION = {"<COMMA>", "<PERIOD>", "<QUESTIONMARK>", "<EXCLAMATIONPOINT>"}
GARBAGE = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}
TAG = re.compile(r"<[A-Za-z_]+>")

CHUNK = 4 << 20  # bytes read at a time
LONGEST_AUDIO = 256 << 20  # characters; the entry of a recording of a day is a hundredth of it
ERRORS = {"utf-8": "surrogateescape", "utf-16-le": "surrogatepass", "utf-16-be": "surrogatepass"}  # keeps bytes in their places
ESCAPE = 16  # characters; a literal, number or escape that the end of the buffer cuts is shorter


def parse(corpus_dir: Path) -> Sets:
    """Find the subsets by one pass over GigaSpeech.json, which also notes where each audio's entry lies.

    The file can have 12 GB. With the places known, a small subset reads only its own entries, and no pass keeps more than
    one entry in memory.
    """
    path = corpus_dir / "GigaSpeech.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; --corpus-dir is the folder that holds GigaSpeech.json and audio/")
    encoding, bom = encoding_of(path)
    entries = [Entry(offset, length, sets_of(audio)) for offset, length, audio in read_audios(path, encoding, bom)]
    present = [s for s in SUBSETS if any(s in entry.sets for entry in entries)]
    if present:  # what names no known subset is reported with the first one, so that it is not lost
        entries = [entry if entry.sets else Entry(entry.offset, entry.length, {present[0]}) for entry in entries]
    return {s: partial(utterances, path, encoding, [e for e in entries if s in e.sets], s) for s in present}


@dataclass(frozen=True)
class Entry:
    """Where the entry of one audio lies in GigaSpeech.json, and which subsets have to read it."""

    offset: int  # bytes
    length: int  # bytes
    sets: set[str]


def utterances(path: Path, encoding: str, entries: Iterable[Entry], subset: str) -> Iterator[Found | Rejected]:
    """The segments of one subset, read from the entries that have any."""
    with open(path, "rb") as f:
        for entry in entries:
            f.seek(entry.offset)
            audio = json.loads(f.read(entry.length).decode(encoding, ERRORS[encoding]), strict=False)
            yield from segments_of(audio, entry.sets, subset, path.parent)


def segments_of(audio: Any, sets: set[str], subset: str, corpus_dir: Path) -> Iterator[Found | Rejected]:
    """The utterances of one audio that belong to `subset`. What names no subset is reported with those of its audio."""
    if not isinstance(audio, dict):
        yield Rejected(str(audio)[:80], "an entry of 'audios' that is not an object")
        return
    aid = str(audio.get("aid") or audio.get("path") or audio.get("title") or "an audio without aid")
    segments = audio.get("segments")
    if not isinstance(segments, list) or not segments:
        yield Rejected(aid, "the audio has no segments")
        return
    home = known_subsets(audio) or sets
    path = audio.get("path")
    recording = corpus_dir / path if isinstance(path, str) and path else None
    for number, segment in enumerate(segments):
        if subset in (known_subsets(segment) or home):
            yield utterance(segment, f"{aid} segment {number}", recording, str(audio.get("aid") or Path(str(path)).stem))


def utterance(segment: Any, place: str, recording: Path | None, rec_id: str) -> Found | Rejected:
    """One segment; `place` names it if it has no sid."""
    if not isinstance(segment, dict):
        return Rejected(place, "a segment that is not an object")
    sid = segment.get("sid")
    if not isinstance(sid, str) or not sid.strip():
        return Rejected(place, "the segment has no sid")
    if not known_subsets(segment):
        return Rejected(sid, f"belongs to no known subset: {segment.get('subsets')!r}")
    if recording is None:
        return Rejected(sid, "its audio has no path")
    start, end = seconds(segment.get("begin_time")), seconds(segment.get("end_time"))
    if start is None or end is None:
        return Rejected(sid, "begin_time or end_time is not a number")
    text = segment.get("text_tn")
    tags = {tag.upper() for tag in TAG.findall(text)} if isinstance(text, str) else set()
    if garbage := tags & GARBAGE:
        return Rejected(sid, f"garbage segment: {' '.join(sorted(garbage))}")
    if unknown := tags - PUNCTUATION:
        return Rejected(sid, f"unknown tag in the text: {' '.join(sorted(unknown))}")
    words = TAG.sub(" ", text) if isinstance(text, str) else None
    return Found(sid, sid, sid, recording, words, rec_id=rec_id, start=start, end=end)


def known_subsets(item: Any) -> set[str]:
    """The subsets that an audio or a segment names; they are written with braces, "{XL}"."""
    names = item.get("subsets") if isinstance(item, dict) else None
    return {str(name).strip("{} ") for name in names if str(name).strip("{} ") in SUBSETS} if isinstance(names, list) else set()


def sets_of(audio: Any) -> set[str]:
    """The subsets that an audio or any of its segments names."""
    segments = audio.get("segments") if isinstance(audio, dict) else None
    return known_subsets(audio).union(*map(known_subsets, segments if isinstance(segments, list) else []))


def seconds(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


# --- reading a JSON file of any size -------------------------------------------------------------------------------------


def read_audios(path: Path, encoding: str, bom: int) -> Iterator[tuple[int, int, Any]]:
    """Yield (offset in bytes, length in bytes, value) for each item of the top-level list "audios"."""
    try:
        reader = JsonReader(path, encoding, bom)
        reader.expect("{")
        seen = False
        while not reader.accept("}"):
            key, _, _ = reader.value()
            reader.expect(":")
            if key == "audios" and reader.accept("["):
                seen = True
                while not reader.accept("]"):
                    item, offset, length = reader.value()
                    yield offset, length, item
                    reader.comma_before("]")
            else:
                reader.value()
            reader.comma_before("}")
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: is not JSON, or was cut off ({e}); fetch the file again") from None
    if not seen:
        raise InputError(f"{path}: has no list 'audios'; expected the GigaSpeech.json of GigaSpeech v1")


class JsonReader:
    """Walks a JSON file value by value; what lies behind the current place is forgotten."""

    def __init__(self, path: Path, encoding: str, bom: int):
        self.encoding, self.errors = encoding, ERRORS[encoding]
        self.file = open(path, "rb")  # noqa: SIM115, closed at the end of the file
        self.file.seek(bom)
        self.decode = codecs.getincrementaldecoder(self.encoding)(self.errors).decode
        self.decoder = json.JSONDecoder(strict=False)
        self.text, self.at, self.offset, self.ended = "", 0, bom, False

    def more(self) -> bool:
        """Read on; at least as much again as is kept, so that a long value is not tried at every chunk."""
        if self.ended:
            return False
        if len(self.text) - self.at > LONGEST_AUDIO:
            raise ValueError(f"a value of more than {LONGEST_AUDIO >> 20} MiB at byte {self.offset}")
        data = self.file.read(max(CHUNK, len(self.text) - self.at))
        self.ended = not data
        if self.ended:
            self.file.close()
        self.text, self.at = self.text[self.at :] + self.decode(data, final=self.ended), 0
        return True

    def step(self, to: int) -> int:
        """Move to a place in the buffer; returns the bytes passed."""
        length = len(self.text[self.at : to].encode(self.encoding, self.errors))
        self.at, self.offset = to, self.offset + length
        return length

    def peek(self) -> str:
        """The next character that is not white space; '' at the end."""
        while True:
            to = self.at
            while to < len(self.text) and self.text[to] in " \t\r\n":
                to += 1
            self.step(to)
            if to < len(self.text):
                return self.text[to]
            if not self.more():
                return ""

    def accept(self, character: str) -> bool:
        found = self.peek() == character
        if found:
            self.step(self.at + 1)
        return found

    def expect(self, character: str) -> None:
        if not self.accept(character):
            raise ValueError(f"expected {character!r} at byte {self.offset}, found {self.peek() or 'the end of the file'!r}")

    def comma_before(self, close: str) -> None:
        """Pass the comma between two items; none is needed before the closing bracket."""
        if self.peek() != close:
            self.expect(",")

    def value(self) -> tuple[Any, int, int]:
        """The next value, its offset and its length in bytes."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as e:
                cut = e.pos >= len(self.text) - ESCAPE or e.msg.startswith("Unterminated")
                if not (cut and self.more()):
                    raise ValueError(f"{e.msg} after byte {self.offset}") from None
                continue
            if end == len(self.text) and self.more():  # a number may go on
                continue
            offset = self.offset
            return value, offset, self.step(end)


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
