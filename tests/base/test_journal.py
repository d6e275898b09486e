"""The journal: rows survive a kill, other settings' rows do not count, several processes share one output."""

from __future__ import annotations

from pathlib import Path

from blsp.base.files import read_jsonl
from blsp.base.journal import Journal


def row(utt_id: str, value: int = 0) -> dict:
    return {"utt_id": utt_id, "value": value}


def test_the_output_appears_only_when_complete_and_in_the_given_order(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.jsonl"
    journal = Journal(output, "f")
    journal.append([row("c"), row("a")])
    assert not journal.finish(["a", "b", "c"])
    assert not output.exists()
    journal.append([row("b")])
    assert journal.finish(["a", "b", "c"])
    assert read_jsonl(output) == [row("a"), row("b"), row("c")]
    assert list(output.parent.iterdir()) == [output], "part files are left"


def test_rows_survive_a_kill_and_a_torn_line_is_as_if_never_written(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    journal = Journal(output, "f")
    journal.append([row("a"), row("b")])
    torn = journal.part.read_bytes()[:-9]
    journal.part.write_bytes(torn)  # a kill while b was written
    journal = Journal(output, "f")
    assert list(journal.rows) == ["a"]
    journal.append([row("b", 1), row("c")])
    journal = Journal(output, "f")
    assert journal.rows == {"a": row("a"), "b": row("b", 1), "c": row("c")}
    assert journal.finish(["a", "b", "c"])


def test_a_line_torn_within_a_character_is_as_if_never_written(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    journal = Journal(output, "f")
    journal.append([row("a"), {"utt_id": "ü"}])
    content = journal.part.read_bytes()
    journal.part.write_bytes(content[: content.index("ü".encode()) + 1])
    journal = Journal(output, "f")
    journal.append([row("b")])
    assert list(Journal(output, "f").rows) == ["a", "b"]


def test_rows_of_other_settings_do_not_count(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    Journal(output, "old").append([row("a", 1), row("b", 1)])
    journal = Journal(output, "new")
    assert journal.rows == {}
    journal.append([row("a", 2)])
    assert not journal.finish(["a", "b"])
    assert list(Journal(output, "old").rows) == ["a", "b"]


def test_shards_meet_in_one_output(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first, second = Journal(output, "f", 0, 2), Journal(output, "f", 1, 2)
    first.append([row("a")])
    assert not first.finish(["a", "b"])
    second.append([row("b")])
    assert second.finish(["a", "b"])
    assert read_jsonl(output) == [row("a"), row("b")]
    assert not list(tmp_path.glob("*.part*"))


def test_another_number_of_shards_keeps_the_rows(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    for shard in range(3):
        Journal(output, "f", shard, 7).append([row(f"u{shard}")])
    assert sorted(Journal(output, "f").rows) == ["u0", "u1", "u2"]


def test_two_shards_that_finish_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first, second = Journal(output, "f", 0, 2), Journal(output, "f", 1, 2)
    first.append([row("a")])
    second.append([row("b")])
    parts = second._parts()
    assert first.finish(["a", "b"])
    second._parts = lambda: parts  # it had listed them before the first removed them
    second.finish(["a", "b"])
    assert read_jsonl(output) == [row("a"), row("b")]
