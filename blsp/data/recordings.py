"""One's own recordings, as stage 0 wants them: a folder of audio and text, a table, or a Hugging Face dataset on disk.

FOLDER/anna/one.wav  FOLDER/anna/one.txt         audio, and its transcript in a file of the same name beside it
TABLE.csv  TABLE.tsv  TABLE.jsonl                a row for each utterance; columns by name
FOLDER  FILE.parquet                             see blsp/data/hub_datasets.py
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from blsp.base.command import progress
from blsp.base.files import InputError
from blsp.data import hub_datasets
from blsp.data.audio import SUFFIXES
from blsp.data.corpus_files import header_of, iter_lines, mended, read_lines, read_rows
from blsp.data.preparation import Found, Rejected

UNREAD = (".m4a", ".mp4", ".aac", ".webm", ".mkv", ".wma", ".amr")  # audio that has to be converted; stage 0 says so
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
DELIMITERS = ",;\t|"
USUAL = {  # what columns are called by most, in lower case; the first that is there is taken
    "audio": ("audio", "file_name", "audio_filepath", "wav", "path", "file"),
    "text": ("text", "transcription", "transcript", "sentence"),
    "speaker": ("speaker", "speaker_id", "spk", "client_id"),
}
IN_IDS = re.compile(r"[^\w.:=@~-]+")  # what cannot stand in ids, or sorts before "-" and would part a speaker's utterances


@dataclass(frozen=True)
class Columns:
    """Names of columns; "" where there is none."""

    audio: str = ""
    text: str = ""
    speaker: str = ""
    id: str = ""
    start: str = ""  # seconds
    end: str = ""  # seconds
    tables: Mapping[str, str] = field(default_factory=dict)  # further table -> column

    @property
    def values(self) -> list[str]:
        """All but that of the audio, each once."""
        names = (self.text, self.speaker, self.id, self.start, self.end, *self.tables.values())
        return list(dict.fromkeys(name for name in names if name))


def choose(asked: Columns, names: Sequence[str], source: Path) -> Columns:
    """The columns that were asked for, and the usual ones for audio, text and speaker. Raises InputError, listing `names`."""
    have = f"its columns are: {', '.join(names)}"
    for name in (asked.audio, *asked.values):
        if name and name not in names:
            raise InputError(f"{source}: has no column '{name}'; {have}")
    lower = {name.lower(): name for name in reversed(names)}
    taken = {}
    for what, usual in USUAL.items():
        taken[what] = getattr(asked, what) or next((lower[name] for name in usual if name in lower), "")
        if not taken[what] and what != "speaker":
            raise InputError(f"{source}: has no column for {what} by a usual name; {have}; name one with --{what}")
    columns = Columns(**taken, id=asked.id, start=asked.start, end=asked.end, tables=asked.tables)
    if twice := [name for name in (columns.audio, *columns.values) if names.count(name) > 1]:
        raise InputError(f"{source}: has more than one column '{twice[0]}'; {have}; rename one")
    return columns


def identify(value: str) -> str:
    """A path, a name or a number as an id: what Kaldi or a shell would trip over becomes "_"."""
    return IN_IDS.sub("_", value.strip()).strip("._")


def recording_id(path: str) -> str:
    """What a recording is called after its file: folders and name, joined by "-"."""
    bare = PurePosixPath(path)
    bare = bare.with_suffix("") if bare.suffix.lower() in SUFFIXES + UNREAD else bare
    return "-".join(part for part in map(identify, bare.parts) if part)


def with_speaker(native: str, spk: str) -> str:
    """An utterance id, which has to begin with its speaker."""
    return native if native == spk or native.startswith(f"{spk}-") else f"{spk}-{native}"


def utterance(
    name: str, where: str, values: Mapping[str, Any], columns: Columns, audio: Path, recording: str
) -> Found | Rejected:
    """What a row says. `name` stands in rejected.tsv, `where` there if the row is broken; `recording` makes the ids."""
    texts = {column: _text(values.get(column)) for column in columns.values}
    if odd := [column for column, text in texts.items() if text is None]:
        return Rejected(where, f"broken row: column '{odd[0]}' holds neither text nor a number")
    times = {}
    for what, column in (("start", columns.start), ("end", columns.end)):
        times[what] = seconds(texts[column]) if column and texts[column] else None
        if column and texts[column] and times[what] is None:
            return Rejected(where, f"broken row: column '{column}' holds {texts[column][:40]!r}, not a number of seconds")
    native = identify(texts.get(columns.id, ""))
    if columns.id and not native:
        return Rejected(where, f"broken row: column '{columns.id}' is empty")
    if not native:
        spans = [f"{round(time * 100):07d}" for time in times.values() if time is not None]
        native = "-".join([recording, *spans])
    spk = identify(texts.get(columns.speaker, "")) or native
    return Found(
        name=name,
        utt_id=with_speaker(native, spk),
        spk=spk,
        audio=audio,
        text=texts[columns.text],
        rec_id=recording,
        **times,
        tables={table: texts[column] for table, column in columns.tables.items()},
    )


def _text(value: Any) -> str | None:
    if value is None:
        return ""
    return str(value) if isinstance(value, (str, int, float)) else None


def seconds(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def folder_of_audio(folder: Path, speakers: bool) -> Iterator[Found | Rejected]:
    """Audio files with a .txt of the same name beside each. `speakers`: the folders in `folder` are the speakers."""
    for here, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if name[0] != ".")
        shown = sorted(name for name in names if name[0] != ".")
        if len(shown) < len(names):
            mended["hidden files passed over"] += len(names) - len(shown)
        texts = {PurePosixPath(name).stem: name for name in shown if name.lower().endswith(".txt")}
        sounds = [name for name in shown if PurePosixPath(name).suffix.lower() in SUFFIXES + UNREAD]
        for file in sounds:
            path = Path(here, file)
            name, stem = os.fspath(path.relative_to(folder)), PurePosixPath(file).stem
            if stem not in texts:
                yield Rejected(name, f"no transcript: {stem}.txt should lie beside it")
                continue
            native = recording_id(name)
            spk = identify(PurePosixPath(name).parts[0]) if speakers and here != os.fspath(folder) else native
            try:
                lines = [line for line in read_lines(Path(here, texts[stem])) if line.strip()]
            except InputError as e:
                yield Rejected(name, f"unreadable transcript: {e}")
                continue
            if len(lines) > 1:
                yield Rejected(name, f"transcript of several lines: {texts[stem]} has {len(lines)}, one was expected")
                continue
            yield Found(name, with_speaker(native, spk), spk, path, "".join(lines))
        for stem in sorted(texts.keys() - {PurePosixPath(name).stem for name in sounds}):
            yield Rejected(os.fspath(Path(here, texts[stem]).relative_to(folder)), "no audio beside it")


def delimiter_of(table: Path) -> tuple[str, bool]:
    """A table's delimiter, and whether fields may stand in quotes: not in .tsv, where a quote is a letter (Common Voice)."""
    if table.suffix.lower() == ".tsv":
        return "\t", False
    head = next((line for line in iter_lines(table) if line.strip()), "")
    return max(DELIMITERS, key=head.count), True


