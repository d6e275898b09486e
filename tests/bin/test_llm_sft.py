"""Instruction tuning of the LLM: what is a target, what a step takes, kills and resumption, processes, the saved folder."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SENTENCES, World, call, load_file, mtimes, plain_llm, run_program, start, wait
from safetensors.torch import load_file as load_weights
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from blsp.base import command
from blsp.base.config import load_config
from blsp.base.files import InputError, read_json, write_jsonl
from blsp.model.prompts import Prompter
from blsp.training.dataset import StepSampler
from blsp.training.instruction_tuning import IGNORED, InstructionData, InstructionTrainer, load_trainable, predict, read_rows

CONFIG = ROOT / "recipes/alpaca/conf/sft.yaml"
SETTINGS = ("--seed=7", "--epochs=2", "--batch_size=8", "--max_tokens=120", "--dev_sets=[dev]", "--lr=3e-3", "--warmup_steps=2",
            "--schedule=cosine", "--log_interval=1", "--dev_interval=4", "--checkpoint_interval=2",
            "--gradient_checkpointing=false")  # fmt: skip
NOISE = "--neftune_alpha=5"
N_STEPS = 6  # of these settings: 2 epochs of 26 // 8


def row(i: int) -> dict[str, str]:
    task = ("repeat", "count")[i % 2]
    sentence = SENTENCES[7 * i]
    if task == "repeat":
        return {"instruction": f"Please repeat the following words. {sentence}", "output": sentence, "task": task}
    return {"instruction": f"How many words? {sentence}", "output": str(len(sentence.split())), "task": task}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training and a dev set, as stage 0 writes them, and one without tasks."""
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "alpaca.jsonl", (row(i) for i in range(26)))
    write_jsonl(folder / "dev.jsonl", (row(i) for i in range(40, 47)))
    write_jsonl(folder / "four.jsonl", ({k: v for k, v in row(i).items() if k != "task"} for i in range(4)))
    return folder


def arguments(data: Path, world: World, exp_dir: Path, *overrides: str) -> list[object]:
    return ["--config", CONFIG, "--data-dir", data, "--exp-dir", exp_dir, "--", f"--llm={world.llm}", *SETTINGS, *overrides]


def tune(data: Path, world: World, exp_dir: Path, *overrides: str, patch=lambda: None, **how) -> int:
    words = arguments(data, world, exp_dir, *overrides)
    return run_program("llm_sft", *words, log=exp_dir.with_suffix(".log"), patch=patch, **how)


