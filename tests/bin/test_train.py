"""Training: killed and resumed is never killed; what redoes it; processes and micro-batches change nothing."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import World, mtimes, run_program, start, wait
from safetensors.torch import load_file

from blsp.base.config import load_config
from blsp.base.files import InputError, read_json
from blsp.training.trainer import schedule

NOISE = "--noise=0.3"


def train(world: World, exp_dir: Path, *overrides: str, patch=lambda: None, **how) -> int:
    arguments = ("--config", world.config, "--data-dir", world.data, "--exp-dir", exp_dir, "--", *overrides)
    return run_program("train", *arguments, log=exp_dir.with_suffix(".log"), patch=patch, **how)


def weights(exp_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(exp_dir / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def trained(prepared: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that was never killed, with noise."""
    exp_dir = tmp_path_factory.mktemp("trained") / "exp"
    assert train(prepared, exp_dir, NOISE) == 0, exp_dir.with_suffix(".log").read_text()
    return exp_dir


def kill_at_step(step: int):
    def patch() -> None:
        from blsp.training.trainer import AlignmentBrain

        fit_batch = AlignmentBrain.fit_batch

        def dying(self, batch):
            if self.optimizer_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return fit_batch(self, batch)

        AlignmentBrain.fit_batch = dying

    return patch


def kill_while_saving(files: int):
    """Kill when so many files of checkpoints have been written, half of the next one included."""

    def patch() -> None:
        save, count = torch.save, [0]

        def dying(value, path, *args, **kwargs):
            save(value, path, *args, **kwargs)
            count[0] += 1
            if count[0] > files:
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        torch.save = dying

    return patch


def test_an_experiment_holds_what_was_trained_and_how(trained: Path, prepared: World) -> None:
    assert {p.name for p in trained.iterdir()} == {"config.yaml", "model", "tensorboard", "train.log"}
    log = (trained / "train.log").read_text()
    assert re.search(r"step 12 of 12: loss \d+\.\d{4}, lr .*, gradient norm .*, .* pairs/s", log)
    assert re.search(r"step 4: dev loss \d", log)
    prompts = re.findall(r"(?:text|speech) prompt: +(\[.*?\]) \+ .* \+ (\[.*?\])$", log, re.MULTILINE)
    assert len(prompts) == 2
    assert prompts[0] == prompts[1]
    config = read_json(trained / "model" / "config.json")
    assert config["provenance"]["steps"] == 12
    assert config["provenance"]["corpus"]["licence"] == "none"
    assert set(weights(trained)) == {f"adapter.{name}" for name in (
        *(f"convolutions.{i}.{part}" for i in range(3) for part in ("weight", "bias")),
        "down.weight", "up.weight", "norm.weight", "norm.bias")}  # fmt: skip
    assert load_config(trained / "config.yaml", ["--lr=1"])["noise"] == 0.3


def test_loss_falls(trained: Path) -> None:
    dev = [float(x) for x in re.findall(r"dev loss ([\d.]+)", (trained / "train.log").read_text())]
    assert len(dev) == 4  # after steps 4, 8, 12 and at the end
    assert dev[-1] < dev[0]


