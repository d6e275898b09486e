"""Stage 2, behaviour generation: the LLM continues each transcript (Section 3, first step).

reads   DATA_DIR/SET/text of the training and dev sets, the LLM
writes  DATA_DIR/SET/responses.BEHAVIOUR.jsonl for each behaviour that the configuration trains on
and, where the configuration has `questions` for a test set's tasks (Appendix C), lets its `questioner` ask about transcripts:
reads   DATA_DIR/SET/text of those test sets
writes  DATA_DIR/SET/TABLE with the questions, DATA_DIR/SET/TABLE.jsonl, DATA_DIR/chat_cache.jsonl
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.config import load_config, program_arguments, require
from blsp.base.files import InputError, fingerprint, model_fingerprint, read_jsonl
from blsp.data import normalization
from blsp.data.data_dir import read_table
from blsp.data.tasks import present_sets
from blsp.model.decoding import Decoding
from blsp.model.prompts import OPTIONS, template_settings
from blsp.qa.chat_client import CACHE, ChatModel
from blsp.qa.questions import Questions, write_questions

RESPONSES = ("generate", "transcript")
log = command.logger("continuation")


def main() -> None:
    args = program_arguments("blsp.bin.continuation", __doc__, "ngpu").parse_args()
    config = load_config(args.config, args.overrides)
    require(config, "train_sets", "dev_sets")
    if config["train_sets"] or config["dev_sets"]:
        _respond(args, config)
    if "questions" in config and (args.shard or "1/1").startswith("1/"):  # mostly waiting for a server: not shared
        _ask(args, config)


def _respond(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """The responses of every behaviour to the transcripts of the training and dev sets."""
    require(config, "llm", "template", *OPTIONS, "precision", "behaviours", "mix", "normalizer", "generation",
            "generation_batch", "refusals")  # fmt: skip
    work = []
    for name in config["mix"]:
        behaviour = _behaviour(name, config)
        for set_name in dict.fromkeys([*config["train_sets"], *config["dev_sets"]]):
            if not _is_done(args.data_dir / set_name, behaviour):
                work.append((args.data_dir / set_name, behaviour))
    if work:
        from blsp.training.behaviours import respond  # loads torch, which a rerun that has nothing to do need not wait for

        llm = {"name": config["llm"]} | {key: config[key] for key in ("precision", "template", *OPTIONS)}
        command.share_work(respond, (work, llm, config["generation_batch"]), args.ngpu, args.shard)


def _ask(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """A question about each transcript that is chosen, for the tasks whose instructions are those questions."""
    require(config, "questions", "questioner", "tasks")
    questions = Questions.from_settings(config["questions"])
    asked = [task["sets"] for task in config["tasks"].values() if task.get("instruction_table") == questions.table]
    if not asked:
        log.info(f"no task has the instruction_table '{questions.table}' of questions; nothing is asked")
    model = ChatModel.from_settings("questioner", config["questioner"])
    for name in present_sets(args.data_dir, itertools.chain(*asked)):
        write_questions(args.data_dir / name, questions, model, args.data_dir / CACHE)


def _behaviour(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """A behaviour's settings, and the fingerprint of all that its responses depend on but for the transcripts."""
    spec = config["behaviours"].get(name)
    if spec is None:
        raise InputError(f"mix names '{name}', which is not among the behaviours: {', '.join(config['behaviours'])}")
    if spec.get("response") not in RESPONSES:
        raise InputError(f"behaviour '{name}': response '{spec.get('response')}' is not one of {', '.join(RESPONSES)}")
    behaviour = {"name": name, "response": spec["response"], "instructions": instructions_of(name, spec),
                 "normalizer": config["normalizer"], "normal_forms": normalization.VERSION}  # fmt: skip
    if spec["response"] == "generate":
        Decoding.from_settings(config["generation"])  # sound, or refused before anything is loaded
        behaviour |= {"decoding": config["generation"], "refusals": config["refusals"]}
        behaviour |= {"llm": model_fingerprint(config["llm"]), "template": template_settings(config)}
        behaviour |= {"precision": config["precision"]}
    return {**behaviour, "fingerprint": fingerprint(behaviour)}


def instructions_of(name: str, spec: dict[str, Any]) -> list[str]:
    """A behaviour's instruction, or those of its file, one a line."""
    if "instruction" in spec:
        return [spec["instruction"]]
    if "instructions" not in spec:
        raise InputError(f"behaviour '{name}': has neither an instruction nor a file of instructions")
    path = Path(spec["instructions"])
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    instructions = [line for line in lines if line and not line.startswith("#")]
    if not instructions:
        raise InputError(f"{path}: holds no instruction")
    return instructions


def _is_done(folder: Path, behaviour: dict[str, Any]) -> bool:
    output = folder / f"responses.{behaviour['name']}.jsonl"
    transcripts = read_table(folder / "text")
    if not output.exists():
        return False
    rows = read_jsonl(output)
    same = len(rows) == len(transcripts) and all(
        row["utt_id"] == utt_id and row["fingerprint"] == behaviour["fingerprint"] and row["transcript"] == transcript
        for row, (utt_id, transcript) in zip(rows, transcripts.items(), strict=True)
    )
    if same:
        log.info(f"{output}: {len(rows)} responses are there")
    return same


if __name__ == "__main__":
    command.run(main)
