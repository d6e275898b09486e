"""Stage 4: the test sets under every task's instruction (Section 5, Table 11).

reads   the model (or, for the cascades, the LLM and the recognizer; of CTC+LLM the model is the recognizer),
        DATA_DIR/SET/{feats.scp,text,...}; DATA_DIR/SET/TABLE where a task's instructions are the utterances' own
writes  EXP_DIR/decode/SET.TASK/hyp.jsonl; for a cascade also its transcripts, EXP_DIR/decode/SET.transcript/hyp.jsonl
and, where a task's metric is agreement, lets the LLM answer the transcripts: its answers are the references of all systems
writes  DATA_DIR/SET/answers/TASK.SETTINGS/hyp.jsonl
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.config import load_config, program_arguments, require
from blsp.base.files import InputError, file_fingerprint, fingerprint, model_fingerprint, read_json
from blsp.base.pretrained import part_of
from blsp.data import normalization
from blsp.data.data_dir import check_features
from blsp.data.states import check_states
from blsp.data.tasks import Job, instruction_of, reference_of, task_sets
from blsp.model.decoding import Decoding
from blsp.model.prompts import OPTIONS, saved_template, template_settings

log = command.logger("decode")
RECOGNIZERS = ("whisper", "ctc")  # inputs of cascades: the LLM reads what they write
INPUTS = ("speech", "text", *RECOGNIZERS)


def main() -> None:
    parser = program_arguments("blsp.bin.decode", __doc__, "exp_dir", "ngpu")
    parser.add_argument("--model", type=Path, help="a trained model's folder (EXP_DIR/model)")
    args = parser.parse_args()
    config = load_config(args.config, args.overrides)
    require(
        config,
        "input",
        "source_language",
        "encoder",
        "cache_encoder",
        "llm",
        "template",
        *OPTIONS,
        "precision",
        "normalizer",
        "tasks",
        "decoding",
        "decoding_batch",
    )
    if config["input"] == "ctc":
        require(config, "ctc_beam")
    if config["input"] not in INPUTS:
        raise InputError(f"{args.config}: input '{config['input']}' is not one of {', '.join(INPUTS)}")
    Decoding.from_settings(config["decoding"])  # sound, or refused before anything is loaded
    sets = task_sets(args.data_dir, config["tasks"])
    for task, names in sets.items():
        spec = config["tasks"][task]
        if without := [s for s in spec["sets"] if (args.data_dir / s).is_dir() and s not in names]:
            reference = reference_of(task, spec)
            log.info(f"{args.data_dir}: {', '.join(without)} has no table {reference}; the task {task} is passed over there")
    model = args.model or args.exp_dir / "model"
    todo = partial(_do, config=config, model=model, ngpu=args.ngpu, shard=args.shard)
    if config["input"] in RECOGNIZERS:
        jobs = [_transcript_job(args, name, config, sets) for name in dict.fromkeys(itertools.chain(*sets.values()))]
        if not todo("transcribe_all", [(job, _settings(job, config, model)) for job in jobs]):
            log.info("other shards have not finished transcribing; run this shard again when they have")
            return
    jobs = [_job(args, name, task, config, model) for task in config["tasks"] for name in sets[task]]
    work = [(job, _settings(job, config, model)) for job in jobs]
    own = [(replace(job, output=job.answers, answers=None), _own_settings(job, config, model))
           for job, settings in work if job.answers and not _is_done(job, settings)]  # fmt: skip
    if not todo("answer_transcripts", own):
        log.info("other shards have not finished answering the transcripts; run this shard again when they have")
        return
    todo("answer", work)


def _job(args: argparse.Namespace, name: str, task: str, config: dict[str, Any], model: Path) -> Job:
    spec, folder = config["tasks"][task], args.data_dir / name
    output = args.exp_dir / "decode" / f"{name}.{task}" / "hyp.jsonl"
    job = Job(folder, task, reference=reference_of(task, spec), output=output, **instruction_of(task, spec))
    if spec.get("metric") != "agreement":
        return job
    own = fingerprint(_own_settings(job, config, model))  # of several LLMs each has its own place
    return replace(job, answers=folder / "answers" / f"{task}.{own[:8]}" / "hyp.jsonl")


def _transcript_job(args: argparse.Namespace, name: str, config: dict[str, Any], sets: dict[str, list[str]]) -> Job:
    """The recognizer's job on one set: all utterances, or those of the one table that all tasks take theirs from."""
    tables = {config["tasks"][task].get("instruction_table", "") for task, names in sets.items() if name in names}
    output = args.exp_dir / "decode" / f"{name}.transcript" / "hyp.jsonl"
    return Job(args.data_dir / name, "transcript", "", "text", output, tables.pop() if len(tables) == 1 else "")


