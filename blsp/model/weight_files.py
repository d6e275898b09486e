"""Files of weights that may be larger than memory: listed, read one tensor at a time, and written in pieces.

In the layouts that Transformers knows: .safetensors or .bin, one file or several, with an index or not.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from blsp.base import command
from blsp.base.files import InputError, read_json, write_json

PIECE = 2 << 30  # bytes of a file that is written; as much memory is needed
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}  # safetensors' names


class Weight(NamedTuple):
    """A tensor that is still in its file."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights, in the order in which Transformers would look for them."""
    for single, index in (("model.safetensors", "*.safetensors"), ("pytorch_model.bin", "*.bin")):
        if (folder / single).exists():
            return [folder / single]
        if (path := folder / f"{single}.index.json").exists():
            listed = read_json(path)
            names = listed.get("weight_map") if isinstance(listed, dict) else None
            if not isinstance(names, dict) or not all(isinstance(n, str) and n == os.path.basename(n) for n in names.values()):
                raise InputError(f"{path}: should have a weight_map of names of files beside it")
            files = [folder / name for name in sorted(set(names.values()))]
            for key, name in names.items():
                if not (folder / name).exists():
                    raise InputError(f"{folder / name}: is missing; {path.name} says that it has {key}")
            return files
        files = sorted(p for p in folder.glob(index) if p.name != "training_args.bin")
        if files:
            return files
    raise InputError(f"{folder}: has no weights: neither .safetensors nor .bin files")


def list_weights(folder: Path, ignored: re.Pattern[str]) -> dict[str, Weight]:
    """What a folder's weight files hold, by the names that they have there, but for the `ignored`.

    Raises InputError for what is not a file of floating-point weights, and where a name comes twice.
    """
    weights: dict[str, Weight] = {}
    open_weights.cache_clear()  # of what the file was in an earlier call
    for path in weight_files(folder):
        opened = open_weights(path)
        for key in opened.keys():  # noqa: SIM118 - of safetensors no mapping
            if ignored.match(key):
                continue
            if key in weights:
                raise InputError(f"{path}: {key} is in {weights[key].file} as well")
            if isinstance(opened, Mapping):
                shape, dtype = opened[key].shape, opened[key].dtype
            else:
                piece = opened.get_slice(key)
                shape, dtype = piece.get_shape(), DTYPES.get(piece.get_dtype(), piece.get_dtype())
            if dtype not in DTYPES.values():
                raise InputError(f"{path}: {key} is {dtype}; weights should be float16, bfloat16 or float32")
            weights[key] = Weight(path, key, tuple(shape), dtype)
    return weights


@lru_cache(maxsize=1)
def open_weights(path: Path) -> Any:
    """A safetensors file, or the tensors of a .bin file by name: mapped, not read, and never unpickled into anything else."""
    try:
        if path.suffix == ".safetensors":
            return safe_open(path, "pt")
        # The format that torch.save() had before version 1.6 cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as e:  # broken files fail in every way
        reason = next(iter(str(e).splitlines()), type(e).__name__)
        raise InputError(f"{path}: is not a file of weights, or is broken ({reason[:200]})") from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: should hold weights by name")
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided):
            raise InputError(f"{path}: {key} is not a tensor; the file should hold weights by name")
    return state


def read(weight: Weight) -> torch.Tensor:
    opened = open_weights(weight.file)
    return opened[weight.key] if isinstance(opened, Mapping) else opened.get_tensor(weight.key)


def write_weights(made: Path, folders: Mapping[str, Mapping[str, Weight]], beside: Path) -> None:
    """Safetensors of at most PIECE bytes below `made`, in each of `folders`, with an index where there are several.

    Each is written to the file `beside` and appears whole; those that are there are taken to be.
    """
    work = []
    for folder, weights in folders.items():
        (made / folder).mkdir(exist_ok=True)
        empty = {name: torch.empty(w.shape, dtype=w.dtype, device="meta") for name, w in weights.items()}
        split = split_torch_state_dict_into_shards(empty, max_shard_size=PIECE)
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            write_json(made / folder / "model.safetensors.index.json", index)
        work += [(made / folder / file, {n: weights[n] for n in names}) for file, names in split.filename_to_tensors.items()]
    left = [(path, weights) for path, weights in work if not path.exists()]
    if len(left) < len(work):
        print(f"{len(work) - len(left)} of {len(work)} files of weights are there from an earlier run", flush=True)
    for path, weights in command.progress(left, len(left), "weights", "files"):
        write_piece(path, weights, beside)


def write_piece(path: Path, weights: Mapping[str, Weight], beside: Path) -> None:
    # Copies, as safetensors takes no views and no tensor twice, of which a .bin file can consist.
    tensors = {name: read(weight).clone(memory_format=torch.contiguous_format) for name, weight in weights.items()}
    try:
        save_file(tensors, beside, metadata={"format": "pt"})
    except SafetensorError as e:
        raise InputError(f"{path}: cannot be written ({e})") from None
    with open(beside, "rb") as f:
        os.fsync(f.fileno())
    os.replace(beside, path)
