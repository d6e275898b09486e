"""Hugging Face datasets as they lie on disk: which files are which split, and their rows, the audio inside put into files.

    FOLDER/data/train-00000-of-00002.parquet         as the hub has them; also FOLDER/CONFIG/train/0000.parquet
    FOLDER/train/metadata.csv (or .jsonl)            audiofolder: tables beside the audio; also FOLDER/metadata.csv
    FOLDER/dataset_dict.json, FOLDER/train/state.json, data-00000-of-00001.arrow      what save_to_disk writes

An audio column holds {bytes, path}, bytes alone, or a path seen from the file's folder. Labels are stored as numbers, their
names in the file's metadata. Only pyarrow is needed, not the package datasets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from blsp.base.files import InputError, atomic_write, ends_fingerprint, read_json
from blsp.data.audio import SUFFIXES

ENDINGS = (".parquet", ".arrow")
METADATA = ("metadata.csv", "metadata.jsonl")
SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")
BATCH = 16  # recordings in memory at once
MAGIC = (
    (b"RIFF", ".wav"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
)
LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Row:
    """One row; of the audio, where it lies now."""

    number: int  # in its file, counted from 1
    values: dict[str, Any]  # of the columns that were asked for
    audio: Path | None  # None: the row has none
    name: str | None  # what the dataset calls the recording


def splits(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, {} where the folder is no such dataset. The name "" is that of a dataset without splits.

    Raises InputError where files of a split are missing.
    """
    if (folder / "dataset_dict.json").is_file():
        return {name: _arrow_files(folder / name) for name in read_json(folder / "dataset_dict.json")["splits"]}
    if (folder / "state.json").is_file():
        return {"": _arrow_files(folder)}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            found.setdefault(_split_of(path, folder), []).append(path)
    for files in found.values():
        _whole(files)
    if not found:
        tables = [path for name in METADATA for path in sorted(folder.rglob(name))]
        for path in tables:
            found.setdefault(_set_name(path.parent.relative_to(folder).parts), []).append(path)
    return found


