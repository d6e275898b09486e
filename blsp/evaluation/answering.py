"""A test set's utterances answered under a task's instruction, or their own: from speech, from transcripts, by a recognizer."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import torch

from blsp.base import command
from blsp.base.files import InputError, fingerprint, read_jsonl, write_json
from blsp.base.journal import Journal
from blsp.data import mel
from blsp.data.data_dir import read_table
from blsp.data.normalization import normalizer
from blsp.data.states import speech_reader
from blsp.data.tasks import Job
from blsp.evaluation.agreement import OwnAnswers
from blsp.model import generation
from blsp.model.adapter import adapter_length
from blsp.model.blsp import BLSP, to_device
from blsp.model.decoding import Decoding
from blsp.model.encoder import STRIDE, Speech, SpeechEncoder
from blsp.model.generation import Generated
from blsp.model.llm import LLM, choose_dtype, load_llm, precision_name
from blsp.model.prompts import OPTIONS, Prompter
from blsp.model.recognizer import Recognizer
from blsp.model.whisper import WhisperRecognizer

log = command.logger("decode")


class _Open:
    """A job at work."""

    def __init__(self, job: Job, settings: dict[str, Any], shard: int, n_shards: int):
        self.job, self.settings = job, settings
        self.journal = Journal(job.output, fingerprint(settings), shard, n_shards)
        self.references, self.instructions = read_table(job.folder / job.reference), job.instructions()

    def lacks(self, utt_ids: Iterable[str]) -> bool:
        return any(utt_id not in self.journal.rows for utt_id in utt_ids)

    def row(self, utt_id: str, instruction: str, generated: Generated) -> dict[str, Any]:
        if utt_id not in self.references:
            raise InputError(f"{self.job.folder / self.job.reference}: utterance '{utt_id}' has no reference for the task"
                             f" {self.job.name}")  # fmt: skip
        return {"utt_id": utt_id, "task": self.job.name, "instruction": instruction, "hypothesis": generated.text,
                "reference": self.references[utt_id], "finish_reason": generated.finish_reason}  # fmt: skip

    def finish(self, dtype: torch.dtype) -> None:
        """dtype: of the models, what a precision "auto" has come to."""
        output = self.job.output
        if self.journal.finish(list(self.instructions)):
            done = {"fingerprint": fingerprint(self.settings), **self.settings, "dtype": precision_name(dtype)}
            write_json(output.with_name("decode.json"), done)
            log.info(f"{output}: {len(self.journal.rows)} hypotheses")


def _batches(lengths: dict[str, int], work: list[_Open], config: dict[str, Any], shard: int, n_shards: int) -> list[list[str]]:
    """This shard's batches of utterances that have not all their hypotheses yet."""
    utt_ids = list(lengths)
    cut = generation.length_batches(list(lengths.values()), config["decoding_batch"])[shard::n_shards]
    batches = [[utt_ids[i] for i in batch] for batch in cut]
    return [batch for batch in batches if any(job.lacks(batch) for job in work)]


def answer(
    shard: int, n_shards: int, device: str, jobs: list[tuple[Job, dict[str, Any]]], config: dict[str, Any], model: Path
) -> None:
    """Let the LLM do every job, from speech or from transcripts."""
    source, reader = _sources(config, model, device)
    _answer_all(shard, n_shards, jobs, config, source, reader)


def answer_transcripts(
    shard: int, n_shards: int, device: str, jobs: list[tuple[Job, dict[str, Any]]], config: dict[str, Any], model: Path
) -> None:
    """Let the same LLM do every job from the reference transcripts: its own answers, of which agreement is measured."""
    _, reader = _sources(config, model, device)
    _answer_all(shard, n_shards, jobs, config, reader, reader)


def _answer_all(
    shard: int,
    n_shards: int,
    jobs: list[tuple[Job, dict[str, Any]]],
    config: dict[str, Any],
    source: _Speech | _Text,
    reader: _Text,
) -> None:
    decoding = Decoding.from_settings(config["decoding"])
    of_same_speech: dict[tuple[Path, str], list[_Open]] = {}
    for job, settings in jobs:
        of_same_speech.setdefault((job.folder, job.table), []).append(_Open(job, settings, shard, n_shards))
    for work in of_same_speech.values():
        job, instructions = work[0].job, work[0].instructions
        owns = [OwnAnswers(one.job.answers, source.llm, source.prompter) if one.job.answers else None for one in work]
        for one, own in zip(work, owns, strict=True):
            if own:
                one.references = own.texts()
        if any(owns):
            reader.open(job, instructions)
        batches = _batches(source.open(job, instructions), work, config, shard, n_shards)
        title = f"{job.folder.name}: {', '.join(one.job.name for one in work)}"
        for batch in command.progress(batches, len(batches), title, "batch"):
            contents = source.contents(batch)  # once for all tasks: encoding speech costs as much as answering
            for one, own in zip(work, owns, strict=True):
                if not one.lacks(batch):
                    continue
                asked = [one.instructions[u] for u in batch]
                prompts = source.prompts(asked, contents)
                texts = generation.generate(source.llm, source.prompter, prompts, decoding, batch)
                rows = [one.row(*row) for row in zip(batch, asked, texts, strict=True)]
                if own:
                    far = own.divergences(batch, reader.prompts(asked, reader.contents(batch)), prompts)
                    rows = [row | divergence for row, divergence in zip(rows, far, strict=True)]
                one.journal.append(rows)
        for one in work:
            one.finish(source.llm.dtype)


