"""The table of the recipes that ran in their corpora's layouts.

reads   EXP_DIR/seedN/recipes/RECIPE/decode/SET.TASK/score.json
writes  OUT/results.jsonl, OUT/RESULTS-recipes.md; prints the table of what has run
"""

import record
from record import Rows, cell

from blsp.base import command
from blsp.base.files import InputError, atomic_write

METRICS = {"wer": "WER", "bleu": "BLEU", "accuracy": "accuracy", "exact_match": "exact match",
           "agreement": "agreement"}  # fmt: skip


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--recipes", required=True, help="names of the recipes that ran, in blanks")
    args = parser.parse_args()
    out = args.out or args.exp_dir
    found, lines = record.update(args.exp_dir, out, args.changed)
    ran = [row for row in found if row["seed"] == args.seed and recipe(row) in args.recipes.split()]
    if not ran and args.recipes != "alpaca":
        raise InputError(f"{args.exp_dir}: has no scores of {args.recipes}; run stages 0 to 5")
    with atomic_write(out / "RESULTS-recipes.md") as f:
        f.write(report(lines))
    print(f"\n{table(ran)}")


def recipe(row: dict) -> str:
    return row["set"].partition("/")[0]


def report(lines: Rows) -> str:
    return HEAD + table(lines) + NOTES


HEAD = """\
# The recipes in the mini world

`./egs/mini/run.sh --recipes all`: each corpus in its native layout, spoken by espeak-ng, through the recipe of that corpus.
gigaspeech and commonvoice train a model of their own on 400 utterances; the others decode with the model of the mini run.
Every test voice is one that no training has heard.

"""
NOTES = """
`ic` of snips and fsc asks for the labels of these corpora, which the mini LLM has never seen; `ic world` asks for the world's
intents in the same recordings. bstc and mslt are spoken in Mandarin, German and French; the mini Whisper has heard German, and
this BLSP model English only. gigaspeech-qa has passages of 40 to 60 words; the others' utterances are single sentences.
Beside a score: of BLEU, that of copying the source; of accuracy, that of always giving the most frequent label, and the share
of answers that hold no label; of exact match, that of the most frequent answer.
"""


def table(lines: Rows) -> str:
    """What BLSP reaches in the recipes, in their order."""
    scores: dict[tuple, Rows] = {}
    order = record.recipes()
    for row in sorted(
        (r for r in lines if r["system"] == "blsp" and recipe(r) in order and r["metric"] in METRICS),
        key=lambda r: order.index(recipe(r)),
    ):
        name = " ".join(row[key] for key in ("task", "direction", "variant") if key in row)
        scores.setdefault((*row["set"].split("/"), name, METRICS[row["metric"]]), []).append(row)
    cells = [["recipe", "set", "task", "metric", "score", "beside", "utterances"]]
    for named, rows in scores.items():
        row, beside = rows[0], ""
        if "copy" in row:
            beside = f"copy {row['copy']:.1f}"
        elif "majority" in row:
            beside = f"majority {row['majority']:.1f}" + (f", no label {row['no_label']:.1f} %" if "no_label" in row else "")
        cells.append([*named, cell([r["value"] for r in rows]), beside, str(row["n"])])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)
