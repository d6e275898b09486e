"""Normal forms of transcripts, for prompts (stage 2) and for scoring (stage 5)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import lru_cache

from blsp.files import InputError


def lower(text: str) -> str:
    """Lower case; punctuation and symbols become spaces, but apostrophes within words stay."""
    chars = [c if unicodedata.category(c)[0] in "LMN" or c in "'’" else " " for c in text.lower()]
    words = (word.strip("'’") for word in "".join(chars).split())
    return " ".join(word for word in words if word)


@lru_cache
def normalizer(name: str) -> Callable[[str], str]:
    """The function that `name` means.

    whisper_english  Whisper's EnglishTextNormalizer (Radford et al. 2022, appendix C), which the authors' code applies to
                     transcripts: lower case, no punctuation, numbers as digits, American spelling, no "um"
    lower            lower case without punctuation, any language
    none             the text as it is
    """
    if name == "whisper_english":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    if name == "lower":
        return lower
    if name == "none":
        return str.strip
    raise InputError(f"normalizer: '{name}' is not one of whisper_english, lower, none")
