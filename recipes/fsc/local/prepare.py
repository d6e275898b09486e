"""Stage 0 of Fluent Speech Commands: English smart-home commands with their intents.

    fluent_speech_commands_dataset/        <- --corpus-dir
        data/train_data.csv                (index), path, speakerId, transcription, action, object, location
        data/valid_data.csv  data/test_data.csv  data/speaker_demographics.csv
        wavs/speakers/SPEAKER/UUID.wav

The tables are CSV: a field in double quotes may hold commas and line breaks.

Sets train, valid, test with the table `intent`: action and object, the location dropped, as the paper has it. All 19
pairs are kept, "deactivate lights" too, which the paper's list of choices (Table 11) leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import preparation
from blsp.data.corpus_files import read_rows
from blsp.data.preparation import Found, Rejected, Sets

OBJECTS = {
    "activate": "lamp lights music",
    "deactivate": "lamp lights music",
    "bring": "juice newspaper shoes socks",
    "change language": "none Chinese English German Korean",
    "increase": "heat volume",
    "decrease": "heat volume",
}
INTENTS = {f"{action} {thing}".lower(): f"{action} {thing}" for action, things in OBJECTS.items() for thing in things.split()}
COLUMNS = ("path", "transcription", "action", "object")


def parse(corpus_dir: Path) -> Sets:
    tables = {split: corpus_dir / "data" / f"{split}_data.csv" for split in ("train", "valid", "test")}
    sets = {split: partial(utterances, table, corpus_dir) for split, table in tables.items() if table.exists()}
    if not sets and (corpus_dir / "wavs").is_dir():
        raise InputError(f"{tables['test']}: is missing, and so are those of train and valid; unpack the archive again")
    return sets


def utterances(table: Path, corpus_dir: Path) -> Iterator[Found | Rejected]:
    for row in read_rows(table, delimiter=",", quoting=True, columns=COLUMNS):
        where = f"{table.name}:{row.line}"
        if row.fault:
            path = re.search(r"[^,/\"]+(?=\.wav\b)", row.raw)
            yield Rejected(path[0] if path else where, f"{row.fault} ({where})")
            continue
        path = PurePosixPath(row.values["path"].strip())
        if not path.name:
            yield Rejected(where, "missing path")
            continue
        parts = [row.values[column].strip() for column in ("action", "object")]
        label = " ".join(parts) if all(parts) else ""
        if label and label.lower() not in INTENTS:
            yield Rejected(path.stem, f"unknown label: {label}")
            continue
        native = "_".join(path.stem.split())  # an id holds no white space
        spk = row.values.get("speakerId", "").strip() or path.parent.name or native
        yield Found(
            name=path.stem,
            utt_id=f"{spk}-{native}",
            spk=spk,
            audio=corpus_dir / path,
            text=row.values["transcription"],
            tables={"intent": INTENTS.get(label.lower(), "")},
        )


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
