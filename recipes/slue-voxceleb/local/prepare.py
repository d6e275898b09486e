"""Stage 0 of SLUE-VoxCeleb: English interviews with transcripts and sentiment.

    slue-voxceleb/                          <- --corpus-dir
        slue-voxceleb_fine-tune.tsv         id, normalized_text, speaker_id, split, sentiment, start_second, end_second
        slue-voxceleb_dev.tsv
        slue-voxceleb_test.tsv              the labels that were released later, where you have them
        slue-voxceleb_test_blind.tsv        neither text nor sentiment
        fine-tune_raw/id11000_xxx_00001.flac ...
        dev_raw/  test_raw/

A flac is the whole VoxCeleb clip; the utterance is its part [start_second, end_second). Sets fine_tune, dev, test with
the table `sentiment` (positive, neutral, negative). Rows that annotators disagreed on are rejected, as in the toolkit
of the corpus. The blind test cannot be used: without slue-voxceleb_test.tsv there is no set test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import preparation
from blsp.data.corpus_files import glob, read_rows
from blsp.data.preparation import Found, Rejected, Sets

SENTIMENTS = ("positive", "neutral", "negative")


def parse(corpus_dir: Path) -> Sets:
    sets = {}
    for split in ("fine-tune", "dev", "test"):
        table = corpus_dir / f"slue-voxceleb_{split}.tsv"
        raw_dir = corpus_dir / f"{split}_raw"
        blind = corpus_dir / f"slue-voxceleb_{split}_blind.tsv"
        name = split.replace("-", "_")
        if table.exists():
            sets[name] = partial(utterances, table, raw_dir)
        elif blind.exists():
            print(f"{name}: passed over: {blind.name} has no text and no sentiment; put {table.name} beside it")
        elif raw_dir.exists():
            raise InputError(f"{table}: is missing beside {raw_dir.name}/; unpack the archive again")
    return sets


def utterances(table: Path, raw_dir: Path) -> Iterator[Found | Rejected]:
    """Every row of the table, and every flac that no row names."""
    named = set()
    for row in read_rows(table, columns=("id", "normalized_text", "sentiment", "start_second", "end_second")):
        if row.fault:
            name = row.raw.split("\t")[0].strip()
            named.add(name)
            yield Rejected(name or f"{table.name}:{row.line}", f"{row.fault} ({table.name}:{row.line})")
            continue
        name = row.values["id"].strip()
        if not name:
            yield Rejected(f"{table.name}:{row.line}", "missing id")
            continue
        named.add(name)
        label = row.values["sentiment"].strip()
        start, end = seconds(row.values["start_second"]), seconds(row.values["end_second"])
        if label and label.lower() not in SENTIMENTS:
            yield Rejected(name, f"unknown label: {label}")
            continue
        if start is None or end is None:
            yield Rejected(name, "broken line: start_second or end_second is not a number")
            continue
        native = "_".join(name.split())  # an id holds no white space
        spk = row.values.get("speaker_id", "").strip() or native.split("_")[0]
        yield Found(
            name=name,
            utt_id=native if native.startswith(spk) else f"{spk}-{native}",
            spk=spk,
            audio=raw_dir / f"{name}.flac",
            text=row.values["normalized_text"],
            start=start,
            end=end,
            tables={"sentiment": label.lower()},
        )
    for path in glob(raw_dir, "*.flac"):
        if path.stem not in named:
            yield Rejected(path.stem, f"no transcript: not in {table.name}")


def seconds(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
