"""Training of the adapter, on alignment (Section 3, second step) or as a recognizer by CTC (Section 4.2)."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from blsp.base import command
from blsp.base.config import begin_experiment, plain
from blsp.base.files import InputError, atomic_write
from blsp.data.audio import SAMPLE_RATE, load
from blsp.data.data_dir import read_data_dir
from blsp.data.normalization import normalizer
from blsp.data.states import speech_reader
from blsp.model import generation
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP, to_device
from blsp.model.ctc import Vocabulary, train_vocabulary
from blsp.model.decoding import Decoding
from blsp.model.encoder import SpeechEncoder
from blsp.model.llm import backward_attention, choose_dtype, llm_width, load_llm, precision_name
from blsp.model.prompts import OPTIONS, Prompter
from blsp.model.recognizer import Recognizer
from blsp.training.dataset import AlignmentData, StepSampler, read_targets, recorded_precision
from blsp.training.trainer import AlignmentBrain, SafeCheckpointer, schedule


def train(config: dict[str, Any], done: str, data_dir: Path, exp_dir: Path, log: logging.Logger) -> None:
    """Train from where an earlier run stopped, and write EXP_DIR/model. `done` is the fingerprint of data and settings."""
    run_opts = _join_processes()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    precision = recorded_precision(data_dir, config["train_sets"], config["mix"]) if config["precision"] == "auto" else None
    dtype = choose_dtype(precision or config["precision"], run_opts["device"])
    if rank == 0:
        begin_experiment(exp_dir, config, done)
        if config["objective"] == "ctc":
            _train_vocabulary(config, data_dir, exp_dir)
    if world_size > 1:
        torch.distributed.barrier()
    torch.manual_seed(config["seed"])
    if config["objective"] == "ctc":
        model, prompter = _recognizer(config, dtype, exp_dir)
    else:
        model, prompter = _blsp(config, dtype, run_opts["device"])
    normalize = normalizer(config["normalizer"]) if config["kd_weight"] and isinstance(model, BLSP) else None
    cached = config["cache_encoder"]
    data = AlignmentData(data_dir, config["train_sets"], config["mix"], prompter, normalize, cached)
    sampler = StepSampler(data, config["mix"], config["batch_size"], config["max_tokens"], config["seed"], rank, world_size)
    loader = DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=list,
        num_workers=config["loader_processes"],
        generator=torch.Generator().manual_seed(config["seed"]),
    )
    (exp_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    checkpointer = SafeCheckpointer(exp_dir / "checkpoints")
    if rank == 0:
        checkpointer.remove_broken()
    total_steps = config["epochs"] * len(sampler)
    writer = SummaryWriter(exp_dir / "tensorboard") if rank == 0 else None
    dev = _dev(config, data_dir, prompter, rank, world_size)
    examples = _Examples(config, data_dir, writer) if writer and config["examples"] else None

    def evaluate(brain: AlignmentBrain, step: int) -> None:
        loss = brain.dev_loss(dev[0][key] for key in dev[1])
        log.info(f"step {step}: dev loss {loss:.4f}")
        if writer:
            writer.add_scalar("dev/loss", loss, step)
        if examples:
            examples.write(model, step)

    _describe(log, model, data, dev[0], sampler, config, total_steps)
    brain = AlignmentBrain(
        model,
        config["optimizer"],
        sampler,
        sb.utils.epoch_loop.EpochCounter(config["epochs"]),
        checkpointer,
        writer,
        log,
        lr=config["lr"],
        factor=schedule(config["schedule"], config["warmup_steps"], total_steps),
        total_steps=total_steps,
        max_grad_norm=config["max_grad_norm"],
        seed=config["seed"],
        log_interval=config["log_interval"],
        dev_interval=config["dev_interval"],
        evaluate=evaluate,
        run_opts={**run_opts, "ckpt_interval_steps": config["checkpoint_interval"]},
    )
    brain.fit(brain.epoch_counter, loader, progressbar=sys.stderr.isatty())
    evaluate(brain, brain.optimizer_step)
    if rank == 0:
        provenance = {"fingerprint": done, "commit": command.commit(), "steps": brain.optimizer_step,
                      "hours": data.hours(), "corpus": config["corpus"], "configuration": plain(config)}  # fmt: skip
        parts = [config["encoder"], config["llm"]] if isinstance(model, BLSP) else [config["encoder"]]
        model.save_pretrained(exp_dir / "model", *parts, provenance)
        writer.close()
        shutil.rmtree(exp_dir / "checkpoints", ignore_errors=True)  # what they were for is in model/ now
        log.info(f"{exp_dir}/model: written; curves: tensorboard --logdir {exp_dir}/tensorboard")
    if world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _join_processes() -> dict[str, Any]:
    """SpeechBrain's run options for this process, which joins the others if torchrun has started several."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    options = {"device": command.device(rank), "distributed_backend": "nccl" if torch.cuda.is_available() else "gloo"}
    sb.utils.distributed.ddp_init_group(options)
    return options


def _blsp(config: dict[str, Any], dtype: torch.dtype, device: str) -> tuple[BLSP, Prompter]:
    """The model of Figure 2 before training, and what makes its prompts. Speech begins at the size of words."""
    llm = load_llm(config["llm"], dtype, device, backward_attention(dtype, device))
    prompter = Prompter(llm.tokenizer, config["template"], **{key: config[key] for key in OPTIONS})
    encoder = SpeechEncoder.from_pretrained(config["encoder"], config["encoder_padding"], dtype)
    d_llm = llm.embed([0]).shape[1]
    adapter = Adapter(encoder.d_model, d_llm, config["d_bottleneck"], llm.word_size(), config["noise"])
    return BLSP(encoder, adapter, llm, prompter, config["kd_weight"], config["kd_temperature"]), prompter


