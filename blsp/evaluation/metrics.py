"""Scores of a task's hypotheses: WER (jiwer), BLEU, chrF (SacreBLEU), accuracy, exact match, agreement, ... COMET: comet.py."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jiwer
import regex
import sacrebleu

from blsp.base.files import InputError
from blsp.data.normalization import normalizer
from blsp.data.writing import JOINERS, UNSPACED_SCRIPTS, apostrophes, clean, is_unspaced, script_of

TOKENIZERS = {"Hani": "zh", "Jpan": "ja-mecab", "Kore": "ko-mecab"}  # SacreBLEU's, by the target language's script
ENDS = regex.compile(r"^[\s\p{Quotation_Mark}\p{Sentence_Terminal}]+|[\s\p{Quotation_Mark}\p{Sentence_Terminal}]+$")


def tokenizer(language: str, references: Sequence[str] = ()) -> str:
    """SacreBLEU's tokenizer for a target language: "de", "zh-CN", "zho_Hans", "cmn", "th", "jv-Java"; MSLT's "ch", "jp".

    "13a" splits at blanks. A script without them and without a tokenizer of its own gets "char", in which every character is
    a word; so does a language whose references turn out to be in such a script. (SacreBLEU's flores200 would download its
    model, and scores may not hang on who is online; a task can name it as its `tokenizer`.)
    Raises InputError where `language` is no language code.
    """
    script = script_of(language)
    if script in TOKENIZERS:
        return TOKENIZERS[script]
    return "char" if script in UNSPACED_SCRIPTS or is_unspaced(references) else "13a"


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str], normalization: str) -> dict[str, Any]:
    """WER in percent over all words, both sides cleaned and normalized, with its three kinds of errors.

    `n` are the references that were scored, `no_words` those that normalization left without a word ("um").
    """
    normalize = normalizer(normalization)
    references, hypotheses = [normalize(clean(r)) for r in references], [normalize(clean(h)) for h in hypotheses]
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


def bleu(
    references: Sequence[str], hypotheses: Sequence[str], sources: Sequence[str], language: str, tokenize: str = ""
) -> dict[str, Any]:
    """Corpus BLEU and chrF with their signatures; "copy" is the BLEU of leaving the source as it is.

    `language` is the target's, which names the tokenizer, unless `tokenize` does. Marks that show nothing are gone from all
    texts. Raises InputError where there is nothing to score, or where the tokenizer is unknown or needs what is not installed.
    """
    if not references:
        raise InputError("there is nothing to score")
    if not len(references) == len(hypotheses) == len(sources):
        raise ValueError(f"{len(references)} references, {len(hypotheses)} hypotheses, {len(sources)} sources")
    references, hypotheses, sources = ([clean(text) for text in texts] for texts in (references, hypotheses, sources))
    name = tokenize or tokenizer(language, references)
    if name not in sacrebleu.BLEU.TOKENIZERS:
        raise InputError(f"tokenizer '{name}' is not one of SacreBLEU's: {', '.join(map(str, sacrebleu.BLEU.TOKENIZERS))}")
    try:
        metric, chrf = sacrebleu.BLEU(tokenize=name), sacrebleu.CHRF()
    except RuntimeError:
        raise InputError(
            f"BLEU into '{language}' counts words of the tokenizer {name}; pip install 'sacrebleu[{name[:2]}]'"
        ) from None
    except OSError as e:
        raise InputError(
            f"the model of SacreBLEU's tokenizer {name} cannot be downloaded ({e}); without `tokenizer: {name}` the task's"
            f" BLEU needs none"
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

    accuracy   strict: the answer is the label, but for case, apostrophes, quotation marks around it and final punctuation
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
    pattern = re.compile(rf"(?<![\w{JOINERS}])(?:{'|'.join(map(re.escape, longest_first))})(?![\w{JOINERS}])")
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


def agreement(own: Sequence[str], hypotheses: Sequence[str], kl: Sequence[float], n_tokens: Sequence[int]) -> dict[str, Any]:
    """Behaviour alignment (Section 3): how far an LLM's answers are its `own` answers to the transcripts.

    agreement  share in percent that are the same to the letter
    chrf       how alike they are otherwise, by characters
    kl         in nats per token of its own answers: summed divergences `kl` over `n_tokens`, see agreement.py
    """
    if not own:
        raise InputError("there is nothing to score")
    chrf = sacrebleu.CHRF()
    score = chrf.corpus_score([clean(h) for h in hypotheses], [[clean(o) for o in own]])
    return {
        "agreement": 100 * sum(o == h for o, h in zip(own, hypotheses, strict=True)) / len(own),
        "n": len(own),
        "chrf": score.score,
        "chrf_signature": str(chrf.get_signature()),
        "kl": sum(kl) / max(1, sum(n_tokens)),
        "n_tokens": sum(n_tokens),
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
    text = unicodedata.normalize("NFC", apostrophes(clean(text)).lower())
    return " ".join(ENDS.sub("", text).split())
