"""A test set's utterances answered under a task's instruction, or their own: from speech, from transcripts, by a recognizer."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from blsp.base import command
from blsp.base.files import InputError, fingerprint, read_jsonl, write_json
from blsp.base.journal import Journal
from blsp.data import mel
from blsp.data.data_dir import read_table
from blsp.data.normalization import normalizer
from blsp.data.tasks import Job
from blsp.evaluation.agreement import OwnAnswers
from blsp.model import generation
from blsp.model.adapter import adapter_length
from blsp.model.blsp import BLSP
from blsp.model.encoder import STRIDE, SpeechEncoder, cut, load_recognizer
from blsp.model.generation import Decoding, Generated
from blsp.model.llm import LLM, choose_dtype, load_llm, precision_name
from blsp.model.prompts import OPTIONS, Prompter
from blsp.model.recognizer import Recognizer

log = command.logger("decode")


def _journal(job: Job, settings: dict[str, Any], shard: int, n_shards: int) -> Journal:
    return Journal(job.output, fingerprint(settings), shard, n_shards)


def _finish(job: Job, settings: dict[str, Any], journal: Journal, utt_ids: Iterable[str], dtype: torch.dtype) -> None:
    """dtype: of the models, what a precision "auto" has come to."""
    if journal.finish(list(utt_ids)):
        done = {"fingerprint": fingerprint(settings), **settings, "dtype": precision_name(dtype)}
        write_json(job.output.with_name("decode.json"), done)
        log.info(f"{job.output}: {len(journal.rows)} hypotheses")


def _row(job: Job, utt_id: str, instruction: str, references: dict[str, str], generated: Generated) -> dict[str, Any]:
    if utt_id not in references:
        raise InputError(f"{job.folder / job.reference}: utterance '{utt_id}' has no reference for the task {job.name}")
    return {"utt_id": utt_id, "task": job.name, "instruction": instruction, "hypothesis": generated.text,
            "reference": references[utt_id], "finish_reason": generated.finish_reason}  # fmt: skip


def _batches(n_tokens: dict[str, int], journal: Journal, config: dict[str, Any], shard: int, n_shards: int) -> list[list[str]]:
    """This shard's batches of utterances that have no hypothesis yet."""
    utt_ids = list(n_tokens)
    cut = generation.length_batches(list(n_tokens.values()), config["decoding_batch"])[shard::n_shards]
    batches = [[utt_ids[i] for i in batch] for batch in cut]
    return [batch for batch in batches if any(utt_id not in journal.rows for utt_id in batch)]


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
    for job, settings in jobs:
        journal = _journal(job, settings, shard, n_shards)
        references, instructions = read_table(job.folder / job.reference), job.instructions()
        own = OwnAnswers(job.answers, source.llm, source.prompter) if job.answers else None
        if own:
            references = own.texts()
            reader.open(job, instructions)
        batches = _batches(source.open(job, instructions), journal, config, shard, n_shards)
        for batch in command.progress(batches, len(batches), f"{job.folder.name}: {job.name}", "batch"):
            asked = [instructions[u] for u in batch]
            prompts = source.prompts(asked, batch)
            texts = generation.generate(source.llm, source.prompter, prompts, decoding, batch)
            rows = [_row(job, u, instructions[u], references, g) for u, g in zip(batch, texts, strict=True)]
            if own:
                far = own.divergences(batch, reader.prompts(asked, batch), prompts)
                rows = [row | divergence for row, divergence in zip(rows, far, strict=True)]
            journal.append(rows)
        _finish(job, settings, journal, instructions, source.llm.dtype)


def _sources(config: dict[str, Any], model: Path, device: str) -> tuple[_Speech | _Text, _Text]:
    """What the LLM is given, and the same LLM given the reference transcripts."""
    normalize = normalizer(config["normalizer"])
    if config["input"] == "speech":
        blsp = BLSP.from_pretrained(model, config["precision"], device)
        return _Speech(blsp), _Text(blsp.llm, blsp.prompter, normalize, "text")
    llm = load_llm(config["llm"], choose_dtype(config["precision"], device), device)
    prompter = Prompter(llm.tokenizer, config["template"], **{key: config[key] for key in OPTIONS})
    parts = llm, prompter, normalize
    return _Text(*parts, config["input"]), _Text(*parts, "text")


