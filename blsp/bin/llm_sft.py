"""Stage 3 of text corpora: fine-tune all parameters of the LLM to follow instructions (Section 4.1).

reads   DATA_DIR/SET.jsonl, one {"instruction": ..., "output": ...} a line ("input" and "task" may be there), the LLM
writes  EXP_DIR/{config.yaml,train.log,left_out.tsv,tensorboard/,checkpoints/,model/}; model/ is a LlamaForCausalLM's folder
        (or that of whatever causal LM it was) with its tokenizer, ready to be the `llm` of other configurations
Started by torchrun, the processes share the batch and hold a share of the weights each (FSDP).
"""

from __future__ import annotations

import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.config import begin_experiment, load_config, plain, program_arguments, require
from blsp.base.files import InputError, atomic_write, file_fingerprint, fingerprint, model_fingerprint, read_json, write_json
from blsp.model.prompts import OPTIONS, template_settings

# What the trained weights depend on, beside the data and the LLM; other keys may change without training again.
KEYS = ("seed", "initialize", "precision", "train_sets", "max_length", "epochs", "batch_size", "max_tokens",
        "weight_decay", "adam_betas", "lr", "warmup_steps", "schedule", "max_grad_norm", "neftune_alpha")  # fmt: skip
REPORTING = ("corpus", "llm", "dev_sets", "dev_examples", "target_exact_match", "gradient_checkpointing", "log_interval",
             "dev_interval", "checkpoint_interval")  # fmt: skip
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}  # Hugging Face's names


def main() -> None:
    args = program_arguments("blsp.bin.llm_sft", __doc__, "exp_dir").parse_args()
    config = load_config(args.config, args.overrides)
    require(config, *KEYS, "template", *OPTIONS, *REPORTING, example="recipes/alpaca/conf/sft.yaml")
    _check(config, args.config)
    log = command.logger("llm_sft", args.exp_dir / "train.log")
    settings = _settings(config, args.data_dir)
    done = args.exp_dir / "model" / "provenance.json"
    if done.exists() and read_json(done)["fingerprint"] == fingerprint(settings):
        log.info(f"{args.exp_dir}/model: is there, trained with these data and settings")
        return
    _tune(config, settings, args.data_dir, args.exp_dir, log)  # imports what a rerun without work need not wait for


def _check(config: dict[str, Any], path: str) -> None:
    if config["schedule"] not in SCHEDULES:
        raise InputError(f"{path}: schedule '{config['schedule']}' is not one of {', '.join(SCHEDULES)}")
    for key in ("epochs", "batch_size", "max_tokens", "max_length", "log_interval", "checkpoint_interval"):
        if not (isinstance(config[key], int) and config[key] > 0):
            raise InputError(f"{path}: {key} '{config[key]}' is not a whole number above 0")
    if config["target_exact_match"] and not (config["dev_sets"] or config["dev_examples"]):
        raise InputError(f"{path}: target_exact_match needs dev examples; set dev_sets or dev_examples")


