"""Answer recordings under an instruction.

reads   the model (a folder such as EXP_DIR/model, or a hub name), and audio files, or a Kaldi data directory, or
        JSON lines on standard input: {"id": ..., "audio": a path, "instruction": ...}, of which audio is needed
writes  JSON lines, to standard output or --out: {"id", "audio", "instruction", "answer", "finish_reason"} of each
        input, in their order; {"id", "audio", "error"} of what cannot be answered, and then the exit status is 1;
        in a file each has a fingerprint of what it depends on, too: a rerun answers only what that has changed for
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.base import command
from blsp.base.files import InputError, fingerprint, model_fingerprint, read_jsonl, write_jsonl
from blsp.base.journal import Journal
from blsp.data.data_dir import read_data_dir
from blsp.model.decoding import Decoding, decoding_arguments

if TYPE_CHECKING:
    from blsp.model.blsp import BLSP
    from blsp.model.processor import Conversation

AHEAD = 16  # batches whose audio is read together, so that batches are of like length


@dataclass(frozen=True)
class Item:
    """One input."""

    id: str
    audio: str = ""  # a file
    instruction: str = ""
    start: float | None = None  # seconds into the file
    end: float | None = None  # seconds
    fault: str = ""  # why it cannot be read

    def fingerprint(self, settings: str) -> str:
        """What its answer depends on."""
        try:
            status = os.stat(self.audio)
            file = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):
            file = []
        return fingerprint([settings, asdict(self), file])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="blsp.bin.answer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="audio files, or one data directory; none: standard input")
    parser.add_argument("--model", required=True, help="a trained model's folder (EXP_DIR/model) or hub name")
    parser.add_argument("--instruction", default="", help="what is said before the speech, where the input has none of its own")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a file, which a rerun continues; not given: standard output")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="answered at once (%(default)s)")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or float32 (%(default)s)")
    decoding_arguments(parser, max_new_tokens=64)
    args = parser.parse_args()
    if args.batch_size < 1:
        raise InputError(f"--batch-size {args.batch_size}: should be at least 1")
    decoding = Decoding.from_arguments(args)
    items = read_items(args.inputs, args.instruction)
    from blsp.model.folder import local_folder  # loads torch

    folder = local_folder(args.model)
    settings = {"model": model_fingerprint(folder), "precision": args.precision, **asdict(decoding)}
    keep = _Output(args.out, items, fingerprint(settings))
    if keep.missing:
        from blsp.model.blsp import BLSP

        model = BLSP.from_pretrained(folder, args.precision, command.device())
        blocks = _blocks(keep.missing, AHEAD * args.batch_size)
        n_batches = sum(-(-len(block) // args.batch_size) for block in blocks)
        batches = (batch for block in blocks for batch in _answered(block, model, decoding, args.batch_size))
        for rows in command.progress(batches, n_batches, "answering", "batch", lines_to=sys.stderr):
            keep.append(rows)
    if failed := keep.finish():
        raise InputError(f'{failed} of {len(items)} inputs have no answer; their rows say why under "error"')


def read_items(inputs: Sequence[str], instruction: str) -> list[Item]:
    """What is to be answered. Raises InputError where it cannot be known; single faults become items with a `fault`."""
    if len(inputs) == 1 and Path(inputs[0]).is_dir():
        return [Item(u.utt_id, str(u.wav), instruction, u.start, u.end) for u in read_data_dir(Path(inputs[0]))]
    if inputs:
        items = [Item(name, name, instruction) for name in dict.fromkeys(inputs)]
    elif sys.stdin.isatty():
        raise InputError("name audio files or a data directory, or give JSON lines on standard input")
    else:
        items = [_item(line, number, instruction) for number, line in enumerate(sys.stdin.buffer, 1) if line.strip()]
    first: dict[str, int] = {}
    for number, item in enumerate(items, 1):
        if first.setdefault(item.id, number) != number:
            items[number - 1] = Item(
                f"input {number}", item.audio, fault=f"the id '{item.id}' is input {first[item.id]}'s already"
            )
    return items


def _item(line: bytes, number: int, instruction: str) -> Item:
    """Of a line of JSON."""
    name = f"line {number}"
    try:
        row = json.loads(line)
    except ValueError:
        return Item(name, fault="is not JSON")
    if not isinstance(row, dict) or not isinstance(row.get("audio"), str):
        return Item(name, fault='should be {"id": ..., "audio": a path, "instruction": ...}')
    own = row.get("instruction", instruction)
    item = Item(str(row.get("id", row["audio"])), row["audio"], own)
    if "\0" in item.audio or not isinstance(own, str):
        fault = "the instruction should be a text" if "\0" not in item.audio else "the audio should be a path"
        return Item(item.id, item.audio, fault=fault)
    return item


class _Output:
    """Rows to a file that is whole when all are there, and continued by a rerun; or to standard output in their order."""

    def __init__(self, path: Path | None, items: Sequence[Item], settings: str):
        self.path, self.items = path, items
        self.rows: dict[str, dict[str, Any]] = {}
        self.written = 0
        if path is not None:
            self.fingerprints = {item.id: item.fingerprint(settings) for item in items}
            self.journal = Journal(path, settings, key="id")
            self.before = read_jsonl(path) if path.exists() else []
            for row in [*self.before, *self.journal.rows.values()]:
                if "error" not in row and row.get("fingerprint") == self.fingerprints.get(row.get("id"), ""):
                    self.rows[row["id"]] = row
        self.missing = [item for item in items if item.id not in self.rows]

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.path is not None:
            rows = [{**row, "fingerprint": self.fingerprints[row["id"]]} for row in rows]
            self.journal.append(rows)
        self.rows.update((row["id"], row) for row in rows)
        while self.path is None and self.written < len(self.items) and self.items[self.written].id in self.rows:
            print(json.dumps(self.rows[self.items[self.written].id], ensure_ascii=False), flush=True)
            self.written += 1

    def finish(self) -> int:
        """The number of inputs that have no answer."""
        rows = [self.rows[item.id] for item in self.items]
        if self.path is not None and (rows != self.before or not self.path.exists()):
            write_jsonl(self.path, rows)
            self.journal.part.unlink(missing_ok=True)
        return sum("error" in self.rows[item.id] for item in self.items)


def _blocks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _answered(items: Sequence[Item], model: BLSP, decoding: Decoding, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of some inputs, as many at a time as are answered together; those without an answer come with the first."""
    from blsp.model.generation import length_batches

    ready: list[tuple[Item, Conversation]] = []
    failed = []
    for item in items:
        try:
            conversation = _prepare(item, model)
            model.check_room(conversation, decoding)
            ready.append((item, conversation))
        except InputError as e:
            failed.append({"id": item.id, "audio": item.audio, "error": str(e)})
    if not ready:
        yield failed
    for batch in length_batches([len(c.ids) for _, c in ready], batch_size):
        members = [ready[i][0] for i in batch]
        answers = model.generate([ready[i][1] for i in batch], decoding, [item.id for item in members])
        rows = [
            {"id": m.id, "audio": m.audio, "instruction": m.instruction, "answer": a.text, "finish_reason": a.finish_reason}
            for m, a in zip(members, answers, strict=True)
        ]
        yield [*failed, *rows]
        failed = []


def _prepare(item: Item, model: BLSP) -> Conversation:
    from blsp.data import audio

    if item.fault:
        raise InputError(item.fault)
    speech = audio.load(item.audio, item.start, item.end)
    before = [{"type": "text", "text": item.instruction}] if item.instruction else []
    return model.processor.prepare([{"role": "user", "content": [*before, {"type": "audio", "audio": speech}]}])


if __name__ == "__main__":
    command.run(main)
