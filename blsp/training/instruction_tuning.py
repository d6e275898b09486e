"""Fine-tuning of all parameters of an LLM on text instructions (Section 4.1) by Hugging Face's Trainer."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.distributed.checkpoint import load_optimizer_distributed, save_optimizer_distributed

from blsp.base.files import InputError, read_jsonl
from blsp.model.llm import target_logits
from blsp.model.prompts import Prompter
from blsp.training.dataset import StepSampler
from blsp.training.trainer import WHOLE

IGNORED = -100  # a target that is none


@dataclass(frozen=True)
class TextBatch:
    """Examples side by side, padded on the right: there causal attention needs no mask."""

    ids: torch.Tensor  # (B, L) prompt and response; the response's last token is predicted and never read
    targets: torch.Tensor  # (B, L) the next token where it is the response's, else IGNORED
    tasks: list[str]  # B, "" where the row names none

    def to(self, device: torch.device) -> TextBatch:
        return TextBatch(self.ids.to(device), self.targets.to(device), self.tasks)


NOTHING = TextBatch(torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), IGNORED), [])


def read_rows(data_dir: Path, sets: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The rows of DATA_DIR/SET.jsonl, each with its place, "SET.jsonl:LINE".

    A row has "instruction" and "output", and may have "input", which the instruction is about, and "task".
    """
    rows = []
    for name in sets:
        path = data_dir / f"{name}.jsonl"
        for number, row in enumerate(read_jsonl(path), 1):
            texts = [row.get("instruction"), row.get("output"), row.get("input", ""), row.get("task", "")]
            if not all(isinstance(text, str) for text in texts):
                raise InputError(f"{path}:{number}: expected the texts instruction and output; run stage 0 again")
            rows.append((f"{path.name}:{number}", row))
    return rows


class InstructionData(Dataset):
    """Examples to train on. An item is not an example but a TextBatch: its key is a tuple of example numbers.

    The prompt is the one that speech will stand in later: the suffix behind instruction and input, then the response and the
    end of sequence. Examples of more than `max_length` tokens are left out: (place, tokens) of each is in `left_out`.
    """

    behaviours = ("instruction",)  # one for all: what StepSampler mixes

    def __init__(self, rows: Sequence[tuple[str, dict[str, str]]], prompter: Prompter, max_length: int):
        self.examples: list[tuple[np.ndarray, int, str]] = []  # ids, where the response begins, task
        self.left_out: list[tuple[str, int]] = []
        for place, row in rows:
            prompt = prompter.text_prompt(row["instruction"], row.get("input", ""))
            ids = np.array(prompt + prompter.response(row["output"]), dtype=np.int32)
            if len(ids) > max_length:
                self.left_out.append((place, len(ids)))
            else:
                self.examples.append((ids, len(prompt), row.get("task", "")))
        self.n_tokens = np.array([len(ids) - 1 for ids, _, _ in self.examples], dtype=np.int64)
        self.behaviour = np.zeros(len(self.examples), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.examples)

    def n_targets(self) -> int:
        return sum(len(ids) - begin for ids, begin, _ in self.examples)

    def __getitem__(self, key: tuple[int, ...]) -> TextBatch:
        examples = [self.examples[number] for number in key]
        ids = torch.zeros(len(key), int(self.n_tokens[list(key)].max()), dtype=torch.long)
        targets = torch.full_like(ids, IGNORED)
        for i, (tokens, begin, _) in enumerate(examples):
            ids[i, : len(tokens) - 1] = torch.from_numpy(tokens[:-1])
            targets[i, begin - 1 : len(tokens) - 1] = torch.from_numpy(tokens[begin:])
        return TextBatch(ids, targets, [task for _, _, task in examples])