def test_tensorboard_holds_curves_examples_and_audio(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/lr", "train/grad_norm", "train/pairs_per_second", "dev/loss"} <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("train/loss")] == [2, 4, 6, 8, 10, 12]
    assert len(tags["audio"]) == 1
    assert {"example/asr/text_summary", "example/color/text_summary"} <= set(tags["tensors"])


@pytest.mark.parametrize("step", [1, 6, 9])
def test_killed_and_resumed_is_never_killed(trained: Path, prepared: World, tmp_path: Path, step: int) -> None:
    """Before the first checkpoint, at the end of an epoch, and in the second one."""
    exp_dir = tmp_path / "exp"
    assert train(prepared, exp_dir, NOISE, patch=kill_at_step(step)) == -signal.SIGKILL
    assert not (exp_dir / "model").exists()
    assert train(prepared, exp_dir, NOISE) == 0
    if step > 1:
        assert f"continues after step {step - step % 2} of 12" in (exp_dir / "train.log").read_text()
    expected = weights(trained)
    assert all(torch.equal(value, expected[name]) for name, value in weights(exp_dir).items())


@pytest.mark.parametrize("files", [0, 7])
def test_a_kill_while_a_checkpoint_is_saved_leaves_the_one_before(
    trained: Path, prepared: World, tmp_path: Path, files: int
) -> None:
    exp_dir = tmp_path / "exp"
    assert train(prepared, exp_dir, NOISE, patch=kill_while_saving(files)) == -signal.SIGKILL
    assert train(prepared, exp_dir, NOISE) == 0, exp_dir.with_suffix(".log").read_text()
    expected = weights(trained)
    assert all(torch.equal(value, expected[name]) for name, value in weights(exp_dir).items())


def test_a_checkpoint_holds_no_frozen_weights(prepared: World, tmp_path: Path) -> None:
    exp_dir = tmp_path / "exp"
    train(prepared, exp_dir, patch=kill_at_step(5))
    sizes = [p.stat().st_size for p in (exp_dir / "checkpoints").rglob("*") if p.is_file()]
    adapter = 4 * sum(value.numel() for value in torch.load(next(exp_dir.rglob("trained.ckpt"))).values())
    assert sum(sizes) < 3 * adapter + 50_000  # weights and Adam's two moments
    assert len(list(exp_dir.rglob("WHOLE"))) == 1, "older checkpoints are left"


def test_what_is_trained_is_not_trained_again(trained: Path, prepared: World, tmp_path: Path) -> None:
    """Not by the same configuration, its keys in another order, or settings of reports only."""
    exp_dir = tmp_path / "exp"
    shutil.copytree(trained, exp_dir)
    before = mtimes(exp_dir / "model")
    head, *blocks = re.split(r"\n(?=[a-z])", prepared.config.read_text().strip())
    shuffled = tmp_path / "shuffled.yaml"
    shuffled.write_text("\n".join([*reversed(blocks), head]) + "\n")
    arguments = ("--data-dir", prepared.data, "--exp-dir", exp_dir, "--", NOISE)
    for config, more in ((prepared.config, []), (shuffled, []), (prepared.config, ["--log-interval=1", "--examples=1"])):
        assert run_program("train", "--config", config, *arguments, *more, log=tmp_path / "log") == 0
        assert mtimes(exp_dir / "model") == before
    assert (tmp_path / "log").read_text().count("is there, trained with these data and settings") == 3


def test_other_settings_or_responses_are_trained_anew(trained: Path, prepared: World, copy_of, tmp_path: Path) -> None:
    exp_dir = tmp_path / "exp"
    shutil.copytree(trained, exp_dir)
    before = weights(exp_dir)
    world = copy_of(prepared)
    assert train(world, exp_dir, NOISE, "--lr=1e-3", "--epochs=1") == 0
    assert read_json(exp_dir / "model/config.json")["provenance"]["steps"] == 6
    assert not torch.equal(weights(exp_dir)["adapter.down.weight"], before["adapter.down.weight"])
    path = world.data / "train_clean_100/responses.repetition.jsonl"
    path.write_text(path.read_text().replace('"finish_reason": "stop"', '"finish_reason": "length"', 1))
    model = mtimes(exp_dir / "model")
    assert train(world, exp_dir, NOISE, "--lr=1e-3", "--epochs=1") == 0
    assert mtimes(exp_dir / "model") != model


def test_micro_batches_do_not_change_what_is_trained(prepared: World, tmp_path: Path) -> None:
    results = []
    for i, tokens in enumerate((1, 100000)):
        exp_dir = tmp_path / str(i)
        assert train(prepared, exp_dir, "--epochs=1", "--batch_size=12", f"--max_tokens={tokens}") == 0
        results.append(weights(exp_dir))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-4, rtol=1e-3)


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def losses_and_norms(exp_dir: Path) -> list[float]:
    return [float(x) for x in re.findall(r"(?:loss|gradient norm) ([\d.]+)", (exp_dir / "train.log").read_text())]


def test_two_processes_train_what_one_trains(prepared: World, tmp_path: Path) -> None:
    from conftest import call

    from blsp.base import command

    alone, together = tmp_path / "alone", tmp_path / "together"
    assert train(prepared, alone, "--epochs=1") == 0
    arguments = ("--config", prepared.config, "--data-dir", prepared.data, "--exp-dir", together, "--", "--epochs=1")
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "GLOO_SOCKET_IFNAME": "lo"}
    importlib.import_module("blsp.training.adapter_training")
    pids = [
        start(
            lambda: command.run(lambda: call("train", *arguments)),
            tmp_path / f"rank{rank}.log",
            {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [wait(pid) for pid in pids] == [0, 0], (tmp_path / "rank1.log").read_text()
    assert losses_and_norms(together) == pytest.approx(losses_and_norms(alone), abs=2e-3)
    for name, value in weights(together).items():
        torch.testing.assert_close(value, weights(alone)[name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_torchrun_trains_what_one_process_trains(prepared: World, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert train(prepared, alone, "--epochs=1") == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "blsp.bin.train"]
    arguments = ["--config", prepared.config, "--data-dir", prepared.data, "--exp-dir", together, "--", "--epochs=1"]
    subprocess.run([*torchrun, *arguments], check=True)
    assert losses_and_norms(together) == pytest.approx(losses_and_norms(alone), abs=2e-3)
    for name, value in weights(together).items():
        torch.testing.assert_close(value, weights(alone)[name], atol=1e-4, rtol=1e-3)


def test_schedules() -> None:
    for name, expected in (("constant", [1, 1, 1]), ("linear", [1, 0.5, 0]), ("cosine", [1, 0.5, 0])):
        factor = schedule(name, 4, 24)
        assert [factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1]
        assert [factor(i) for i in (4, 14, 24)] == pytest.approx(expected)
    with pytest.raises(InputError, match="'poly' is not one of constant, linear, cosine"):
        schedule("poly", 4, 24)
