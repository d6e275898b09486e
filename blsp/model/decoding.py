"""The settings of text generation, in a configuration or on a command line. Loads no torch: wrong ones are refused first."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from blsp.base.files import InputError


@dataclass(frozen=True)
class Decoding:
    """How text is generated: this and nothing else, whatever the LLM's generation_config says.

    min_new_tokens: no end of sequence before so many.
    temperature: 0 is greedy; above, tokens are sampled from the top_p nucleus.
    repetition_penalty: divides the positive logits of tokens that the response has already, multiplies others; 1: off.
    no_repeat_ngram_size: no sequence of so many tokens stands twice in a response; 0: off.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    seed: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Decoding:
        """Of a configuration's mapping. Raises InputError for a key that means nothing."""
        try:
            return cls(**settings)
        except TypeError:
            known = ", ".join(field.name for field in fields(cls))
            raise InputError(f"decoding settings {dict(settings)}: the keys are {known}") from None

    def __post_init__(self) -> None:
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise InputError(f"{self}: min_new_tokens is from 0 to max_new_tokens")
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.num_beams < 1:
            raise InputError(f"{self}: max_new_tokens and num_beams are at least 1, temperature at least 0, top_p in (0, 1]")
        if self.repetition_penalty <= 0 or self.no_repeat_ngram_size < 0:
            raise InputError(f"{self}: repetition_penalty is above 0 (1: off), no_repeat_ngram_size at least 0 (0: off)")
        if self.temperature > 0 and self.num_beams > 1:
            raise InputError(f"{self}: sampling (temperature above 0) goes with num_beams 1")

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Decoding:
        """Of a command line with decoding_arguments()."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})


def decoding_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Options of programs without a configuration that say how text is generated; max_new_tokens: its default."""
    options = parser.add_argument_group("decoding")
    options.add_argument("--max-new-tokens", type=int, default=max_new_tokens, metavar="N", help="of an answer (%(default)s)")
    options.add_argument("--min-new-tokens", type=int, default=0, metavar="N", help="no end before so many (%(default)s)")
    options.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0: the likeliest token (%(default)s)")
    options.add_argument("--top-p", type=float, default=1.0, metavar="P", help="the nucleus that is sampled from (%(default)s)")
    options.add_argument("--num-beams", type=int, default=1, metavar="N", help="of a beam search (%(default)s)")
    options.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling (%(default)s)")
    options.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="1: off (%(default)s)")
    options.add_argument("--no-repeat-ngram-size", type=int, default=0, metavar="N", help="0: off (%(default)s)")
