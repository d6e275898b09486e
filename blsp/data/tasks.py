"""Test sets and tasks: what there is to decode and to score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blsp.base.files import InputError
from blsp.data.data_dir import REDO, read_table


@dataclass(frozen=True)
class Job:
    """One test set under one task."""

    folder: Path  # data/SET
    name: str  # of the task
    instruction: str | None  # None: each utterance has its own, in `table`
    reference: str  # table that holds the references
    output: Path  # exp/NAME/decode/SET.TASK/hyp.jsonl
    table: str = ""  # table of the only utterances that are meant; "": all
    answers: Path | None = None  # where the LLM's own answers to the transcripts are, which are then the references

    def instructions(self) -> dict[str, str]:
        """Utterance -> instruction, of all that are meant, in the data directory's order."""
        text = read_table(self.folder / "text")
        if not self.table:
            return dict.fromkeys(text, self.instruction or "")
        path = self.folder / self.table
        if not path.exists():
            raise InputError(f"{path}: is missing; it should hold an instruction for each utterance; run stage 2")
        table = read_table(path)
        for number, (utt_id, instruction) in enumerate(table.items(), 1):
            if utt_id not in text or not instruction:
                problem = "has no instruction" if utt_id in text else "is not in text"
                raise InputError(f"{path}:{number}: utterance '{utt_id}' {problem}; run stage 2 again")
        return table if self.instruction is None else dict.fromkeys(table, self.instruction)


def instruction_of(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """What a task's row says of its instruction, as fields of a Job: the same for all, or a table of the utterances' own."""
    if ("instruction" in task) == ("instruction_table" in task):
        raise InputError(f"task {name}: should have either an instruction or an instruction_table")
    return {"instruction": task.get("instruction"), "table": task.get("instruction_table", "")}


def reference_of(name: str, task: Mapping[str, Any]) -> str:
    """The table that holds a task's references; of agreement, whose references are answers to it, the transcripts."""
    if (task.get("metric") == "agreement") == ("reference" in task):
        wrong = "has a reference; of agreement it is the LLM's own answer" if "reference" in task else "has no reference"
        raise InputError(f"task {name}: {wrong}")
    return task.get("reference", "text")


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
    references = {name: reference_of(name, task) for name, task in tasks.items()}
    found = {
        name: [s for s in task["sets"] if s in present and (Path(parent) / s / references[name]).exists()]
        for name, task in tasks.items()
    }
    if not any(found.values()):
        missing = ", ".join(dict.fromkeys(references.values()))
        raise InputError(f"{parent}: no test set has references ({missing}); {REDO}")
    return found