def join_processes() -> tuple[int, int]:
    """Rank and number of processes; joins the others if torchrun has started several."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        distributed.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo")
    return rank, world_size


def initialize(name: str, folder: Path, seed: int) -> None:
    """Write an LLM with random weights to `folder`, of the size that the config.json of `name` gives."""
    torch.manual_seed(seed)
    try:
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name)).save_pretrained(folder)
    except (OSError, ValueError) as e:
        raise InputError(f"llm: {name} cannot be initialized ({str(e).splitlines()[0]})") from None


def load_trainable(name: str | Path, world_size: int, bf16: bool) -> PreTrainedModel:
    """A causal LM in float32; of several processes each keeps its own share of the weights (FSDP).

    PyTorch's fully_shard does it, on GPUs and CPUs alike, so that the tests run what GPUs run. Trainer's `fsdp` is quietly
    another thing, DDP, on CPUs; and where the output layer is tied to the word embeddings, the two part after the first step
    under Transformers' `distributed_config` (seen in 5.23.0). Each process loads the whole first: 4 bytes a parameter of RAM.
    """
    try:
        attention = None if torch.cuda.is_available() else "eager"  # on CPUs the fused one is twice as slow backwards
        llm = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, attn_implementation=attention)
    except (OSError, ValueError, SafetensorError) as e:
        raise InputError(f"llm: {name} cannot be loaded ({str(e).splitlines()[0]})") from None
    if world_size > 1:
        mesh = distributed.init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world_size,))
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
        for module in [m for m in llm.modules() if type(m).__name__ in llm._no_split_modules]:  # decoder layers
            fully_shard(module, mesh=mesh, mp_policy=policy)
        fully_shard(llm, mesh=mesh, mp_policy=policy)
        llm._is_distributed_loading_by_transformers = True  # tells Trainer neither to wrap nor to move it
    return llm


def save_weights(llm: PreTrainedModel, folder: str | Path) -> None:
    """Write config.json and the float32 weights. All processes call it, the first one writes."""
    if not distributed.is_initialized():
        llm.save_pretrained(folder)
        return
    weights = get_model_state_dict(llm, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if distributed.get_rank() == 0:
        llm.save_pretrained(folder, state_dict=weights)
    distributed.barrier()


def predict(llm: nn.Module, batch: TextBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of the responses' tokens, and (B,) whether each of a response's tokens is the likeliest one."""
    is_target = batch.targets != IGNORED
    where = is_target.clone()
    where[0, 0] |= not is_target.any()  # under FSDP a batch without targets passes the LLM like the others
    logits = target_logits(llm, where, input_ids=batch.ids, use_cache=False)
    targets, picked = batch.targets[is_target], logits[is_target[where]].float()  # (n,), (n, V)
    wrong = torch.zeros_like(is_target)
    wrong[is_target] = picked.argmax(-1) != targets
    return nn.functional.cross_entropy(picked, targets, reduction="sum"), ~wrong.any(1)


