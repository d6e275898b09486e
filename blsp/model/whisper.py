"""Whisper with its own decoder: the recognizer of the cascade Whisper+LLM (Section 4.2).

What Transformers' own generate() decodes with stands in generation_config.json, which folders of fine-tuned and older models
lack, in whole or in part; it then leaves out the language and stops after 20 tokens. Here the prompt and the end come from the
tokenizer, which knows the tokens by name, and a generation_config.json only adds to it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GenerationMixin,
    PreTrainedTokenizerBase,
    WhisperForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.configuration_whisper import NON_SPEECH_TOKENS, NON_SPEECH_TOKENS_MULTI
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from blsp.base.files import InputError
from blsp.data import mel
from blsp.model.encoder import STRIDE, cut, load_whisper, loading
from blsp.model.generation import Generated

START, END, TRANSCRIBE, NO_TIMESTAMPS = "<|startoftranscript|>", "<|endoftext|>", "<|transcribe|>", "<|notimestamps|>"
# Beside symbols that are not spoken, OpenAI's decoding never writes these.
CONTROL = (START, TRANSCRIBE, "<|translate|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|nocaptions|>")
ENGLISH, MULTILINGUAL = 50256, 50257  # END in OpenAI's two vocabularies: what comes before it is text
BLANK = 220  # the token that is a space, in both


class WhisperRecognizer:
    """Greedy transcripts; what is longer than Whisper's window is transcribed piece by piece.

    language: a code or English name that the model knows, or "auto": each piece's is detected. Raises InputError for another.
    """

    def __init__(
        self, model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, language: str, name: str = ""
    ):
        self.model, self.tokenizer = model, tokenizer
        stated = model.generation_config
        ids = _named_tokens(stated) | tokenizer.get_vocab()
        end = ids.get(END, tokenizer.eos_token_id)
        self.start = ids.get(START, model.config.decoder_start_token_id)
        self.languages = _languages(stated, ids, end)
        code = TO_LANGUAGE_CODE.get(str(language).lower(), str(language).lower())
        if code not in ("auto", *(self.languages or ("en",))):
            known = ", ".join(sorted(self.languages)) or "en"
            raise InputError(f"{name}: does not know the source_language '{language}'; it is one of {known}, or auto")
        self.language = self.languages.get(code)
        # What follows the language.
        self.task = [ids[token] for token in (TRANSCRIBE,) if self.languages and token in ids]
        self.task += [ids[token] for token in (NO_TIMESTAMPS,) if token in ids]
        prompt = [self.start, *self.languages.values(), *self.task, end]
        if None in prompt or max(prompt) >= model.config.vocab_size or len(tokenizer) < model.config.vocab_size / 2:
            raise InputError(f"{name}: has a tokenizer of {len(tokenizer)} tokens for a model of {model.config.vocab_size};"
                             " copy the tokenizer of the Whisper that it was made from")  # fmt: skip
        self.decoding = GenerationConfig(
            max_length=model.config.max_target_positions,
            decoder_start_token_id=self.start,
            eos_token_id=end,
            pad_token_id=end,
            suppress_tokens=_suppressed(stated, model.config, ids, end),
            begin_suppress_tokens=_suppressed_first(stated, end),
        )
        model.generation_config = self.decoding  # generate() takes from it what is not set

    @classmethod
    def from_pretrained(
        cls, name: str, language: str = "auto", dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> WhisperRecognizer:
        """Of a Whisper folder or hub name. Raises InputError where it cannot be loaded."""
        model = load_whisper(WhisperForConditionalGeneration, name, dtype)
        with loading(f"{name}: its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(name)
        return cls(model.to(device), tokenizer, language, name)

    @torch.inference_mode()
    def transcribe(self, features: list[torch.Tensor]) -> list[Generated]:
        """features: log-mel of each utterance, see mel.py. What loops until the decoder's end has finish_reason "length"."""
        window = STRIDE * self.model.config.max_source_positions
        cuts = [cut(f, window) for f in features]
        padded = mel.pad([piece for pieces in cuts for piece in pieces], window)
        encoded = self.model.get_encoder()(padded.transpose(1, 2).to(self.model.device, self.model.dtype))
        prompts = self._prompts(encoded)
        rows = GenerationMixin.generate(  # Whisper's own would make its prompt anew
            self.model,
            encoder_outputs=encoded,
            attention_mask=torch.ones(encoded.last_hidden_state.shape[:2], device=self.model.device),  # keeps it from warning
            decoder_input_ids=prompts,
            generation_config=self.decoding,
        )
        pieces_of_all = iter(rows[:, prompts.shape[1] :].tolist())
        return [self._joined([next(pieces_of_all) for _ in pieces]) for pieces in cuts]

    def _prompts(self, encoded: BaseModelOutput) -> torch.Tensor:
        """(W, n) ids that transcripts follow: start, language, task, no timestamps."""
        start = torch.full((len(encoded.last_hidden_state), 1), self.start, device=self.model.device)
        prompts = [start]
        if self.languages:
            known = torch.tensor(sorted(self.languages.values()), device=start.device)
            if self.language is None:
                logits = self.model(encoder_outputs=encoded, decoder_input_ids=start).logits[:, -1]
                prompts.append(known[logits[:, known].argmax(-1)][:, None])
            else:
                prompts.append(torch.full_like(start, self.language))
        return torch.cat([*prompts, start.new_tensor([self.task]).long().expand(len(start), -1)], dim=1)

    def _joined(self, pieces: list[list[int]]) -> Generated:
        end = self.decoding.eos_token_id
        written = [ids[: ids.index(end)] if end in ids else ids for ids in pieces]
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        finish_reason = "stop" if all(end in ids for ids in pieces) else "length"
        return Generated(" ".join(text.strip() for text in texts), sum(map(len, written)), finish_reason)


