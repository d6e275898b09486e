"""What can be written in several ways or not be seen: invisible marks, apostrophes, scripts without blanks, language codes."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
import regex

from blsp.base.files import InputError
from blsp.data import writing
from blsp.data.writing import apostrophes, clean, is_unspaced, script_of, split_unspaced

SPELLING = [  # joiners that are part of a word
    "می\u200cخواهم",  # Persian, I want
    "ශ්\u200dරී ලංකා",  # Sri Lanka in Sinhala
    "क्\u200dष",  # a half form in Devanagari
    "അവന്\u200d",  # an old chillu letter of Malayalam, at the word's end
    "ه\u200d",  # Arabic heh in its initial form, an abbreviation
    "ᠬᠠᠷ\u180eᠠ",  # Mongolian
    "👨\u200d👩\u200d👧",
    "❤\ufe0f\u200d🔥",
    "🏴\U000e0067\U000e0062\U000e007f",  # a flag, spelt in tags
]


@pytest.mark.parametrize("text", SPELLING)
def test_joiners_that_spell_stay(text: str) -> None:
    found: Counter[str] = Counter()
    assert clean(text, found) == text
    assert not found


@pytest.mark.parametrize(
    "mark", "\u00ad\u034f\u061c\u200b\u200e\u200f\u202a\u202e\u2060\u2063\u2066\u2069\u206a\ufeff\ufff9\U000e0001"
)
def test_marks_that_show_nothing_go_from_any_script(mark: str) -> None:
    for left, right in ("wo", "ني", "के", "ខ្", "字字"):
        assert clean(f"{mark}{left}{mark}{right}{mark}") == left + right


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Auf\u200clage", "Auflage"),  # Latin letters never join; the mark keeps a ligature away
        ("\u200cکتاب ها\u200c", "کتاب ها"),
        ("می\u200c\u200cخواهم", "می\u200cخواهم"),
        ("a \u200d b", "a b"),
        ("blank\u2800blank\u3164blank", "blank blank blank"),
    ],
)
def test_joiners_that_join_nothing_go(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned


def test_of_unicodes_format_characters_only_joiners_and_visible_signs_stay() -> None:
    stays = {c for c in map(chr, range(0x10000)) if unicodedata.category(c) == "Cf" and clean(f"ب{c}ب") != "بب"}
    visible = set(regex.findall(r"\p{Prepended_Concatenation_Mark}", "".join(map(chr, range(0xD800)))))  # Arabic number signs
    assert stays - visible == set(writing.JOINERS)


@pytest.mark.parametrize("mark", writing.APOSTROPHES)
def test_every_apostrophe_is_the_same_and_every_quotation_mark_a_blank(mark: str) -> None:
    assert apostrophes(f"we can{mark}t") == "we can't"
    assert apostrophes(f"it {mark}s do n{mark}t") == "it's do n't"
    assert apostrophes(f"{mark}so{mark} it was").split() == ["so", "it", "was"]
    assert apostrophes(f"the letter {mark}s{mark} is").split() == ["the", "letter", "s", "is"]
    assert apostrophes(f"他说{mark}你好{mark}他").split() == ["他说", "你好", "他"]


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("น้ำที่นี่", "น้ำ ที่ นี่"),
        ("ພາສາ", "ພ າ ສ າ"),
        ("ភាសាខ្មែរ", "ភា សា ខ្មែ រ"),
        ("မြန်မာဘာသာ", "မြ န် မာ ဘာ သာ"),
        ("བོད ཡིག", "བོ ད ཡི ག"),
        ("ꦧꦱꦗꦮ", "ꦧ ꦱ ꦗ ꦮ"),
        ("カメラー", "カ メ ラ ー"),
        ("用 gpu 3天", "用 gpu 3 天"),
        ("हिन्दी में", "हिन्दी में"),
    ],
)
def test_signs_stay_with_their_letter(text: str, split: str) -> None:
    assert split_unspaced(text) == split


@pytest.mark.parametrize(
    ("codes", "script"),
    [
        ("zh zh-CN zh_TW zho_Hans zho_Hant cmn yue yue_Hant wuu nan ZH chi ch cn", "Hani"),
        ("ja jpn jpn_Jpan JA jp", "Jpan"),
        ("ko kor_Hang ko-KR", "Kore"),
        ("th tha_Thai", "Thai"),
        ("km khm_Khmr", "Khmr"),
        ("my mya_Mymr shn", "Mymr"),
        ("bo bod_Tibt dz", "Tibt"),
        ("jv-Java", "Java"),
        ("de ger deu_Latn sv-SE zh-Latn jv pt_BR", "Latn"),
        ("fa pes_Arab", "Arab"),
    ],
)
def test_languages_by_any_of_their_codes(codes: str, script: str) -> None:
    assert {script_of(code) for code in codes.split()} == {script}


@pytest.mark.parametrize("code", ["text", "xx", "german", "de2", "d", "", "zh-", "de_2", "translation"])
def test_what_is_no_language_code_is_one_line(code: str) -> None:
    with pytest.raises(InputError, match="is not a language code of ISO 639 or BCP 47") as e:
        script_of(code)
    assert "\n" not in str(e.value)


def test_the_script_of_texts() -> None:
    assert is_unspaced(["ภาษาไทย GPU", ""]) and is_unspaced(["ꦧꦱꦗꦮ"])
    assert not is_unspaced(["Er sagt: 你好 und geht"]) and not is_unspaced(["", "3"])
