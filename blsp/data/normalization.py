"""Normal forms of transcripts, for prompts (stage 2) and for scoring (stage 5)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from blsp.base.files import InputError
from blsp.data.writing import JOINERS, VARIANTS, apostrophes, clean, split_unspaced

VERSION = 2  # of the normal forms; raised when one of them gives something else for the same text
# Thai and Lao AM, which can be written as a vowel with a ring above it, before or behind the tone mark.
AM = ((re.compile("\u0e4d([\u0e48-\u0e4b]?)\u0e32|([\u0e48-\u0e4b])\u0e4d\u0e32"), "\\1\\2\u0e33"),
      (re.compile("\u0ecd([\u0ec8-\u0ecb]?)\u0eb2|([\u0ec8-\u0ecb])\u0ecd\u0eb2"), "\\1\\2\u0eb3"))  # fmt: skip


def lower(text: str) -> str:
    """Lower case; punctuation and symbols become blanks, but apostrophes within words stay, all of them as "'".

    Joiners stay where they spell words (Persian, Sinhala); marks that show nothing are gone.
    """
    # One form for what can be written in two, or scoring would count e with a combining accent for another letter than é.
    text = unicodedata.normalize("NFC", VARIANTS.sub("", clean(text)).lower())
    for pattern, letter in AM:
        text = pattern.sub(letter, text)
    text = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "'" + JOINERS else " " for c in apostrophes(text))
    return " ".join(clean(text).split())  # joiners that joined emoji go with them


def characters(text: str) -> str:
    """`lower`, then each character of a script without blanks as a word of its own, so that WER counts characters."""
    # Apostrophes first: NFKC makes a blank and an accent of ´.
    return split_unspaced(lower(unicodedata.normalize("NFKC", apostrophes(clean(text)))))


def whisper_english(text: str) -> str:
    """Whisper's EnglishTextNormalizer on text whose apostrophes are all "'" and whose marks all show (it would keep them).

    As published it expands "can't" and not "can’t", and takes the closing quotation mark of 's' for "is".
    """
    return _english()(re.sub(f"[{JOINERS}]", "", apostrophes(clean(text))))


@lru_cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def normalizer(name: str) -> Callable[[str], str]:
    """The function that `name` means. All but "none" write an apostrophe as "'", however it was typed.

    whisper_english  Whisper's EnglishTextNormalizer (Radford et al. 2022, appendix C), which the authors' code applies to
                     transcripts: lower case, no punctuation, numbers as digits, American spelling, no "um"; behind
                     `apostrophes`, for it knows "can't" and not "can’t"
    lower            lower case without punctuation, any language that puts blanks between words
    characters       the same, each character of a script without blanks by itself (Chinese, Japanese, Thai, Khmer, Burmese,
                     ...; vowel and tone signs stay with their letter): WER is then the character error rate
    none             the text as it is
    """
    functions = {"whisper_english": whisper_english, "lower": lower, "characters": characters, "none": str.strip}
    if name not in functions:
        raise InputError(f"normalizer: '{name}' is not one of {', '.join(functions)}")
    return functions[name]
