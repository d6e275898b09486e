"""Rows of a long job, kept on disk as they come: a killed job continues, and several processes share it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from blsp.base.files import write_jsonl


class Journal:
    """Collects one row per utterance for `output`, a JSON lines file that appears only when it is complete.

    Each process appends to a part file of its own beside the output. Rows count only under the `fingerprint` they were
    written with, so rows of other settings, and a line torn by a kill, are as if they had never been there.
    key: what names the utterance in a row.
    """

    def __init__(self, output: str | Path, fingerprint: str, shard: int = 0, n_shards: int = 1, key: str = "utt_id"):
        self.output = Path(output)
        self.fingerprint = fingerprint
        self.key = key
        self.part = self.output.with_name(f"{self.output.name}.part-{shard + 1}-of-{n_shards}")
        self.rows: dict[str, dict[str, Any]] = {}
        self._read()

    def _parts(self) -> list[Path]:
        return sorted(self.output.parent.glob(f"{self.output.name}.part-*"))

    def _read(self) -> None:
        for part in self._parts():
            with suppress(FileNotFoundError), open(part, encoding="utf-8", errors="replace", newline="\n") as f:
                for line in f:  # of a file that another process has not just removed, all rows being there
                    try:
                        fingerprint, row = json.loads(line)
                    except ValueError:
                        continue
                    if fingerprint == self.fingerprint:
                        self.rows[row[self.key]] = row

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Keep `rows` (each has the key) for good."""
        rows = list(rows)
        self.part.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps([self.fingerprint, row], ensure_ascii=False) + "\n" for row in rows)
        with open(self.part, "a+b") as f:
            if f.tell() and os.pread(f.fileno(), 1, f.tell() - 1) != b"\n":
                f.write(b"\n")  # a kill tore the last line
            f.write(lines.encode())
            f.flush()
            os.fsync(f.fileno())
        self.rows.update((row[self.key], row) for row in rows)

    def finish(self, utt_ids: Sequence[str]) -> bool:
        """Write the output in the order of `utt_ids` if every one of them has its row. Returns whether it did."""
        self._read()  # other processes' rows
        if any(utt_id not in self.rows for utt_id in utt_ids):
            return False
        write_jsonl(self.output, (self.rows[utt_id] for utt_id in utt_ids))
        for part in self._parts():
            part.unlink(missing_ok=True)
        return True
