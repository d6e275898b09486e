"""Scores equal values computed by hand."""

from __future__ import annotations

import math

import pytest

from blsp import metrics
from blsp.files import InputError


def test_wer_counts_by_hand() -> None:
    references = ["The cat sat on the mat.", "hello world", "a b c"]
    hypotheses = ["the cat sit on mat", "hello big world", "a b c"]
    score = metrics.word_error_rate(references, hypotheses, "lower")
    assert (score["substitutions"], score["deletions"], score["insertions"]) == (1, 1, 1)
    assert score["n_words"] == 11
    assert score["wer"] == pytest.approx(100 * 3 / 11)  # over all words, not the mean over utterances
    assert score["n"] == 3


def test_wer_of_an_empty_hypothesis_is_all_deletions() -> None:
    score = metrics.word_error_rate(["one two"], [""], "lower")
    assert (score["wer"], score["deletions"]) == (100, 2)


def test_wer_may_exceed_a_hundred() -> None:
    assert metrics.word_error_rate(["one"], ["two three four"], "lower")["wer"] == pytest.approx(300)


def test_references_without_a_word_are_not_scored() -> None:
    score = metrics.word_error_rate(["um", "one two"], ["something", "one too"], "whisper_english")
    assert score["n"] == 1
    with pytest.raises(InputError, match="no reference has a word"):
        metrics.word_error_rate(["um"], ["one"], "whisper_english")


def test_wer_normalizes_both_sides() -> None:
    assert metrics.word_error_rate(["Twenty-one COLOURS!"], ["21 colors"], "whisper_english")["wer"] == 0
    assert metrics.word_error_rate(["Twenty-one"], ["21"], "lower")["wer"] == pytest.approx(100)  # 1 sub, 1 del


def test_bleu_by_hand() -> None:
    reference = ["the quick brown fox jumps over the lazy dog"]
    hypothesis = ["the quick brown fox jumps over a lazy dog"]
    # n-gram precisions: 8/9, 6/8, 5/7 (of 7 trigrams), 4/6; equal lengths, so no brevity penalty
    expected = 100 * math.exp(sum(math.log(p) for p in (8 / 9, 6 / 8, 4 / 7, 3 / 6)) / 4)
    assert metrics.bleu(reference, hypothesis, reference, "de")["bleu"] == pytest.approx(expected)


def test_bleus_brevity_penalty_by_hand() -> None:
    score = metrics.bleu(["a b c d e f g h"], ["a b c d"], ["x"], "de")
    assert score["bleu"] == pytest.approx(100 * math.exp(1 - 8 / 4))


def test_bleu_of_copying_the_source_stands_beside() -> None:
    score = metrics.bleu(["wir sehen den Hund im Haus"], ["x"], ["wir sehen den Hund im Haus"], "de")
    assert score["copy"] == pytest.approx(100)
    assert score["bleu"] == 0
    assert "tok:13a" in score["signature"]
    assert 0 <= score["chrf"] <= 100


def test_bleu_into_chinese_counts_characters() -> None:
    score = metrics.bleu(["我们看到狗在房子里"], ["我们看到狗在房子里"], ["x"], "zh")
    assert score["bleu"] == pytest.approx(100)
    assert "tok:zh" in score["signature"]


def test_accuracy_by_hand() -> None:
    labels = ["turn on", "turn off", "increase volume"]
    pairs = [  # reference, answer
        ("turn on", "Turn on."),  # right; case and final punctuation do not matter
        ("turn on", "The intent is turn on"),  # lenient only
        ("turn on", "turn on or turn off"),  # two labels named: wrong
        ("turn off", "return officer"),  # no label: it is not at word limits
        ("turn off", "increase  volume"),  # wrong
        ("other", "other"),  # right, but not among the labels; lenient does not know it
    ]
    score = metrics.accuracy([r for r, _ in pairs], [a for _, a in pairs], labels)
    assert score["accuracy"] == pytest.approx(100 * 2 / 6)
    assert score["lenient"] == pytest.approx(100 * 2 / 6)
    assert score["no_label"] == pytest.approx(100 * 2 / 6)
    assert score["majority"] == pytest.approx(100 * 3 / 6)
    assert score["unlisted"] == 1
    assert score["n"] == 6


def test_a_label_within_another_is_not_a_second_label() -> None:
    score = metrics.accuracy(["turn on lights"], ["I would say turn on lights"], ["turn on", "turn on lights"])
    assert score["lenient"] == 100


def test_lenient_is_never_below_strict() -> None:
    score = metrics.accuracy(["turn on lights"], ["turn on lights"], ["turn on", "turn on lights"])
    assert score["accuracy"] <= score["lenient"]


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to score"):
        metrics.accuracy([], [], ["a"])


def test_lists_of_unequal_length_are_an_error() -> None:
    for score in (lambda: metrics.word_error_rate(["a"], [], "lower"), lambda: metrics.accuracy(["a"], ["a", "b"], ["a"])):
        with pytest.raises(ValueError, match="zip"):
            score()


def test_accuracy_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="needs its labels"):
        metrics.accuracy(["a"], ["a"], [])
