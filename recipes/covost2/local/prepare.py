"""CoVoST 2: translations of sentences of Common Voice 4, English to several languages.

    covost2/                                        --corpus-dir
        covost_v2.en_de.tsv  covost_v2.en_sv-SE.tsv ...
        cv-corpus-4-2019-12-10/en/                  or clips/ and validated.tsv right here, or in en/
            validated.tsv
            clips/common_voice_en_18540003.mp3
            train.tsv  dev.tsv  test.tsv ...        not read: the splits are CoVoST's own

Tables are tab-separated without quoting and read by column name:

    covost_v2.en_de.tsv   path  translation  split
    validated.tsv         client_id  path  sentence

and joined by `path`. One set per split and direction, such as test_en_de: `train` takes the rows whose split is train or
train_covost, `dev` and `test` those of their name. Sentences of Common Voice without a row in CoVoST's table are no part
of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import corpus_files, preparation
from blsp.data.preparation import Found, Rejected, Sets

SPLITS = {"train": ("train", "train_covost"), "dev": ("dev",), "test": ("test",)}
SPLIT_OF = {label: split for split, labels in SPLITS.items() for label in labels}
TABLE = re.compile(r"covost_v2\.en_([A-Za-z]+(?:-[A-Za-z]+)?)\.tsv")


def parse(corpus_dir: Path) -> Sets:
    """One set per split of each direction whose table is there."""
    tables = {}
    for path in corpus_files.glob(corpus_dir, "covost_v2.en_*.tsv"):
        if match := TABLE.fullmatch(path.name):
            tables[match[1]] = path
    if not tables:
        return {}
    common_voice = common_voice_of(corpus_dir)
    sets = {}
    for language, table in tables.items():
        labels = {row.values["split"].strip() for row in rows_of(table) if not row.fault}
        if not labels.intersection(SPLIT_OF):
            raise InputError(f"{table}: none of its rows has a split of {', '.join(SPLIT_OF)}; download it again")
        present = [split for split in SPLITS if labels.intersection(SPLITS[split])]
        for split in present:
            # What belongs to no split is reported with the first one, so that it is not lost.
            name = f"{split}-en-{language}".replace("-", "_")
            sets[name] = partial(utterances, table, common_voice, split, language, split == present[0])
    return sets


def common_voice_of(corpus_dir: Path) -> Path:
    """The folder of Common Voice that holds validated.tsv."""
    places = [corpus_dir / "cv-corpus-4-2019-12-10" / "en", corpus_dir, corpus_dir / "en"]
    places += [path / "en" for path in corpus_files.glob(corpus_dir, "cv-corpus-*")]
    for place in places:
        if (place / "validated.tsv").is_file():
            return place
    raise InputError(
        f"{places[0] / 'validated.tsv'}: no such file; unpack the English Common Voice release 4 beside the tables of CoVoST 2"
    )


def rows_of(table: Path) -> Iterator[corpus_files.Row]:
    return corpus_files.read_rows(table, columns=("path", "translation", "split"))


def utterances(table: Path, common_voice: Path, split: str, language: str, first: bool) -> Iterator[Found | Rejected]:
    """The rows of one split, in the order of validated.tsv; `first` reports the rows of no split too."""
    translations: dict[str, str] = {}
    paths: set[str] = set()
    for row in rows_of(table):
        place = f"{table.name}:{row.line}"
        if row.fault:
            if first:
                yield Rejected(place, row.fault)
            continue
        path, label = row.values["path"].strip(), row.values["split"].strip()
        belongs = SPLIT_OF.get(label) == split
        if label not in SPLIT_OF:
            if first:
                yield Rejected(path or place, f"unknown split: {label or 'none'}")
        elif not path:
            if belongs:
                yield Rejected(place, "no path")
        elif key(path) in paths:
            if belongs:
                yield Rejected(path, f"duplicate of an earlier row of {table.name}")
        else:
            paths.add(key(path))
            if belongs:
                translations[key(path)] = row.values["translation"]

    joined: set[str] = set()
    for row in corpus_files.read_rows(common_voice / "validated.tsv", columns=("path", "sentence")):
        if row.fault or moved(row):
            continue  # if CoVoST has the clip, it is reported below
        path = row.values["path"].strip()
        clip = key(path)
        if clip not in translations:
            continue
        joined.add(clip)
        native = "_".join(PurePosixPath(clip).name.split())  # an id holds no white space
        spk = row.values.get("client_id", "").strip() or native
        yield Found(
            name=path,
            utt_id=native if spk == native else f"{spk}-{native}",
            spk=spk,
            audio=audio_of(common_voice / "clips", path),
            text=row.values["sentence"],
            tables={f"translation.{language}": translations[clip]},
        )
    for clip in translations:
        if clip not in joined:
            yield Rejected(f"{clip}.mp3", "has no row in validated.tsv, or a broken one")


def key(path: str) -> str:
    """What both tables call a clip, with ".mp3" or without."""
    return path[:-4] if path.lower().endswith(".mp3") else path


def moved(row: corpus_files.Row) -> bool:
    """Whether a tab in the sentence has moved the row's other fields, though their number is right: votes are numbers."""
    votes = [row.values[name].strip() for name in ("up_votes", "down_votes") if name in row.values]
    return any(votes) and not all(vote.isdigit() for vote in votes)


def audio_of(clips: Path, path: str) -> Path:
    """The clip of a row; some releases leave its ".mp3" out."""
    if path.lower().endswith(".mp3") or (clips / path).is_file():
        return clips / path
    corpus_files.mended["file names without .mp3"] += 1
    return clips / f"{path}.mp3"


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
