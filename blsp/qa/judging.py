"""Answers judged by an LLM, for general-purpose QA (Section 5.1, Appendix C)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from blsp.base.files import write_jsonl
from blsp.qa.chat_client import Cache, ChatModel, ask

# Listing 2 to the letter, with its line breaks.
LISTING_2 = """\
Given a question, related input, and answer, please help determine whether the
answer is acceptable.
The output choose from acceptable or unacceptable.
Question: ${question}
Input: ${transcript}
Answer: ${answer}
Your output:"""
SUBJECT = r"(?:(?:your|my|the) )?(?:given |generated )?(?:output|answer|response|judge?ment|verdict)"
VERDICT = re.compile(rf"\W*(?:{SUBJECT}\W+(?:is\W+)?)?((?:un)?acceptable)\b(?!\W*\?)", re.IGNORECASE)


def judge(
    rows: Sequence[Mapping[str, Any]], transcripts: Mapping[str, str], model: ChatModel, cache: Path, output: Path
) -> list[dict[str, Any]]:
    """Ask `model` of each hypothesis whether it is an acceptable answer to its instruction, the question.

    rows: of hyp.jsonl; transcripts: as the judge reads them. Writes and returns a row for each: utt_id, question, transcript,
    answer, reply, verdict (acceptable, unacceptable, or None where the reply is neither), model.
    """
    fields = [{"question": row["instruction"], "transcript": transcripts[row["utt_id"]], "answer": row["hypothesis"]}
              for row in rows]  # fmt: skip
    prompts = [Template(LISTING_2).substitute(f) for f in fields]
    title = f"{output.parent.name}: judging"
    judgements = [
        {"utt_id": row["utt_id"], **f, "reply": reply.text, "verdict": parse_verdict(reply.text), "model": reply.model}
        for row, f, reply in zip(rows, fields, ask(model, prompts, Cache(cache), title), strict=True)
    ]
    write_jsonl(output, judgements)
    return judgements


def parse_verdict(reply: str) -> str | None:
    """The verdict that a reply begins with, such as "Unacceptable." or "The answer is acceptable, as ..."; else None.

    None as well where the reply names both: nothing is guessed, "not acceptable" neither.
    """
    found = VERDICT.match(reply)
    named = set(re.findall(r"\b(?:un)?acceptable\b", reply.lower()))
    return found[1].lower() if found and len(named) == 1 else None
