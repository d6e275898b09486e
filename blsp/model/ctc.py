"""Connectionist temporal classification (Graves et al. 2006) for CTC+LLM (Section 4.2): its vocabulary and its searches.

The projector reads the adapter's states, 6.25 a second. Characters do not fit into that rate, words and large subwords do,
so targets are SentencePiece pieces of the transcripts. The paper does not give its vocabulary.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from itertools import pairwise

import sentencepiece
import torch

from blsp.base.files import InputError
from blsp.model.prompts import Prompt

BLANK = 0  # id of CTC's blank, a piece of the vocabulary that no text holds
MAX_LINES = 1_000_000  # transcripts that a vocabulary is trained on: every k-th where there are more


class Vocabulary:
    """The pieces that CTC's targets are made of. It stands where a Prompter stands for an LLM: nothing is around the speech."""

    def __init__(self, model: bytes):
        self.model = model
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=model)

    def __len__(self) -> int:
        """Pieces, the blank among them."""
        return self.pieces.vocab_size()

    def prompt(self, _: str) -> Prompt:
        return Prompt((), ())

    def response(self, text: str, ended: bool = True) -> list[int]:
        """Ids of a transcript."""
        return self.pieces.encode(text)

    def fits(self, text: str, n_embeds: int) -> bool:
        """Whether CTC can write a transcript in `n_embeds` states: a state for each piece, and a blank between equal ones."""
        ids = self.response(text)
        return len(ids) + sum(a == b for a, b in pairwise(ids)) <= n_embeds

    def text(self, ids: list[int]) -> str:
        return self.pieces.decode(ids)


def train_vocabulary(transcripts: Iterable[str], size: int) -> bytes:
    """A SentencePiece model of at most `size` pieces, the same one for the same transcripts."""
    lines = list(transcripts)
    lines = lines[:: -(-len(lines) // MAX_LINES) or 1]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,  # a small corpus has fewer pieces
            character_coverage=1.0,
            normalization_rule_name="identity",  # transcripts are normalized already
            pad_id=BLANK,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # sums of several threads would differ in their last digits
            minloglevel=2,
        )
    except RuntimeError as e:
        raise InputError(f"ctc_vocabulary: {size} pieces cannot be made of {len(lines)} transcripts ({e})") from None
    return model.getvalue()


def greedy_search(log_probs: torch.Tensor) -> list[int]:
    """The most likely path of log_probs (N, pieces), without repetitions and blanks."""
    best = log_probs.argmax(-1).unique_consecutive()
    return best[best != BLANK].tolist()


def prefix_beam_search(log_probs: torch.Tensor, beam: int) -> tuple[list[int], float]:
    """The most likely sequence of pieces: the sum over all its paths, of the `beam` best prefixes after each state.

    log_probs (N, pieces). A state extends prefixes by its `beam` most likely pieces; with a beam that keeps everything
    the search is exact. Returns the ids and their log probability.
    """
    # For each prefix, log probability of its paths that end in a blank, and of those that end in its last piece.
    prefixes: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    blanks = log_probs[:, BLANK].tolist()
    pieces = log_probs.clone()
    pieces[:, BLANK] = -math.inf
    best = pieces.topk(min(beam, pieces.shape[1] - 1), dim=-1)
    for now, blank, scores, ids in zip(log_probs, blanks, best.values.tolist(), best.indices.tolist(), strict=True):
        after: dict[tuple[int, ...], list[float]] = {}

        def add(prefix: tuple[int, ...], end: int, score: float, after: dict[tuple[int, ...], list[float]] = after) -> None:
            pair = after.setdefault(prefix, [-math.inf, -math.inf])
            pair[end] = _add(pair[end], score)

        for prefix, (in_blank, in_piece) in prefixes.items():
            both = _add(in_blank, in_piece)
            add(prefix, 0, both + blank)
            if prefix:
                add(prefix, 1, in_piece + float(now[prefix[-1]]))  # the same piece goes on
            for score, piece in zip(scores, ids, strict=True):
                # A piece stands twice only where a blank was between.
                add((*prefix, piece), 1, (in_blank if prefix and piece == prefix[-1] else both) + score)
        kept = sorted(after.items(), key=lambda item: (-_add(*item[1]), item[0]))[:beam]
        prefixes = {prefix: (in_blank, in_piece) for prefix, (in_blank, in_piece) in kept}
    prefix, pair = max(prefixes.items(), key=lambda item: _add(*item[1]))
    return list(prefix), _add(*pair)


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = (a, b) if a >= b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
