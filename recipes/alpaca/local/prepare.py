"""Stage 0 of Alpaca-52k: English instructions and answers, text only, to instruction-tune the LLM.

    FOLDER/                     <- --corpus-dir
        alpaca_data.json        [{"instruction": ..., "input": ..., "output": ...}, ...]

Writes data/alpaca.jsonl, one {"instruction": ..., "output": ...} a line, and data/rejected.tsv. The text goes through
the rule of the authors' release: a full stop where the instruction has no . ! or ? at its end, the input behind one
space, ’ as ', °C and °F as words, every other character outside printable ASCII dropped.
"""

from __future__ import annotations

import argparse
import re
import string
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.files import InputError, atomic_write, read_json, write_jsonl

NOT_PRINTABLE = re.compile(f"[^{re.escape(string.printable)}]")
NO_OUTPUT = re.compile(r"<?no[ -]?output>?\.?", re.IGNORECASE)  # what an annotating model wrote instead of an answer


def clean(text: str) -> str:
    # the two blanks before "degrees centigrade" are the release's own, kept so that its training text comes out
    text = text.replace("’", "'").replace("°C", "  degrees centigrade").replace("°F", " degrees fahrenheit")
    return NOT_PRINTABLE.sub("", text)


def convert(row: Any) -> dict[str, str] | str:
    """The row as it is written, or the reason to leave it out."""
    if not isinstance(row, dict):
        return "is not an object"
    instruction, more, output = (row.get(key) for key in ("instruction", "input", "output"))
    if not isinstance(instruction, str) or not clean(instruction).strip():
        return "missing or empty instruction"
    if not isinstance(output, str) or not clean(output).strip():
        return "missing or empty output"
    if NO_OUTPUT.fullmatch(output.strip()):
        return f"output is a placeholder: {output.strip()}"
    if not (more is None or isinstance(more, str)):
        return "input is not a string"
    if not instruction.endswith((".", "!", "?")):
        instruction += "."
    if more:
        instruction += " " + more
    return {"instruction": clean(instruction), "output": clean(output)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--corpus-dir", type=Path, required=True, help="the folder that holds alpaca_data.json")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where alpaca.jsonl goes (default: data)")
    parser.add_argument("--nj", type=int, help="without effect: nothing is decoded; every recipe passes it")
    parser.add_argument("--config", metavar="YAML", help="without effect: no setting concerns text; likewise")
    parser.add_argument("overrides", nargs="*", metavar="--KEY=VALUE", help="after `--`: likewise")
    parser.add_argument("--limit", type=int, default=0, help="only the first N rows (default: 0, all)")
    args = parser.parse_args()
    if args.limit < 0:
        parser.error("--limit is at least 0")

    source = args.corpus_dir / "alpaca_data.json"
    rows = read_json(source)
    if not isinstance(rows, list):
        raise InputError(f"{source}: expected one JSON list of rows; download it again")
    rows = rows[: args.limit or None]
    converted = [convert(row) for row in rows]
    kept = [row for row in converted if isinstance(row, dict)]
    # rows have no ids: their position names them
    rejected = [(number, reason) for number, reason in enumerate(converted) if isinstance(reason, str)]
    if not kept:
        raise InputError(f"{source}: none of its {len(rows)} rows has an instruction and an output")
    write_jsonl(args.data_dir / "alpaca.jsonl", kept)
    with atomic_write(args.data_dir / "rejected.tsv") as f:
        f.writelines(f"{number}\t{reason}\n" for number, reason in rejected)
    print(f"alpaca: kept {len(kept)} + rejected {len(rejected)} = found {len(rows)}")


if __name__ == "__main__":
    command.run(main)
