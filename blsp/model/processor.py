"""Messages to what the model reads: token ids, and features of the speech between them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from transformers import AutoConfig, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from blsp.base.files import InputError
from blsp.data import audio, mel
from blsp.model.adapter import adapter_length
from blsp.model.configuration import MODEL_TYPE
from blsp.model.encoder import STRIDE, cut
from blsp.model.folder import local_folder, named_parts, prompter_of
from blsp.model.llm import load_tokenizer
from blsp.model.prompts import Prompter

AUDIO = "<|audio|>"  # where a prompt that is shown as text has speech

Message = Mapping[str, Any]  # {"role": ..., "content": text or parts}


@dataclass(frozen=True)
class Conversation:
    """A prompt as the model reads it."""

    ids: list[int]  # token ids; at each place of a speech embedding the processor's audio_token_id
    features: list[torch.Tensor]  # (n_frames_i + ECHO, n_mels) of each part of speech
    n_embeds: list[int]  # how many embeddings each of these becomes
    audio_token_id: int

    @cached_property
    def units(self) -> list[Hashable]:
        """What stands at each position: a token id, or which embedding of which speech."""
        digests = [hashlib.sha256(f.contiguous().numpy().tobytes()).hexdigest() for f in self.features]
        speech = iter((digest, i) for digest, n in zip(digests, self.n_embeds, strict=True) for i in range(n))
        return [next(speech) if token == self.audio_token_id else token for token in self.ids]

    @property
    def key(self) -> str:
        """What stands for the conversation where sampling needs a seed of its own."""
        return hashlib.sha256(repr(self.units).encode()).hexdigest()


class BLSPProcessor(ProcessorMixin):
    """The model's prompts, and the features of its encoder, from messages as Transformers' audio models take them.

    A message is {"role": "system" | "user" | "assistant", "content": text or parts}; parts are {"type": "text", "text": ...}
    and, of the user, {"type": "audio", "audio": ...}: a file's path (also under "path"), samples (n,) float32 at 16 kHz, or
    features (n_frames + ECHO, n_mels) float32 as a tensor.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompter: Prompter, n_mels: int, window: int):
        super().__init__(tokenizer)
        self.prompter, self.n_mels, self.window = prompter, n_mels, window  # window: feature frames
        self.audio_token_id = max(tokenizer.get_vocab().values()) + 1  # no text has it

    @classmethod
    def from_pretrained(cls, name: str | Path, **hub: Any) -> BLSPProcessor:
        """Of a BLSP folder or hub name. Loads the LLM's tokenizer, and no weights; hub: as local_folder() takes them."""
        folder = local_folder(name, **hub)
        config, names = named_parts(folder, MODEL_TYPE, "encoder", "llm")
        tokenizer = load_tokenizer(names["llm"])
        encoder = AutoConfig.from_pretrained(names["encoder"], trust_remote_code=False)
        prompter = prompter_of(folder, config, tokenizer)
        return cls(tokenizer, prompter, encoder.num_mel_bins, STRIDE * encoder.max_source_positions)

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        raise InputError("a BLSP folder needs no files of its processor: save the model")

    def prepare(self, messages: Sequence[Message], heard: dict[Hashable, torch.Tensor] | None = None) -> Conversation:
        """What the model reads of a conversation, up to where the assistant speaks next.

        heard: features of the audio of earlier calls; what this conversation has is added, what it lacks is dropped.
        Raises InputError where messages, or their audio, cannot be used.
        """
        turns, sources = _turns(messages)
        runs = self.prompter.conversation(turns)
        known = dict(heard or {})
        if heard is not None:
            heard.clear()
        features = []
        for source in sources:
            key = None if heard is None else _source_key(source)
            found = known[key] if key is not None and key in known else self.features(source)
            if key is not None:
                heard[key] = found
            features.append(found)
        n_embeds = [self.n_embeds(f) for f in features]
        ids = list(runs[0])
        for n, run in zip(n_embeds, runs[1:], strict=True):
            ids += [self.audio_token_id] * n + run
        return Conversation(ids, features, n_embeds, self.audio_token_id)

    def features(self, source: Any) -> torch.Tensor:
        """(n_frames + ECHO, n_mels) float32 of a file, of samples (n,) float32 at 16 kHz, or of features: themselves."""
        if isinstance(source, (str, Path)):
            source = audio.load(_path(source))
        if isinstance(source, torch.Tensor) and source.ndim == 2:
            if source.shape[1] != self.n_mels or mel.valid_frames(source) < 1 or not torch.isfinite(source).all():
                raise InputError(
                    f"features should be finite numbers (n, {self.n_mels}), n above {mel.ECHO}; they are {tuple(source.shape)}"
                )
            return source.detach().float().cpu()
        samples = np.asarray(source.cpu() if isinstance(source, torch.Tensor) else source)
        if samples.ndim != 1 or not len(samples) or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise InputError(f"audio should be finite floats (n_samples,) of one channel at {audio.SAMPLE_RATE} Hz; it is"
                             f" {samples.dtype} {samples.shape}")  # fmt: skip
        window = self.window / mel.FRAMES_PER_SECOND
        seconds = len(samples) / audio.SAMPLE_RATE
        return torch.from_numpy(mel.log_mel(samples, self.n_mels, window if seconds <= window else seconds + 1))

    def n_embeds(self, features: torch.Tensor) -> int:
        """How many embeddings an utterance's features (n_frames + ECHO, n_mels) become."""
        pieces = cut(features, self.window)
        return sum(adapter_length((mel.valid_frames(piece) + STRIDE - 1) // STRIDE) for piece in pieces)

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        tokenize: bool = False,
        add_generation_prompt: bool = True,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
    ) -> str | list[str] | torch.Tensor | BatchFeature:
        """One conversation or several as the model reads them: the assistant is to speak next.

        tokenize False: as text, with <|audio|> where speech stands. True: input_ids (B, L), padded on the left; with
        return_dict also attention_mask (B, L), input_features (sum of feature_lengths, n_mels) and feature_lengths (A,) of
        all the speech.
        BLSP.generate() takes these.
        """
        if not add_generation_prompt or return_tensors != "pt":
            raise InputError("apply_chat_template: add_generation_prompt should be True and return_tensors 'pt'")
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        prepared = [self.prepare(messages) for messages in (conversation if batched else [conversation])]
        if not tokenize:
            texts = [self.text(c) for c in prepared]
            return texts if batched else texts[0]
        longest = max(len(c.ids) for c in prepared)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        rows = [[0] * (longest - len(c.ids)) + [1] * len(c.ids) for c in prepared]
        ids = torch.tensor([[pad] * (longest - len(c.ids)) + c.ids for c in prepared])
        if not return_dict:
            return ids
        features = [f for c in prepared for f in c.features]
        inputs = {"input_ids": ids, "attention_mask": torch.tensor(rows)}
        if features:
            inputs |= {"input_features": torch.cat(features), "feature_lengths": torch.tensor([len(f) for f in features])}
        return BatchFeature(inputs)

    def text(self, conversation: Conversation) -> str:
        """A prompt as text, with AUDIO where speech stands."""
        texts, run, left = [], [], list(conversation.n_embeds)
        ids = iter(conversation.ids)
        for token in ids:
            if token != self.audio_token_id:
                run.append(token)
                continue
            texts += [self.tokenizer.decode(run), AUDIO]
            run = []
            for _ in range(left.pop(0) - 1):
                next(ids)
        return "".join([*texts, self.tokenizer.decode(run)])

    def conversations(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, features: Sequence[torch.Tensor]
    ) -> list[Conversation]:
        """What apply_chat_template() was given, from what it gave."""
        rows = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        left = list(features)
        found = []
        for ids in rows:
            wanted, own, n_embeds = ids.count(self.audio_token_id), [], []
            while sum(n_embeds) < wanted and left:
                own.append(left.pop(0).float().cpu())
                n_embeds.append(self.n_embeds(own[-1]))
            if sum(n_embeds) != wanted:
                raise InputError("input_features do not fit input_ids; give generate() all that apply_chat_template() gives")
            found.append(Conversation(ids, own, n_embeds, self.audio_token_id))
        return found


def _turns(messages: Sequence[Message]) -> tuple[list[tuple[str, list[str | None]]], list[Any]]:
    """Roles and parts as Prompter.conversation() takes them, and the sources of the audio in their order."""
    turns, sources = [], []
    for number, message in enumerate(messages, 1):
        where = f"message {number}"
        if not isinstance(message, Mapping) or message.get("role") not in ("system", "user", "assistant"):
            raise InputError(f"{where}: should be of a role system, user or assistant, with its content")
        content = message.get("content")
        parts: list[str | None] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "text" and isinstance(part.get("text"), str):
                parts.append(part["text"])
            elif kind == "audio" and message["role"] == "user":
                parts.append(None)
                sources.append(_source(part, where))
            elif kind == "audio":
                raise InputError(f"{where}: only the user's can have audio")
            else:
                raise InputError(
                    f"{where}: a part should be {{'type': 'text', 'text': ...}} or {{'type': 'audio', 'audio': ...}}"
                )
        if message["role"] != "assistant" and not any(part is None or part.strip() for part in parts):
            raise InputError(f"{where}: has no content")
        turns.append((message["role"], parts if message["role"] == "user" else [" ".join(p for p in parts if p)]))
    return turns, sources


def _source(part: Mapping[str, Any], where: str) -> Any:
    """The audio of a part: under `audio`, or where other models' messages have it."""
    found = [part[name] for name in ("audio", "path", "url", "audio_url") if part.get(name) is not None]
    if len(found) != 1:
        raise InputError(f"{where}: a part of type audio should have its audio under 'audio': a path, samples or features")
    return found[0]


def _path(name: str | Path) -> str:
    """A file's path; also from a file:// address. Others are not fetched."""
    parts = urlsplit(str(name))
    if parts.scheme == "file":
        return unquote(parts.path)
    if parts.scheme in ("http", "https", "ftp", "data"):
        raise InputError(f"{str(name)[:60]}: audio is not fetched; download it and give the file")
    if "\0" in str(name):
        raise InputError(f"{str(name)!r}: is no path of a file")
    return str(name)


def _source_key(source: Any) -> Hashable:
    """What tells audio from other audio without decoding it; None where that would not be worth it."""
    if isinstance(source, (str, Path)):
        path = os.path.abspath(_path(source))
        try:
            status = os.stat(path)
        except OSError:
            return None  # loading it says what is wrong
        return path, status.st_size, status.st_mtime_ns
    if isinstance(source, np.ndarray):
        return str(source.dtype), source.shape, hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()
    return None
