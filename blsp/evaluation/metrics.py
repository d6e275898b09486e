"""Scores of a task's hypotheses: WER (jiwer), BLEU, chrF (SacreBLEU), accuracy, exact match, accept rate. COMET: comet.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jiwer
import sacrebleu

from blsp.base.files import InputError
from blsp.data.normalization import normalizer

TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}  # SacreBLEU's, by target language; "13a" for all others


def tokenizer(language: str) -> str:
    """SacreBLEU's tokenizer for a target language: "de", "zh-CN", "sv-SE"."""
    return TOKENIZERS.get(re.split("[-_]", language)[0].lower(), "13a")


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str], normalization: str) -> dict[str, Any]:
    """WER in percent over all words, both sides normalized, with its three kinds of errors.

    `n` are the references that were scored, `no_words` those that normalization left without a word ("um").
    """
    normalize = normalizer(normalization)
    references, hypotheses = [normalize(r) for r in references], [normalize(h) for h in hypotheses]
    scored = [(r, h) for r, h in zip(references, hypotheses, strict=True) if r]
    if not scored:
        raise InputError(f"no reference has a word after normalization by {normalization}")
    counts = jiwer.process_words([r for r, _ in scored], [h for _, h in scored])
    return {
        "wer": 100 * counts.wer,
        "n": len(scored),
        "no_words": len(references) - len(scored),
        "n_words": counts.hits + counts.substitutions + counts.deletions,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "normalizer": normalization,
    }


def bleu(references: Sequence[str], hypotheses: Sequence[str], sources: Sequence[str], language: str) -> dict[str, Any]:
    """Corpus BLEU and chrF with their signatures; "copy" is the BLEU of leaving the source as it is.

    `language` is the target's, which names the tokenizer. Raises InputError where there is nothing to score, or where the
    tokenizer needs a package that is not installed.
    """
    if not references:
        raise InputError("there is nothing to score")
    if not len(references) == len(hypotheses) == len(sources):
        raise ValueError(f"{len(references)} references, {len(hypotheses)} hypotheses, {len(sources)} sources")
    try:
        metric, chrf = sacrebleu.BLEU(tokenize=tokenizer(language)), sacrebleu.CHRF()
    except RuntimeError:
        extra = tokenizer(language)[:2]
        raise InputError(
            f"BLEU into '{language}' counts words of the tokenizer {tokenizer(language)}; pip install 'sacrebleu[{extra}]'"
        ) from None
    score, chrf_score = metric.corpus_score(hypotheses, [references]), chrf.corpus_score(hypotheses, [references])
    signature, chrf_signature = str(metric.get_signature()), str(chrf.get_signature())
    return {
        "bleu": score.score,
        "n": len(references),
        "signature": signature,
        "chrf": chrf_score.score,
        "chrf_signature": chrf_signature,
        "copy": metric.corpus_score(sources, [references]).score,
    }


def accuracy(references: Sequence[str], hypotheses: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Classification accuracy in percent.

    accuracy   strict: the answer is the label, but for case and final punctuation
    lenient    the answer contains the right label and no other
    no_label   share of answers that contain no label at all
    majority   what always answering the most frequent label, majority_label, would give
    unlisted   references that are not among `labels` (Table 11 lists one of FSC's intents too few); they count as labels
               wherever an answer is searched for labels
    """
    if not references:
        raise InputError("there is nothing to score")
    if not labels:
        raise InputError("a task that is scored by accuracy needs its labels")
    listed = {_plain(label) for label in labels}
    known = (listed | {_plain(reference) for reference in references}) - {""}
    longest_first = sorted(known, key=len, reverse=True)  # "turn on lights" names one label, not "turn on" as well
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    strict = lenient = none = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        answer = _plain(hypothesis)
        named = set(pattern.findall(answer))
        strict += answer == _plain(reference)
        lenient += named == {_plain(reference)}
        none += not named
    share = 100 / len(references)
    (majority_label, majority), *_ = Counter(map(_plain, references)).most_common(1)
    return {
        "accuracy": strict * share,
        "n": len(references),
        "lenient": lenient * share,
        "no_label": none * share,
        "majority": majority * share,
        "majority_label": majority_label,
        "unlisted": sum(_plain(r) not in listed for r in references),
    }


def exact_match(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Any]:
    """Share in percent of answers that are the reference, but for case and final punctuation; majority as in accuracy()."""
    if not references:
        raise InputError("there is nothing to score")
    right = sum(_plain(h) == _plain(r) for r, h in zip(references, hypotheses, strict=True))
    (majority_label, majority), *_ = Counter(map(_plain, references)).most_common(1)
    share = 100 / len(references)
    return {
        "exact_match": right * share,
        "n": len(references),
        "majority": majority * share,
        "majority_label": majority_label,
    }


def accept_rate(verdicts: Sequence[str | None]) -> dict[str, Any]:
    """Share of acceptable answers in percent (Table 3), of those on which there is a verdict.

    no_verdict  replies of the judge that are no verdict (None); they count neither as acceptable nor as unacceptable
    """
    n = sum(verdict is not None for verdict in verdicts)
    if not n:
        raise InputError(f"none of {len(verdicts)} replies of the judge says acceptable or unacceptable")
    accepted = sum(verdict == "acceptable" for verdict in verdicts)
    return {"accept_rate": 100 * accepted / n, "n": n, "accepted": accepted, "no_verdict": len(verdicts) - n}


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(" \t\n.!?\"'").split())