def _recognizer(config: dict[str, Any], dtype: torch.dtype, exp_dir: Path) -> tuple[Recognizer, Vocabulary]:
    """The recognizer of CTC+LLM before training, and its vocabulary. Of the LLM it has the width of the embeddings."""
    vocabulary = Vocabulary(_vocabulary_file(exp_dir).read_bytes())
    encoder = SpeechEncoder.from_pretrained(config["encoder"], config["encoder_padding"], dtype)
    adapter = Adapter(encoder.d_model, llm_width(config["llm"]), config["d_bottleneck"], noise=config["noise"])
    return Recognizer(encoder, adapter, vocabulary), vocabulary


def _train_vocabulary(config: dict[str, Any], data_dir: Path, exp_dir: Path) -> None:
    """CTC's pieces, of the transcripts that are its targets; kept beside the checkpoints, which count in them."""
    for behaviour in config["mix"]:
        if config["behaviours"][behaviour]["response"] != "transcript":
            raise InputError(f"objective: ctc learns transcripts; take '{behaviour}' out of mix, its responses are others")
    if not _vocabulary_file(exp_dir).exists():
        model = train_vocabulary(read_targets(data_dir, config["train_sets"], config["mix"]), config["ctc_vocabulary"])
        with atomic_write(_vocabulary_file(exp_dir), "wb") as f:
            f.write(model)


def _vocabulary_file(exp_dir: Path) -> Path:
    return exp_dir / "checkpoints" / "vocabulary.model"


def _dev(
    config: dict[str, Any], data_dir: Path, prompter: Prompter | Vocabulary, rank: int, world_size: int
) -> tuple[AlignmentData, list[tuple[int, ...]]]:
    """The dev pairs and this process' micro-batches of them."""
    data = AlignmentData(data_dir, config["dev_sets"], config["mix"], prompter, cached=config["cache_encoder"])
    sampler = StepSampler(data, config["mix"], len(data), config["max_tokens"], 0, rank, world_size)
    return data, next(iter(sampler))


class _Examples:
    """A few dev utterances, decoded under every task's instruction (or recognized) and shown in TensorBoard."""

    def __init__(self, config: dict[str, Any], data_dir: Path, writer: SummaryWriter):
        self.writer = writer
        self.tasks = {name: task for name, task in config["tasks"].items() if "instruction" in task}
        self.decoding = Decoding.from_settings({**config["generation"], "temperature": 0.0})
        folder = data_dir / config["dev_sets"][0]
        self.utterances = read_data_dir(folder)[: config["examples"]]
        read = speech_reader(folder, config["cache_encoder"])
        self.speech = [read(u.utt_id) for u in self.utterances]
        first = self.utterances[0]
        writer.add_audio(f"example/{first.utt_id}", torch.from_numpy(load(first.wav, first.start, first.end)), 0, SAMPLE_RATE)

    @torch.inference_mode()
    def write(self, model: BLSP | Recognizer, step: int) -> None:
        model.eval()
        written = self._answers(model) if isinstance(model, BLSP) else {"transcript": model.transcribe(self.speech)}
        for name, texts in written.items():
            rows = [f"| {u.text} | {text} |" for u, text in zip(self.utterances, texts, strict=True)]
            table = "\n".join(["| transcript | written from the speech |", "|---|---|", *rows])
            self.writer.add_text(f"example/{name}", table, step)
        model.train()

    def _answers(self, model: BLSP) -> dict[str, list[str]]:
        """What the LLM writes, by task."""
        speech = model.speech_embeds(to_device(self.speech, model.device))
        keys = [u.utt_id for u in self.utterances]
        answers = {}
        for name, task in self.tasks.items():
            prompt = model.prompter.prompt(task["instruction"])
            prompts = [model.prompt_embeds(prompt, s) for s in speech]
            texts = generation.generate(model.llm, model.prompter, prompts, self.decoding, keys)
            answers[name] = [generated.text for generated in texts]
        return answers


def _describe(
    log: Any,
    model: BLSP | Recognizer,
    data: AlignmentData,
    dev: AlignmentData,
    sampler: StepSampler,
    config: dict[str, Any],
    total_steps: int,
) -> None:
    """What is about to be trained on, and proof that text and speech prompts agree outside the content."""
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    n_all = sum(p.numel() for p in model.parameters())
    dtype = precision_name(next(model.encoder.parameters()).dtype)
    log.info(f"{n_trained / 1e6:.2f} M of {n_all / 1e6:.2f} M parameters are trained, the frozen ones are in {dtype};"
             f" {len(data)} pairs, {data.hours():.2f} h; {total_steps} steps of {sampler.batch_size} pairs")  # fmt: skip
    for pairs in (*data.pairs, *dev.pairs):
        for reason, n in pairs.left_out.items():
            log.info(f"{pairs.responses.path}: left out {n} of {len(pairs.responses)}: {reason}")
    if isinstance(model, Recognizer):
        log.info(f"CTC over {len(model.vocabulary)} pieces of SentencePiece, the blank among them")
        return
    _, row = next(p for p in data.pairs if len(p))[0]
    prompt = model.prompter.prompt(row["instruction"])
    content = model.prompter.content(normalizer(config["normalizer"])(row["transcript"]))
    text = model.prompter.text_prompt(row["instruction"], normalizer(config["normalizer"])(row["transcript"]))
    assert text == [*prompt.prefix, *content, *prompt.suffix]
    log.info(f"text prompt:   {list(prompt.prefix)} + {content} + {list(prompt.suffix)}")
    log.info(f"speech prompt: {list(prompt.prefix)} + speech embeddings + {list(prompt.suffix)}")
