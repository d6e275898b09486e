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
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.config import load_config
from blsp.base.files import InputError, atomic_write, read_json, read_jsonl, write_jsonl

log = command.logger("tables")

KEYS = ("title", "corpora", "spoken", "systems", "recognizers", "tables")  # of the configuration
IDENTITY = ("system", "task", "variant", "direction", "set", "metric", "seed")  # what tells one line from another
BESIDE = (
    "majority",
    "majority_label",
    "lenient",
    "no_label",
    "unlisted",
    "no_verdict",
    "copy",
    "chrf",
    "cut_off",
    "fingerprint",
)  # kept with a score
FURTHER = ("comet", "kl")  # metrics that stand beside another in its score.json and get a line of their own
UNITS = {
    "wer": "WER ↓",
    "bleu": "BLEU ↑",
    "comet": "COMET ↑",
    "accuracy": "ACC ↑",
    "exact_match": "exact, % ↑",
    "accept_rate": "accepted, % ↑",
    "agreement": "same answer, % ↑",
    "kl": "KL, nats a token ↓",
}
DIGITS = {"kl": 3}  # behind the point in a table; of others 1
ABSENT = {"comet": "no COMET model", "accept_rate": "no judge"}  # of a set that is decoded, why it lacks this metric
RECOGNIZER = ".transcript"  # ends the name of what a cascade's recognizer writes

Line = dict[str, Any]
Index = dict[tuple, dict[int, Line]]  # system, metric and place -> seed -> line


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
    results = args.out / "results.jsonl"
    files = [*([results] if results.exists() else []), *(s for s in args.source if s.suffix == ".jsonl")]
    folders = [source for source in args.source if source.suffix != ".jsonl"]
    lines = {identity(line): line for file in files for line in read_jsonl(file)}
    for folder in folders:
        for line in collect(folder, layout, args.command):
            old = lines.get(identity(line), {})
            if any(old.get(key) != line.get(key) for key in ("fingerprint", "value")):
                lines[identity(line)] = line
    order = {system: number for number, system in enumerate(layout["systems"])}
    lines = sorted(lines.values(), key=lambda line: (order.get(line["system"], len(order)), *map(str, identity(line))))
    if lines or results.exists():
        write_jsonl(results, lines)
    hypotheses = decoded(folders, layout)

    def why_not(score: str, metric: str, system: str) -> str:
        name = score.partition(".")[0]
        if args.data_dir and not (args.data_dir / name).is_dir():
            return f"needs {layout['corpora'][name.partition('/')[0]]}"
        return ABSENT.get(metric, "not scored") if (system, score) in hypotheses else "not run"

    text = report(layout, lines, read_jsonl(args.paper) if args.paper else [], why_not)
    with atomic_write(args.out / "RESULTS.md") as f:
        f.write(text)
    log.info(text)


def identity(line: Line) -> tuple:
    return tuple(line.get(key) for key in IDENTITY)


def named(score: str, spoken: dict[str, str]) -> Line:
    """Task, variant, direction and set of a score that is called CORPUS/SET.TASK, as in must-c/tst_COMMON_en_de.st_de."""
    name, _, task = score.partition(".")
    task, _, rest = task.partition("_")
    if task == "transcript":
        return {"task": "asr", "variant": "recognizer", "set": name}
    if task == "st":
        language = spoken.get(name.partition("/")[0], "en")
        return {"task": "st", "direction": rest.replace("_", "-") if "_" in rest else f"{language}-{rest}", "set": name}
    return {"task": task, **({"variant": rest} if rest else {}), "set": name}


def corpus_of(path: Path, corpora: Sequence[str]) -> str:
    """The corpus that a path below the folder of the experiments names; the first of all where it names none."""
    return next((part for part in reversed(path.parts) if part in corpora), next(iter(corpora)))


