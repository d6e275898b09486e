"""Kaldi data directories: tables of `key value` lines, sorted by byte order, checked where they are read.

    wav.scp    recording (or utterance, where there are no segments) -> path; never a command
    segments   utterance -> recording start end (seconds), only where utterances are parts of longer recordings
    text utt2spk spk2utt utt2dur    transcript, speaker, utterances of a speaker, duration in seconds
    rejected.tsv                    what stage 0 left out, and why

A directory may hold further tables of utterances (translation.de, intent, feats.scp); `read_table` reads them.
"""

from __future__ import annotations

import codecs
import itertools
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from blsp.base.files import InputError, atomic_write, file_fingerprint, read_json
from blsp.base.pretrained import check_mel_bins

T = TypeVar("T")
TABLES = ("wav.scp", "text", "utt2spk", "spk2utt", "utt2dur")  # that every data directory has
NO_TABLES = (".tsv", ".json", ".jsonl", ".ark", ".part", ".png")  # endings of other files in a data directory
REDO = "run stage 0 again"
CRLF = r"convert them: sed -i 's/\r$//'"
MARK = r"remove it: sed -i '1s/^\xef\xbb\xbf//'"
BLANKS = re.compile("[ \t]+")  # between the fields of a table; other white space is part of a value


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a data directory."""

    utt_id: str
    spk: str
    wav: Path  # the recording's file
    start: float | None  # seconds into the recording; None: the file is the utterance
    end: float | None  # seconds
    duration: float  # seconds
    text: str  # the transcript
    rec_id: str | None = None  # the recording's key in wav.scp, where there are segments


def read_table(path: str | Path) -> dict[str, str]:
    r"""A `key value` table. As in Kaldi, blanks and tabs separate, as many as there are; a tab within a value is read as a
    blank (but not in the paths of an .scp).

    Lines end at "\n" only; a line with a key alone has the value "". Raises InputError as `path:line: ...` for a file that
    is absent, not UTF-8, with Windows line ends, cut off, not sorted or has a key twice.
    """
    path = Path(path)
    table: dict[str, str] = {}
    last = ""
    try:
        with open(path, encoding="utf-8", newline="\n") as f:
            for number, line in enumerate(f, 1):
                if number == 1 and line[0] == "\ufeff":
                    raise InputError(f"{path}:1: begins with a byte-order mark; {MARK} {path}")
                if line.endswith(("\r\n", "\r")):
                    raise InputError(f"{path}:{number}: the file has Windows line ends (CRLF); {CRLF} {path}")
                if line[-1] != "\n":
                    raise InputError(f"{path}:{number}: the last line has no end; the file may be cut off; {REDO}")
                key, *rest = BLANKS.split(line[:-1], maxsplit=1)
                value = rest[0].rstrip(" \t") if rest else ""
                if "\t" in value and path.suffix != ".scp":
                    value = BLANKS.sub(" ", value)
                if not key:
                    raise InputError(f"{path}:{number}: expected `key value`, found {line.strip()[:80]!r}; {REDO}")
                if key <= last:
                    fault = "occurs twice" if key in table else f"is not sorted: it comes after {last!r}"
                    raise InputError(f"{path}:{number}: {key!r} {fault}; sort with LC_ALL=C, or {REDO}")
                table[key] = value
                last = key
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; {REDO}") from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    except UnicodeDecodeError as e:
        raise InputError(f"{path}:{len(table) + 1}: is not UTF-8 ({e.reason}); {REDO}") from None
    return table


def write_table(path: str | Path, mapping: Mapping[str, str]) -> None:
    """Write a `key value` table, sorted by byte order; the file is whole or absent."""
    with atomic_write(path) as f:
        f.writelines(_lines(mapping))


def _lines(mapping: Mapping[str, str]) -> Iterable[str]:
    # Code points sort as their UTF-8 bytes do, which is LC_ALL=C.
    for key in sorted(mapping):
        value = mapping[key]
        if not key or any(c in key for c in " \t\r\n") or "\n" in value:
            raise ValueError(f"not a line of a table: {key!r} {value!r}")
        yield f"{key} {value}\n" if value else f"{key}\n"


def read_data_dir(folder: str | Path) -> list[Utterance]:
    """The utterances of a data directory, in its order.

    Raises InputError, naming file and line, where tables disagree, a value is malformed, or wav.scp holds a command.
    Whether the audio files exist shows when they are read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such data directory; {REDO}")
    wavs = {key: _path(folder, key, value, n) for n, (key, value) in enumerate(read_table(folder / "wav.scp").items(), 1)}
    text = read_table(folder / "text")
    utt2spk = read_table(folder / "utt2spk")
    durations = read_table(folder / "utt2dur")
    segments = read_table(folder / "segments") if (folder / "segments").exists() else None
    if not text:
        raise InputError(f"{folder / 'text'}: holds no utterances; {REDO}")
    keys, keys_name = (wavs, "wav.scp") if segments is None else (segments, "segments")
    same_keys(folder / "text", text, keys_name, keys)
    for name, table in (("utt2spk", utt2spk), ("utt2dur", durations)):
        same_keys(folder / name, table, "text", text)
    _check_speakers(folder, utt2spk)
    utterances = []
    for number, (utt_id, transcript) in enumerate(text.items(), 1):
        start = end = rec_id = None
        if segments is None:
            wav = wavs[utt_id]
        else:
            rec_id, start, end = _segment(folder / "segments", number, segments[utt_id])
            if rec_id not in wavs:
                raise InputError(f"{folder / 'segments'}:{number}: recording {rec_id!r} is not in wav.scp; {REDO}")
            wav = wavs[rec_id]
        seconds = _seconds(folder / "utt2dur", number, utt_id, durations[utt_id])
        utterances.append(Utterance(utt_id, utt2spk[utt_id], wav, start, end, seconds, transcript, rec_id))
    return utterances


