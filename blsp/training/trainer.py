"""SpeechBrain's Brain for behavior alignment, with checkpoints from which training continues exactly."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from torch import distributed
from torch.utils.tensorboard import SummaryWriter

from blsp.base.files import InputError
from blsp.model.blsp import BLSP, Batch
from blsp.model.recognizer import Recognizer
from blsp.training.dataset import StepSampler

WHOLE = "WHOLE"  # written last into a checkpoint's directory


class SafeCheckpointer(Checkpointer):
    """A Checkpointer that knows only whole checkpoints: a kill while one is saved leaves the one before."""

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if if_main_process():
            for path in checkpoint.path.iterdir():
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
            (checkpoint.path / WHOLE).touch()
        ddp_barrier()  # all processes list the same checkpoints before old ones are deleted
        return checkpoint

    def _list_checkpoint_dirs(self) -> list[Path]:
        return [path for path in super()._list_checkpoint_dirs() if (path / WHOLE).exists()]

    def remove_broken(self) -> None:
        """Delete what kills while saving have left."""
        for path in Path(self.checkpoints_dir).iterdir():
            if path.is_dir() and not (path / WHOLE).exists():
                shutil.rmtree(path)


def schedule(name: str, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """Factor on the learning rate after n steps: linear warm-up, then constant, linear or cosine decay to zero."""
    if name not in ("constant", "linear", "cosine"):
        raise InputError(f"schedule: '{name}' is not one of constant, linear, cosine")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        left = max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
        return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[name]

    return factor


class AlignmentBrain(sb.Brain):
    """Trains what is trainable in a BLSP model or a recognizer.

    A batch of the loader is a whole optimizer step: this process' micro-batches.
    Randomness (the adapter's noise) is seeded for each step, so that it needs no state in checkpoints.
    """

    def __init__(
        self,
        model: BLSP | Recognizer,
        optimizer: Callable[..., torch.optim.Optimizer],
        sampler: StepSampler,
        epoch_counter: Iterable[int],
        checkpointer: SafeCheckpointer,
        writer: SummaryWriter | None,
        log: logging.Logger,
        *,
        lr: float,
        factor: Callable[[int], float],
        total_steps: int,
        max_grad_norm: float,
        seed: int,
        log_interval: int,
        dev_interval: int,
        evaluate: Callable[[AlignmentBrain, int], None],
        run_opts: dict[str, Any],
    ):
        super().__init__({"blsp": model}, None, None, run_opts, checkpointer)
        self.model, self.make_optimizer, self.sampler, self.epoch_counter = model, optimizer, sampler, epoch_counter
        self.writer, self.log = writer, log
        self.lr, self.factor, self.total_steps = lr, factor, total_steps
        self.max_norm, self.seed = max_grad_norm, seed
        self.log_interval, self.dev_interval, self.evaluate_dev = log_interval, dev_interval, evaluate
        self.world_size = distributed.get_world_size() if distributed.is_initialized() else 1
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self._since, self._pairs, self._loss, self._targets = time.monotonic(), 0, 0.0, 0

    def init_optimizers(self) -> None:
        self.optimizer = self.make_optimizer(self.trainable, lr=self.lr)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.factor)
        self.checkpointer.add_recoverable(
            "trained",
            self.model,
            custom_save_hook=lambda model, path: if_main_process() and torch.save(model.trained_state(), path),
            custom_load_hook=lambda model, path, *_: model.load_trained_state(torch.load(path, self.device)),
        )
        self.checkpointer.add_recoverable("optimizer", self.optimizer)
        self.checkpointer.add_recoverable("scheduler", self.scheduler)
        self.checkpointer.add_recoverable("sampler", self.sampler, _load_state, _save_state)
        self.checkpointer.add_recoverable("epoch", self.epoch_counter)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.train_sampler = self.sampler  # the Brain tells it the epoch
        if self.optimizer_step:
            self.log.info(f"continues after step {self.optimizer_step} of {self.total_steps}")

    def fit_batch(self, micro_batches: list[Batch]) -> torch.Tensor:
        """One optimizer step. The loss is the mean over all target tokens of the step, however it is cut or shared."""
        torch.manual_seed((self.seed * 1_000_003 + self.optimizer_step) * self.world_size + self.sampler.rank)
        n_targets = torch.tensor(float(sum(len(r) for b in micro_batches for r in b.responses)), device=self.device)
        if self.world_size > 1:
            distributed.all_reduce(n_targets)
        total = torch.zeros((), device=self.device)
        beside: dict[str, torch.Tensor] = {}
        for i, batch in enumerate(micro_batches):
            with self.no_sync(i + 1 < len(micro_batches)):
                loss, _ = self.modules.blsp(batch.to(self.device))
                # DDP averages gradients over processes; the loss is a sum.
                (loss * self.world_size / n_targets).backward()
            total += loss.detach()
            beside = {name: value + beside.get(name, 0.0) for name, value in self.model.reported.items()}
        if self.world_size > 1:
            for value in (total, *beside.values()):
                distributed.all_reduce(value)
        loss = total / n_targets
        self.check_loss_isfinite(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.max_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        lr = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        self.optimizer_step += 1
        self.sampler.done += 1
        self._report(micro_batches, loss, norm, lr, {name: value / n_targets for name, value in beside.items()})
        if self.dev_interval and self.optimizer_step % self.dev_interval == 0:
            self.evaluate_dev(self, self.optimizer_step)
        return loss.cpu()

    def _report(
        self, micro_batches: list[Batch], loss: torch.Tensor, norm: torch.Tensor, lr: float, beside: dict[str, torch.Tensor]
    ) -> None:
        step = self.optimizer_step
        self._pairs += self.world_size * sum(len(b.responses) for b in micro_batches)
        if step % self.log_interval and step != self.total_steps:
            return
        now = time.monotonic()
        rate = self._pairs / (now - self._since)
        self._since, self._pairs = now, 0
        left = (self.total_steps - step) * self.sampler.batch_size / rate
        self.log.info(
            f"step {step} of {self.total_steps}: loss {loss.item():.4f}, lr {lr:.2e}, gradient norm {norm.item():.3f},"
            f" {rate:.1f} pairs/s, {left:.0f} s left"
        )
        if self.writer is not None:
            values = {"loss": loss.item(), "lr": lr, "grad_norm": norm.item(), "pairs_per_second": rate}
            values |= {name: value.item() for name, value in beside.items()}
            for name, value in values.items():
                self.writer.add_scalar(f"train/{name}", value, step)

    def dev_loss(self, micro_batches: Iterable[Batch]) -> float:
        """Mean loss per target token over this process' and all others' micro-batches."""
        self.modules.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.inference_mode():
            for batch in micro_batches:
                loss, n_targets = self.model(batch.to(self.device))
                sums += torch.tensor([loss.item(), n_targets], dtype=torch.float64)
        self.modules.train()
        if self.world_size > 1:
            sums = sums.to(self.device, torch.float32)
            distributed.all_reduce(sums)
        self._since, self._pairs = time.monotonic(), 0  # not part of the training speed
        return float(sums[0] / sums[1])


def _save_state(obj: Any, path: Path) -> None:
    if if_main_process():
        torch.save(obj.state_dict(), path)


def _load_state(obj: Any, path: Path, *_: Any) -> None:
    obj.load_state_dict(torch.load(path))
