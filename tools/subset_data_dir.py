#!/usr/bin/env python3
"""Take some utterances of a data directory into another, with its further tables (translation.de, feats.scp ...)."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data.corpus_files import read_lines
from blsp.data.data_dir import Utterance, read_data_dir, read_further_tables, write_data_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="the directory to take from")
    parser.add_argument("output", type=Path, help="the directory to write; it must not be there yet")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--first", type=int, metavar="N", help="the first N utterances")
    which.add_argument("--random", type=int, metavar="N", help="N utterances by chance")
    which.add_argument("--shortest", type=int, metavar="N", help="the N shortest utterances")
    which.add_argument("--hours", type=float, metavar="H", help="utterances by chance, up to H hours")
    which.add_argument("--utterances", type=Path, metavar="FILE", help="those whose ids begin the lines of FILE")
    which.add_argument("--speakers", type=Path, metavar="FILE", help="those of the speakers that begin the lines of FILE")
    parser.add_argument("--seed", type=int, default=0, help="of the choice by chance (default: 0)")
    args = parser.parse_args()
    if args.output.exists():
        raise InputError(f"{args.output}: is there already; remove it or choose another name")
    utterances = read_data_dir(args.data_dir)
    kept = choose(utterances, args)
    if not kept:
        raise InputError(f"{args.data_dir}: this chooses none of its {len(utterances)} utterances")
    ids = {u.utt_id for u in kept}
    tables = read_further_tables(args.data_dir, [u.utt_id for u in utterances])
    cut = {name: {key: value for key, value in table.items() if key in ids} for name, table in tables.items()}
    write_data_dir(args.output, kept, cut)
    print(f"{args.output}: {len(kept)} of {len(utterances)} utterances, {sum(u.duration for u in kept) / 3600:.2f} h")


def choose(utterances: list[Utterance], args: argparse.Namespace) -> list[Utterance]:
    chance = random.Random(args.seed)
    if args.first is not None:
        return utterances[: max(0, args.first)]
    if args.random is not None:
        return chance.sample(utterances, min(max(0, args.random), len(utterances)))
    if args.shortest is not None:
        return sorted(utterances, key=lambda u: (u.duration, u.utt_id))[: max(0, args.shortest)]
    if args.hours is not None:
        kept, seconds = [], 0.0
        for u in chance.sample(utterances, len(utterances)):
            if seconds + u.duration <= args.hours * 3600:
                kept.append(u)
                seconds += u.duration
        return kept
    path, key = (args.utterances, "utt_id") if args.utterances else (args.speakers, "spk")
    named = {line.split()[0]: number for number, line in enumerate(read_lines(path), 1) if line.strip()}
    known = {getattr(u, key) for u in utterances}
    for name, number in named.items():
        if name not in known:
            raise InputError(f"{path}:{number}: {name!r} is not in {args.data_dir}")
    return [u for u in utterances if getattr(u, key) in named]


if __name__ == "__main__":
    command.run(main)
