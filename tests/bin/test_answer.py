"""Answers to files, data directories and JSON lines: as the model gives them, in order, resumable, faults as rows."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import SENTENCES, WINDOW, World, call, mtimes, run_program, speak

from blsp.base.files import InputError, read_jsonl
from blsp.data.data_dir import read_table
from blsp.model.blsp import BLSP
from blsp.model.generation import Decoding

REPEAT = "Please repeat the following words."


@pytest.fixture(scope="module")
def wavs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wavs")
    lengths = (0.5, 1.7, 0.9, 1.3, 2 * WINDOW + 0.1)
    for i, seconds in enumerate(lengths):
        speak(folder / f"{i}.wav", SENTENCES[17 * i], seconds)
    return [str(folder / f"{i}.wav") for i in range(len(lengths))]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch):
    def give(*lines: object) -> None:
        text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return give


def expected(model: Path, wavs: list[str], instruction: str = REPEAT) -> list[str]:
    before = [{"type": "text", "text": instruction}] if instruction else []
    conversations = [[{"role": "user", "content": [*before, {"type": "audio", "audio": wav}]}] for wav in wavs]
    return [g.text for g in BLSP.from_pretrained(model).generate(conversations, Decoding())]


def test_files_are_answered_as_the_model_does_in_their_order(untrained: Path, wavs: list[str], capsys) -> None:
    call("answer", "--model", untrained, "--instruction", REPEAT, "--batch-size", 2, *wavs)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [row["audio"] for row in rows] == wavs
    assert [row["answer"] for row in rows] == expected(untrained, wavs)
    assert {row["instruction"] for row in rows} == {REPEAT}
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}


def test_a_data_directory_is_answered_by_its_utterances(prepared: World, untrained: Path, tmp_path: Path) -> None:
    call("answer", "--model", untrained, "--out", tmp_path / "a.jsonl", prepared.data / "test_clean", "--max-new-tokens", 10)
    wavs = read_table(prepared.data / "test_clean/wav.scp")
    rows = read_jsonl(tmp_path / "a.jsonl")
    assert [row["id"] for row in rows] == list(wavs)
    assert [row["audio"] for row in rows] == list(wavs.values())


def test_lines_have_their_own_instructions_and_faults_are_rows(untrained: Path, wavs: list[str], stdin, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    stdin(
        {"id": "a", "audio": wavs[0]},
        "not json",
        {"id": "b", "audio": wavs[1], "instruction": "Who?"},
        {"id": "a", "audio": wavs[2]},
        {"audio": str(tmp_path / "absent.wav")},
        {"id": "d", "audio": str(tmp_path / "text.wav")},
        "",
        {"id": "e", "audio": 3},
        {"id": "f", "audio": wavs[3], "instruction": ["x"]},
        {"id": "g", "audio": "a\0b"},
        {"id": "h", "audio": wavs[3], "instruction": "x " * 300},
        {"id": 7, "audio": wavs[2]},
    )
    with pytest.raises(InputError, match="8 of 11 inputs have no answer"):
        call("answer", "--model", untrained, "--out", tmp_path / "a.jsonl", "--instruction", REPEAT)
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "a.jsonl")}
    assert [rows[i]["answer"] for i in ("a", "7")] == expected(untrained, [wavs[0], wavs[2]])
    assert [rows["b"]["answer"]] == expected(untrained, wavs[1:2], "Who?")
    faults = {
        "line 2": "is not JSON",
        "input 4": "the id 'a' is input 1's already",
        str(tmp_path / "absent.wav"): "missing audio",
        "d": "undecodable audio",
        "line 8": "should be",
        "f": "the instruction should be a text",
        "g": "the audio should be a path",
        "h": "the LLM's context has 256",
    }
    assert {i: pattern for i, pattern in faults.items() if pattern not in rows[i]["error"]} == {}
    assert list(rows) == ["a", "line 2", "b", "input 4", str(tmp_path / "absent.wav"), "d", "line 8", "f", "g", "h", "7"]


def test_killed_and_resumed_is_never_killed(untrained: Path, wavs: list[str], tmp_path: Path) -> None:
    arguments = ("--model", untrained, "--instruction", REPEAT, "--batch-size", 2, *wavs)

    def patch() -> None:
        from blsp.base.journal import Journal

        append = Journal.append

        def dying(self, rows):
            append(self, rows)
            os.kill(os.getpid(), signal.SIGKILL)

        Journal.append = dying

    def refuse() -> None:
        BLSP.embeds = None  # all it does for an answer would fail

    out = tmp_path / "out" / "a.jsonl"
    assert run_program("answer", *arguments, "--out", out, log=tmp_path / "log", patch=patch) == -signal.SIGKILL
    assert not out.exists() and len(list(out.parent.iterdir())) == 1
    assert run_program("answer", *arguments, "--out", out, log=tmp_path / "log") == 0
    assert [path.name for path in out.parent.iterdir()] == ["a.jsonl"]
    call("answer", *arguments, "--out", tmp_path / "b.jsonl")
    assert out.read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    before = mtimes(out.parent)
    assert run_program("answer", *arguments, "--out", out, log=tmp_path / "log", patch=refuse) == 0
    assert mtimes(out.parent) == before


def test_a_rerun_answers_what_has_changed_and_what_had_no_answer(untrained: Path, wavs: list[str], tmp_path: Path) -> None:
    late, out = tmp_path / "late.wav", tmp_path / "a.jsonl"
    arguments = ("--model", untrained, "--out", out, wavs[0], late)
    with pytest.raises(InputError, match="1 of 2 inputs"):
        call("answer", *arguments)
    first = read_jsonl(out)[0]
    speak(late, SENTENCES[40], 1.0)
    call("answer", *arguments)
    assert read_jsonl(out)[0] == first
    assert [row["answer"] for row in read_jsonl(out)] == expected(untrained, [wavs[0], str(late)], "")
    call("answer", *arguments, "--max-new-tokens", 3)
    assert {row["finish_reason"] for row in read_jsonl(out)} == {"length"}


def test_what_cannot_be_begun_is_refused_in_one_line(untrained: Path, wavs: list[str], tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("hello\n")
    for arguments, pattern in (
        (("--model", tmp_path / "absent", wavs[0]), "config.json: cannot be read"),
        (("--model", untrained, tmp_path), "wav.scp"),
        (("--model", untrained, "--batch-size", 0, wavs[0]), "--batch-size 0"),
        (("--model", untrained, "--temperature", -1, wavs[0]), "temperature at least 0"),
        (("--model", untrained, "--out", tmp_path / "other.txt", wavs[0]), "other.txt:1: is not JSON"),
        (("--model", untrained, "--out", tmp_path, wavs[0]), "Is a directory"),
    ):
        with pytest.raises(InputError, match=pattern) as e:
            call("answer", *arguments)
        assert "\n" not in str(e.value)
