"""The table of the recipes that ran in their corpora's layouts.

reads   EXP_DIR/RECIPE/decode/SET.TASK/score.json
writes  RECORD/RESULTS-recipes.md, and appends new scores to RECORD/results-recipes.jsonl; prints the table
"""

import argparse
import subprocess
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.files import InputError, atomic_write, read_json, read_jsonl, write_jsonl

METRICS = {"wer": "WER", "bleu": "BLEU", "accuracy": "accuracy", "exact_match": "exact match",
           "agreement": "agreement"}  # fmt: skip
KEPT = ("task", "set", "metric", "value", "n", "majority", "copy", "no_label", "normalizer", "signature", "fingerprint")

Rows = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder with one experiment per recipe")
    parser.add_argument("--recipes", required=True, help="names of the recipes that ran, in blanks")
    parser.add_argument("--seed", type=int, required=True, help="of the run")
    parser.add_argument("--record", type=Path, help="folder whose records are brought up to date (none)")
    args = parser.parse_args()
    rows = collect(args.exp_dir, args.recipes.split(), args.seed)
    if not rows and args.recipes.split() != ["alpaca"]:
        raise InputError(f"{args.exp_dir}: has no scores of {args.recipes}; run stages 0 to 5")
    if args.record:
        path = args.record / "results-recipes.jsonl"
        known = read_jsonl(path) if path.exists() else []
        news = [row for row in rows if identity(row) not in map(identity, known)]
        if news:
            write_jsonl(path, known + news)
            latest = {(row["recipe"], row["set"], row["task"]): row for row in known + news}
            with atomic_write(args.record / "RESULTS-recipes.md") as f:
                f.write(HEAD + table(list(latest.values())) + NOTES)
        rows = news + [row for row in known if identity(row) in map(identity, rows)]
    print(f"\n{table(rows)}")


def collect(exp_dir: Path, recipes: list[str], seed: int) -> Rows:
    """One object per score, in the order of `recipes`."""
    rows, code = [], commit()
    for recipe in recipes:
        origin = {"recipe": recipe, "seed": seed}
        made = {"command": f"./egs/mini/run.sh --recipes {recipe} --seed {seed}", "commit": code}
        for path in sorted((exp_dir / recipe / "decode").glob("*/score.json")):
            score = read_json(path)
            score["value"] = score[score["metric"]]
            kept = {key: score[key] for key in KEPT if score.get(key) is not None}
            kept = {key: round(v, 2) if isinstance(v, float) else v for key, v in kept.items()}
            rows.append(origin | kept | made)
    return rows


def identity(row: dict[str, Any]) -> tuple:
    """What tells one score from another; the same hypotheses scored again are the same score."""
    return row["recipe"], row["set"], row["task"], row["seed"], row["fingerprint"]


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


HEAD = """\
# The recipes in the mini world

`./egs/mini/run.sh --recipes all`: each corpus in its native layout, spoken by espeak-ng, through the recipe of that corpus.
gigaspeech and commonvoice train a model of their own on 400 utterances; the others decode with the model of the mini run.
Every test voice is one that no training has heard.

"""
NOTES = """
`ic` of snips and fsc asks for the labels of these corpora, which the mini LLM has never seen; `ic_world` asks for the world's
intents in the same recordings. bstc and mslt are spoken in Mandarin, German and French; the mini Whisper has heard German, and
this BLSP model English only. gigaspeech-qa has passages of 40 to 60 words; the others' utterances are single sentences.
Beside a score: of BLEU, that of copying the source; of accuracy, that of always giving the most frequent label, and the share
of answers that hold no label; of exact match, that of the most frequent answer.
"""


def table(rows: Rows) -> str:
    cells = [["recipe", "set", "task", "metric", "score", "beside", "utterances"]]
    for row in rows:
        beside = ""
        if "copy" in row:
            beside = f"copy {row['copy']:.1f}"
        elif "majority" in row:
            beside = f"majority {row['majority']:.1f}" + (f", no label {row['no_label']:.1f} %" if "no_label" in row else "")
        named = [row["recipe"], row["set"], row["task"], METRICS[row["metric"]]]
        cells.append([*named, f"{row['value']:.1f}", beside, str(row["n"])])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)
