"""What an LLM thinks is no part of its answer."""

from __future__ import annotations

import pytest

from blsp.model.thinking import answer_of, closing_of


@pytest.mark.parametrize(
    ("text", "answer", "thinking"),
    [
        ("a red lamp", "a red lamp", False),
        ("<think>\nhm, <b>red</b>?\n</think>\n\na red lamp", "a red lamp", False),
        ("hm, red?\n</think>\n\na red lamp", "a red lamp", False),  # the template wrote the opening tag
        ("<think>hm, red or", "", True),
        ("<think>red <think>blue</think> or", "", True),
        ("<think>a</think>red<think>b</think> lamp", "red lamp", False),
        ("<think>a</think>red lamp<think>b", "", True),
        ("<think></think>", "", False),
        ("[THINK]hm[/THINK]red", "red", False),
        ("<thinking>hm</thinking>red", "red", False),
        ("<seed:think>hm</seed:think>red", "red", False),
        ("I think <so> it is </so> red", "I think <so> it is </so> red", False),
    ],
)
def test_thought_is_taken_out(text: str, answer: str, thinking: bool) -> None:
    assert answer_of(text) == (answer, thinking)


def test_behind_an_opening_tag_of_the_prompt_nothing_is_an_answer_before_it_closes() -> None:
    assert answer_of("so they want a lamp", opened=True) == ("", True)
    assert answer_of("so they want a lamp</think>red", opened=True) == ("red", False)


def test_what_a_prompt_has_opened_is_closed_in_kind() -> None:
    assert closing_of("<|assistant|><think>\n") == "</think>\n\n"
    assert closing_of("[THINK]") == "[/THINK]\n\n"
    assert closing_of("<think>\n\n</think>\n\n") == closing_of("assistant\n") == ""
