"""Normal forms of transcripts."""

from __future__ import annotations

import pytest

from blsp.base.files import InputError
from blsp.data.normalization import normalizer
from blsp.data.writing import APOSTROPHES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Smith's colour, um, twenty-one!", "mister smith is color 21"),
        ("NORTHANGER ABBEY", "northanger abbey"),
        ("um", ""),
        ("", ""),
        ("I can’t, it ’s ‘here’", "i can not it is here"),
        ("the letter 's' is", "the letter s is"),
        ("co\u200boperate 👨\u200d👩\u200d👧 now", "cooperate now"),
    ],
)
def test_whisper_english(text: str, expected: str) -> None:
    assert normalizer("whisper_english")(text) == expected


@pytest.mark.parametrize(
    "text", ["I can't; we're o' the 'old' dogs' kind", "MISTER O'NEILL SAID 'TIS", "y'all won't, it 's $5.50"]
)
def test_whisper_english_is_the_published_one_for_typed_apostrophes(text: str) -> None:
    from whisper_normalizer.english import EnglishTextNormalizer

    assert normalizer("whisper_english")(text).split() == EnglishTextNormalizer()(text).split()


@pytest.mark.parametrize("name", ["whisper_english", "lower", "characters"])
@pytest.mark.parametrize("mark", APOSTROPHES)
def test_apostrophes_are_alike_in_every_normal_form(name: str, mark: str) -> None:
    normalize = normalizer(name)
    assert normalize(f"You can{mark}t do that") == normalize("You can't do that")
    assert normalize(f"say {mark}hello there{mark} to me") == normalize("say hello there to me")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't  STOP -- it’s 'here'.", "don't stop it's here"),
        ("l’été, cafe\u0301", "l'été café"),
        ("Größe: 3,5 m²", "größe 3 5 m²"),
        ("你好，世界。", "你好 世界"),
        ("--- '", ""),
        ("می\u200cخواهم،", "می\u200cخواهم"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("fun 👨\u200d👩\u200d👧 ❤\ufe0f it", "fun it"),
        ("ʻāina о́б’єкт", "āina о́б'єкт"),
    ],
)
def test_lower(text: str, expected: str) -> None:
    assert normalizer("lower")(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好，世界。", "你 好 世 界"),
        ("用ＧＰＵ训练 Transformer 模型，３天", "用 gpu 训 练 transformer 模 型 3 天"),
        ("人々はカメラを", "人 々 は カ メ ラ を"),
        ("Don’t stop!", "don't stop"),
        ("他说‘你好’他", "他 说 你 好 他"),
        ("น้ำ น\u0e4d\u0e49\u0e32 น\u0e49\u0e4d\u0e32", "น้ำ น้ำ น้ำ"),  # one word in three spellings
        ("葛\U000e0100飾", "葛 飾"),
    ],
)
def test_characters(text: str, expected: str) -> None:
    assert normalizer("characters")(text) == expected


def test_none_keeps_the_text() -> None:
    assert normalizer("none")(" It's HERE! ") == "It's HERE!"


def test_another_name_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match="'upper' is not one of whisper_english, lower, characters, none"):
        normalizer("upper")