def _settings(job: Job, config: dict[str, Any], model: Path) -> dict[str, Any]:
    """What the hypotheses of a job depend on."""
    data = {name: file_fingerprint(job.folder / name) for name in ("text", job.reference)}
    if job.table:
        job.instructions()  # sound, or refused before anything is loaded
        data[job.table] = file_fingerprint(job.folder / job.table)
    source = config["input"]
    settings = {"instruction": job.instruction, "input": source, "data": data, "decoding": config["decoding"],
                "precision": config["precision"]}  # fmt: skip
    if job.answers:
        settings["answers"] = job.answers.parent.name
    if source != "text":
        settings["features"] = read_json(job.folder / "feats.json")["fingerprint"]
    if source == "speech":
        llm = part_of(model, read_json(model / "config.json").get("llm", ""))
        settings |= {"model": model_fingerprint(model), "llm": model_fingerprint(llm)}
    else:
        settings |= {**template_settings(config), "normalizer": config["normalizer"], "normal_forms": normalization.VERSION}
        settings["llm"] = model_fingerprint(config["llm"])
    if source == "whisper":
        settings |= {"recognizer": model_fingerprint(config["encoder"]), "language": config["source_language"]}
    if source == "ctc":
        settings |= {"recognizer": model_fingerprint(model), "beam": config["ctc_beam"]}
    return settings


def _check_speech(folder: Path, config: dict[str, Any], model: Path) -> None:
    """Raise InputError if what stage 1 has left in a set's folder is not for the encoder that is to read it."""
    if config["input"] == "whisper":
        check_features(folder, config["encoder"])
        return
    named = read_json(model / "config.json")
    if "encoder" not in named:  # no model of ours, which is said when it is loaded
        return
    encoder = part_of(model, named["encoder"])
    check_features(folder, encoder)
    if config["cache_encoder"]:
        check_states(folder, encoder, named["encoder_padding"], config["precision"])


def _own_settings(job: Job, config: dict[str, Any], model: Path) -> dict[str, Any]:
    """What the LLM's answers to the transcripts depend on: the same whatever reads them, so that systems share them."""
    settings = _settings(replace(job, answers=None), {**config, "input": "text"}, model)
    if config["input"] == "speech":  # a BLSP model names its own LLM
        made = read_json(model / "config.json")
        for key in ("template", *OPTIONS):
            settings.pop(key, None)
        settings |= {**template_settings({**made, "template": saved_template(model, made)}), "llm": made.get("llm_fingerprint")}
    return settings


def _is_done(job: Job, settings: dict[str, Any]) -> bool:
    info = job.output.with_name("decode.json")
    return job.output.exists() and info.exists() and read_json(info)["fingerprint"] == fingerprint(settings)


def _do(
    work: str, jobs: list[tuple[Job, dict[str, Any]]], config: dict[str, Any], model: Path, ngpu: int, shard: str | None
) -> bool:
    """Let the function `work` of answering.py do what is not done. Returns whether all is, by whatever shard."""
    pending = []
    for job, settings in jobs:
        if _is_done(job, settings):
            log.info(f"{job.output}: hypotheses are there")
        else:
            if work == "transcribe_all" or (work == "answer" and config["input"] == "speech"):
                _check_speech(job.folder, config, model)
            job.output.with_name("decode.json").unlink(missing_ok=True)  # a kill must not leave it beside other hypotheses
            pending.append((job, settings))
    if pending:
        from blsp.evaluation import answering  # loads torch, which a rerun that has nothing to do need not wait for

        command.share_work(getattr(answering, work), (pending, config, model), ngpu, shard)
    return all(_is_done(job, settings) for job, settings in jobs)


if __name__ == "__main__":
    command.run(main)
