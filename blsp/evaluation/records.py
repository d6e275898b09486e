"""The record of results, one line of results.jsonl for each score: what was scored, its value, and how to get it again.

Keys: system, task (asr, st, ic, sa, qa, agree), variant (recognizer: a cascade's own transcripts), direction (of st: en-de),
set (CORPUS/SET), metric, value, n, signature, seed, command, commit, and what stands beside a score.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.files import InputError, read_json, read_jsonl, write_jsonl

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
DIGITS = {"kl": 3}  # behind the point in a table; of others 1

Line = dict[str, Any]


def update(path: Path, news: Iterable[Line], systems: Sequence[str]) -> list[Line]:
    """Bring a results.jsonl up to date and return its lines, in the order of the systems.

    A line stays as it is, with its command and commit, unless its score or the hypotheses have changed.
    """
    lines = {identity(line): line for line in (read_jsonl(path) if path.exists() else [])}
    for line in news:
        old = lines.get(identity(line), {})
        if any(old.get(key) != line.get(key) for key in ("fingerprint", "value")):
            lines[identity(line)] = line
    order = {system: number for number, system in enumerate(systems)}
    ordered = sorted(lines.values(), key=lambda line: (order.get(line["system"], len(order)), *map(str, identity(line))))
    if ordered or path.exists():
        write_jsonl(path, ordered)
    return ordered


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


def place(line: Line) -> tuple:
    """Where a line stands in the tables, whatever its system, metric and seed."""
    return tuple(line.get(key) for key in ("task", "variant", "direction", "set"))


def corpus_of(path: Path, corpora: Sequence[str]) -> str:
    """The corpus that a path below the folder of the experiments names; the first of all where it names none."""
    return next((part for part in reversed(path.parts) if part in corpora), next(iter(corpora)))


def collect(
    folder: Path, corpora: Sequence[str], spoken: dict[str, str], reproduced: Callable[[str, str, int | None], str]
) -> list[Line]:
    """One line for each metric of each score below `folder`, SOURCE/[seedN/].../decode/SET.TASK/score.json.

    corpora: names that the paths may hold; what names none is of the first.
    spoken: a corpus' language where it is not English.
    reproduced: the command that gets a score again, of system, corpus and seed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; run stages 0 to 5")
    lines, code = [], command.commit()
    seen: dict[tuple, Path] = {}
    for path in sorted(folder.rglob("decode/*/score.json")):
        score, below = read_json(path), path.relative_to(folder)
        corpus = corpus_of(below, corpora)
        seed = next((int(part[4:]) for part in below.parts if re.fullmatch(r"seed\d+", part)), None)
        models = [up / "model" / "config.json" for up in path.parents if folder in up.parents]
        trained = next((model for model in models if model.exists()), None)
        # The code that trained; of what needs no training the code that is here.
        made = read_json(trained).get("provenance", {}).get("commit") if trained else code
        origin = {"seed": seed, "command": reproduced(score["system"], corpus, seed), "commit": made}
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
            row = {"system": score["system"], **named(f"{corpus}/{score['set']}.{score['task']}", spoken),
                   "metric": metric, "value": score[metric], "n": score["n"], "signature": signature, **origin,
                   "fingerprint": score.get("fingerprint"), **kept}  # fmt: skip
            if (other := seen.setdefault(identity(row), path)) != path:
                raise InputError(
                    f"{path}: is the same system, task, set and seed as {other}; give one another --system or folder"
                )
            digits = DIGITS.get(metric, 1) + 1
            lines.append({key: round(v, digits) if isinstance(v, float) else v for key, v in row.items()})
    return lines
