"""The responses of a behaviour: what the LLM writes when it reads the transcripts, or the transcripts themselves."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import regex

from blsp.base import command
from blsp.base.files import file_fingerprint, fingerprint
from blsp.base.journal import Journal
from blsp.data.data_dir import read_table
from blsp.data.normalization import normalizer
from blsp.data.writing import apostrophes, clean
from blsp.model import generation
from blsp.model.decoding import Decoding
from blsp.model.llm import choose_dtype, load_llm, precision_name
from blsp.model.prompts import Prompter

log = command.logger("continuation")

Row = dict[str, Any]
MARKUP = regex.compile(r"^[^\p{L}\p{N}]+|[*_#]+")  # of Markdown, and whatever else stands before the first letter


def respond(
    shard: int,
    n_shards: int,
    device: str,
    work: list[tuple[Path, dict[str, Any]]],
    llm: dict[str, Any],
    batch_size: int,
) -> None:
    """This process' part of the responses to all transcripts of `work`, pairs of data directory and behaviour.

    llm: name, precision and the Prompter's options. The process that finishes last joins the parts.
    """
    writer = None
    for folder, behaviour in work:
        transcripts = read_table(folder / "text")
        output = folder / f"responses.{behaviour['name']}.jsonl"
        current = fingerprint([behaviour["fingerprint"], file_fingerprint(folder / "text")])
        journal = Journal(output, current, shard, n_shards)
        rows = [_row(utt_id, transcript, behaviour) for utt_id, transcript in transcripts.items()]
        if behaviour["response"] == "transcript":
            if shard == 0:
                journal.append(_repeat(row, behaviour) for row in rows if row["utt_id"] not in journal.rows)
        else:
            writer = writer or _Writer(**llm, device=device)
            # Batches are cut before they are dealt to shards: each has the same rows, and so the same result, in any sharing.
            batches = generation.length_batches([len(row["transcript"]) for row in rows], batch_size)
            mine = [[rows[i] for i in batch] for batch in batches[shard::n_shards]]
            mine = [batch for batch in mine if any(row["utt_id"] not in journal.rows for row in batch)]
            for batch in command.progress(mine, len(mine), f"{folder.name}: {behaviour['name']}", "batch"):
                journal.append(writer.write(batch, behaviour))
        if journal.finish(list(transcripts)):
            reasons = Counter(journal.rows[u]["finish_reason"] for u in transcripts)
            counts = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
            log.info(f"{output}: {len(transcripts)} responses ({counts})")


def _row(utt_id: str, transcript: str, behaviour: dict[str, Any]) -> Row:
    row = {"utt_id": utt_id, "behaviour": behaviour["name"], "instruction": _choose(behaviour["instructions"], utt_id),
           "transcript": transcript, "fingerprint": behaviour["fingerprint"]}  # fmt: skip
    return row | {key: behaviour[key] for key in ("llm", "decoding") if key in behaviour}


def _choose(instructions: list[str], utt_id: str) -> str:
    """The same instruction for the same utterance in every run."""
    return instructions[int(hashlib.sha256(utt_id.encode()).hexdigest()[:8], 16) % len(instructions)]


def _repeat(row: Row, behaviour: dict[str, Any]) -> Row:
    """Repetition: the response is the transcript, as the prompt would have it (Section 3)."""
    text = normalizer(behaviour["normalizer"])(row["transcript"])
    return {**row, "response": text, "finish_reason": "stop" if text else "empty"}


def is_refusal(response: str, openings: Iterable[str]) -> bool:
    """Whether a response begins with one of `openings`, whatever its case, apostrophes, and the quotes or markup before it."""
    return _opening(response).startswith(tuple(filter(None, map(_opening, openings))))


def _opening(text: str) -> str:
    plain = unicodedata.normalize("NFKC", apostrophes(clean(text))).casefold()
    return " ".join(MARKUP.sub("", plain).split())


class _Writer:
    """The LLM at work."""

    def __init__(self, name: str, precision: str, device: str, **prompts: str):
        self.llm = load_llm(name, choose_dtype(precision, device), device)
        self.prompter = Prompter(self.llm.tokenizer, **prompts)

    def write(self, rows: list[Row], behaviour: dict[str, Any]) -> list[Row]:
        """`rows` with response and finish reason: stop, length, or why it is no training target: empty, refusal, thinking."""
        texts = [normalizer(behaviour["normalizer"])(row["transcript"]) for row in rows]
        full = [(row, text) for row, text in zip(rows, texts, strict=True) if text]
        finished = [
            {**row, "response": "", "finish_reason": "empty"} for row, text in zip(rows, texts, strict=True) if not text
        ]
        if not full:
            return finished
        prompts = [self.llm.embed(self.prompter.text_prompt(row["instruction"], text)) for row, text in full]
        decoding = Decoding.from_settings(behaviour["decoding"])
        keys = [row["utt_id"] for row, _ in full]
        generated = generation.generate(self.llm, self.prompter, prompts, decoding, keys)
        for (row, _), g in zip(full, generated, strict=True):
            refused = is_refusal(g.text, behaviour["refusals"])
            reason = "refusal" if refused else g.finish_reason if g.text or g.finish_reason == "thinking" else "empty"
            precision = precision_name(self.llm.dtype)  # that of training too, where it is left to the hardware
            finished.append({**row, "precision": precision, "response": g.text, "finish_reason": reason})
        return finished