def collect(folder: Path, layout: dict[str, Any], reproduced: str) -> list[Line]:
    """One line for each metric of each score below `folder`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; run stages 0 to 5")
    lines, code = [], command.commit()
    seen: dict[tuple, Path] = {}
    for path in sorted(folder.rglob("decode/*/score.json")):
        score, below = read_json(path), path.relative_to(folder)
        corpus = corpus_of(below, layout["corpora"])
        seed = next((int(part[4:]) for part in below.parts if re.fullmatch(r"seed\d+", part)), None)
        models = [up / "model" / "config.json" for up in path.parents if folder in up.parents]
        trained = next((model for model in models if model.exists()), None)
        # The code that trained; of what needs no training the code that is here.
        made = read_json(trained).get("provenance", {}).get("commit") if trained else code
        fields = {"system": score["system"], "corpus": corpus, "seed": str(seed)}
        line = re.sub(r"\{(system|corpus|seed)\}", lambda m, fields=fields: fields[m[1]], reproduced)
        origin = {"seed": seed, "command": line, "commit": made}
        for metric in (score["metric"], *(m for m in FURTHER if m in score)):
            signature = score.get("signature" if metric == score["metric"] else f"{metric}_signature")
            if metric == "wer":
                signature = f"normalizer:{score['normalizer']}"
            elif metric == "agreement":
                signature = f"chrF {score['chrf_signature']}"
            elif metric == "accuracy":
                signature = "strict"  # the answer is the label and nothing more
            elif metric == "accept_rate":
                signature = f"judge:{','.join(score['judged_by'])}"
            kept = {key: score[key] for key in BESIDE if score.get(key) is not None and metric == score["metric"]}
            row = {"system": score["system"], **named(f"{corpus}/{score['set']}.{score['task']}", layout["spoken"]),
                   "metric": metric, "value": score[metric], "n": score["n"], "signature": signature, **origin,
                   "fingerprint": score.get("fingerprint"), **kept}  # fmt: skip
            if (other := seen.setdefault(identity(row), path)) != path:
                raise InputError(
                    f"{path}: is the same system, task, set and seed as {other}; give one another --system or folder"
                )
            digits = DIGITS.get(metric, 1) + 1
            lines.append({key: round(v, digits) if isinstance(v, float) else v for key, v in row.items()})
    return lines


def decoded(folders: Sequence[Path], layout: dict[str, Any]) -> set[tuple[str, str]]:
    """System and score (CORPUS/SET.TASK) of all hypotheses that are there, scored or not."""
    found = set()
    for folder in folders:
        for path in folder.rglob("decode/*/hyp.jsonl"):
            below = path.relative_to(folder)
            score = path.with_name("score.json")
            named_by_path = next((part for part in below.parts if part in layout["systems"]), "")
            system = read_json(score)["system"] if score.exists() else named_by_path
            found.add((system, f"{corpus_of(below, layout['corpora'])}/{path.parent.name}"))
    return found


def report(layout: dict[str, Any], lines: Sequence[Line], paper: Sequence[Line], why_not: Callable[..., str]) -> str:
    """RESULTS.md.

    paper: table, system, column, metric and value of what is shown in parentheses behind ours.
    why_not: tells of score, metric and system why there is no value.
    """
    index: Index = {}
    for line in lines:
        index.setdefault((line["system"], line["metric"], *place(line)), {})[line["seed"]] = line
    theirs = {(p["table"], p["system"], p["column"], p["metric"]): f"{p['value']:.1f}" for p in paper}
    scores_of = {table["number"]: [c["score"] for c in table["columns"] if "score" in c] for table in layout["tables"]}
    text = [f"# {layout['title']}", "", told(lines, bool(paper))]
    for table in layout["tables"]:
        head, rows = ["method"], [[label] for label in layout["systems"].values()]
        count, signatures = ["utterances"], {}
        metrics_of = [[c["metric"]] if isinstance(c["metric"], str) else c["metric"] for c in table["columns"]]
        units = [" / ".join(UNITS.get(metric, metric) for metric in metrics) for metrics in metrics_of]
        one_unit = len(set(units)) == 1
        for column, metrics, unit in zip(table["columns"], metrics_of, units, strict=True):
            head.append(column["name"] if one_unit else f"{column['name']}, {unit}")
            scores = scores_of[column["mean_of"]] if "mean_of" in column else [column["score"]]
            for system, row in zip(layout["systems"], rows, strict=True):
                ours = [cell(index, layout, system, metric, scores, why_not) for metric in metrics]
                beside = [theirs.get((table["number"], system, column["name"], metric), "") for metric in metrics]
                said = ours[:1] if len(set(ours)) == 1 and not ours[0][0].isdigit() else ours  # a reason once
                row.append(" / ".join(said) + (f" ({' / '.join(beside)})" if all(beside) else ""))
            found = [line for system in layout["systems"] for metric in metrics for score in scores
                     for line in lines_of(index, layout, system, metric, score).values()]  # fmt: skip
            sizes = sorted({line["n"] for line in found})
            count.append("-".join(map(str, dict.fromkeys([*sizes[:1], *sizes[-1:]]))))
            signatures |= dict.fromkeys(line["signature"] for line in found if line["signature"])
        caption = f"## Table {table['number']}: {table['caption']}" + (f" ({units[0]})" if one_unit else "")
        text += ["", caption, "", *markdown([head, *rows, *([count] if any(count[1:]) else [])])]
        notes = [table.get("note", ""), f"Signatures: {', '.join(signatures)}." if signatures else ""]
        text += ["", " ".join(filter(None, notes))] if any(notes) else []
    return "\n".join(text) + "\n"


def place(line: Line) -> tuple:
    """Where a line stands in the tables, whatever its system, metric and seed."""
    return tuple(line.get(key) for key in ("task", "variant", "direction", "set"))


def lines_of(index: Index, layout: dict[str, Any], system: str, metric: str, score: str) -> dict[int, Line]:
    """By seed."""
    return index.get((system, metric, *place(named(score, layout["spoken"]))), {})


def cell(
    index: Index, layout: dict[str, Any], system: str, metric: str, scores: Sequence[str], why_not: Callable[..., str]
) -> str:
    """The value of one score, or the mean of several; over the seeds that have all of them, with their spread."""
    if scores[0].endswith(RECOGNIZER):
        if system not in layout["recognizers"]:
            return "—"
        if layout["recognizers"][system] is not None:
            return f"{layout['recognizers'][system]:.1f}"
    found = [lines_of(index, layout, system, metric, score) for score in scores]
    present = Counter(seed for lines in found for seed in lines)
    if whole := [seed for seed, n in present.items() if n == len(scores)]:
        values = [statistics.mean(lines[seed]["value"] for lines in found) for seed in whole]
        spread = [] if len(values) == 1 else [statistics.stdev(values)]
        return " ± ".join(f"{v:.{DIGITS.get(metric, 1)}f}" for v in (statistics.mean(values), *spread))
    if present:
        return f"{max(present.values())} of {len(scores)} sets"
    return why_not(scores[0], metric, system)


def told(lines: Sequence[Line], paper: bool) -> str:
    """What the reader has to know of all numbers."""
    beside = " In parentheses: the paper's values." if paper else ""
    if not lines:
        return f"Nothing has been run yet.{beside}"
    seeds = sorted({line["seed"] for line in lines if line["seed"] is not None})
    several = "; mean ± standard deviation where there are several" if len(seeds) > 1 else ""
    commits = ", ".join(sorted({str(line["commit"]) for line in lines}))
    return (f"Seeds {', '.join(map(str, seeds)) or 'unknown'}{several}. Commits {commits}. The command of each number is in"
            f" results.jsonl.{beside}")  # fmt: skip


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


if __name__ == "__main__":
    command.run(main)
