"""Stage 4: the test sets under every task's instruction (Section 5, Table 11).

reads   the model (or, for the cascades, the LLM and the recognizer; of CTC+LLM the model is the recognizer),
        DATA_DIR/SET/{feats.scp,text,...}; DATA_DIR/SET/TABLE where a task's instructions are the utterances' own
writes  EXP_DIR/decode/SET.TASK/hyp.jsonl; for a cascade also its transcripts, EXP_DIR/decode/SET.transcript/hyp.jsonl
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.config import load_config, program_arguments, require
from blsp.base.files import InputError, file_fingerprint, fingerprint, model_fingerprint, read_json
from blsp.base.pretrained import part_of
from blsp.data import normalization
from blsp.data.data_dir import check_features
from blsp.data.tasks import Job, instruction_of, task_sets

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
        "llm",
        "template",
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
    sets = task_sets(args.data_dir, config["tasks"])
    for task, names in sets.items():
        spec = config["tasks"][task]
        if without := [s for s in spec["sets"] if (args.data_dir / s).is_dir() and s not in names]:
            reference = spec["reference"]
            log.info(f"{args.data_dir}: {', '.join(without)} has no table {reference}; the task {task} is passed over there")
    model = args.model or args.exp_dir / "model"
    if config["input"] in RECOGNIZERS:
        jobs = [_transcript_job(args, name, config, sets) for name in dict.fromkeys(itertools.chain(*sets.values()))]
        _decode_all(jobs, config, model, args.ngpu, args.shard)
        if not all(job.output.exists() for job in jobs):
            log.info("other shards have not finished transcribing; run this shard again when they have")
            return
    jobs = [_job(args, name, task, spec) for task, spec in config["tasks"].items() for name in sets[task]]
    _decode_all(jobs, config, model, args.ngpu, args.shard)


def _job(args: argparse.Namespace, name: str, task: str, spec: dict[str, Any]) -> Job:
    folder, output = args.data_dir / name, args.exp_dir / "decode" / f"{name}.{task}" / "hyp.jsonl"
    return Job(folder, task, reference=spec["reference"], output=output, **instruction_of(task, spec))


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
    if source != "text":
        named = config["encoder"] if source == "whisper" else read_json(model / "config.json").get("encoder")
        if named:  # else it is no model of ours, which is said when it is loaded
            check_features(job.folder, named if source == "whisper" else part_of(model, named))
        settings["features"] = read_json(job.folder / "feats.json")["fingerprint"]
    if source == "speech":
        settings["model"] = model_fingerprint(model)
    else:
        settings |= {key: config[key] for key in ("template", "normalizer")} | {"normal_forms": normalization.VERSION}
        settings["llm"] = model_fingerprint(config["llm"])
    if source == "whisper":
        settings |= {"recognizer": model_fingerprint(config["encoder"]), "language": config["source_language"]}
    if source == "ctc":
        settings |= {"recognizer": model_fingerprint(model), "beam": config["ctc_beam"]}
    return settings


def _decode_all(jobs: list[Job], config: dict[str, Any], model: Path, ngpu: int, shard: str | None) -> None:
    pending = []
    for job in jobs:
        settings = _settings(job, config, model)
        info = job.output.with_name("decode.json")
        if job.output.exists() and info.exists() and read_json(info)["fingerprint"] == fingerprint(settings):
            log.info(f"{job.output}: hypotheses are there")
        else:
            info.unlink(missing_ok=True)  # a kill must not leave it beside other hypotheses
            pending.append((job, settings))
    if pending:
        from blsp.evaluation.answering import (  # loads torch, which a rerun that has nothing to do need not wait for
            answer,
            transcribe_all,
        )

        work = transcribe_all if jobs[0].name == "transcript" else answer
        command.share_work(work, (pending, config, model), ngpu, shard)


if __name__ == "__main__":
    command.run(main)
