"""Scores equal values computed by hand."""

from __future__ import annotations

import importlib.util
import math

import pytest

from blsp.base.files import InputError
from blsp.evaluation import metrics


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
    assert (score["n"], score["no_words"], score["normalizer"]) == (1, 1, "whisper_english")
    with pytest.raises(InputError, match="no reference has a word"):
        metrics.word_error_rate(["um"], ["one"], "whisper_english")


def test_wer_normalizes_both_sides() -> None:
    assert metrics.word_error_rate(["Twenty-one COLOURS!"], ["21 colors"], "whisper_english")["wer"] == 0
    assert metrics.word_error_rate(["Twenty-one"], ["21"], "lower")["wer"] == pytest.approx(100)  # 1 sub, 1 del


def test_wer_of_characters_by_hand() -> None:
    score = metrics.word_error_rate(["我们看到狗。"], ["我看到狗们"], "characters")
    assert (score["deletions"], score["insertions"], score["n_words"]) == (1, 1, 5)
    assert score["wer"] == pytest.approx(100 * 2 / 5)


def test_bleu_by_hand() -> None:
    reference = ["the quick brown fox jumps over the lazy dog"]
    hypothesis = ["the quick brown fox jumps over a lazy dog"]
    # n-gram precisions: 8/9, 6/8, 5/7 (of 7 trigrams), 4/6; equal lengths, so no brevity penalty
    expected = 100 * math.exp(sum(math.log(p) for p in (8 / 9, 6 / 8, 4 / 7, 3 / 6)) / 4)
    assert metrics.bleu(reference, hypothesis, reference, "de")["bleu"] == pytest.approx(expected)


def test_bleus_brevity_penalty_by_hand() -> None:
    score = metrics.bleu(["a b c d e f g h"], ["a b c d"], ["x"], "de")
    assert score["bleu"] == pytest.approx(100 * math.exp(1 - 8 / 4))


def test_bleu_by_hand_from_clipped_counts() -> None:
    """Of three "the" one counts: precisions 2/4, 1/3, then 0 of 2 and 0 of 1, which smooth:exp takes as 1/4 and 1/4."""
    score = metrics.bleu(["the cat sleeps well"], ["the the the cat"], ["x"], "de")
    precisions = (2 / 4, 1 / 3, 1 / (2 * 2), 1 / (4 * 1))
    assert score["bleu"] == pytest.approx(100 * math.exp(sum(map(math.log, precisions)) / 4))


def test_chrf_by_hand() -> None:
    """chrF2: the mean of precision and of recall over character n-grams of 1 to 6, as far as either side has them."""
    score = metrics.bleu(["abcd"], ["abce"], ["x"], "de")
    mean = (3 / 4 + 2 / 3 + 1 / 2 + 0 / 1) / 4  # precision and recall are alike, for the lengths are
    assert score["chrf"] == pytest.approx(100 * mean)
    assert score["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|")
    short = metrics.bleu(["ab cd"], ["ab"], ["x"], "de")  # white space does not count
    precision, recall = (2 / 2 + 1 / 1) / 2, (2 / 4 + 1 / 3) / 2
    assert short["chrf"] == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))


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


@pytest.mark.parametrize(
    ("languages", "tokenizer"),
    [
        ("de sv-SE deu_Latn zh-Latn hi ar fa", "13a"),
        ("zh zh-CN zh_TW zho_Hans cmn yue ch", "zh"),
        ("ja JA jpn_Jpan jp", "ja-mecab"),
        ("ko kor_Hang", "ko-mecab"),
        ("th lo km my bo dz jv-Java", "char"),
    ],
)
def test_the_tokenizer_is_that_of_the_target_language(languages: str, tokenizer: str) -> None:
    assert {metrics.tokenizer(language) for language in languages.split()} == {tokenizer}


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis"),
    [
        ("th", "ผมชอบกินข้าวผัด", "ผมชอบกินข้าวต้ม"),
        ("km", "ខ្ញុំចូលចិត្តបាយ", "ខ្ញុំចូលចិត្តមី"),
        ("jv", "ꦧꦱꦗꦮꦏꦸꦤ", "ꦧꦱꦗꦮꦏꦸꦩ"),  # the code alone would mean Latin script
    ],
)
def test_bleu_into_scripts_without_blanks_counts_characters(language: str, reference: str, hypothesis: str) -> None:
    score = metrics.bleu([reference], [hypothesis], ["x"], language)
    assert 30 < score["bleu"] < 100 and "tok:char" in score["signature"]