def _settings(config: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    """What the trained weights depend on."""
    keys = list(KEYS)
    dev = {name: file_fingerprint(data_dir / f"{name}.jsonl") for name in config["dev_sets"]}
    if not dev:
        keys.append("dev_examples")  # they are not trained on
    if config["target_exact_match"]:
        keys += ["target_exact_match", "dev_interval"]
    return {
        **{key: plain(config)[key] for key in keys},
        **template_settings(config),
        "llm": model_fingerprint(config["llm"]),
        "data": [file_fingerprint(data_dir / f"{name}.jsonl") for name in config["train_sets"]],
        "dev": dev if config["target_exact_match"] else {},
    }


def _tune(config: dict[str, Any], settings: dict[str, Any], data_dir: Path, exp_dir: Path, log: Any) -> None:
    import torch
    from torch.utils.tensorboard import SummaryWriter
    from transformers import TrainingArguments

    from blsp.model.llm import choose_dtype, load_tokenizer
    from blsp.model.prompts import Prompter
    from blsp.training import instruction_tuning as tuning
    from blsp.training.dataset import StepSampler

    warnings.filterwarnings("ignore", module=r"torch\.distributed|accelerate")  # that a single process is single
    rows = tuning.read_rows(data_dir, config["train_sets"])
    prompter = Prompter(load_tokenizer(config["llm"]), config["template"], **{key: config[key] for key in OPTIONS})
    if config["dev_sets"]:
        dev_rows = tuning.read_rows(data_dir, config["dev_sets"])
    else:
        rows, dev_rows = _hold_out(rows, config["dev_examples"], config["seed"])
    data = tuning.InstructionData(rows, prompter, config["max_length"])
    dev = tuning.InstructionData(dev_rows, prompter, config["max_length"])
    if not len(data):
        raise InputError(f"{data_dir}: none of {len(rows)} examples has at most max_length {config['max_length']} tokens")

    rank, world_size = tuning.join_processes()
    dtype = choose_dtype(config["precision"], "cuda" if torch.cuda.is_available() else "cpu")
    checkpoints = exp_dir / "checkpoints"
    start = checkpoints / "initial" if config["initialize"] else config["llm"]
    if rank == 0:
        begin_experiment(exp_dir, config, fingerprint(settings))
        tuning.remove_broken(checkpoints)
        if config["initialize"]:
            tuning.initialize(config["llm"], start, config["seed"])
        with atomic_write(exp_dir / "left_out.tsv") as f:
            f.writelines(
                f"{place}\t{n} tokens, more than {config['max_length']}\n" for place, n in data.left_out + dev.left_out
            )
    if world_size > 1:
        torch.distributed.barrier()
    checkpoint = tuning.last_checkpoint(checkpoints)
    bf16 = dtype == torch.bfloat16
    llm = tuning.load_trainable(checkpoint or start, world_size, bf16)
    batch_size = min(config["batch_size"], len(data))
    mix = {"instruction": 1}
    sampler = StepSampler(data, mix, batch_size, config["max_tokens"], config["seed"], rank, world_size)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        seed=config["seed"],
        num_train_epochs=config["epochs"],
        learning_rate=config["lr"],
        lr_scheduler_type=SCHEDULES[config["schedule"]],
        warmup_steps=config["warmup_steps"],
        optim="adamw_torch",
        weight_decay=config["weight_decay"],
        adam_beta1=config["adam_betas"][0],
        adam_beta2=config["adam_betas"][1],
        max_grad_norm=config["max_grad_norm"],
        neftune_noise_alpha=config["neftune_alpha"] or None,
        activation_checkpointing=config["gradient_checkpointing"],
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        use_cache=True,  # of the saved model; training calls without
        logging_steps=config["log_interval"],
        logging_nan_inf_filter=False,
        eval_strategy="steps" if len(dev) else "no",
        eval_steps=config["dev_interval"] or 10**9,
        save_strategy="steps",
        save_steps=config["checkpoint_interval"],
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    _ = arguments.device  # is found now, so that the next line lasts:
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process uses one GPU, also where it sees several
    n_parameters = sum(p.numel() for p in llm.parameters())
    log.info(
        f"{n_parameters / 1e6:.2f} M parameters, all trained, {world_size} processes; {len(data)} examples with"
        f" {data.n_targets()} response tokens, {len(dev)} for dev; {config['epochs'] * len(sampler)} steps of {batch_size}"
    )
    if left_out := data.left_out + dev.left_out:
        log.info(f"left out {len(left_out)} examples of more than {config['max_length']} tokens: {exp_dir}/left_out.tsv")
    if checkpoint:
        log.info(f"continues after step {checkpoint.name.partition('-')[2]} of {config['epochs'] * len(sampler)}")
    dev_batches = next(iter(StepSampler(dev, mix, len(dev), config["max_tokens"], 0, rank, world_size))) if len(dev) else []
    writer = SummaryWriter(exp_dir / "tensorboard") if rank == 0 else None
    trainer = tuning.InstructionTrainer(
        llm, arguments, data, sampler, dev, dev_batches, writer, log, config["target_exact_match"]
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    part = exp_dir / ".model.part"
    tuning.save_weights(llm, part / "trained")
    if rank == 0:
        provenance = {"fingerprint": fingerprint(settings), "commit": command.commit(), "steps": trainer.state.global_step,
                      "examples": len(data), "corpus": config["corpus"], "configuration": plain(config)}  # fmt: skip
        _save(part, exp_dir / "model", dtype, prompter, provenance)
        writer.close()
        shutil.rmtree(checkpoints, ignore_errors=True)  # what they were for is in model/ now
        log.info(f"{exp_dir}/model: written; curves: tensorboard --logdir {exp_dir}/tensorboard")
    if world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _hold_out(rows: list[Any], n: int, seed: int) -> tuple[list[Any], list[Any]]:
    """The rows without n drawn ones (at most a tenth), and these."""
    drawn = set(random.Random(seed).sample(range(len(rows)), min(n, len(rows) // 10)))
    return [row for i, row in enumerate(rows) if i not in drawn], [row for i, row in enumerate(rows) if i in drawn]


def _save(part: Path, folder: Path, dtype: Any, prompter: Any, provenance: dict[str, Any]) -> None:
    """From the float32 weights in part/trained a whole folder in the dtype that frozen LLMs are loaded in.

    It names what ends a turn, and has the chat template that was trained with, also for programs that know no other.
    """
    from transformers import AutoModelForCausalLM

    llm = AutoModelForCausalLM.from_pretrained(part / "trained", dtype=dtype)
    known = llm.generation_config.eos_token_id
    ends = [*known] if isinstance(known, list) else [known] * (known is not None)
    if prompter.end[-1] not in ends:
        llm.generation_config.eos_token_id = [*ends, prompter.end[-1]]
    llm.save_pretrained(part)
    shutil.rmtree(part / "trained")
    if prompter.file is not None:
        prompter.tokenizer.chat_template = prompter.file
    prompter.tokenizer.save_pretrained(part)
    write_json(part / "provenance.json", provenance)
    for path in part.iterdir():
        with open(path, "rb") as f:
            os.fsync(f.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


if __name__ == "__main__":
    command.run(main)
