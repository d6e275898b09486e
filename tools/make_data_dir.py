#!/usr/bin/env python3
"""Write a checked Kaldi data directory from your own recordings, as stage 0 does from a corpus.

SOURCE is one of
  a folder   audio files, each with a .txt of the same name beside it that holds its transcript in one line
  a table    .csv, .tsv (no quoting) or JSON lines: a row for each utterance, paths seen from the table's folder
  a Hugging Face dataset on disk: a folder with Parquet files, with metadata.csv or .jsonl, or from save_to_disk; or one
             .parquet file

DATA_DIR gets wav.scp, text, utt2spk, spk2utt, utt2dur, further tables, and rejected.tsv, which names what was left out and why.
A dataset of several splits becomes DATA_DIR_SPLIT each. Audio is decoded once; a run that was cut off goes on. Recordings that
are inside of a dataset are written into files first, once.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import hub_datasets, preparation, recordings
from blsp.data.data_dir import NO_TABLES, TABLES, one_field
from blsp.data.recordings import Columns, choose

OTHERS = ("segments", "feats.scp", "utt2num_frames")  # that a data directory may have


def main() -> None:
    args = parse_args()
    try:
        sets = read(args)
        for name in sets:
            must_be_ours(args.data_dir.with_name(name))
        # What is told of one's own recordings may lie on another disk.
        preparation.prepare_sets(sets, args.source, Path("/"), args.data_dir.parent, args.window, args.nj, args.limit)
    except InputError as e:  # names of files and columns are data, and may hold line ends
        raise InputError(one_field(str(e))) from None


def must_be_ours(folder: Path) -> None:
    """Raise InputError for a folder with something else in it, which would be lost."""
    if folder.exists() and not (folder / preparation.DONE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there and was not written by this program; choose another name, such as {folder}/mine")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder, table or dataset")
    parser.add_argument("data_dir", type=Path, help="the data directory to write, such as data/mine")
    usual = {what: ", ".join(names) for what, names in recordings.USUAL.items()}
    columns = parser.add_argument_group("columns of a table or dataset")
    columns.add_argument("--audio", metavar="COLUMN", help=f"path of the recording (default: the first of {usual['audio']})")
    columns.add_argument("--text", metavar="COLUMN", help=f"transcript (default: the first of {usual['text']})")
    columns.add_argument("--speaker", metavar="COLUMN", help=f"(default: the first of {usual['speaker']}; else none)")
    columns.add_argument("--id", metavar="COLUMN", help="id of the utterance (default: made of the file's name)")
    columns.add_argument("--start", metavar="COLUMN", help="where the utterance begins in its recording, in seconds")
    columns.add_argument("--end", metavar="COLUMN", help="where it ends, in seconds")
    columns.add_argument(
        "--table",
        metavar="NAME=COLUMN",
        action="append",
        default=[],
        help="a further table, such as translation.de=german or intent (=intent); may be given several times",
    )
    parser.add_argument("--audio-root", type=Path, metavar="DIR", help="what a table's relative paths are seen from")
    parser.add_argument(
        "--folders-are-speakers", action="store_true", help="of a folder of audio: the folders in it are speakers"
    )
    parser.add_argument("--split", metavar="NAME", help="of a dataset, only this one, as DATA_DIR itself")
    parser.add_argument(
        "--audio-dir",
        type=Path,
        metavar="DIR",
        help="where recordings inside of a dataset are written (default: audio/NAME beside DATA_DIR)",
    )
    parser.add_argument(
        "--window", type=float, default=preparation.WINDOW, help="longest utterance in seconds (default: 30, Whisper's window)"
    )
    parser.add_argument(
        "--nj", type=int, default=len(os.sched_getaffinity(0)), help="processes that decode (default: all cores)"
    )
    parser.add_argument("--limit", type=int, default=0, help="only the first N utterances of each set (default: 0, all)")
    args = parser.parse_args()
    if args.nj < 1 or args.limit < 0 or not args.window > preparation.MIN_SECONDS:
        parser.error(f"--nj is at least 1, --limit at least 0, --window above {preparation.MIN_SECONDS}")
    args.data_dir = Path(os.path.abspath(args.data_dir))
    return args


def asked_columns(args: argparse.Namespace) -> Columns:
    tables = {}
    for given in args.table:
        name, _, column = given.partition("=")
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name) or name in (*TABLES, *OTHERS) or name.endswith(NO_TABLES):
            raise InputError(f"--table {given}: expected NAME=COLUMN, NAME being no table or file of every data directory")
        tables[name] = column or name
    names = {what: getattr(args, what) or "" for what in ("audio", "text", "speaker", "id", "start", "end")}
    return Columns(**names, tables=tables)


def read(args: argparse.Namespace) -> preparation.Sets:
    """The sets that the source holds. Raises InputError."""
    source, target, asked = args.source, args.data_dir.name, asked_columns(args)
    only_for = {"--audio-root": args.audio_root, "--folders-are-speakers": args.folders_are_speakers, "--split": args.split}

    def must_be(kind: str, *options: str) -> None:
        if wrong := [option for option, value in only_for.items() if value and option not in options]:
            raise InputError(f"{wrong[0]}: does not go with {kind} ({source})")

    if source.is_file() and source.suffix.lower() in recordings.TABLES:
        must_be("a table", "--audio-root")
        columns = announce(choose(asked, recordings.names_of(source), source))
        return {target: partial(recordings.rows_of_table, source, columns, args.audio_root or source.parent)}
    if source.is_file() and source.suffix in hub_datasets.ENDINGS:
        splits = {"": [source]}
    elif source.is_dir():
        splits = hub_datasets.splits(source)
    else:
        problem = "is no table or dataset by its name" if source.exists() else "is not there"
        raise InputError(f"{source}: {problem}; expected a folder or {', '.join((*recordings.TABLES, *hub_datasets.ENDINGS))}")
    if not splits:
        must_be("a folder of audio and text", "--folders-are-speakers")
        if given := [name for name in (asked.audio, *asked.values) if name]:
            raise InputError(f"{source}: is a folder of audio and text, which has no column '{given[0]}'; name a table instead")
        return {target: partial(recordings.folder_of_audio, source, args.folders_are_speakers)}
    must_be("a dataset", "--split")
    if args.split and args.split not in splits:
        raise InputError(f"{source}: has no split '{args.split}'; it has: {', '.join(splits)}")
    sets = {}
    for split, files in splits.items():
        if args.split in (None, split):
            name = target if args.split or len(splits) == 1 else f"{target}_{split}"
            sets[name] = dataset(args, asked, files, name)
    return sets


def dataset(args: argparse.Namespace, asked: Columns, files: list[Path], name: str) -> Callable:
    """What reads one split."""
    if files[0].suffix in hub_datasets.ENDINGS:
        columns = announce(choose(asked, hub_datasets.column_names(files[0]), files[0]))
        audio_dir = args.audio_dir or args.data_dir.parent / "audio" / args.data_dir.name
        return partial(recordings.rows_of_dataset, files, columns, audio_dir, name)
    if len(files) > 1:
        raise InputError(f"{files[1]}: lies beside {files[0].name}; remove one of them")
    columns = announce(choose(asked, recordings.names_of(files[0]), files[0]))
    return partial(recordings.rows_of_table, files[0], columns, files[0].parent)


def announce(columns: Columns) -> Columns:
    """Say which columns are taken."""
    taken = {what: getattr(columns, what) for what in ("audio", "text", "speaker", "id", "start", "end")} | dict(columns.tables)
    print("columns:", ", ".join(f"{what} from '{column}'" for what, column in taken.items() if column), flush=True)
    return columns


if __name__ == "__main__":
    command.run(main)