def names_of(table: Path) -> list[str]:
    """The columns of a table. Raises InputError."""
    if table.suffix.lower() in (".csv", ".tsv"):
        delimiter, quoting = delimiter_of(table)
        return header_of(table, delimiter, quoting)
    names = {name: None for _, values, _ in json_rows(table) for name in values}  # an object may lack what others have
    if not names:
        raise InputError(f'{table}: holds no JSON object; one a line was expected, as {{"audio": ..., "text": ...}}')
    return list(names)


def json_rows(table: Path) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Line number, object and fault of each line that is not blank."""
    for number, line in enumerate(iter_lines(table), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        fault = None if isinstance(values, dict) else "broken line: not a JSON object"
        yield number, values if fault is None else {}, fault


def rows_of(table: Path) -> Iterator[tuple[int, Mapping[str, Any], str | None]]:
    if table.suffix.lower() not in (".csv", ".tsv"):
        yield from json_rows(table)
        return
    for row in read_rows(table, *delimiter_of(table)):
        yield row.line, row.values, row.fault


def rows_of_table(table: Path, columns: Columns, root: Path) -> Iterator[Found | Rejected]:
    """The utterances of a CSV, TSV or JSON-lines table, whose relative paths are seen from `root`."""
    for line, values, fault in rows_of(table):
        where = f"{table.name}:{line}"
        path = values.get(columns.audio)
        path = path.get("path") if isinstance(path, dict) else path
        if fault:
            yield Rejected(where, fault)
        elif not isinstance(path, str) or not path.strip():
            yield Rejected(where, f"broken row: column '{columns.audio}' is empty")
        else:
            path = path.strip()
            recording = recording_id(path.removeprefix(f"{root}/"))
            yield utterance(f"{path} ({where})", where, values, columns, root / path, recording)


def rows_of_dataset(files: Sequence[Path], columns: Columns, audio_dir: Path, title: str) -> Iterator[Found | Rejected]:
    """The utterances of .parquet or .arrow files, the recordings inside written into `audio_dir`."""
    rows = ((file, row) for file in files for row in hub_datasets.rows(file, columns.values, columns.audio, audio_dir))
    total = sum(map(hub_datasets.n_rows, files))
    for file, row in progress(rows, total, f"{title}: reading", "rows"):
        where = f"{file.name}:{row.number}"
        if row.audio is None:
            yield Rejected(where, f"no audio in column '{columns.audio}'")
            continue
        recording = recording_id(PurePosixPath(row.name).name if row.name else f"{file.stem}-{row.number:07d}")
        yield utterance(f"{row.name or row.audio.name} ({where})", where, row.values, columns, row.audio, recording)