def _sources(config: dict[str, Any], model: Path, device: str) -> tuple[_Speech | _Text, _Text]:
    """What the LLM is given, and the same LLM given the reference transcripts."""
    normalize = normalizer(config["normalizer"])
    if config["input"] == "speech":
        blsp = BLSP.from_pretrained(model, config["precision"], device)
        return _Speech(blsp, config["cache_encoder"]), _Text(blsp.llm, blsp.prompter, normalize, "text")
    llm = load_llm(config["llm"], choose_dtype(config["precision"], device), device)
    prompter = Prompter(llm.tokenizer, config["template"], **{key: config[key] for key in OPTIONS})
    parts = llm, prompter, normalize
    return _Text(*parts, config["input"]), _Text(*parts, "text")


class _Speech:
    """Prompts whose content is speech."""

    def __init__(self, model: BLSP, cached: bool):
        self.model, self.llm, self.prompter, self.cached = model, model.llm, model.prompter, cached

    def open(self, job: Job, meant: Container[str]) -> dict[str, int]:
        """Those of a job's utterances that are meant, and the length of their content."""
        self.read = speech_reader(job.folder, self.cached)
        n_frames = _n_frames(job, meant)
        _report_long(job, n_frames, self.model.encoder)
        return {u: int(adapter_length((n + STRIDE - 1) // STRIDE)) for u, n in n_frames.items()}

    @torch.inference_mode()
    def contents(self, utt_ids: list[str]) -> list[torch.Tensor]:
        return self.model.speech_embeds(to_device([self.read(u) for u in utt_ids], self.model.device))

    @torch.inference_mode()
    def prompts(self, instructions: list[str], contents: list[torch.Tensor]) -> list[torch.Tensor]:
        prompts = map(self.prompter.prompt, instructions)
        return [self.model.prompt_embeds(prompt, content) for prompt, content in zip(prompts, contents, strict=True)]


class _Text:
    """Prompts whose content is a transcript: the reference (Text+LLM) or a recognizer's (Whisper+LLM, CTC+LLM)."""

    def __init__(self, llm: LLM, prompter: Prompter, normalize: Callable[[str], str], source: str):
        self.llm, self.prompter, self.normalize, self.source = llm, prompter, normalize, source

    def open(self, job: Job, meant: Container[str]) -> dict[str, int]:
        if self.source == "text":
            transcripts = read_table(job.folder / "text")
        else:
            rows = read_jsonl(job.output.parents[1] / f"{job.folder.name}.transcript" / "hyp.jsonl")
            transcripts = {row["utt_id"]: row["hypothesis"] for row in rows}
        self.transcripts = {u: self.normalize(t) for u, t in transcripts.items() if u in meant}
        return {u: len(t) for u, t in self.transcripts.items()}

    def contents(self, utt_ids: list[str]) -> list[str]:
        return [self.transcripts[u] for u in utt_ids]

    @torch.inference_mode()
    def prompts(self, instructions: list[str], contents: list[str]) -> list[torch.Tensor]:
        return [self.llm.embed(self.prompter.text_prompt(*text)) for text in zip(instructions, contents, strict=True)]


def transcribe_all(
    shard: int, n_shards: int, device: str, jobs: list[tuple[Job, dict[str, Any]]], config: dict[str, Any], model: Path
) -> None:
    """Let the recognizer of a cascade (Section 4.2) do every job."""
    if config["input"] == "whisper":
        dtype = choose_dtype(config["precision"], device)
        whisper = WhisperRecognizer.from_pretrained(config["encoder"], config["source_language"], dtype, device)
        transcribe = whisper.transcribe
    else:
        recognizer = Recognizer.from_pretrained(model, config["precision"], device)
        dtype = recognizer.encoder.encoder.dtype

        def transcribe(speech: list[Speech]) -> list[Generated]:
            return [Generated(text, 0, "stop") for text in recognizer.transcribe(speech, config["ctc_beam"])]

    cached = config["cache_encoder"] and config["input"] == "ctc"  # Whisper's decoder attends to its padding, which is not kept
    for job, settings in jobs:
        one = _Open(job, settings, shard, n_shards)
        read = speech_reader(job.folder, cached)
        batches = _batches(_n_frames(job, one.instructions), [one], config, shard, n_shards)
        for batch in command.progress(batches, len(batches), f"{job.folder.name}: transcribing", "batch"):
            texts = transcribe([read(u) for u in batch])
            one.journal.append(one.row(u, "", text) for u, text in zip(batch, texts, strict=True))
        one.finish(dtype)


def _n_frames(job: Job, meant: Container[str]) -> dict[str, int]:
    return {u: int(n) for u, n in read_table(job.folder / "utt2num_frames").items() if u in meant}


def _report_long(job: Job, n_frames: dict[str, int], encoder: SpeechEncoder) -> None:
    long = sum(n > encoder.window for n in n_frames.values())
    if long:
        seconds = encoder.window / mel.FRAMES_PER_SECOND
        log.info(f"{job.folder}: {long} of {len(n_frames)} utterances are longer than the encoder's window of {seconds:g} s"
                 " and are cut in pauses")  # fmt: skip
