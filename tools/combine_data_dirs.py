#!/usr/bin/env python3
"""Join several data directories into one.

Further tables (translation.de, feats.scp ...) are kept where each of the directories has them. Where some have segments
and others not, all utterances of the result have segments.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data.data_dir import Utterance, read_data_dir, read_further_tables, write_data_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the directory to write; it must not be there yet")
    parser.add_argument("data_dir", nargs="+", type=Path, help="directories to join")
    args = parser.parse_args()
    if args.output.exists():
        raise InputError(f"{args.output}: is there already; remove it or choose another name")
    utterances: dict[str, Utterance] = {}
    origin: dict[str, Path] = {}
    wavs: dict[str, Path] = {}
    tables: list[dict[str, dict[str, str]]] = []
    for folder in args.data_dir:
        read = read_data_dir(folder)
        tables.append(read_further_tables(folder, [u.utt_id for u in read]))
        for u in read:
            if u.utt_id in utterances:
                raise InputError(f"{folder}: utterance {u.utt_id!r} is in {origin[u.utt_id]} as well; ids have to differ")
            rec_id = u.rec_id or u.utt_id
            if wavs.setdefault(rec_id, u.wav) != u.wav:
                raise InputError(f"{folder}: recording {rec_id!r} is {u.wav}, elsewhere {wavs[rec_id]}; ids have to differ")
            utterances[u.utt_id], origin[u.utt_id] = u, folder
    if any(u.rec_id for u in utterances.values()):
        utterances = {key: with_segment(u) for key, u in utterances.items()}
    names = set.intersection(*(set(further) for further in tables))
    joined = {name: {key: value for further in tables for key, value in further[name].items()} for name in sorted(names)}
    write_data_dir(args.output, utterances.values(), joined)
    hours = sum(u.duration for u in utterances.values()) / 3600
    print(f"{args.output}: {len(utterances)} utterances, {hours:.2f} h, from {len(tables)} directories")
    if left_out := sorted({name for further in tables for name in further} - names):
        print(f"  left out, since not every directory has them: {', '.join(left_out)}")


def with_segment(u: Utterance) -> Utterance:
    return u if u.rec_id else replace(u, rec_id=u.utt_id, start=0.0, end=u.duration)


if __name__ == "__main__":
    command.run(main)
