"""The record of the mini world's results, results.jsonl: where it is, and what is in it after a run."""

import argparse
import statistics
from pathlib import Path
from typing import Any

from blsp.base.config import load_config
from blsp.base.files import InputError
from blsp.evaluation import records

HERE = Path(__file__).resolve().parent.parent
COMMAND = "./egs/mini/run.sh"
SYSTEMS = ("text_llm", "whisper_llm", "blsp")  # that run.sh runs unless --systems says otherwise

Rows = list[records.Line]


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the options that both programs of the tables have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--exp-dir", type=Path, required=True, help="folder of seed*/SYSTEM")
    made.add_argument("--seed", type=int, required=True, help="the seed of this run")
    made.add_argument("--out", type=Path, help="folder of the record (EXP_DIR)")
    made.add_argument("--changed", default="", metavar="OPTIONS", help="what the run was given that changes the experiment")
    return made


def layout() -> dict[str, Any]:
    return load_config(HERE / "conf" / "tables.yaml")


def update(exp_dir: Path, out: Path, changed: str = "") -> tuple[Rows, Rows]:
    """Write the scores of the experiments below exp_dir into OUT/results.jsonl. Returns them, and all lines of that file."""

    def reproduced(system: str, corpus: str, seed: int | None) -> str:
        if corpus == "librispeech":
            which = "" if system in SYSTEMS else f" --systems {system}"
        else:
            which = f" --recipes {corpus}" if system == "blsp" else " --full"
        return f"{COMMAND}{which} --seed {seed} {changed}".rstrip()

    if not exp_dir.is_dir():
        raise InputError(f"{exp_dir}: has no scores; run stages 0 to 5")
    tables = layout()
    found = records.collect(exp_dir, tables["corpora"], tables["spoken"], reproduced)
    return found, records.update(out / "results.jsonl", found, tables["systems"])


def recipes() -> list[str]:
    """Their names, in the order of conf/recipes.tsv."""
    lines = (HERE / "conf" / "recipes.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def cell(values: list[float]) -> str:
    """A score, or mean and standard deviation of several seeds'."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
