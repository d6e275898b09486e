"""Files of weights: every form that torch.save() and safetensors write is read to the bit; pieces are written whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blsp.base.files import InputError, read_json
from blsp.model import weight_files
from blsp.model.weight_files import list_weights, read, write_weights

NONE = re.compile(r"(?!)")


def state() -> dict[str, torch.Tensor]:
    """With views of one storage, one that is not contiguous, one tensor under two names, and a scalar."""
    whole = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    return {
        "first": whole[:2],
        "last": whole[2:],
        "turned": whole.t(),
        "tied": whole[:2],
        "half": whole.half(),
        "one": whole[0, 0],
    }


@pytest.mark.parametrize("modern", [True, False])
def test_bin_files_of_both_forms_are_read_and_written_as_safetensors(tmp_path: Path, modern: bool, monkeypatch) -> None:
    """The older of torch.save()'s forms cannot be mapped."""
    monkeypatch.setattr(weight_files, "PIECE", 200)
    torch.save(state(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=modern)
    listed = list_weights(tmp_path, NONE)
    (tmp_path / "made").mkdir()
    write_weights(tmp_path / "made", {"part": listed}, tmp_path / "beside")
    again = list_weights(tmp_path / "made/part", NONE)
    assert again.keys() == listed.keys() == state().keys()
    for name, value in state().items():
        assert torch.equal(read(again[name]), value) and again[name].dtype == value.dtype == listed[name].dtype
        assert listed[name].n_bytes == value.numel() * value.element_size()
    pieces = read_json(tmp_path / "made/part/model.safetensors.index.json")["weight_map"]
    assert len(set(pieces.values())) > 2
    assert {key: file for file in set(pieces.values()) for key in load_file(tmp_path / "made/part" / file)} == pieces
    assert not (tmp_path / "beside").exists()


def test_ignored_names_are_not_looked_at(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2), "a.steps": torch.ones(2, dtype=torch.int64)}, tmp_path / "pytorch_model.bin")
    assert list(list_weights(tmp_path, re.compile(r".*\.steps"))) == ["a.weight"]
    with pytest.raises(InputError, match=r"pytorch_model.bin: a.steps is torch.int64; weights should be float16"):
        list_weights(tmp_path, NONE)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin: should hold weights by name"):
        list_weights(tmp_path, NONE)