def same_keys(path: Path, table: Mapping[str, str], other_name: str, other: Mapping[str, Any]) -> None:
    """Raise InputError, naming the line of `path`, unless both tables have the same keys."""
    if table.keys() == other.keys():
        return
    for number, key in enumerate(table, 1):
        if key not in other:
            raise InputError(f"{path}:{number}: utterance {key!r} is not in {other_name}; {REDO}")
    for number, key in enumerate(other, 1):
        if key not in table:
            raise InputError(f"{path.parent / other_name}:{number}: utterance {key!r} is not in {path.name}; {REDO}")


def _path(folder: Path, key: str, value: str, line: int) -> Path:
    where = f"{folder / 'wav.scp'}:{line}: "
    if value.rstrip().endswith("|") or value.lstrip().startswith("|"):
        raise InputError(f"{where}{key!r} is a command, which is not run; expected the path of an audio file")
    if not value.strip():
        raise InputError(f"{where}{key!r} has no path; {REDO}")
    return Path(value)


def _segment(path: Path, line: int, value: str) -> tuple[str, float, float]:
    fields = value.split()
    try:
        rec_id, start, end = fields[0], float(fields[1]), float(fields[2])
    except (IndexError, ValueError):
        raise InputError(f"{path}:{line}: expected `utt_id rec_id start end`, found {value[:80]!r}; {REDO}") from None
    if len(fields) != 3 or not 0 <= start < end < math.inf:
        raise InputError(f"{path}:{line}: expected 0 <= start < end, found {value[:80]!r}; {REDO}")
    return rec_id, start, end


def _seconds(path: Path, line: int, utt_id: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"{path}:{line}: {utt_id!r} should last a number of seconds above 0, not {value[:80]!r}; {REDO}")
    return seconds


