"""Test sets and tasks: what there is to decode and to score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blsp.data_dir import REDO
from blsp.files import InputError


@dataclass(frozen=True)
class Job:
    """One test set under one task."""

    folder: Path  # data/SET
    name: str  # of the task
    instruction: str
    reference: str  # table that holds the references
    output: Path  # exp/NAME/decode/SET.TASK/hyp.jsonl


def present_sets(parent: str | Path, names: Iterable[str]) -> list[str]:
    """Those of the test sets `names` that stage 0 has prepared; a corpus may lack some of its splits and directions.

    Raises InputError if none is there.
    """
    names = list(dict.fromkeys(names))
    present = [name for name in names if (Path(parent) / name).is_dir()]
    if names and not present:
        raise InputError(f"{parent}: holds none of {', '.join(names)}; {REDO}")
    return present


def task_sets(parent: str | Path, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """For each task the sets that are prepared and have its references.

    Raises InputError if none of all the sets is there, or no task has references.
    """
    present = present_sets(parent, [name for task in tasks.values() for name in task["sets"]])
    found = {
        name: [s for s in task["sets"] if s in present and (Path(parent) / s / task["reference"]).exists()]
        for name, task in tasks.items()
    }
    if not any(found.values()):
        tables = ", ".join(dict.fromkeys(task["reference"] for task in tasks.values()))
        raise InputError(f"{parent}: no test set has references ({tables}); {REDO}")
    return found
