"""Normal forms of transcripts, for prompts (stage 2) and for scoring (stage 5)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from blsp.base.files import InputError

# Han and kana, scripts that are written without spaces.
UNSPACED = re.compile(r"([\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")


def lower(text: str) -> str:
    """Lower case; punctuation and symbols become spaces, but apostrophes within words stay, all of them as "'"."""
    # One form for what can be written in two, or scoring would count e with a combining accent for another letter than é.
    text = unicodedata.normalize("NFC", text.lower()).replace("’", "'")
    chars = [c if unicodedata.category(c)[0] in "LMN" or c == "'" else " " for c in text]
    words = (word.strip("'") for word in "".join(chars).split())
    return " ".join(word for word in words if word)


def characters(text: str) -> str:
    """`lower`, then each Chinese or Japanese character as a word of its own, so that WER counts characters."""
    return " ".join(UNSPACED.sub(r" \1 ", lower(unicodedata.normalize("NFKC", text))).split())


@lru_cache
def normalizer(name: str) -> Callable[[str], str]:
    """The function that `name` means.

    whisper_english  Whisper's EnglishTextNormalizer (Radford et al. 2022, appendix C), which the authors' code applies to
                     transcripts: lower case, no punctuation, numbers as digits, American spelling, no "um"
    lower            lower case without punctuation, any language that puts spaces between words
    characters       the same, each Chinese or Japanese character by itself: WER is then the character error rate
    none             the text as it is
    """
    if name == "whisper_english":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    if name == "lower":
        return lower
    if name == "characters":
        return characters
    if name == "none":
        return str.strip
    raise InputError(f"normalizer: '{name}' is not one of whisper_english, lower, characters, none")
