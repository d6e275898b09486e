"""Stage 2, behaviour generation: the LLM continues each transcript (Section 3, first step).

reads   DATA_DIR/SET/text of the training and dev sets, the LLM
writes  DATA_DIR/SET/responses.BEHAVIOUR.jsonl for each behaviour that the configuration trains on
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from blsp import command, generation
from blsp.config import load_config, program_arguments, require
from blsp.data_dir import read_table
from blsp.files import InputError, fingerprint, model_fingerprint, read_jsonl
from blsp.generation import Decoding
from blsp.journal import Journal
from blsp.model import choose_dtype, load_llm
from blsp.normalization import normalizer
from blsp.prompts import Prompter

log = command.logger("continuation")


def main() -> None:
    args = program_arguments("blsp.continuation", __doc__, "ngpu").parse_args()
    config = load_config(args.config, args.overrides)
    require(config, "llm", "template", "precision", "train_sets", "dev_sets", "behaviours", "mix", "normalizer",
            "generation", "generation_batch", "refusals")  # fmt: skip
    jobs = [
        (args.data_dir / name, behaviour)
        for behaviour in config["mix"]
        for name in dict.fromkeys([*config["train_sets"], *config["dev_sets"]])
    ]
    for behaviour in config["mix"]:
        if behaviour not in config["behaviours"]:
            raise InputError(f"{args.config}: mix names '{behaviour}', which is not among the behaviours")
    pending = [job for job in jobs if not _is_done(*job, config)]
    if pending:
        command.share_work(_work, (pending, config), args.ngpu, args.shard)


def instructions_of(behaviour: dict[str, Any]) -> list[str]:
    """A behaviour's instruction, or those of its file, one a line."""
    if "instruction" in behaviour:
        return [behaviour["instruction"]]
    path = Path(behaviour["instructions"])
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    return [line for line in lines if line and not line.startswith("#")]


def _fingerprint(behaviour: str, config: dict[str, Any]) -> str:
    """What every response of a behaviour depends on, but for its transcript."""
    spec = config["behaviours"][behaviour]
    on = [behaviour, spec["response"], instructions_of(spec), config["normalizer"]]
    if spec["response"] == "generate":
        on += [model_fingerprint(config["llm"]), config["template"], config["precision"], config["generation"],
               config["refusals"]]  # fmt: skip
    return fingerprint(on)


def _is_done(folder: Path, behaviour: str, config: dict[str, Any]) -> bool:
    output = folder / f"responses.{behaviour}.jsonl"
    transcripts = read_table(folder / "text")
    if not output.exists():
        return False
    done = _fingerprint(behaviour, config)
    rows = read_jsonl(output)
    same = len(rows) == len(transcripts) and all(
        row["utt_id"] == utt_id and row["fingerprint"] == done and row["transcript"] == transcript
        for row, (utt_id, transcript) in zip(rows, transcripts.items(), strict=True)
    )
    if same:
        log.info(f"{output}: {len(rows)} responses are there")
    return same


def _work(shard: int, n_shards: int, device: str, jobs: list[tuple[Path, str]], config: dict[str, Any]) -> None:
    """One process' part of all jobs."""
    llm = None
    for folder, behaviour in jobs:
        spec = config["behaviours"][behaviour]
        transcripts = read_table(folder / "text")
        done = _fingerprint(behaviour, config)
        journal = Journal(folder / f"responses.{behaviour}.jsonl", done, shard, n_shards)
        normalize = normalizer(config["normalizer"])
        instructions = instructions_of(spec)
        base = {"behaviour": behaviour, "fingerprint": done}
        if spec["response"] == "generate":
            base |= {"llm": model_fingerprint(config["llm"]), "decoding": config["generation"]}
        rows = [
            {"utt_id": utt_id, "instruction": _choose(instructions, utt_id), "transcript": transcript,
             "prompt_text": normalize(transcript), **base}
            for utt_id, transcript in transcripts.items()
        ]  # fmt: skip
        # Rows of a transcript that has changed since do not count.
        journal.rows = {u: r for u, r in journal.rows.items() if transcripts.get(u) == r["transcript"]}
        if spec["response"] == "transcript":
            if shard == 0:
                journal.append(_repeat(row) for row in rows if row["utt_id"] not in journal.rows)
        elif spec["response"] == "generate":
            if llm is None:
                llm = _load(config, device)
            _generate(llm, rows, journal, config, shard, n_shards, f"{folder.name}: {behaviour}")
        else:
            raise InputError(f"behaviour '{behaviour}': response '{spec['response']}' is neither generate nor transcript")
        if journal.finish(list(transcripts)):
            reasons = Counter(journal.rows[u]["finish_reason"] for u in transcripts)
            counts = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
            log.info(f"{journal.output}: {len(transcripts)} responses ({counts})")


def _load(config: dict[str, Any], device: str) -> tuple[Any, Prompter]:
    llm, tokenizer = load_llm(config["llm"], choose_dtype(config["precision"], device))
    return llm.to(device), Prompter(tokenizer, config["template"])


def _choose(instructions: list[str], utt_id: str) -> str:
    """The same instruction for the same utterance in every run."""
    return instructions[int(hashlib.sha256(utt_id.encode()).hexdigest()[:8], 16) % len(instructions)]


def _finished(row: dict[str, Any], response: str, finish_reason: str) -> dict[str, Any]:
    row = {k: v for k, v in row.items() if k != "prompt_text"}
    return {**row, "response": response, "finish_reason": finish_reason}


def _repeat(row: dict[str, Any]) -> dict[str, Any]:
    """Repetition: the response is the transcript itself (Section 3)."""
    return _finished(row, row["prompt_text"], "stop" if row["prompt_text"] else "empty")


def _generate(
    llm: tuple[Any, Prompter],
    rows: list[dict[str, Any]],
    journal: Journal,
    config: dict[str, Any],
    shard: int,
    n_shards: int,
    title: str,
) -> None:
    model, prompter = llm
    decoding = Decoding(**config["generation"])
    embed = model.get_input_embeddings()
    # Batches are cut before they are dealt to shards: each has the same rows, and so the same result, in any sharing.
    batches = generation.length_batches([len(row["prompt_text"]) for row in rows], config["generation_batch"])
    mine = [[rows[i] for i in batch] for batch in batches[shard::n_shards]]
    mine = [batch for batch in mine if any(row["utt_id"] not in journal.rows for row in batch)]
    for batch in command.progress(mine, len(mine), title, "batch"):
        empty = [row for row in batch if not row["prompt_text"]]
        finished = [_finished(row, "", "empty") for row in empty]
        if full := [row for row in batch if row["prompt_text"]]:
            ids = [prompter.text_prompt(row["instruction"], row["prompt_text"]) for row in full]
            prompts = [embed(torch.tensor(i, device=model.device)) for i in ids]
            texts = generation.generate(model, prompter.tokenizer, prompts, decoding, [row["utt_id"] for row in full])
            for row, generated in zip(full, texts, strict=True):
                refused = generated.text.lower().startswith(tuple(config["refusals"]))
                reason = "refusal" if refused else generated.finish_reason if generated.text else "empty"
                finished.append(_finished(row, generated.text, reason))
        journal.append(finished)


if __name__ == "__main__":
    command.run(main)