def _named_tokens(stated: GenerationConfig) -> dict[str, int]:
    """The tokens that a generation_config.json names."""
    tasks = {f"<|{task}|>": i for task, i in (getattr(stated, "task_to_id", None) or {}).items()}
    single = {START: stated.decoder_start_token_id, NO_TIMESTAMPS: getattr(stated, "no_timestamps_token_id", None)}
    named = {**(getattr(stated, "lang_to_id", None) or {}), **tasks, **single}
    return {token: i for token, i in named.items() if i is not None}


def _languages(stated: GenerationConfig, ids: dict[str, int], end: int) -> dict[str, int]:
    """Code -> token of the languages that a model can be told; none of an English-only one, though its tokenizer has tokens."""
    if not getattr(stated, "is_multilingual", end != ENGLISH):
        return {}
    codes = [token.strip("<|>") for token in getattr(stated, "lang_to_id", None) or {}] or TO_LANGUAGE_CODE.values()
    return {code: ids[f"<|{code}|>"] for code in codes if f"<|{code}|>" in ids}


def _suppressed(stated: GenerationConfig, config: Any, ids: dict[str, int], end: int) -> list[int] | None:
    """What transcripts never contain; where nothing is said of it, and the vocabulary is OpenAI's, what OpenAI's do not."""
    for source in (stated, config):
        if (tokens := getattr(source, "suppress_tokens", None)) is not None:
            return list(tokens) or None
    symbols = {ENGLISH: NON_SPEECH_TOKENS, MULTILINGUAL: NON_SPEECH_TOKENS_MULTI}.get(end)
    return symbols and [i for i in symbols if i < end] + sorted(ids[token] for token in CONTROL if token in ids)


def _suppressed_first(stated: GenerationConfig, end: int) -> list[int] | None:
    """What transcripts do not begin with; where nothing is said of it, and the vocabulary is OpenAI's: a blank, the end."""
    if not stated._from_model_config and stated.begin_suppress_tokens is not None:
        return list(stated.begin_suppress_tokens) or None
    return [BLANK, end] if end in (ENGLISH, MULTILINGUAL) else None
