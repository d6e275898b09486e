"""Normal forms of transcripts."""

from __future__ import annotations

import pytest

from blsp.base.files import InputError
from blsp.data.normalization import normalizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Smith's colour, um, twenty-one!", "mister smith is color 21"),
        ("NORTHANGER ABBEY", "northanger abbey"),
        ("um", ""),
        ("", ""),
    ],
)
def test_whisper_english(text: str, expected: str) -> None:
    assert normalizer("whisper_english")(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't  STOP -- it’s 'here'.", "don't stop it's here"),
        ("l’été, cafe\u0301", "l'été café"),
        ("Größe: 3,5 m²", "größe 3 5 m²"),
        ("你好，世界。", "你好 世界"),
        ("--- '", ""),
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
    ],
)
def test_characters(text: str, expected: str) -> None:
    assert normalizer("characters")(text) == expected


def test_none_keeps_the_text() -> None:
    assert normalizer("none")(" It's HERE! ") == "It's HERE!"


def test_another_name_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match="'upper' is not one of whisper_english, lower, characters, none"):
        normalizer("upper")
