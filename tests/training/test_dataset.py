"""Pairs and their batches: what becomes a target, what is refused, and the token budget."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import World
from transformers import AutoTokenizer

from blsp.base.files import InputError, read_jsonl, write_jsonl
from blsp.data.data_dir import read_table
from blsp.data.mel import read_features
from blsp.model.prompts import Prompter
from blsp.training.dataset import AlignmentData, Lines, Pairs, StepSampler

SETS = ["train_clean_100"]
BOTH = {"continuation": 1, "repetition": 1}


@pytest.fixture(scope="module")
def prompter(world: World) -> Prompter:
    return Prompter(AutoTokenizer.from_pretrained(world.llm))


@pytest.fixture(scope="module")
def data(prepared: World, prompter: Prompter) -> AlignmentData:
    return AlignmentData(prepared.data, SETS, BOTH, prompter)


def change(world: World, behaviour: str, edit: Callable[[list[dict]], list[dict]]) -> None:
    path = world.data / SETS[0] / f"responses.{behaviour}.jsonl"
    write_jsonl(path, edit(read_jsonl(path)))


def test_a_batch_holds_the_features_prompt_and_response_of_each_utterance(prepared: World, data: AlignmentData) -> None:
    places = read_table(prepared.data / SETS[0] / "feats.scp")
    rows = [row for b in BOTH for row in read_jsonl(prepared.data / SETS[0] / f"responses.{b}.jsonl")]
    assert len(data) == len(rows) == 48
    key = (47, 0, 13, 30)
    batch = data[key]
    for i, number in enumerate(key):
        row = rows[number]
        assert torch.equal(batch.features[i], read_features(places[row["utt_id"]]))
        assert batch.prompts[i] == data.prompter.prompt(row["instruction"])
        assert batch.responses[i] == data.prompter.response(row["response"], row["finish_reason"] == "stop")


def test_a_response_that_was_cut_off_has_no_end_of_sequence_target(data: AlignmentData) -> None:
    eos = data.prompter.tokenizer.eos_token_id
    reasons = [row["finish_reason"] for pairs in data.pairs for row in read_jsonl(pairs.responses.path)]
    assert set(reasons) == {"stop", "length"}
    for number, reason in enumerate(reasons):
        (response,) = data[(number,)].responses
        assert (response[-1] == eos) == (reason == "stop")
        assert eos not in response[:-1]


def test_empty_and_refused_responses_are_counted_and_never_targets(prepared, copy_of, prompter: Prompter) -> None:
    world = copy_of(prepared)

    def edit(rows: list[dict]) -> list[dict]:
        rows[0] |= {"finish_reason": "refusal", "response": "i'm sorry"}
        rows[5] |= {"finish_reason": "empty", "response": ""}
        rows[9] |= {"finish_reason": "empty", "response": ""}
        return rows

    change(world, "repetition", edit)
    data = AlignmentData(world.data, SETS, BOTH, prompter)
    assert len(data) == 45
    assert data.pairs[1].left_out == {"refusal": 1, "empty": 2}
    assert all(data[(i,)].responses[0] for i in range(len(data)))
    kept = [row["utt_id"] for i, row in enumerate(read_jsonl(data.pairs[1].responses.path)) if i not in (0, 5, 9)]
    assert [data.pairs[1][i][1]["utt_id"] for i in range(21)] == kept


@pytest.mark.parametrize(
    ("edit", "pattern"),
    [
        (lambda rows: rows[:-1], "23 responses for 24 utterances; run stage 2"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], r"jsonl:1: '.*' where '.*' was expected"),
        (lambda rows: [*rows[:-1], {**rows[-1], "utt_id": "other"}], "jsonl:24: 'other' where"),
    ],
)
def test_responses_that_do_not_cover_the_data_are_refused(prepared, copy_of, prompter, edit, pattern: str) -> None:
    world = copy_of(prepared)
    change(world, "continuation", edit)
    with pytest.raises(InputError, match=pattern) as e:
        AlignmentData(world.data, SETS, BOTH, prompter)
    assert "\n" not in str(e.value)


def test_a_broken_line_of_responses_is_refused_by_its_number(prepared, copy_of) -> None:
    world = copy_of(prepared)
    path = world.data / SETS[0] / "responses.continuation.jsonl"
    lines = path.read_text().split("\n")
    lines[3] = lines[3][:30]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"responses\.continuation\.jsonl:4: "):
        Pairs(world.data / SETS[0], "continuation")


@pytest.mark.parametrize(("name", "stage"), [("feats.scp", 1), ("responses.continuation.jsonl", 2)])
def test_missing_files_name_the_stage_that_writes_them(prepared, copy_of, name: str, stage: int) -> None:
    world = copy_of(prepared)
    (world.data / SETS[0] / name).unlink()
    with pytest.raises(InputError, match=f"{name}: is missing; run stage {stage}"):
        Pairs(world.data / SETS[0], "continuation")


def test_nothing_to_train_on_is_refused(prepared, copy_of, prompter: Prompter) -> None:
    world = copy_of(prepared)
    change(world, "repetition", lambda rows: [{**row, "finish_reason": "empty"} for row in rows])
    with pytest.raises(InputError, match="no pair to train on"):
        AlignmentData(world.data, SETS, {"repetition": 1}, prompter)


def test_lines_are_read_at_random_and_travel_to_other_processes(tmp_path) -> None:
    (tmp_path / "file").write_bytes("one\nzwölf\n\nfour \u2028 4".encode())
    lines = Lines(tmp_path / "file")
    assert [lines[i] for i in (3, 1, 2, 0)] == ["four \u2028 4", "zwölf", "", "one"]
    assert pickle.loads(pickle.dumps(lines))[1] == "zwölf"


def sampler(data: AlignmentData, **changes) -> StepSampler:
    settings = {"mix": BOTH, "batch_size": 8, "max_tokens": 120, "seed": 7, **changes}
    return StepSampler(data, **settings)


def numbers(steps: list[list[tuple[int, ...]]]) -> list[int]:
    return [n for step in steps for micro in step for n in micro]


def test_an_epoch_has_every_pair_once_in_steps_of_the_batch_size(data: AlignmentData) -> None:
    steps = list(sampler(data))
    assert len(steps) == len(sampler(data)) == 6
    assert sorted(numbers(steps)) == list(range(48))
    assert all(sum(map(len, step)) == 8 for step in steps)


def test_micro_batches_keep_the_token_budget_and_one_behaviour(data: AlignmentData) -> None:
    for step in sampler(data):
        for micro in step:
            assert len(micro) == 1 or len(micro) * max(data.n_tokens[list(micro)]) <= 120
            assert len(set(data.behaviour[list(micro)])) == 1
    assert max(len(micro) for step in sampler(data, max_tokens=10**6) for micro in step) > 2
    assert all(len(micro) == 1 for step in sampler(data, max_tokens=1) for micro in step)


def test_epochs_differ_and_seeds_differ_and_both_repeat(data: AlignmentData) -> None:
    one, same, other_seed = sampler(data), sampler(data), sampler(data, seed=8)
    first = list(one)
    assert list(same) == first
    assert list(other_seed) != first
    one.set_epoch(2)
    second = list(one)
    assert second != first
    same.set_epoch(2)
    assert list(same) == second


def test_a_sampler_resumes_within_an_epoch(data: AlignmentData) -> None:
    whole = sampler(data)
    whole.set_epoch(2)
    steps = list(whole)
    resumed = sampler(data)
    resumed.load_state_dict({"epoch": 2, "done": 4})
    resumed.set_epoch(2)
    assert list(resumed) == steps[4:]
    resumed.set_epoch(3)
    assert len(list(resumed)) == 6


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_processes_share_each_step_and_none_is_without_work(data: AlignmentData, world_size: int) -> None:
    alone = [sorted(numbers([step])) for step in sampler(data)]
    ranks = [list(sampler(data, max_tokens=10**6, rank=r, world_size=world_size)) for r in range(world_size)]
    for i, pairs in enumerate(alone):
        shares = [numbers([rank[i]]) for rank in ranks]
        assert all(shares)
        assert sorted(n for share in shares for n in share) == pairs


def test_the_mix_sets_the_share_of_each_behaviour(data: AlignmentData) -> None:
    mixed = sampler(data, mix={"continuation": 4, "repetition": 1})
    counts = Counter(data.behaviour[numbers(list(mixed))].tolist())
    assert mixed.drawn == [24, 6]
    assert sum(counts.values()) == 24  # of 30 pairs three whole steps
    assert counts[1] <= 6
    drawn = set()
    for epoch in range(1, 30):
        mixed.set_epoch(epoch)
        drawn |= {n for n in numbers(list(mixed)) if data.behaviour[n] == 1}
    assert len(drawn) == 24, "the smaller share is drawn anew in each epoch"


def test_a_set_smaller_than_a_batch_is_one_step(data: AlignmentData) -> None:
    (step,) = sampler(data, batch_size=1000)
    assert sorted(numbers([step])) == list(range(48))


def test_the_order_of_pairs_does_not_depend_on_the_budget_or_the_processes(data: AlignmentData) -> None:
    steps = [sorted(numbers([s])) for s in sampler(data)]
    assert [sorted(numbers([s])) for s in sampler(data, max_tokens=10**6)] == steps
    assert np.all([len(s) == 8 for s in steps])
