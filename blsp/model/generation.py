"""Batched text generation from embeddings, with Hugging Face's generate()."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from blsp.model.decoding import Decoding
from blsp.model.llm import LLM, pad_left
from blsp.model.prompts import Prompter
from blsp.model.thinking import answer_of

NUCLEUS = 256  # tokens that are looked at first


@dataclass(frozen=True)
class Generated:
    text: str
    n_tokens: int  # without the end of the turn
    finish_reason: str  # stop | length | thinking: ended before it began to answer


class _SampleRows(LogitsProcessor):
    """Turns sampling into an argmax with one random stream per row.

    Adding Gumbel noise to logits and taking the largest is sampling. With a generator for each row, what an utterance
    gets does not depend on its batch, its shard or the order of the work.
    """

    def __init__(self, decoding: Decoding, keys: Sequence[str], device: torch.device):
        self.decoding = decoding
        self.generators = []
        for key in keys:
            seed = int.from_bytes(hashlib.sha256(f"{decoding.seed} {key}".encode()).digest()[:8], "big") >> 1
            self.generators.append(torch.Generator(device).manual_seed(seed))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores (B, vocabulary) logits."""
        logits = scores.float() / self.decoding.temperature
        uniform = torch.stack([torch.rand(logits.shape[1], generator=g, device=g.device) for g in self.generators])
        # The nucleus is small: sort all of the vocabulary only where its largest tokens do not hold it.
        for n in (min(NUCLEUS, logits.shape[1]), logits.shape[1]):
            largest, tokens = logits.topk(n, dim=-1)
            share = (largest - logits.logsumexp(-1, keepdim=True)).exp()
            before = share.cumsum(-1) - share
            if self.decoding.top_p < 1 and bool((before[:, -1] >= self.decoding.top_p).all()):
                break
        noise = -(-uniform.gather(-1, tokens).clamp(min=1e-20).log()).log()
        drawn = (largest + noise).masked_fill(before >= self.decoding.top_p, -torch.inf)
        return torch.full_like(logits, -torch.inf).scatter(-1, tokens, drawn)


def steering(decoding: Decoding, keys: Sequence[str], ends: list[int], device: torch.device) -> LogitsProcessorList:
    """What is done with the logits behind responses before the largest is taken.

    A GenerationConfig's own repetition_penalty takes as many tokens of a row's response for padding as its prompt has.
    """
    processors = LogitsProcessorList()
    if decoding.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size))
    if decoding.min_new_tokens:
        processors.append(MinNewTokensLengthLogitsProcessor(0, decoding.min_new_tokens, ends, device=device))
    if decoding.temperature > 0:
        processors.append(_SampleRows(decoding, keys, device))
    return processors


@torch.inference_mode()
def generate(
    llm: LLM, prompter: Prompter, prompts: Sequence[torch.Tensor], decoding: Decoding, keys: Sequence[str]
) -> list[Generated]:
    """Continue each prompt, up to what ends a turn by the template or a text by the LLM. Thinking is no part of the text.

    prompts: embeddings (L_i, d_llm); keys: what seeds each row's sampling, the utterance ids.
    Rows are padded on the left and masked, so that a batch gives what single prompts give; of an LLM that would read the
    padding, only rows of the same length are taken together.
    """
    rows = token_ids(llm, prompter, prompts, decoding, keys)
    return [read(ids, llm, prompter) for ids in rows]


def all_ends(llm: LLM, prompter: Prompter) -> list[int]:
    """Token ids each of which ends a response."""
    return sorted({*llm.ends, prompter.end[-1]})


@torch.inference_mode()
def token_ids(
    llm: LLM, prompter: Prompter, prompts: Sequence[torch.Tensor], decoding: Decoding, keys: Sequence[str]
) -> list[list[int]]:
    """What generate() reads: token ids of each response, with whatever stands behind an end."""
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(0 if llm.pads else len(prompt), []).append(i)
    ends = all_ends(llm, prompter)
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.num_beams,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    generated: dict[int, list[int]] = {}
    for members in groups.values():
        rows = _continue(llm, [prompts[i] for i in members], settings, decoding, [keys[i] for i in members])
        for i, ids in zip(members, rows, strict=True):
            generated[i] = ids
    return [generated[i] for i in range(len(prompts))]


def _continue(
    llm: LLM, prompts: list[torch.Tensor], settings: GenerationConfig, decoding: Decoding, keys: list[str]
) -> list[list[int]]:
    """Token ids behind each prompt, with whatever stands behind an end."""
    embeds, mask = pad_left(prompts)
    processors = steering(decoding, keys, settings.eos_token_id, embeds.device)
    out = llm.model.generate(inputs_embeds=embeds, attention_mask=mask, logits_processor=processors, generation_config=settings)
    return out.tolist()


def read(ids: list[int], llm: LLM, prompter: Prompter) -> Generated:
    """What generated token ids say."""
    ends = all_ends(llm, prompter)
    n = next((i for i, token in enumerate(ids) if token in ends), None)
    ids, reason = (ids, "length") if n is None else (ids[:n], "stop")
    tokenizer = prompter.tokenizer
    if prompter.thought_tags.isdisjoint(ids):
        text = tokenizer.decode(ids, skip_special_tokens=True)
    else:  # the tags may be special tokens, which would leave no trace
        special = set(tokenizer.all_special_ids) - prompter.thought_tags
        text = tokenizer.decode([token for token in ids if token not in special])
    text, thinking = answer_of(text.strip(), prompter.opens_thought)
    return Generated(text, len(ids), "thinking" if thinking else reason)


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of items of like length, longest first (memory runs out at once or not at all)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
