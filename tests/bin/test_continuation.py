"""Behaviour generation: the same file however the work is shared, cut off or batched; nothing empty becomes a target."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import ROOT, World, call, mtimes, run_program

from blsp.base.files import InputError, read_jsonl
from blsp.bin.continuation import instructions_of
from blsp.data.data_dir import read_table, write_table
from blsp.data.writing import APOSTROPHES
from blsp.training.behaviours import is_refusal

SET = "train_clean_100"


def files(data: Path) -> dict[str, bytes]:
    return {str(p.relative_to(data)): p.read_bytes() for p in sorted(data.glob("*/responses.*"))}


def common(world: World, *overrides: str) -> tuple:
    return ("--config", world.config, "--data-dir", world.data, "--", *overrides)


@pytest.fixture
def bare(prepared: World, copy_of) -> World:
    """A copy of the prepared data without responses."""
    world = copy_of(prepared)
    for path in world.data.glob("*/responses.*"):
        path.unlink()
    return world


def test_rows_say_what_was_asked_and_how_it_ended(prepared: World) -> None:
    text = read_table(prepared.data / SET / "text")
    for behaviour in ("continuation", "repetition"):
        rows = read_jsonl(prepared.data / SET / f"responses.{behaviour}.jsonl")
        assert [row["utt_id"] for row in rows] == list(text)
        assert [row["transcript"] for row in rows] == list(text.values())
        assert {row["behaviour"] for row in rows} == {behaviour}
        assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert rows[0]["response"] == rows[0]["transcript"].lower().replace("neighbour", "neighbor")
    assert rows[0]["instruction"] == "Please repeat the following words."


def test_seven_shards_write_what_one_process_writes(prepared: World, bare: World) -> None:
    for shard in (3, 1, 7, 5, 2, 6, 4):
        assert not (bare.data / SET / "responses.continuation.jsonl").exists()
        call("continuation", "--shard", f"{shard}/7", *common(bare))
    assert files(bare.data) == files(prepared.data)


def test_killed_and_resumed_is_never_killed(prepared: World, bare: World, tmp_path: Path) -> None:
    def patch() -> None:
        from blsp.base.journal import Journal

        append, count = Journal.append, [0]

        def dying(self, rows):
            append(self, rows)
            count[0] += 1
            if count[0] == 3:
                os.truncate(self.part, os.path.getsize(self.part) - 7)  # the kill tears the last line
                os.kill(os.getpid(), signal.SIGKILL)

        Journal.append = dying

    log = tmp_path / "log"
    assert run_program("continuation", *common(bare), log=log, patch=patch) == -signal.SIGKILL
    assert not (bare.data / SET / "responses.continuation.jsonl").exists()
    (part,) = (bare.data / SET).glob("*.part-*")
    assert part.read_bytes().count(b"\n") == 14
    assert run_program("continuation", *common(bare), log=log) == 0
    assert files(bare.data) == files(prepared.data)


def test_what_is_there_is_not_written_again(prepared: World) -> None:
    before = mtimes(prepared.data)
    call("continuation", *common(prepared, "--lr=1", "--epochs=7"))
    assert mtimes(prepared.data) == before


def test_another_seed_writes_the_continuations_anew_and_only_them(prepared: World, copy_of) -> None:
    world = copy_of(prepared)
    before = mtimes(world.data, "*/responses.*")
    call("continuation", *common(world, "--generation.seed=5"))
    changed = {name for name, time in mtimes(world.data, "*/responses.*").items() if time != before[name]}
    assert changed == {f"{SET}/responses.continuation.jsonl", "dev_clean/responses.continuation.jsonl"}
    texts = [[r["response"] for r in read_jsonl(w.data / SET / "responses.continuation.jsonl")] for w in (prepared, world)]
    assert texts[0] != texts[1]


def test_sampled_responses_do_not_depend_on_the_batches(prepared: World, bare: World) -> None:
    call("continuation", *common(bare, "--generation_batch=1"))
    for behaviour in ("continuation", "repetition"):
        name = f"{SET}/responses.{behaviour}.jsonl"
        assert [r["response"] for r in read_jsonl(bare.data / name)] == [
            r["response"] for r in read_jsonl(prepared.data / name)
        ]


def test_a_changed_transcript_is_answered_anew(prepared: World, copy_of) -> None:
    world = copy_of(prepared)
    text = read_table(world.data / SET / "text")
    utt_id = list(text)[4]
    write_table(world.data / SET / "text", {**text, utt_id: "QUITE ANOTHER SENTENCE"})
    call("continuation", *common(world))
    rows = {r["utt_id"]: r for r in read_jsonl(world.data / SET / "responses.repetition.jsonl")}
    assert rows[utt_id]["response"] == "quite another sentence"


def test_empty_transcripts_and_refusals_are_named_and_no_targets(prepared: World, bare: World) -> None:
    text = read_table(bare.data / SET / "text")
    empty, refused = list(text)[2], list(text)[3]
    write_table(bare.data / SET / "text", {**text, empty: "UM"})
    written = read_jsonl(prepared.data / SET / "responses.continuation.jsonl")
    start = written[3]["response"].lower()[:4]
    call("continuation", *common(bare, f"--refusals=[{json.dumps(start)}]"))
    rows = {r["utt_id"]: r for b in ("continuation",) for r in read_jsonl(bare.data / SET / f"responses.{b}.jsonl")}
    assert (rows[empty]["finish_reason"], rows[empty]["response"]) == ("empty", "")
    assert rows[refused]["finish_reason"] == "refusal"
    repeated = {r["utt_id"]: r for r in read_jsonl(bare.data / SET / "responses.repetition.jsonl")}
    assert repeated[empty]["finish_reason"] == "empty"
    assert sum(r["finish_reason"] == "empty" for r in rows.values()) == 1


@pytest.mark.parametrize("mark", APOSTROPHES)
@pytest.mark.parametrize("before", ["", "“", "‘", " \n", "**", "> *", "# ", "😔 ", "\ufeff"])
def test_refusals_are_seen_through_apostrophes_quotes_and_markup(mark: str, before: str) -> None:
    refusals = ["i'm sorry", "sorry,", "i can’t"]
    for response in (
        f"I{mark}m sorry, but",
        f"I{mark}M  SORRY",
        "Sorry, I",
        "Sorry**, I",
        f"I can{mark}t hear",
        "Ｓｏｒｒｙ，",
    ):
        assert is_refusal(before + response, refusals)
    for response in ("Sorry tales of old", "I am here", "", "Well, I'm sorry"):
        assert not is_refusal(before + response, refusals)
    assert not is_refusal("anything", ["", "...", "“"])


def test_one_of_many_instructions_is_chosen_for_each_utterance(bare: World) -> None:
    call("continuation", *common(bare, "--mix={transcription: 1}"))
    chosen = {r["utt_id"]: r["instruction"] for r in read_jsonl(bare.data / SET / "responses.transcription.jsonl")}
    assert set(chosen.values()) == {"Transcribe the speech.", "Write down what is said.", "Which words are spoken?"}


def test_the_recipes_hundred_instructions_are_a_hundred() -> None:
    path = ROOT / "recipes/librispeech/conf/transcription_instructions.txt"
    lines = instructions_of("transcription", {"instructions": path, "response": "transcript"})
    assert len(lines) == len(set(lines)) == 100


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("--mix={telling: 1}", "mix names 'telling'"),
        ("--behaviours.continuation.response=write", "'write' is not one of generate, transcript"),
        ("--behaviours.transcription.instructions=absent.txt", "absent.txt: cannot be read"),
        ("--normalizer=upper", "'upper' is not one of"),
        ("--train_sets=[absent]", "absent"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused_in_one_line(bare: World, override: str, pattern: str) -> None:
    overrides = [override, "--mix={transcription: 1}"] if "instructions" in override else [override]
    with pytest.raises(InputError, match=pattern) as e:
        call("continuation", *common(bare, *overrides))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/3"])
def test_shards_that_do_not_exist_are_refused(bare: World, shard: str) -> None:
    with pytest.raises(InputError, match="write I/N"):
        call("continuation", f"--shard={shard}", *common(bare))
