"""Tables of results: systems by scores, means over seeds and directions, the paper's values beside ours."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blsp.base.files import read_json
from blsp.evaluation.records import DIGITS, Line, corpus_of, named, place

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
ABSENT = {"comet": "no COMET model", "accept_rate": "no judge"}  # of a set that is decoded, why it lacks this metric
RECOGNIZER = ".transcript"  # ends the name of what a cascade's recognizer writes

Index = dict[tuple, dict[int, Line]]  # system, metric and place -> seed -> line


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
    text, shown = [], []
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
            shown += found
            sizes = sorted({line["n"] for line in found})
            count.append("-".join(map(str, dict.fromkeys([*sizes[:1], *sizes[-1:]]))))
            signatures |= dict.fromkeys(line["signature"] for line in found if line["signature"])
        caption = f"## Table {table['number']}: {table['caption']}" + (f" ({units[0]})" if one_unit else "")
        text += ["", caption, "", *markdown([head, *rows, *([count] if any(count[1:]) else [])])]
        notes = [table.get("note", ""), f"Signatures: {', '.join(signatures)}." if signatures else ""]
        text += ["", " ".join(filter(None, notes))] if any(notes) else []
    return "\n".join([f"# {layout['title']}", "", told(shown, bool(paper)), *text]) + "\n"


def reasons(
    layout: dict[str, Any], lines: Sequence[Line], folders: Sequence[Path] = (), data_dir: Path | None = None
) -> Callable[[str, str, str], str]:
    """What report() asks why there is no value: of these lines, experiments below `folders`, and data directories."""
    scored = {(line["system"], *place(line)) for line in lines}
    hypotheses = set()  # system and score (CORPUS/SET.TASK) of all that are there, scored or not
    for folder in folders:
        for path in folder.rglob("decode/*/hyp.jsonl"):
            below = path.relative_to(folder)
            score = path.with_name("score.json")
            named_by_path = next((part for part in below.parts if part in layout["systems"]), "")
            system = read_json(score)["system"] if score.exists() else named_by_path
            hypotheses.add((system, f"{corpus_of(below, layout['corpora'])}/{path.parent.name}"))

    def why_not(score: str, metric: str, system: str) -> str:
        name = score.partition(".")[0]
        if data_dir and not (data_dir / name).is_dir():
            return f"needs {layout['corpora'][name.partition('/')[0]]}"
        there = (system, *place(named(score, layout["spoken"]))) in scored or (system, score) in hypotheses
        return ABSENT.get(metric, "not scored") if there else "not run"

    return why_not


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