class _StepLoader(DataLoader):
    """A batch is a whole optimizer step: this process' micro-batches."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class InstructionTrainer(Trainer):
    """Trainer whose step takes `sampler`'s examples, all of them and no others, whatever the number of processes.

    The loss of a step is the mean over all response tokens of its batch, however that is cut into micro-batches and shared.
    Randomness (NEFTune's noise) is seeded for each step, so that it needs no state in checkpoints. A checkpoint is whole or
    passed over, and can be continued with another number of processes. `llm` has the weights of the one that is continued.

    dev: examples whose loss and share of exactly right responses are told, or None.
    target_exact_match: end once this share of the dev responses is right; 0: never.
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        arguments: TrainingArguments,
        data: InstructionData,
        sampler: StepSampler,
        dev: InstructionData | None,
        dev_batches: list[tuple[int, ...]],
        writer: SummaryWriter | None,
        log: logging.Logger,
        target_exact_match: float = 0.0,
    ):
        arguments.save_only_model = True  # of all else in a checkpoint _save_checkpoint() takes care
        super().__init__(llm, arguments, train_dataset=data, eval_dataset=dev)
        self.remove_callback(PrinterCallback)
        self.sampler, self.dev, self.dev_batches = sampler, dev, dev_batches
        self.writer, self.info, self.target_exact_match = writer, log.info, target_exact_match
        self._since, self._seen = time.monotonic(), 0

    def get_train_dataloader(self) -> DataLoader:
        return _StepLoader(self.train_dataset, batch_sampler=self.sampler, collate_fn=list)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # is not reported

    def training_step(self, model: nn.Module, inputs: list[TextBatch], num_items_in_batch: Any = None) -> torch.Tensor:
        """Gradients of one step. Returns its loss, the same in all processes."""
        n_processes, step = self.args.world_size, self.state.global_step
        torch.manual_seed((self.args.seed * 1_000_003 + step) * n_processes + self.args.process_index)
        model.train()
        n_targets = self._sum(float(sum((batch.targets != IGNORED).sum() for batch in inputs)))
        total = torch.zeros((), device=self.args.device)
        for batch in self._as_many_as_others(inputs):
            loss, _ = predict(model, batch.to(self.args.device))
            # FSDP averages gradients over processes; the loss is a sum.
            (loss * n_processes / n_targets).backward()
            total += loss.detach()
        loss = self._sum(total) / n_targets
        if not torch.isfinite(loss):
            raise InputError(f"step {step + 1}: the loss is not finite; a lower lr or more warmup_steps may help")
        self._seen += self.sampler.batch_size
        return loss

    def _as_many_as_others(self, batches: list[TextBatch]) -> list[TextBatch]:
        """Under FSDP all processes call the LLM together: where one has fewer micro-batches, it adds some without targets."""
        if self.args.world_size == 1:
            return batches
        most = torch.tensor(len(batches), device=self.args.device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return batches + [NOTHING] * (int(most) - len(batches))

    def _sum(self, value: float | torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        value = torch.as_tensor(value, dtype=torch.float32, device=self.args.device)
        if self.args.world_size > 1:
            distributed.all_reduce(value)
        return value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" not in logs:  # Trainer's summary at the end
            return
        step, now = self.state.global_step, time.monotonic()
        rate = self._seen / (now - self._since)
        self._since, self._seen = now, 0
        left = (self.state.max_steps - step) * self.sampler.batch_size / rate
        self.info(
            f"step {step} of {self.state.max_steps}: loss {logs['loss']:.4f}, lr {logs['learning_rate']:.2e},"
            f" gradient norm {logs['grad_norm']:.3f}, {rate:.1f} examples/s, {left:.0f} s left"
        )
        values = {"loss": logs["loss"], "lr": logs["learning_rate"], "grad_norm": logs["grad_norm"]}
        self._show({f"train/{name}": value for name, value in (values | {"examples_per_second": rate}).items()})

    def _show(self, values: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, self.state.global_step)

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss and exact matches of the dev examples."""
        self.model.eval()
        sums: dict[str, list[float]] = {"loss": [0.0, 0]}  # and by task, "" being all: right responses, responses
        batches = [self.dev[key] for key in self.dev_batches]
        for batch in self._as_many_as_others(batches):
            loss, right = predict(self.model, batch.to(self.args.device))
            sums["loss"] = [sums["loss"][0] + loss.item(), sums["loss"][1] + int((batch.targets != IGNORED).sum())]
            for task, is_right in zip(batch.tasks, right.tolist(), strict=False):  # of NOTHING no task and one row
                for name in {"exact_match", f"{task}.exact_match"} - {".exact_match"}:
                    n_right, n = sums.get(name, (0, 0))
                    sums[name] = [n_right + is_right, n + 1]
        gathered = [sums] * self.args.world_size
        if self.args.world_size > 1:
            distributed.all_gather_object(gathered, sums)
        names = sorted({name for part in gathered for name in part})
        shares = {
            name: sum(part[name][0] for part in gathered if name in part)
            / sum(part[name][1] for part in gathered if name in part)
            for name in names
        }
        loss, right = shares["loss"], shares["exact_match"]
        self.info(f"step {self.state.global_step}: dev loss {loss:.4f}, {100 * right:.1f} % of responses exactly right")
        self._show({f"dev/{name}": value for name, value in shares.items()})
        if 0 < self.target_exact_match <= right:
            self.info(f"step {self.state.global_step}: target_exact_match {self.target_exact_match} is reached")
            self.control.should_training_stop = True
            self.control.should_save = False  # continued from here, training would not know that it had ended
        self.control.should_evaluate = False  # done; Trainer asks again at the end of an epoch
        self.model.train()
        self._since, self._seen = time.monotonic(), 0  # not part of the training speed
        return shares

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        save_weights(self.model, output_dir or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # weights and step
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        save_optimizer_distributed(self.model, self.optimizer.optimizer, str(folder / "optimizer"))
        if self.args.process_index == 0:
            torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
            for path in folder.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as f:
                        os.fsync(f.fileno())
            (folder / WHOLE).touch()
            for path in folder.parent.glob("checkpoint-*"):
                if path != folder:
                    shutil.rmtree(path)
        if self.args.world_size > 1:
            distributed.barrier()

    def _load_from_checkpoint(self, *_: Any) -> None:
        """The weights are there: `llm` was loaded from the checkpoint."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer_distributed(self.model, self.optimizer.optimizer, os.path.join(checkpoint, "optimizer"))
            self.lr_scheduler.load_state_dict(torch.load(os.path.join(checkpoint, "scheduler.pt")))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)


def remove_broken(folder: Path) -> None:
    """Delete what kills while saving have left."""
    for path in folder.glob("checkpoint-*"):
        if not (path / WHOLE).exists():
            shutil.rmtree(path)
