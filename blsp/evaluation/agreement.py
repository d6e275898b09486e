"""Behaviour alignment itself (Section 3): does the LLM do with speech what it does with the transcript?

The reference is the LLM's own answer to the transcript, so nobody has to write one, and any LLM will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from blsp.base.files import read_jsonl
from blsp.model.blsp import divergence
from blsp.model.llm import LLM
from blsp.model.prompts import Prompter

MAX_LOGITS = 1 << 27  # that are held at a time of one side: 512 MiB in float32


class OwnAnswers:
    """The LLM's answers to the transcripts of a set, as stage 4 has written them: the references of its agreement."""

    def __init__(self, path: Path, llm: LLM, prompter: Prompter):
        self.llm, self.prompter = llm, prompter
        self.rows = {row["utt_id"]: row for row in read_jsonl(path)}

    def texts(self) -> dict[str, str]:
        return {utt_id: row["hypothesis"] for utt_id, row in self.rows.items()}

    @torch.inference_mode()
    def divergences(
        self, utt_ids: Sequence[str], of_transcripts: Sequence[torch.Tensor], given: Sequence[torch.Tensor]
    ) -> list[dict[str, Any]]:
        """How far the LLM, given something else, is from what it says of the transcripts: "kl" and "n_tokens" of each.

        of_transcripts, given: prompts of `utt_ids`, embeddings (L_i, d_llm). kl: summed Kullback-Leibler divergence in nats of
        its next-token distributions, at each of the n_tokens of its own answer, the end included where it has ended.
        """
        responses = [
            self.prompter.response(row["hypothesis"], row["finish_reason"] == "stop") for row in map(self.rows.get, utt_ids)
        ]
        found = []
        for group in _groups([len(r) for r in responses], MAX_LOGITS // self.llm.n_words):
            expected, actual = (
                self._next_token_logits([prompts[i] for i in group], [responses[i] for i in group])
                for prompts in (of_transcripts, given)
            )
            for i, p, q in zip(group, expected, actual, strict=True):
                found.append({"kl": round(max(0.0, divergence(p, q, 1.0).item()), 6), "n_tokens": len(responses[i])})
        return found

    def _next_token_logits(
        self, prompts: Sequence[torch.Tensor], responses: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, ...]:
        """What the LLM would say at each token of `responses`: B tensors (n_i, vocabulary), float32."""
        rows = [torch.cat([p, self.llm.embed(r[:-1])]) for p, r in zip(prompts, responses, strict=True)]
        n_targets = [len(response) for response in responses]
        return self.llm.logits(rows, n_targets).split(n_targets)


def _groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Neighbouring indices, as many as have no more than `most` in sum, and at least one."""
    groups: list[list[int]] = []
    total = 0
    for i, size in enumerate(sizes):
        total += size
        if not groups or total > most:
            groups.append([])
            total = size
        groups[-1].append(i)
    return groups
