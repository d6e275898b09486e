"""Kaldi archives that a data directory's matrices are kept in: SET/NAME/*.ark, and SET/NAME.scp that says where each is.

Archives are written in blocks. A block that is whole stays when a run is cut off; the tables appear when all blocks are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
from kaldiio.matio import read_kaldi

from blsp.base.files import InputError, atomic_write, read_json, write_json
from blsp.data.data_dir import write_table

MATRIX, ARRAY = b"\0B", b"NPY"  # how Kaldi's binary matrices begin, and numpy's arrays within Kaldi archives
Row = tuple[str, str, str]  # utt_id, its place ARCHIVE:OFFSET, its length as a table is to have it


class Archives:
    """The archives NAME of a data directory, of what has the fingerprint `done`."""

    def __init__(self, folder: Path, name: str, done: str, n_blocks: int):
        self.folder, self.name, self.done, self.n_blocks = folder, name, done, n_blocks

    def _ark(self, number: int) -> Path:
        return (self.folder / self.name / f"{self.done}.{number}.ark").resolve()

    def _index(self, number: int) -> Path:
        return self._ark(number).with_suffix(".ark.json")

    def has(self, number: int) -> bool:
        return self._ark(number).exists() and self._index(number).exists()

    def write(self, number: int, matrices: Iterable[tuple[str, np.ndarray, str]], **how: Any) -> None:
        """Write a block of (utt_id, matrix, length). `how` goes to kaldiio."""
        rows: list[Row] = []
        ark = self._ark(number)
        with atomic_write(ark, "wb") as f:
            for utt_id, matrix, length in matrices:
                key = f"{utt_id} ".encode()
                offset = f.tell() + len(key)
                kaldiio.save_ark(f, {utt_id: matrix}, **how)
                rows.append((utt_id, f"{ark}:{offset}", length))
        write_json(self._index(number), rows)

    def is_published(self) -> bool:
        info = self.folder / f"{self.name}.json"
        scp = self.folder / f"{self.name}.scp"
        return info.exists() and scp.exists() and read_json(info).get("fingerprint") == self.done

    def withdraw(self) -> None:
        """Before the first block: a kill must not leave NAME.json beside other archives."""
        (self.folder / f"{self.name}.json").unlink(missing_ok=True)

    def publish(self, lengths: str, settings: dict[str, Any]) -> bool:
        """Write NAME.scp, the table `lengths` and NAME.json once all blocks are there. Returns whether they are."""
        if not all(self.has(number) for number in range(self.n_blocks)):
            return False
        rows = [row for number in range(self.n_blocks) for row in read_json(self._index(number))]
        write_table(self.folder / lengths, {utt_id: str(length) for utt_id, _, length in rows})
        write_table(self.folder / f"{self.name}.scp", {utt_id: place for utt_id, place, _ in rows})
        write_json(self.folder / f"{self.name}.json", {"fingerprint": self.done, **settings})
        kept = {self._ark(number).name for number in range(self.n_blocks)}
        for old in (self.folder / self.name).glob("*.ark*"):
            if old.name.removesuffix(".json") not in kept:
                old.unlink(missing_ok=True)  # of other settings
        return True


def read_matrix(place: str, what: str) -> np.ndarray:
    """The matrix at ARCHIVE:OFFSET. Raises InputError, which calls it `what`, where there is none.

    kaldiio.load_mat() would run a place that is a command, and unpickle where an archive says so.
    """
    ark, _, offset = place.rpartition(":")
    try:
        with open(ark, "rb") as f:
            f.seek(int(offset))
            begin = f.read(len(ARRAY))
            if not begin.startswith((MATRIX, ARRAY)):
                raise ValueError("there is no matrix")
            f.seek(int(offset))
            matrix = read_kaldi(f)
    except (OSError, ValueError, EOFError) as e:
        raise InputError(f"{place}: {what} cannot be read ({e}); run stage 1 again") from None
    return matrix
