"""The tables of several experiments: systems by tasks, all seeds, the paper's values beside ours.

reads   SOURCE/**/decode/SET.TASK/score.json of experiments below a folder [seedN/]..., or lines of a results.jsonl;
        OUT/results.jsonl, whose lines stay as they are unless their score has changed
writes  OUT/results.jsonl, one object a line: system, task (asr, st, ic, sa, qa, agree), variant (recognizer: a cascade's own
        transcripts), direction (of st: en-de), set (CORPUS/SET), metric, value, n, signature, seed, command, commit, ...
        OUT/RESULTS.md, the tables that the configuration lays out; a cell without a score says why
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

from blsp.base import command
from blsp.base.config import load_config
from blsp.base.files import InputError, atomic_write, read_jsonl
from blsp.evaluation import records, tables

log = command.logger("tables")

KEYS = ("title", "corpora", "spoken", "systems", "recognizers", "tables")  # of the configuration


def main() -> None:
    parser = argparse.ArgumentParser(prog="blsp.bin.tables", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", nargs="*", type=Path, metavar="SOURCE", help="folders of experiments, or results.jsonl files")
    parser.add_argument("--config", required=True, metavar="YAML", help="which score stands in which cell")
    parser.add_argument("--out", type=Path, required=True, help="where results.jsonl and RESULTS.md go")
    parser.add_argument(
        "--command", required=True, help="what reproduces a score; {system}, {corpus} and {seed} are replaced by the score's"
    )
    parser.add_argument("--paper", type=Path, help="the paper's values, a JSON lines file (none stand beside)")
    parser.add_argument("--data-dir", type=Path, help="of CORPUS/SET; a cell whose set is not there names the corpus it needs")
    args = parser.parse_args()
    layout = load_config(args.config)
    for key in KEYS:
        if key not in layout:
            raise InputError(f"{args.config}: has no '{key}'; see egs/paper/conf/tables.yaml")
    folders = [source for source in args.source if source.suffix != ".jsonl"]
    news = [line for source in args.source if source.suffix == ".jsonl" for line in read_jsonl(source)]
    for folder in folders:
        news += records.collect(folder, layout["corpora"], layout["spoken"], partial(reproduced, args.command))
    lines = records.update(args.out / "results.jsonl", news, layout["systems"])
    why_not = tables.reasons(layout, lines, folders, args.data_dir)
    text = tables.report(layout, lines, read_jsonl(args.paper) if args.paper else [], why_not)
    with atomic_write(args.out / "RESULTS.md") as f:
        f.write(text)
    log.info(text)


def reproduced(line: str, system: str, corpus: str, seed: int | None) -> str:
    fields = {"system": system, "corpus": corpus, "seed": str(seed)}
    return re.sub(r"\{(system|corpus|seed)\}", lambda m: fields[m[1]], line)


if __name__ == "__main__":
    command.run(main)
