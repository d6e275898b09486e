"""One answer, piece by piece as it grows, and what an LLM has read before it: follow-ups compute only what is new."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import takewhile

import torch
from transformers import DynamicCache

from blsp.model.decoding import Decoding
from blsp.model.generation import all_ends, generate, read, steering
from blsp.model.llm import LLM
from blsp.model.prompts import Prompter

# What may not be said yet: half a character, spaces that may be the last, what may become a tag around thought.
UNSETTLED = re.compile(r"(?:\s|\ufffd|[<\[◁][/\w:]{0,20}[>\]▷]?)*\Z")

BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class State:
    """What has been read of a conversation: keys and values, what stands at each of their positions, and audio.

    It belongs to one model and one conversation at a time. With any history it gives what none would give: what differs
    from what was read is read again.
    """

    def __init__(self) -> None:
        self.cache: DynamicCache | None = None
        self.units: list[Hashable] = []  # token ids and parts of speech, one a position
        self.heard: dict[Hashable, torch.Tensor] = {}  # features of the audio


@torch.inference_mode()
def stream(
    llm: LLM,
    prompter: Prompter,
    units: Sequence[Hashable],
    embeds_from: Callable[[int], torch.Tensor],
    decoding: Decoding,
    key: str,
    state: State,
) -> Iterator[str]:
    """Yields an answer's text piece by piece, whole characters only; together they are generate()'s. Returns that.

    units: what stands at each of the prompt's n positions, equal only where the same does.
    embeds_from: gives the prompt's embeddings from a position on, (n - position, d_llm).
    With beams, and for an LLM that keeps other states than keys and values, the answer is one piece, and all is read.
    """
    cache = state.cache or llm.new_cache()
    if cache is None or decoding.num_beams > 1:
        (generated,) = generate(llm, prompter, [embeds_from(0)], decoding, [key])
        if generated.text:
            yield generated.text
        return generated
    kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(state.units, units[:-1], strict=False)))
    state.cache, state.units = None, []  # until they are right again
    if not _rewind(cache, kept):
        cache, kept = llm.new_cache(), 0
    logits = llm.read(embeds_from(kept), cache)
    state.cache, state.units = cache, list(units)
    ends = all_ends(llm, prompter)
    processors = steering(decoding, [key], ends, llm.device)
    ids: list[int] = []
    said = ""
    while True:
        ids.append(int(processors(torch.tensor([ids], dtype=torch.long, device=llm.device), logits[None]).argmax()))
        if ids[-1] in ends or len(ids) == decoding.max_new_tokens:
            break
        settled = UNSETTLED.sub("", read(_without_bytes(ids, llm), llm, prompter).text)
        if len(settled) > len(said) and settled.startswith(said):
            yield settled[len(said) :]
            said = settled
        logits = llm.read(llm.embed(ids[-1:]), cache)
        state.units.append(ids[-1])
    generated = read(ids, llm, prompter)
    if generated.text.startswith(said) and generated.text != said:
        yield generated.text[len(said) :]
    return generated


def _rewind(cache: DynamicCache, n: int) -> bool:
    """Let a cache forget what stands behind its first n positions; False where a window has moved on from there.

    Layer by layer: a read() that was interrupted has left them at different lengths.
    """
    layers = [layer for layer in cache.layers if layer.get_seq_length() > n]
    if any(layer.is_sliding and layer.get_seq_length() >= layer.sliding_window for layer in layers):
        return False
    for layer in layers:
        layer.crop(n - layer.get_seq_length())
    return True


def _without_bytes(ids: list[int], llm: LLM) -> list[int]:
    """A response without the run of SentencePiece's byte tokens at its end: such a run is decoded as a whole or not at all."""
    n = len(ids)
    while n and BYTE.fullmatch(llm.tokenizer.convert_ids_to_tokens(ids[n - 1]) or ""):
        n -= 1
    return ids[:n]