def _arrow_files(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise InputError(f"{folder}: is a selection of rows of another dataset; call flatten_indices() and save it again")
    return [folder / file["filename"] for file in state["_data_files"]]


def _split_of(path: Path, folder: Path) -> str:
    parents = path.relative_to(folder).parts[:-1]
    shard = SHARD.fullmatch(path.stem)
    if shard:
        return _set_name((*parents, shard["split"]))
    return _set_name(parents if path.stem.isdigit() else (*parents, path.stem))


def _set_name(parts: Sequence[str]) -> str:
    return re.sub(r"[^\w-]", "_", "_".join(part for part in parts if part not in ("data", "default")))


def _whole(files: Sequence[Path]) -> None:
    """Raise InputError unless all of train-00000-of-00002, train-00001-of-00002 are there."""
    shards = [found for path in files if (found := SHARD.fullmatch(path.stem))]
    if shards and len(shards) < (count := int(shards[0]["count"])):
        numbers = {int(shard["number"]) for shard in shards}
        missing = next(n for n in range(count) if n not in numbers)
        like = files[0].name.replace(f"-{shards[0]['number']}-", f"-{missing:05d}-")
        have = f"one of the {len(shards)} of {count} files that are there"
        raise InputError(f"{files[0].with_name(like)}: is missing; download it, or name {have}")


def column_names(path: Path) -> list[str]:
    """The columns of a .parquet or .arrow file. Raises InputError where it is not one, or pyarrow is not installed."""
    with _Source(path) as source:
        return list(source.schema.names)


def n_rows(path: Path) -> int:
    """Raises InputError."""
    with _Source(path) as source:
        return source.n_rows()


def rows(path: Path, columns: Sequence[str], audio: str, audio_dir: Path) -> Iterator[Row]:
    """The rows of a .parquet or .arrow file. Raises InputError.

    Recordings inside are written to AUDIO_DIR/FILE.FINGERPRINT/ROW.wav (.flac, ...) unless they are there.
    Args:
        columns: those whose values are wanted, without `audio`.
    """
    folder = audio_dir / f"{path.stem}.{ends_fingerprint(path)[:8]}"
    there = {file.stem: file for file in folder.iterdir() if file.name[0] != "."} if folder.is_dir() else {}
    done = 0
    with _Source(path) as source, ThreadPoolExecutor(BATCH) as pool:  # a file system syncs several files in the time of one
        labels = _label_names(source.schema)
        complete = len(there) == source.n_rows()
        for batch in source.batches(columns, audio, with_bytes=not complete):
            names, contents = _recordings(batch.column(audio)) if audio in batch.schema.names else (None, None)
            names = names.to_pylist() if names is not None else [None] * batch.num_rows
            stems = [f"{done + i:07d}" for i in range(1, batch.num_rows + 1)]
            if contents is not None:
                missing = [i for i, stem in enumerate(stems) if stem not in there and contents[i].is_valid]
                written = pool.map(lambda i: _write(folder / stems[i], names[i], contents[i].as_py()), missing)  # noqa: B023
                there.update((path.stem, path) for path in written)
            for i, values in enumerate(batch.select(columns).to_pylist()):
                for column in labels.keys() & values.keys():
                    values[column] = _label(labels[column], values[column])
                stored = there.get(stems[i]) or (path.parent / names[i] if names[i] else None)
                yield Row(done + i + 1, values, stored, names[i])
            done += batch.num_rows


def _write(bare: Path, name: str | None, content: bytes) -> Path:
    """Write a recording into `bare` with an ending, that of its name or what its first bytes tell."""
    suffix = PurePosixPath(name or "").suffix.lower()
    if suffix not in SUFFIXES:
        suffix = next((ending for magic, ending in MAGIC if content.startswith(magic)), ".audio")
    path = bare.with_name(bare.name + suffix)
    with atomic_write(path, "wb") as f:
        f.write(content)
    return path


def _recordings(column: Any) -> tuple[Any, Any]:
    """The paths and the bytes of a column, each None where it has none."""
    parts = (
        {field.name: part for field, part in zip(column.type, column.flatten(), strict=True)} if _is_struct(column.type) else {}
    )
    if _is_binary(column.type):
        return None, column
    return (parts.get("path"), parts.get("bytes")) if parts else (column, None)


def _is_struct(kind: Any) -> bool:
    import pyarrow.types

    return pyarrow.types.is_struct(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow.types

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _label_names(schema: Any) -> dict[str, list[str]]:
    """Column -> names of its labels, for those whose values are numbers of labels."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: f["names"] for name, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _label(names: Sequence[str], value: Any) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


class _Source:
    """An open file of pyarrow's, whose errors are one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> _Source:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise InputError(f"{self.path}: needs pyarrow; pip install -e '.[parquet]' in the toolkit's folder") from None
        self.pa = pa
        try:
            with open(self.path, "rb") as f:
                if f.read(len(LFS)) == LFS:
                    raise InputError(f"{self.path}: is a pointer of Git LFS, not the file; run git lfs pull")
            if self.path.suffix == ".arrow":
                self.file = pa.memory_map(str(self.path))
                self.parquet, self.schema = None, pa.ipc.open_stream(self.file).schema
            else:
                self.file = self.parquet = pq.ParquetFile(self.path)
                self.schema = self.parquet.schema_arrow
        except (pa.ArrowException, OSError) as e:
            raise self._broken(e) from None
        return self

    def __exit__(self, kind: object, e: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(e, self.pa.ArrowException):
            raise self._broken(e) from None

    def _broken(self, e: Exception) -> InputError:
        what = " ".join(str(e).split())[:100]
        return InputError(f"{self.path}: is no {self.path.suffix[1:]} file, or was cut off ({what}); download it again")

    def n_rows(self) -> int:
        if self.parquet is not None:
            return self.parquet.metadata.num_rows
        self.file.seek(0)
        return sum(batch.num_rows for batch in self.pa.ipc.open_stream(self.file))

    def batches(self, columns: Sequence[str], audio: str, with_bytes: bool) -> Iterator[Any]:
        """Record batches of these columns and the audio; where its bytes are not wanted, they are not read."""
        kind = self.schema.field(audio).type
        parts = [field.name for field in kind] if _is_struct(kind) else []
        if not (_is_binary(kind) or self.pa.types.is_string(kind) or self.pa.types.is_large_string(kind) or "bytes" in parts):
            raise InputError(
                f"{self.path}: column '{audio}' holds {str(kind)[:60]}, neither files of audio nor paths; "
                "save it as the feature Audio of datasets, undecoded"
            )
        if self.parquet is None:  # mapped into memory: what is not looked at is not read
            self.file.seek(0)
            yield from (batch.select([*columns, audio]) for batch in self.pa.ipc.open_stream(self.file))
            return
        if with_bytes or not (parts or _is_binary(kind)):
            wanted = [audio]
        else:
            wanted = [f"{audio}.path"] if "path" in parts else []
        yield from self.parquet.iter_batches(BATCH, columns=[*columns, *wanted])
