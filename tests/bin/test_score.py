"""Scoring: the table of an experiment, made anew when hypotheses or settings change."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import World, call, mtimes

from blsp.base.files import InputError, read_json, write_json, write_jsonl
from blsp.data.data_dir import write_table


@pytest.fixture
def exp(world: World, tmp_path: Path) -> tuple[World, Path]:
    """Hypotheses for three utterances under three tasks."""
    rows = {
        "asr": [("a red lamp", "a red lamp"), ("the clock", "the dock"), ("two apples", "two green apples")],
        "color": [("red", "Red."), ("green", "red"), ("red", "I cannot tell")],
        "translation": [("ich sehe das alte Haus hier", "ich sehe das alte Haus hier")] * 3,
    }
    for task, pairs in rows.items():
        hypotheses = [
            {"utt_id": f"u{i}", "task": task, "instruction": "", "hypothesis": h, "reference": r, "finish_reason": "stop"}
            for i, (r, h) in enumerate(pairs)
        ]
        hypotheses[2]["finish_reason"] = "length"
        write_jsonl(tmp_path / f"exp/decode/test_clean.{task}/hyp.jsonl", hypotheses)
    write_table(tmp_path / "data/test_clean/text", {f"u{i}": "i see the old house here" for i in range(3)})
    config = tmp_path / "score.yaml"
    config.write_text(
        world.config.read_text().rstrip("\n")
        + "\n  translation: {sets: [test_clean], instruction: T, reference: translation.de, metric: bleu}\n"
    )
    return replace(world, config=config, data=tmp_path / "data"), tmp_path / "exp"


def score(exp: tuple[World, Path], *overrides: str) -> None:
    world, exp_dir = exp
    call("score", "--config", world.config, "--data-dir", world.data, "--exp-dir", exp_dir, "--", *overrides)


def values(exp: tuple[World, Path], task: str) -> dict:
    return read_json(exp[1] / f"decode/test_clean.{task}/score.json")


def test_scores_and_their_table(exp) -> None:
    score(exp)
    asr, color, translation = (values(exp, task) for task in ("asr", "color", "translation"))
    assert asr["wer"] == pytest.approx(100 * 2 / 7)
    assert (color["accuracy"], color["no_label"], color["majority"]) == pytest.approx((100 / 3, 100 / 3, 200 / 3))
    assert translation["bleu"] == pytest.approx(100)
    assert {(s["n"], s["set"], s["cut_off"], s["system"]) for s in (asr, color, translation)} == {(3, "test_clean", 1, "tiny")}
    table = (exp[1] / "RESULTS.md").read_text()
    assert "| asr | test_clean | WER | 28.6 |" in table
    assert "| color | test_clean | accuracy | 33.3 |" in table
    assert "| translation | test_clean | BLEU | 100.0 |" in table
    assert "tok:13a" in table and "chrF nrefs:1" in table and "normalizer whisper_english" in table
    assert "lenient 33.3, no label 33.3 %, majority class 66.7 (red), 0 labels unlisted | 3 |" in table
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines() if "|" in line} == {8}  # six cells and two ends


def test_scores_of_an_earlier_version_are_computed_again(exp) -> None:
    score(exp)
    path = exp[1] / "decode/test_clean.color/score.json"
    old = values(exp, "color")
    write_json(path, {key: value for key, value in old.items() if key not in ("version", "majority_label")})
    score(exp)
    assert values(exp, "color") == old


def test_scores_are_made_anew_only_when_something_changed(exp) -> None:
    score(exp)
    before = mtimes(exp[1], "decode/*/score.json")
    score(exp, "--lr=3")
    assert mtimes(exp[1], "decode/*/score.json") == before
    path = exp[1] / "decode/test_clean.asr/hyp.jsonl"
    path.write_text(path.read_text().replace("the dock", "the clock"))
    score(exp)
    changed = [name for name, time in mtimes(exp[1], "decode/*/score.json").items() if time != before[name]]
    assert changed == ["decode/test_clean.asr/score.json"]
    assert values(exp, "asr")["wer"] == pytest.approx(100 / 7)
    score(exp, "--tasks.color.labels=[red, green, blue, tell]")
    assert values(exp, "color")["no_label"] == 0


def test_missing_hypotheses_name_their_stage(exp) -> None:
    (exp[1] / "decode/test_clean.color/hyp.jsonl").unlink()
    with pytest.raises(InputError, match=r"test_clean\.color/hyp\.jsonl: is missing; run stage 4"):
        score(exp)


def test_an_unknown_metric_is_refused_with_the_list(exp) -> None:
    with pytest.raises(InputError, match="metric 'cer' is not one of wer, bleu, accuracy"):
        score(exp, "--tasks.asr.metric=cer")


def test_bleu_says_where_it_counts_characters_and_takes_another_tokenizer(exp, caplog: pytest.LogCaptureFixture) -> None:
    thai, chars = "--tasks.translation.reference=translation.th", r"tok:char\|"
    with caplog.at_level("INFO"):
        score(exp, thai)
    assert "BLEU counts characters (SacreBLEU's char), for 'th' has no blanks between its words" in caplog.text
    assert re.search(chars, values(exp, "translation")["signature"])
    exp[0].config.write_text(exp[0].config.read_text().replace("metric: bleu", "metric: bleu, tokenizer: intl"))
    score(exp, thai)
    assert "tok:intl" in values(exp, "translation")["signature"]


def test_what_is_no_language_is_named_with_task_and_table(exp) -> None:
    with pytest.raises(InputError, match="task translation, reference translation.xx: 'xx' is not a language code"):
        score(exp, "--tasks.translation.reference=translation.xx")


def test_whispers_transcripts_are_scored_beside_the_tasks(exp) -> None:
    path = exp[1] / "decode/test_clean.transcript/hyp.jsonl"
    path.parent.mkdir()
    path.write_text((exp[1] / "decode/test_clean.asr/hyp.jsonl").read_text())
    score(exp, "--input=whisper", "--system=cascade")
    assert values(exp, "transcript")["wer"] == pytest.approx(100 * 2 / 7)
    assert (exp[1] / "RESULTS.md").read_text().startswith("# cascade\n")