class _Speech:
    """Prompts whose content is speech."""

    def __init__(self, model: BLSP):
        self.model, self.llm, self.prompter = model, model.llm, model.prompter

    def open(self, job: Job, meant: Container[str]) -> dict[str, int]:
        """Those of a job's utterances that are meant, and the length of their content."""
        self.places = read_table(job.folder / "feats.scp")
        n_frames = _n_frames(job, meant)
        _report_long(job, n_frames, self.model.encoder)
        return {u: int(adapter_length((n + STRIDE - 1) // STRIDE)) for u, n in n_frames.items()}

    @torch.inference_mode()
    def prompts(self, instructions: list[str], utt_ids: list[str]) -> list[torch.Tensor]:
        speech = self.model.speech_embeds([mel.read_features(self.places[u]).to(self.model.device) for u in utt_ids])
        prompts = map(self.prompter.prompt, instructions)
        return [self.model.prompt_embeds(prompt, s) for prompt, s in zip(prompts, speech, strict=True)]


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

    @torch.inference_mode()
    def prompts(self, instructions: list[str], utt_ids: list[str]) -> list[torch.Tensor]:
        texts = zip(instructions, (self.transcripts[u] for u in utt_ids), strict=True)
        return [self.llm.embed(self.prompter.text_prompt(*text)) for text in texts]


def transcribe_all(
    shard: int, n_shards: int, device: str, jobs: list[tuple[Job, dict[str, Any]]], config: dict[str, Any], model: Path
) -> None:
    """Let the recognizer of a cascade (Section 4.2) do every job."""
    if config["input"] == "whisper":
        whisper = _Whisper(config, device)
        transcribe: Callable[[list[torch.Tensor]], list[str]] = whisper.transcribe
        dtype = whisper.model.dtype
    else:
        recognizer = Recognizer.from_pretrained(model, config["precision"], device)
        transcribe = partial(recognizer.transcribe, beam=config["ctc_beam"])
        dtype = recognizer.encoder.encoder.dtype
    for job, settings in jobs:
        journal = _journal(job, settings, shard, n_shards)
        references, instructions = read_table(job.folder / job.reference), job.instructions()
        places = read_table(job.folder / "feats.scp")
        batches = _batches(_n_frames(job, instructions), journal, config, shard, n_shards)
        for batch in command.progress(batches, len(batches), f"{job.folder.name}: transcribing", "batch"):
            texts = transcribe([mel.read_features(places[u]) for u in batch])
            generated = [Generated(text, 0, "stop") for text in texts]
            journal.append(_row(job, u, "", references, g) for u, g in zip(batch, generated, strict=True))
        _finish(job, settings, journal, instructions, dtype)


class _Whisper:
    """Whisper with its own decoder, greedy; what is longer than its window, piece by piece."""

    def __init__(self, config: dict[str, Any], device: str):
        self.model = load_recognizer(config["encoder"], choose_dtype(config["precision"], device)).to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(config["encoder"])
        self.options = {}
        if getattr(self.model.generation_config, "is_multilingual", False):
            self.options["task"] = "transcribe"
            language = config["source_language"]
            if language != "auto":
                known = sorted(token.strip("<|>") for token in self.model.generation_config.lang_to_id)
                if TO_LANGUAGE_CODE.get(language, language) not in known:
                    raise InputError(f"{config['encoder']}: does not know the source_language '{language}'; it is one of"
                                     f" {', '.join(known)}, or auto")  # fmt: skip
                self.options["language"] = language

    @torch.inference_mode()
    def transcribe(self, features: list[torch.Tensor]) -> list[str]:
        window = STRIDE * self.model.config.max_source_positions
        cuts = [cut(f, window) for f in features]
        padded = mel.pad([piece for pieces in cuts for piece in pieces], window)
        inputs = padded.transpose(1, 2).to(self.model.device, self.model.dtype)
        mask = torch.ones_like(inputs[:, 0], dtype=torch.long)  # padding is silence, which Whisper hears
        ids = self.model.generate(input_features=inputs, attention_mask=mask, num_beams=1, do_sample=False, **self.options)
        texts = iter(self.tokenizer.batch_decode(ids, skip_special_tokens=True))
        return [" ".join(next(texts).strip() for _ in pieces) for pieces in cuts]


def _n_frames(job: Job, meant: Container[str]) -> dict[str, int]:
    return {u: int(n) for u, n in read_table(job.folder / "utt2num_frames").items() if u in meant}


def _report_long(job: Job, n_frames: dict[str, int], encoder: SpeechEncoder) -> None:
    long = sum(n > encoder.window for n in n_frames.values())
    if long:
        seconds = encoder.window / mel.FRAMES_PER_SECOND
        log.info(f"{job.folder}: {long} of {len(n_frames)} utterances are longer than the encoder's window of {seconds:g} s"
                 " and are cut in pauses")  # fmt: skip
