"""Files that are whole or absent: atomic writing, fingerprints, JSON lines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20  # bytes
# Files of a model's folder that it depends on: configurations, weights, vocabularies, chat templates.
PARTS = {".json", ".safetensors", ".bin", ".model", ".txt", ".tiktoken", ".jinja"}


class InputError(Exception):
    """Something that the user gave is wrong. The message is one line: file, line, utterance, what was expected, what to do."""


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path`, and put it in its place when the block ends without an exception.

    A reader, or a rerun after a kill, sees the old file or the whole new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(beside, mode, **text) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its place when the block ends without an exception.

    Raises InputError where `path` is there already: a folder is not replaced.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path}: is there already; remove it, or name another folder")
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    beside.mkdir(parents=True)
    try:
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                with open(file, "rb") as f:
                    os.fsync(f.fileno())
        os.rename(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    with atomic_write(path) as f:
        json.dump(value, f, ensure_ascii=False, indent=2)
        f.write("\n")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises InputError where it is absent or not JSON."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            return json.load(f)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: is not JSON, or was cut off ({e})") from None


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_write(path) as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file. Raises InputError with file and line where one is broken."""
    rows = []
    try:
        with open(path, encoding="utf-8", newline="\n") as f:
            for number, line in enumerate(f, 1):
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    raise InputError(f"{path}:{number}: is not JSON; remove the file and run its stage again") from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    return rows


def fingerprint(value: Any) -> str:
    """16 hex digits that change when `value` (anything JSON can hold) does; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
    """Fingerprint of a file's content."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as f:
            while chunk := f.read(CHUNK):
                digest.update(chunk)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    return digest.hexdigest()[:16]


def model_fingerprint(folder: str | Path) -> str:
    """Fingerprint of a model folder (or of a hub name, which is its own).

    Small files are read whole; of weight shards, which can be 13 GB, the length and the first and last MiB.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return fingerprint(str(folder))
    parts = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in PARTS:
            continue
        parts.append([path.name, *_size_and_ends(path)])
    return fingerprint(parts)


def ends_fingerprint(path: str | Path) -> str:
    """Fingerprint of a file of weights, quick for any size: its length and its first and last MiB."""
    return fingerprint(_size_and_ends(Path(path)))


def _size_and_ends(path: Path) -> list[Any]:
    size = path.stat().st_size
    with open(path, "rb") as f:
        head = f.read(CHUNK)
        f.seek(max(CHUNK, size - CHUNK))
        tail = f.read(CHUNK)
    return [size, hashlib.sha256(head + tail).hexdigest()]
