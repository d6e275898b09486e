"""Files are whole or absent, and their fingerprints follow their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from blsp.base.files import (
    InputError,
    atomic_folder,
    atomic_write,
    file_fingerprint,
    fingerprint,
    model_fingerprint,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)

ROWS = [{"utt_id": "a", "text": "line\nbreak, ü, \u2028 and \x85"}, {"utt_id": "b", "text": ""}]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as f:
        f.write("old")
    with pytest.raises(RuntimeError), atomic_write(path) as f:
        f.write("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_whole_or_absent_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with pytest.raises(RuntimeError), atomic_folder(path) as beside:
        (beside / "half").write_text("of it")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_folder(path) as beside:
        (beside / "whole").write_text("x")
        assert not path.exists()
    assert list(path.parent.iterdir()) == [path] and (path / "whole").read_text() == "x"
    with pytest.raises(InputError, match="is there already"), atomic_folder(path):
        pass


def test_json_lines_keep_every_character(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert read_jsonl(tmp_path / "rows.jsonl") == ROWS
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == len(ROWS)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"utt_id": "a"}\n{"utt_id": "b", "te')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: is not JSON"):
        read_jsonl(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("read", [read_json, read_jsonl, file_fingerprint])
def test_an_absent_file_is_refused_in_one_line(tmp_path: Path, read) -> None:
    with pytest.raises(InputError, match="cannot be read") as e:
        read(tmp_path / "absent")
    assert "\n" not in str(e.value)


def test_json_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"key": list(range(50))})
    cut = (tmp_path / "a.json").read_text()[:40]
    (tmp_path / "a.json").write_text(cut)
    with pytest.raises(InputError, match=r"a\.json: is not JSON, or was cut off"):
        read_json(tmp_path / "a.json")


def test_fingerprint_ignores_the_order_of_keys_only() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_model_fingerprint_sees_weights_and_settings_but_no_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = bytes(range(256)) * 4096 * 3  # 3 MiB
    (folder / "model.safetensors").write_bytes(weights)
    before = model_fingerprint(folder)
    (folder / "README.md").write_text("a card")
    assert model_fingerprint(folder) == before
    (folder / "model.safetensors").write_bytes(weights[:-1] + b"?")
    assert model_fingerprint(folder) != before
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{ }")
    assert model_fingerprint(folder) != before


def test_model_fingerprint_does_not_depend_on_the_folders_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert model_fingerprint(tmp_path / "a") == model_fingerprint(tmp_path / "b")
