"""Questions about transcripts, for general-purpose QA (Section 5.1, Appendix C): an LLM asks one about each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from string import Template
from typing import Any

from blsp.base import command
from blsp.base.files import InputError, file_fingerprint, fingerprint, read_jsonl, write_jsonl
from blsp.data.data_dir import read_table, write_table
from blsp.data.normalization import VERSION as NORMAL_FORMS
from blsp.data.normalization import normalizer
from blsp.qa.chat_client import Cache, ChatModel, ask

# Listing 1 to the letter, with its line breaks. It says "response", and its examples "answer".
LISTING_1 = """\
Please ask a question about the input and then answer the question based on the
input. The output format should be in json and contains question and the response.
Example:
input: ah yeah good day and welcome to this instructional video on how to ah wash
your car um with a baby . basically , you just ask them to do it . you know they
love this kind of stuff this bubbles and a brush and .
output: {"question": "What is the video about?", "answer": "the video is about how to
wash your car um with a baby."}
input: it is the gibraltar strait where you lost control and then you dived down ...
one of those cases where you let the wings go in the clouds but you lose
orientation completely
output: {"question": "Where did the incident occur?", "answer": "Gibraltar Strait."}
BEGIN:
input: ${transcript}
output:"""
log = command.logger("questions")


@dataclass(frozen=True)
class Questions:
    """Which transcripts are asked about, and where the questions go."""

    table: str  # the table of a data directory that gets the questions
    min_words: int  # of a transcript as it stands in `text`
    max_words: int
    normalizer: str  # of the transcripts as LLMs read them

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Questions:
        """Of the configuration's block `questions`. Raises InputError for keys and values that mean nothing."""
        known = [field.name for field in fields(cls)]
        if not isinstance(settings, Mapping) or sorted(settings) != sorted(known):
            raise InputError(f"questions: its keys should be {', '.join(known)}")
        questions = cls(**settings)
        if not all(isinstance(n, int) for n in (questions.min_words, questions.max_words)):
            raise InputError("questions: min_words and max_words are whole numbers")
        return questions


def write_questions(folder: Path, settings: Questions, model: ChatModel, cache: Path) -> None:
    """Let `model` ask about each transcript of a data directory that is neither too short nor too long.

    Writes DATA_DIR/SET/TABLE.jsonl, a row for each transcript that was chosen with the LLM's reply, and the table of the
    questions. A reply that holds no question leaves its utterance out of the table; it is counted and named in the rows.
    Raises InputError where there is nothing to ask about or no question at all.
    """
    rows_path, table_path = folder / f"{settings.table}.jsonl", folder / settings.table
    if table_path.exists() and not rows_path.exists():
        raise InputError(f"{table_path}: is there, and was not written by this stage, whose {rows_path.name} is not beside it;"
                         " name another table in questions.table, or remove it")  # fmt: skip
    text = read_table(folder / "text")
    done = fingerprint([LISTING_1, asdict(settings), NORMAL_FORMS, model.signature(), file_fingerprint(folder / "text")])
    if rows_path.exists() and table_path.exists():
        rows = read_jsonl(rows_path)
        if rows and all(row["fingerprint"] == done for row in rows) and read_table(table_path) == _table(rows):
            log.info(f"{table_path}: {len(_table(rows))} questions are there")
            return
    chosen = select(text, settings.min_words, settings.max_words)
    limits = f"{settings.min_words} to {settings.max_words} words"
    if not chosen:
        raise InputError(f"{folder / 'text'}: none of {len(text)} transcripts has {limits}; prepare more utterances (--limit)"
                         " or change min_words and max_words of questions")  # fmt: skip
    log.info(f"{folder / 'text'}: {len(chosen)} of {len(text)} transcripts have {limits}")
    normalize = normalizer(settings.normalizer)
    transcripts = {utt_id: normalize(transcript) for utt_id, transcript in chosen.items()}
    prompts = [Template(LISTING_1).substitute(transcript=transcript) for transcript in transcripts.values()]
    replies = ask(model, prompts, Cache(cache), f"{folder.name}: questions")
    rows = []
    for (utt_id, transcript), reply in zip(transcripts.items(), replies, strict=True):
        question, answer = parse_question(reply.text)
        rows.append({"utt_id": utt_id, "transcript": transcript, "question": question, "answer": answer, "reply": reply.text,
                     "finish_reason": reply.finish_reason, "model": reply.model, "fingerprint": done})  # fmt: skip
    write_jsonl(rows_path, rows)
    questions = _table(rows)
    if not questions:
        raise InputError(f"{rows_path}: none of {len(rows)} replies of {model.model} holds a question in Listing 1's form;"
                         " take an LLM that follows instructions, or allow more tokens")  # fmt: skip
    write_table(table_path, questions)
    log.info(f"{table_path}: {len(questions)} questions, {len(rows) - len(questions)} replies without one")


def select(text: Mapping[str, str], min_words: int, max_words: int) -> dict[str, str]:
    """The transcripts of `min_words` to `max_words` words, both included (Appendix C: 40 to 60)."""
    return {utt_id: t for utt_id, t in text.items() if min_words <= len(t.split()) <= max_words}


def parse_question(reply: str) -> tuple[str, str]:
    """Question and answer of a reply to Listing 1, each in one line; ("", "") where it holds no JSON object with a question.

    Text around the object, such as a code fence, is passed over. The LLM's own answer is kept for the reader only.
    """
    at = reply.find("{")
    while at >= 0:
        try:
            value, _ = json.JSONDecoder(strict=False).raw_decode(reply, at)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and isinstance(value.get("question"), str) and value["question"].strip():
            answer = value.get("answer", value.get("response", ""))
            return _line(value["question"]), _line(str(answer))
        at = reply.find("{", at + 1)
    return "", ""


def _line(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode().split())  # the JSON within the reply can hold half a character


def _table(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["utt_id"]: row["question"] for row in rows if row["question"]}
