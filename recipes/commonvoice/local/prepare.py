"""Common Voice: one mp3 per sentence, listed in tab-separated tables.

    en/                                             --corpus-dir: the folder of one language
        train.tsv  dev.tsv  test.tsv                the official splits, one set each
        validated.tsv  invalidated.tsv  other.tsv   not read
        clips/common_voice_en_17780000.mp3

Columns are read by name, for their number differs between releases: 2.0 has 8, 13.0 has 11. Used are

    client_id  path  sentence

`path` is a file in clips/, in the releases up to 3.0 without ".mp3". There is no quoting: a double quote is a letter of the
sentence. A tab in it moves all that follows to the next column, so a row is rejected that has another number of fields than
the header, or no numbers among its votes. `client_id` is the speaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import corpus_files, preparation
from blsp.data.preparation import Found, Rejected, Sets

SPLITS = ("train", "dev", "test")


def parse(corpus_dir: Path) -> Sets:
    """One set per official split whose table is there."""
    for folder in (corpus_dir, corpus_dir / "en"):  # the release's folder is understood too
        tables = {split: folder / f"{split}.tsv" for split in SPLITS}
        present = {split: partial(utterances, path) for split, path in tables.items() if path.is_file()}
        if present:
            return present
    if (corpus_dir / "clips").is_dir():
        raise InputError(f"{corpus_dir}: has clips/ but none of train.tsv, dev.tsv and test.tsv; unpack the archive again")
    return {}


def utterances(table: Path) -> Iterator[Found | Rejected]:
    """The rows of one table."""
    for row in corpus_files.read_rows(table, columns=("path", "sentence")):
        if fault := row.fault or moved(row):
            yield Rejected(f"{table.name}:{row.line}", fault)
            continue
        path = row.values["path"].strip()
        if not path:
            yield Rejected(f"{table.name}:{row.line}", "no path")
            continue
        clip = "_".join(PurePosixPath(path).name.removesuffix(".mp3").split())  # an id holds no white space
        spk = row.values.get("client_id", "").strip()
        yield Found(
            name=path,
            utt_id=f"{spk}-{clip}" if spk else clip,
            spk=spk or clip,
            audio=audio_of(table.parent / "clips", path),
            text=row.values["sentence"],
        )


def moved(row: corpus_files.Row) -> str | None:
    """What tells that the fields of a row stand in the wrong columns though their number is right."""
    votes = [row.values[name].strip() for name in ("up_votes", "down_votes") if name in row.values]
    if all(vote.isdigit() for vote in votes) or not any(votes):
        return None
    return f"broken line: its votes are no numbers, but {' and '.join(map(repr, votes))}"


def audio_of(clips: Path, path: str) -> Path:
    """The clip of a row; the releases up to 3.0 leave its ".mp3" out."""
    if path.lower().endswith(".mp3") or (clips / path).is_file():
        return clips / path
    corpus_files.mended["file names without .mp3"] += 1
    return clips / f"{path}.mp3"


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
