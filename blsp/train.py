"""Stage 3: train the adapter so that speech makes the LLM write what the transcript made it write (Section 3, second step).

With `objective: ctc` the adapter is trained with a CTC projector instead, as the recognizer of CTC+LLM (Section 4.2).
reads   DATA_DIR/SET/{feats.scp,responses.BEHAVIOUR.jsonl}, the frozen encoder and LLM
writes  EXP_DIR/{config.yaml,train.log,tensorboard/,checkpoints/,model/}
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from blsp import command, generation, mel
from blsp.adapter import Adapter
from blsp.audio import SAMPLE_RATE, load
from blsp.config import dump, load_config, plain, program_arguments, require
from blsp.ctc import Vocabulary, train_vocabulary
from blsp.data_dir import read_data_dir, read_table
from blsp.dataset import AlignmentData, StepSampler, pairs_fingerprint, read_targets
from blsp.encoder import SpeechEncoder
from blsp.files import InputError, atomic_write, fingerprint, model_fingerprint, read_json, write_json
from blsp.generation import Decoding
from blsp.model import BLSP, choose_dtype, llm_width, load_llm
from blsp.normalization import normalizer
from blsp.prompts import Prompter
from blsp.recognizer import Recognizer
from blsp.trainer import AlignmentBrain, SafeCheckpointer, schedule

# What the trained weights depend on, beside the data and the models; other keys may change without training again.
KEYS = ("seed", "encoder_padding", "precision", "train_sets", "mix", "d_bottleneck", "noise", "optimizer", "lr",
        "warmup_steps", "schedule", "max_grad_norm", "epochs", "batch_size", "max_tokens")  # fmt: skip
CTC = ("objective", "ctc_vocabulary")  # of a recognizer alone
ALIGNMENT = ("template",)  # of a model with an LLM alone
DISTILLATION = ("kd_weight", "kd_temperature", "normalizer")  # and where the LLM is its own teacher
REPORTING = ("behaviours", "encoder", "llm", "dev_sets", "tasks", "examples", "normalizer", "generation", "log_interval",
             "dev_interval", "checkpoint_interval", "loader_processes")  # fmt: skip


def main() -> None:
    args = program_arguments("blsp.train", __doc__, "exp_dir").parse_args()
    config = load_config(args.config, args.overrides)
    require(config, *KEYS, *CTC, *ALIGNMENT, *DISTILLATION, *REPORTING)
    if config["objective"] not in ("alignment", "ctc"):
        raise InputError(f"{args.config}: objective '{config['objective']}' is neither alignment nor ctc")
    train(config, args.data_dir, args.exp_dir)


def train(config: dict[str, Any], data_dir: Path, exp_dir: Path) -> None:
    run_opts = _join_processes()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    log = command.logger("train", exp_dir / "train.log")
    dtype = choose_dtype(config["precision"], run_opts["device"])
    settings = _settings(config, data_dir)
    done = exp_dir / "model" / "config.json"
    if done.exists() and read_json(done).get("provenance", {}).get("fingerprint") == fingerprint(settings):
        log.info(f"{exp_dir}/model: is there, trained with these data and settings")
        return
    if rank == 0:
        _begin(exp_dir, settings, config)
        if config["objective"] == "ctc":
            _train_vocabulary(config, data_dir, exp_dir)
    if world_size > 1:
        torch.distributed.barrier()
    torch.manual_seed(config["seed"])
    model, prompter = _recognizer(config, dtype, exp_dir) if config["objective"] == "ctc" else _blsp(config, dtype)
    normalize = normalizer(config["normalizer"]) if config["kd_weight"] and isinstance(model, BLSP) else None
    data = AlignmentData(data_dir, config["train_sets"], config["mix"], prompter, normalize)
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
    examples = _Examples(config, data_dir, writer) if writer else None

    def evaluate(brain: AlignmentBrain, step: int) -> None:
        loss = brain.dev_loss(dev[0][key] for key in dev[1])
        log.info(f"step {step}: dev loss {loss:.4f}")
        if writer:
            writer.add_scalar("dev/loss", loss, step)
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
        provenance = {"fingerprint": fingerprint(settings), "commit": command.commit(), "steps": brain.optimizer_step,
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


def _begin(exp_dir: Path, settings: dict[str, Any], config: dict[str, Any]) -> None:
    """Keep the checkpoints of the same settings, drop those of others, and write the resolved configuration."""
    marker = exp_dir / "checkpoints" / "settings.json"
    if marker.exists() and read_json(marker) != fingerprint(settings) or not marker.exists():
        for name in ("checkpoints", "tensorboard", "model"):
            shutil.rmtree(exp_dir / name, ignore_errors=True)
        write_json(marker, fingerprint(settings))
    with atomic_write(exp_dir / "config.yaml") as f:
        dump(config, f)


def _settings(config: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    """What the trained weights depend on; keys that do not concern the objective are left out."""
    ctc = config["objective"] == "ctc"
    keys = [*KEYS, *(CTC if ctc else ALIGNMENT), *(DISTILLATION if config["kd_weight"] and not ctc else ())]
    return {
        **{key: plain(config)[key] for key in keys},
        "encoder": model_fingerprint(config["encoder"]),
        **({"d_llm": llm_width(config["llm"])} if ctc else {"llm": model_fingerprint(config["llm"])}),
        "data": [pairs_fingerprint(data_dir / name, b) for b in config["mix"] for name in config["train_sets"]],
    }


def _blsp(config: dict[str, Any], dtype: torch.dtype) -> tuple[BLSP, Prompter]:
    """The model of Figure 2 before training, and what makes its prompts."""
    llm, tokenizer = load_llm(config["llm"], dtype)
    prompter = Prompter(tokenizer, config["template"])
    encoder = SpeechEncoder.from_pretrained(config["encoder"], config["encoder_padding"], dtype)
    words = llm.get_input_embeddings().weight
    scale = words.float().square().mean().sqrt().item()  # RMS of the word embeddings
    adapter = Adapter(encoder.d_model, words.shape[1], config["d_bottleneck"], scale, config["noise"])
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
    data = AlignmentData(data_dir, config["dev_sets"], config["mix"], prompter)
    sampler = StepSampler(data, config["mix"], len(data), config["max_tokens"], 0, rank, world_size)
    return data, next(iter(sampler))


class _Examples:
    """A few dev utterances, decoded under every task's instruction (or recognized) and shown in TensorBoard."""

    def __init__(self, config: dict[str, Any], data_dir: Path, writer: SummaryWriter):
        self.writer, self.tasks = writer, config["tasks"]
        self.decoding = Decoding.from_settings({**config["generation"], "temperature": 0.0})
        folder = data_dir / config["dev_sets"][0]
        self.utterances = read_data_dir(folder)[: config["examples"]]
        places = read_table(folder / "feats.scp")
        self.features = [mel.read_features(places[u.utt_id]) for u in self.utterances]
        first = self.utterances[0]
        writer.add_audio(f"example/{first.utt_id}", torch.from_numpy(load(first.wav, first.start, first.end)), 0, SAMPLE_RATE)

    @torch.inference_mode()
    def write(self, model: BLSP | Recognizer, step: int) -> None:
        model.eval()
        written = self._answers(model) if isinstance(model, BLSP) else {"transcript": model.transcribe(self.features)}
        for name, texts in written.items():
            rows = [f"| {u.text} | {text} |" for u, text in zip(self.utterances, texts, strict=True)]
            table = "\n".join(["| transcript | written from the speech |", "|---|---|", *rows])
            self.writer.add_text(f"example/{name}", table, step)
        model.train()

    def _answers(self, model: BLSP) -> dict[str, list[str]]:
        """What the LLM writes, by task."""
        features = torch.cat(self.features).to(model.device)
        speech = model.speech_embeds(features, torch.tensor([len(f) for f in self.features], device=model.device))
        keys = [u.utt_id for u in self.utterances]
        answers = {}
        for name, task in self.tasks.items():
            prompt = model.prompter.prompt(task["instruction"])
            prompts = [model.prompt_embeds(prompt, s) for s in speech]
            texts = generation.generate(model.llm, model.prompter.tokenizer, prompts, self.decoding, keys)
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
    log.info(f"{n_trained / 1e6:.2f} M of {n_all / 1e6:.2f} M parameters are trained; {len(data)} pairs, {data.hours():.2f} h;"
             f" {total_steps} steps of {sampler.batch_size} pairs")  # fmt: skip
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


if __name__ == "__main__":
    command.run(main)