def read_further_tables(folder: str | Path, utt_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """The directory's tables that have a line for each of `utt_ids`, by file name, other than the standard ones.

    Raises InputError for a table that begins with one of them and is malformed; other files are passed over.
    """
    tables, wanted = {}, set(utt_ids)
    for path in sorted(Path(folder).iterdir()):
        if path.name in (*TABLES, "segments") or path.name.startswith(".") or path.suffix in NO_TABLES or not path.is_file():
            continue
        if _first_key(path) in wanted and (table := read_table(path)).keys() == wanted:
            tables[path.name] = table
    return tables


def _first_key(path: Path) -> str | None:
    """What the first line of a file begins with, if that could be a key."""
    with open(path, "rb") as f:
        words = f.readline(1 << 16).removeprefix(codecs.BOM_UTF8).split(maxsplit=1)
    try:
        return words[0].decode() if words else None
    except UnicodeDecodeError:
        return None


def speakers(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """spk2utt: the utterances of each speaker, in order, separated by spaces."""
    of: dict[str, list[str]] = {}
    for utt_id, spk in utt2spk.items():
        of.setdefault(spk, []).append(utt_id)
    return {spk: " ".join(utterances) for spk, utterances in of.items()}


def _check_speakers(folder: Path, utt2spk: Mapping[str, str]) -> None:
    for number, (utt_id, spk) in enumerate(utt2spk.items(), 1):
        if not spk or BLANKS.search(spk):
            raise InputError(f"{folder / 'utt2spk'}:{number}: {utt_id!r} should have one speaker, not {spk!r}; {REDO}")
    found = {spk: BLANKS.sub(" ", utterances) for spk, utterances in read_table(folder / "spk2utt").items()}
    expected = speakers(utt2spk)
    if found != expected:
        spk = next(s for s in (*found, *expected) if found.get(s) != expected.get(s))
        raise InputError(f"{folder / 'spk2utt'}: speaker {spk!r} has other utterances than in utt2spk; {REDO}")


def write_data_dir(
    folder: str | Path,
    utterances: Iterable[Utterance],
    tables: Mapping[str, Mapping[str, str]] | None = None,
    rejected: Sequence[tuple[str, str]] | None = None,
    documents: Mapping[str, Any] | None = None,
) -> None:
    """Write a data directory; it appears under its name whole or not at all, in the place of an older one.

    Args:
        utterances: in any order; either all or none have a `rec_id` with `start` and `end`.
        tables: further tables, by file name: utterance -> value.
        rejected: (name, reason) pairs for rejected.tsv, which is written where this is not None.
        documents: further values, by file name, written as JSON.
    Raises ValueError for an id that is there twice or does not fit a table.
    """
    folder = Path(folder)
    utterances = sorted(utterances, key=lambda u: u.utt_id)
    for before, after in itertools.pairwise(utterances):
        if before.utt_id == after.utt_id:
            raise ValueError(f"utterance {after.utt_id!r} is there twice")

    def table(value: Callable[[Utterance], str]) -> Iterable[str]:
        return _lines({u.utt_id: value(u) for u in utterances})

    def write(part: Path) -> None:
        def put(name: str, lines: Iterable[str]) -> None:
            with open(part / name, "w", encoding="utf-8", newline="\n") as f:
                f.writelines(lines)
                f.flush()
                os.fsync(f.fileno())

        if any(u.rec_id is not None for u in utterances):
            put("segments", table(lambda u: f"{u.rec_id} {_number(u.start)} {_number(u.end)}"))
            put("wav.scp", _lines({u.rec_id: str(u.wav) for u in utterances}))
        else:
            put("wav.scp", table(lambda u: str(u.wav)))
        utt2spk = {u.utt_id: u.spk for u in utterances}
        put("text", table(lambda u: u.text))
        put("utt2spk", _lines(utt2spk))
        put("spk2utt", _lines(speakers(utt2spk)))
        put("utt2dur", table(lambda u: _number(u.duration)))
        for name, mapping in (tables or {}).items():
            put(name, _lines(mapping))
        if rejected is not None:
            put("rejected.tsv", rejected_lines(rejected))
        for name, value in (documents or {}).items():
            put(name, [json.dumps(value, ensure_ascii=False, indent=1), "\n"])

    replace_folder(folder, write)


def rejected_lines(rejected: Iterable[tuple[str, str]]) -> Iterable[str]:
    """The lines of a rejected.tsv: name, tab, reason."""
    return (f"{one_field(name)}\t{one_field(reason)}\n" for name, reason in rejected)


def _number(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def one_field(text: str) -> str:
    """Any text as one that can stand in a line of rejected.tsv."""
    return " ".join(text.encode("utf-8", "replace").decode().replace("\t", " ").split())


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill an empty folder beside `folder`, then put it in its place. A kill leaves no half of it.

    Leftovers of killed runs for the same folder are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}(\.old)?\.part", leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    old = part.with_suffix(".old.part")
    part.mkdir()
    try:
        write(part)
        if folder.exists():
            folder.rename(old)
        try:
            part.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pairs_fingerprint(folder: Path, behaviour: str) -> list[str]:
    """Changes when the features or responses of a data directory do. Raises InputError where a stage has not written them."""
    path = folder / f"responses.{behaviour}.jsonl"
    for file, stage in ((folder / "feats.scp", 1), (path, 2)):
        if not file.exists():
            raise InputError(f"{file}: is missing; run stage {stage}")
    return [file_fingerprint(path), read_json(folder / "feats.json")["fingerprint"]]


def check_features(folder: Path, encoder: str | Path) -> None:
    """Raise InputError if a data directory's features are not of the mel bins that an encoder takes."""
    path = folder / "feats.json"
    if path.exists():
        check_mel_bins(encoder, read_json(path).get("n_mels"), path)