def test_an_unknown_language_or_tokenizer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'xx' is not a language code"):
        metrics.bleu(["a"], ["a"], ["a"], "xx")
    with pytest.raises(InputError, match="'moses' is not one of SacreBLEU's: none, zh, 13a"):
        metrics.bleu(["a"], ["a"], ["a"], "de", "moses")
    assert "tok:intl" in metrics.bleu(["a"], ["a"], ["a"], "xx", "intl")["signature"]

    def offline(*_: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.download_file", offline)
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", "/nowhere")
    with pytest.raises(InputError, match=r"flores200 cannot be downloaded \(offline\)"):
        metrics.bleu(["a"], ["a"], ["a"], "th", "flores200")


@pytest.mark.parametrize(
    ("language", "text", "same"),
    [
        ("fa", "می\u200cخواهم بروم به خانه", "می\u200cخواهم بروم\u200f به \u200cخانه"),
        ("de", "die Auflage ist so groß", "die Auf\u00adlage\u200b ist so groß\ufeff"),
        ("en", "we can't see it there", "we can't see\u00a0it \u2066there\u2069"),
    ],
)
def test_marks_that_show_nothing_count_in_no_score(language: str, text: str, same: str) -> None:
    for reference, hypothesis in ((text, same), (same, text)):
        assert metrics.bleu([reference], [hypothesis], [reference], language)["bleu"] == pytest.approx(100)
        for name in ("lower", "characters", "none", "whisper_english"):
            assert metrics.word_error_rate([reference], [hypothesis], name)["wer"] == 0
        assert metrics.accuracy([reference], [hypothesis], [text])["accuracy"] == 100
        assert metrics.accuracy([reference], [f"It is {hypothesis}"], [text])["lenient"] == 100
        assert metrics.exact_match([reference], [hypothesis])["exact_match"] == 100


def test_a_letter_perfect_persian_answer_is_perfect_and_another_spelling_is_not() -> None:
    perfect = metrics.word_error_rate(["می\u200cخواهم بروم"], ["می\u200cخواهم بروم"], "lower")
    assert (perfect["wer"], perfect["n_words"]) == (0, 2)
    assert metrics.word_error_rate(["می\u200cخواهم بروم"], ["می خواهم بروم"], "lower")["wer"] == 100
    assert metrics.accuracy(["خواهم"], ["می\u200cخواهم"], ["خواهم"])["no_label"] == 100  # another word


@pytest.mark.parametrize("mark", "’ʼ‘`´＇")
def test_apostrophes_count_in_no_score(mark: str) -> None:
    said = f"we can{mark}t go there"
    for name in ("whisper_english", "lower"):
        assert metrics.word_error_rate(["we can't go there"], [said], name)["wer"] == 0
    assert metrics.exact_match(["don't know"], [f"“Don{mark}t know”."])["exact_match"] == 100
    assert metrics.accuracy([f"children{mark}s hour"], ["children's hour!"], ["children's hour"])["unlisted"] == 0


@pytest.mark.skipif(importlib.util.find_spec("MeCab") is not None, reason="MeCab is installed")
def test_a_tokenizer_that_is_not_installed_is_named_in_one_line() -> None:
    with pytest.raises(InputError, match=r"into 'ja' .* ja-mecab; pip install 'sacrebleu\[ja\]'$"):
        metrics.bleu(["a"], ["a"], ["a"], "ja")


def test_accuracy_by_hand() -> None:
    labels = ["turn on", "turn off", "increase volume"]
    pairs = [  # reference, answer
        ("turn on", "Turn on."),  # right; case and final punctuation do not matter
        ("turn on", "The intent is turn on"),  # lenient only
        ("turn on", "turn on or turn off"),  # two labels named: wrong
        ("turn off", "return officer"),  # no label: it is not at word limits
        ("turn off", "increase  volume"),  # wrong
        ("other", "other"),  # right, though not among the labels
    ]
    score = metrics.accuracy([r for r, _ in pairs], [a for _, a in pairs], labels)
    assert score["accuracy"] == pytest.approx(100 * 2 / 6)
    assert score["lenient"] == pytest.approx(100 * 3 / 6)
    assert score["no_label"] == pytest.approx(100 * 1 / 6)
    assert (score["majority"], score["majority_label"]) == (pytest.approx(100 * 3 / 6), "turn on")
    assert score["unlisted"] == 1
    assert score["n"] == 6


def test_a_label_within_another_is_not_a_second_label() -> None:
    score = metrics.accuracy(["turn on lights"], ["I would say turn on lights"], ["turn on", "turn on lights"])
    assert score["lenient"] == 100


@pytest.mark.parametrize("labels", [["turn on", "turn on lights"], ["turn on"]])  # the second list lacks the reference
def test_lenient_is_never_below_strict(labels: list[str]) -> None:
    score = metrics.accuracy(["turn on lights"], ["turn on lights"], labels)
    assert (score["accuracy"], score["lenient"], score["no_label"]) == (100, 100, 0)


def test_nothing_to_score_is_refused() -> None:
    for score in (lambda: metrics.accuracy([], [], ["a"]), lambda: metrics.bleu([], [], [], "de")):
        with pytest.raises(InputError, match="nothing to score"):
            score()


def test_lists_of_unequal_length_are_an_error() -> None:
    for score in (
        lambda: metrics.word_error_rate(["a"], [], "lower"),
        lambda: metrics.accuracy(["a"], ["a", "b"], ["a"]),
        lambda: metrics.bleu(["a"], ["a", "b"], ["a"], "de"),
    ):
        with pytest.raises(ValueError, match="zip|hypotheses"):
            score()


def test_accuracy_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="needs its labels"):
        metrics.accuracy(["a"], ["a"], [])


def test_exact_match_by_hand() -> None:
    score = metrics.exact_match(["the farmer", "nobody knows", "nobody knows"], ["The farmer.", "the farmer", "nobody knows"])
    assert score["exact_match"] == pytest.approx(100 * 2 / 3)
    assert (score["n"], score["majority"], score["majority_label"]) == (3, pytest.approx(100 * 2 / 3), "nobody knows")
    with pytest.raises(InputError, match="nothing to score"):
        metrics.exact_match([], [])