def weights(exp_dir: Path) -> dict[str, torch.Tensor]:
    return load_weights(exp_dir / "model" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def told(exp_dir: Path) -> list[float]:
    """Losses and gradient norms of train.log."""
    return [float(x) for x in re.findall(r"(?:loss|gradient norm) ([\d.]+)", (exp_dir / "train.log").read_text())]


@pytest.fixture(scope="module")
def tuned(data: Path, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that was never killed, with noise."""
    exp_dir = tmp_path_factory.mktemp("tuned") / "exp"
    assert tune(data, world, exp_dir, NOISE) == 0, exp_dir.with_suffix(".log").read_text()
    return exp_dir


@pytest.fixture(scope="module")
def prompter(world: World) -> Prompter:
    return Prompter(AutoTokenizer.from_pretrained(world.llm))


def examples(data: Path, prompter: Prompter, name: str = "alpaca", max_length: int = 100) -> InstructionData:
    return InstructionData(read_rows(data, [name]), prompter, max_length)


def test_an_example_is_the_prompt_that_speech_stands_in_later(prompter: Prompter) -> None:
    """A row of stage 0, instruction and input in one text, has the ids of the adapter's prompt around a transcript."""
    convert = load_file(ROOT / "recipes/alpaca/local/prepare.py").convert
    instruction, transcript, output = "Please repeat the following words.", SENTENCES[5], "a red lamp"
    merged = convert({"instruction": instruction, "input": transcript, "output": output})
    apart = {"instruction": instruction, "input": transcript, "output": output}
    prompt = prompter.prompt(instruction)
    expected = [*prompt.prefix, *prompter.content(transcript), *prompt.suffix, *prompter.response(output)]
    for one in (merged, apart):
        ((ids, begin, _),) = InstructionData([("here", one)], prompter, 100).examples
        assert ids.tolist() == expected
        assert ids[begin:].tolist() == prompter.response(output)


def test_targets_are_the_responses_with_their_end_and_nothing_else(data: Path, prompter: Prompter) -> None:
    rows = examples(data, prompter)
    batch = rows[(0, 1, 2)]
    for i, (ids, targets) in enumerate(zip(batch.ids, batch.targets, strict=True)):
        is_target = targets != IGNORED
        assert targets[is_target].tolist() == prompter.response(row(i)["output"])
        assert targets[is_target][-1] == prompter.tokenizer.eos_token_id
        (first, *_), n = is_target.nonzero().flatten().tolist(), int(is_target.sum())
        assert ids[: first + 1].tolist() == prompter.text_prompt(row(i)["instruction"], "")
        assert ids[first + 1 : first + n].tolist() == targets[is_target][:-1].tolist(), "each target is the next token"


def test_a_batch_has_the_loss_of_its_examples_alone(data: Path, prompter: Prompter, world: World) -> None:
    llm, rows = load_trainable(world.llm, 1, False), examples(data, prompter)
    with torch.no_grad():
        together, right = predict(llm, rows[(0, 1, 2, 3)])
        alone = [predict(llm, rows[(i,)]) for i in range(4)]
    assert float(together) == pytest.approx(sum(float(loss) for loss, _ in alone), rel=1e-6)
    assert right.tolist() == [bool(r) for _, r in alone]
    ids, begin, _ = rows.examples[0]
    ids = torch.from_numpy(ids).long()
    log_p = llm(input_ids=ids[None]).logits[0].detach().log_softmax(-1)
    expected = -sum(log_p[i - 1, ids[i]] for i in range(begin, len(ids)))
    assert float(alone[0][0]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_a_step_takes_the_same_examples_whatever_the_number_of_processes(
    data: Path, prompter: Prompter, world_size: int
) -> None:
    rows = examples(data, prompter)

    def steps(*rank: int) -> list[list[tuple[int, ...]]]:
        return list(StepSampler(rows, {"instruction": 1}, 8, 120, 1, *rank))

    alone, shared = steps(), [steps(rank, world_size) for rank in range(world_size)]
    assert len(alone) == 3
    for number, step in enumerate(alone):
        parts = [micro_batch for process in shared for micro_batch in process[number]]
        assert sorted(sum(parts, ())) == sorted(sum(step, ()))
        assert len(sum(step, ())) == 8


def test_an_experiment_holds_what_was_tuned_and_how(tuned: Path) -> None:
    assert {p.name for p in tuned.iterdir()} == {"config.yaml", "left_out.tsv", "model", "tensorboard", "train.log"}
    log = (tuned / "train.log").read_text()
    assert re.search(r"step 6 of 6: loss \d+\.\d{4}, lr .*, gradient norm .*, .* examples/s", log)
    assert [int(n) for n in re.findall(r"step (\d+): dev loss", log)] == [4, 6]
    assert "26 examples with" in log
    provenance = read_json(tuned / "model" / "provenance.json")
    assert (provenance["steps"], provenance["examples"]) == (N_STEPS, 26)
    assert provenance["corpus"]["licence"] == "CC BY-NC 4.0"
    assert load_config(tuned / "config.yaml", ["--lr=1"])["neftune_alpha"] == 5


def test_tensorboard_holds_the_curves_also_by_task(tuned: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tuned / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"train/{n}" for n in ("loss", "lr", "grad_norm", "examples_per_second")} | {
        f"dev/{n}" for n in ("loss", "exact_match", "repeat.exact_match", "count.exact_match")
    }
    assert [e.step for e in events.Scalars("train/loss")] == list(range(1, N_STEPS + 1))
    assert all(0 <= e.value <= 1 for e in events.Scalars("dev/exact_match"))


def test_the_saved_folder_is_a_plain_llm_with_the_weights_that_were_tuned(tuned: Path, world: World) -> None:
    folder = tuned / "model"
    llm, tokenizer = plain_llm(str(folder))  # as the recipes of speech load it
    before, original = AutoModelForCausalLM.from_pretrained(world.llm), AutoTokenizer.from_pretrained(world.llm)
    assert type(llm) is type(before)
    config, old = read_json(folder / "config.json"), read_json(world.llm / "config.json")
    assert {key for key in config if config[key] != old.get(key)} <= {"dtype", "transformers_version"}
    prompts = [Prompter(t).text_prompt("Who finds it?", SENTENCES[3]) for t in (tokenizer, original)]
    assert prompts[0] == prompts[1]
    ids = torch.tensor([prompts[0]])
    state = weights(tuned)
    assert state.keys() == before.state_dict().keys()
    assert not any(torch.equal(value, before.state_dict()[name]) for name, value in state.items()), "all are trained"
    before.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(llm(input_ids=ids).logits, before.eval()(input_ids=ids).logits)


def kill_at_step(step: int):
    def patch() -> None:
        training_step = InstructionTrainer.training_step

        def dying(self, *args):
            if self.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return training_step(self, *args)

        InstructionTrainer.training_step = dying

    return patch


def kill_while_saving(number: int):
    """Kill before checkpoint `number` is whole."""

    def patch() -> None:
        touch, count = Path.touch, [0]

        def dying(self, *args, **kwargs):
            count[0] += self.name == "WHOLE"
            if count[0] > number:
                os.truncate(next(self.parent.glob("*.safetensors")), 100)
                os.kill(os.getpid(), signal.SIGKILL)
            return touch(self, *args, **kwargs)

        Path.touch = dying

    return patch


@pytest.mark.parametrize("step", [1, 3, 5])
def test_killed_and_resumed_is_never_killed(tuned: Path, data: Path, world: World, tmp_path: Path, step: int) -> None:
    """Before the first checkpoint, at the end of an epoch, and in the second one."""
    exp_dir = tmp_path / "exp"
    assert tune(data, world, exp_dir, NOISE, patch=kill_at_step(step)) == -signal.SIGKILL
    assert not (exp_dir / "model").exists()
    assert tune(data, world, exp_dir, NOISE) == 0, exp_dir.with_suffix(".log").read_text()
    assert (f"continues after step {step - step % 2} of 6" in (exp_dir / "train.log").read_text()) == (step > 1)
    assert same(weights(exp_dir), weights(tuned))


@pytest.mark.parametrize("number", [0, 1])
def test_a_kill_while_a_checkpoint_is_saved_leaves_the_one_before(
    tuned: Path, data: Path, world: World, tmp_path: Path, number: int
) -> None:
    exp_dir = tmp_path / "exp"
    assert tune(data, world, exp_dir, NOISE, patch=kill_while_saving(number)) == -signal.SIGKILL
    assert tune(data, world, exp_dir, NOISE) == 0, exp_dir.with_suffix(".log").read_text()
    assert same(weights(exp_dir), weights(tuned))


def test_what_is_tuned_is_not_tuned_again(tuned: Path, data: Path, world: World, tmp_path: Path) -> None:
    exp_dir = tmp_path / "exp"
    shutil.copytree(tuned, exp_dir)
    before = mtimes(exp_dir / "model")
    for more in ([], ["--log_interval=3", "--gradient_checkpointing=true"]):
        assert tune(data, world, exp_dir, NOISE, *more) == 0
        assert mtimes(exp_dir / "model") == before
    assert exp_dir.with_suffix(".log").read_text().count("is there, trained with these data and settings") == 2
    assert tune(data, world, exp_dir, NOISE, "--epochs=1") == 0
    assert read_json(exp_dir / "model" / "provenance.json")["steps"] == 3
    assert not same(weights(exp_dir), weights(tuned))


def test_nothing_heavy_is_imported_where_there_is_nothing_to_do(tuned: Path, data: Path, world: World) -> None:
    words = [str(word) for word in arguments(data, world, tuned, NOISE)]
    code = (
        f"import sys; sys.argv[1:] = {words!r}; from blsp.bin import llm_sft; llm_sft.main(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_micro_batches_and_gradient_checkpointing_do_not_change_what_is_tuned(data: Path, world: World, tmp_path: Path) -> None:
    results = []
    for i, how in enumerate((("--max_tokens=1",), ("--max_tokens=100000", "--gradient_checkpointing=true"))):
        assert tune(data, world, tmp_path / str(i), "--epochs=1", "--weight_decay=0", *how) == 0
        results.append(told(tmp_path / str(i)))
    assert results[0] == pytest.approx(results[1], abs=2e-3)


def together(data: Path, world: World, exp_dir: Path, n: int, *overrides: str, patch=lambda: None) -> list[int]:
    """Statuses of n processes that tune one LLM, as torchrun would start them."""
    importlib.import_module("blsp.bin.llm_sft")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    env = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    words = arguments(data, world, exp_dir, *overrides)

    def action() -> None:
        patch()
        command.run(lambda: call("llm_sft", *words))

    logs = [exp_dir.with_name(f"{exp_dir.name}.rank{rank}.log") for rank in range(n)]
    pids = [start(action, logs[r], {**env, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(n)]
    return [wait(pid) for pid in pids]


@pytest.mark.parametrize("tied", [False, True])
def test_two_processes_tune_what_one_tunes(data: Path, world: World, tmp_path: Path, tied: bool) -> None:
    """Losses and gradient norms to 2e-3, weights to 1e-4; each process holds half of the weights. A step of 7 is no multiple
    of 2, and the processes have unlike numbers of micro-batches."""
    llm = tmp_path / "llm"
    shutil.copytree(world.llm, llm)
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(llm, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(llm)
    how = (f"--llm={llm}", "--batch_size=7", "--max_tokens=90", "--gradient_checkpointing=true")

    def only_a_share() -> None:
        training_step = InstructionTrainer.training_step

        def watched(self, model, *args):
            held = [p.to_local().numel() / p.numel() for p in model.parameters()]
            assert max(held) == min(held) == 0.5, held
            return training_step(self, model, *args)

        InstructionTrainer.training_step = watched

    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert tune(data, world, alone, *how) == 0, alone.with_suffix(".log").read_text()
    assert together(data, world, shared, 2, *how, patch=only_a_share) == [0, 0], (tmp_path / "shared.rank0.log").read_text()
    assert told(shared) == pytest.approx(told(alone), abs=2e-3)
    assert weights(shared).keys() == weights(alone).keys()
    assert ("lm_head.weight" in weights(shared)) != tied
    for name, value in weights(shared).items():
        torch.testing.assert_close(value, weights(alone)[name], atol=1e-4, rtol=1e-3)


def test_what_two_processes_began_one_can_finish(data: Path, world: World, tmp_path: Path) -> None:
    alone, exp_dir = tmp_path / "alone", tmp_path / "exp"
    assert tune(data, world, alone) == 0
    assert together(data, world, exp_dir, 2, patch=kill_at_step(3)) == [-signal.SIGKILL] * 2
    assert tune(data, world, exp_dir) == 0, exp_dir.with_suffix(".log").read_text()
    assert "continues after step 2 of 6" in (exp_dir / "train.log").read_text()
    for name, value in weights(exp_dir).items():
        torch.testing.assert_close(value, weights(alone)[name], atol=1e-4, rtol=1e-3)


def test_torchrun_tunes_what_one_process_tunes(data: Path, world: World, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert tune(data, world, alone) == 0
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "blsp.bin.llm_sft",
    ]
    subprocess.run([*torchrun, *map(str, arguments(data, world, shared))], check=True, cwd=ROOT)
    assert told(shared) == pytest.approx(told(alone), abs=2e-3)


def test_four_examples_are_learned_and_the_target_ends_training(data: Path, world: World, tmp_path: Path) -> None:
    exp_dir = tmp_path / "exp"
    how = ("--train_sets=[four]", "--dev_sets=[four]", "--epochs=200", "--lr=1e-2", "--schedule=constant", "--dev_interval=10")
    assert tune(data, world, exp_dir, *how, "--weight_decay=0", "--target_exact_match=1.0", "--log_interval=50") == 0
    log = (exp_dir / "train.log").read_text()
    assert "4 for dev; 200 steps of 4" in log
    assert "100.0 % of responses exactly right" in log
    assert "target_exact_match 1.0 is reached" in log
    assert read_json(exp_dir / "model" / "provenance.json")["steps"] < 200
    llm, tokenizer = plain_llm(str(exp_dir / "model"))
    prompter = Prompter(tokenizer)
    ids = torch.tensor([prompter.text_prompt(row(0)["instruction"], "")])
    written = llm.generate(input_ids=ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    assert written.tolist() == prompter.response(row(0)["output"]), "it stops where the response ends"


def test_an_llm_can_begin_with_random_weights(data: Path, world: World, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(world.llm, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    results = []
    for name in ("first", "second"):
        assert tune(data, world, tmp_path / name, f"--llm={bare}", "--initialize=true", "--epochs=1") == 0
        results.append(weights(tmp_path / name))
    assert same(*results)
    assert not same(results[0], load_weights(world.llm / "model.safetensors"))
    assert tune(data, world, tmp_path / "third", f"--llm={bare}") == 1
    (line,) = (tmp_path / "third.log").read_text().splitlines()
    assert f"llm: {bare} cannot be loaded" in line


def test_long_examples_are_counted_and_named(data: Path, prompter: Prompter, world: World, tmp_path: Path) -> None:
    lengths = [len(ids) for ids, _, _ in examples(data, prompter).examples]
    limit = int(np.median(lengths))
    rows = examples(data, prompter, max_length=limit)
    long = [(f"alpaca.jsonl:{i + 1}", n) for i, n in enumerate(lengths) if n > limit]
    assert rows.left_out == long
    assert len(rows) + len(long) == 26
    exp_dir = tmp_path / "exp"
    assert tune(data, world, exp_dir, f"--max_length={limit}", "--dev_sets=[]", "--dev_examples=0", "--epochs=1") == 0
    lines = (exp_dir / "left_out.tsv").read_text().splitlines()
    assert lines == [f"{place}\t{n} tokens, more than {limit}" for place, n in long]
    assert f"left out {len(long)} examples of more than {limit} tokens" in (exp_dir / "train.log").read_text()
    assert "0 for dev" in (exp_dir / "train.log").read_text()


def test_dev_examples_are_held_out_of_the_training_set(data: Path, world: World, tmp_path: Path) -> None:
    assert tune(data, world, tmp_path / "exp", "--dev_sets=[]", "--dev_examples=500", "--epochs=1") == 0
    assert "24 examples with" in (tmp_path / "exp/train.log").read_text(), "no more than a tenth is held out"
    assert ", 2 for dev" in (tmp_path / "exp/train.log").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--nothing=1"], "has no such key"),
        (["--train_sets=[absent]"], r"absent\.jsonl: cannot be read"),
        (["--dev_sets=[absent]"], r"absent\.jsonl: cannot be read"),
        (["--train_sets=[broken]"], r"broken\.jsonl:2: expected the texts instruction and output"),
        (["--schedule=poly"], "schedule 'poly' is not one of constant, linear, cosine"),
        (["--batch_size=0"], "batch_size '0' is not a whole number above 0"),
        (["--precision=fp8"], "precision: 'fp8'"),
        (["--max_length=3"], "none of 26 examples has at most max_length 3 tokens"),
        (["--dev_sets=[]", "--dev_examples=0", "--target_exact_match=1"], "target_exact_match needs dev examples"),
    ],
)
def test_wrong_values_end_in_one_line(data: Path, world: World, tmp_path: Path, overrides: list[str], message: str) -> None:
    for path in data.glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.jsonl").write_text(json.dumps(row(0)) + '\n{"instruction": "Who?"}\n')
    with pytest.raises(InputError, match=message) as e:
        call("llm_sft", *arguments(tmp_path, world, tmp_path / "exp", *overrides))
    assert "\n" not in str(e.value)


def test_as_a_user_starts_it(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "blsp.bin.llm_sft", *words]
        return subprocess.run(
            program, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    shown = run("--help")
    assert shown.returncode == 0
    assert "reads   DATA_DIR/SET.jsonl" in shown.stdout
    assert "writes  EXP_DIR/{config.yaml" in shown.stdout
    wrong = run("--config", "absent.yaml", "--exp-dir", "exp")
    assert (wrong.returncode, wrong.stderr) == (1, "llm_sft: absent.yaml: cannot be read (No such file or directory)\n")
    assert run("--config", "absent.yaml").returncode == 2  # argparse: --exp-dir is needed
