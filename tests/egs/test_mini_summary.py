"""The table at the end of egs/mini/run.sh, and which of the paper's findings it says to show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LOCAL = ROOT / "egs" / "mini" / "local"
sys.path.insert(0, str(LOCAL))

import recipe_scores  # noqa: E402
import summary  # noqa: E402

from blsp.base.files import read_jsonl  # noqa: E402
from blsp.evaluation import records  # noqa: E402

METRICS = {"asr": "wer", "ic": "accuracy", "sa": "accuracy", "qa": "exact_match"}
# Followed instructions, WER of repeating.
SCORES = {"text_llm": (100, 0), "whisper_llm": (90, 2), "ctc_llm": (80, 4), "asr_pretrain": (10, 1), "blsp": (85, 3),
          "blsp_rp": (84, 2.5), "blsp_kd": (86, 3.5), "blsp_de": (83, 3)}  # fmt: skip


def write_scores(exp: Path, systems: list[str], seed: int = 1) -> None:
    for system in systems:
        for task in summary.TASKS:
            for name in summary.SETS:
                metric = METRICS.get(task, "bleu")
                folder = exp / f"seed{seed}" / system / "decode" / f"{name}.{task}"
                folder.mkdir(parents=True)
                value = SCORES[system][task == "asr"] + seed - 1
                beside = {"signature": "s", "majority": 20.0, "copy": 5.0}
                score = {"system": system, "task": task, "set": name, "metric": metric, metric: value, "n": 4, **beside,
                         "normalizer": "lower", "fingerprint": f"{value}"}  # fmt: skip
                (folder / "score.json").write_text(json.dumps(score))
                row = {"utt_id": "u", "instruction": "Repeat.", "reference": "WORDS", "hypothesis": "words"}
                (folder / "hyp.jsonl").write_text(json.dumps(row) + "\n")


def summarize(exp: Path, out: Path, *options: str, program: str = "summary") -> str:
    command = [sys.executable, LOCAL / f"{program}.py", "--exp-dir", exp, "--seed", "1", "--out", out, *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_table_and_records(tmp_path: Path) -> None:
    write_scores(tmp_path / "exp", ["text_llm", "whisper_llm", "blsp"])
    printed = summarize(tmp_path / "exp", tmp_path, "--time", "training=60", "--changed='--limit' '4'")
    assert (tmp_path / "RESULTS.md").read_text() in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("| BLSP ")]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["3.0 / 3.0", *["85.0 / 85.0"] * (len(summary.TASKS) - 1)]
    assert "findings" not in printed and "1.0 minutes" in printed
    lines = read_jsonl(tmp_path / "results.jsonl")
    assert len(lines) == 3 * len(summary.TASKS) * 2
    assert {line["command"] for line in lines} == {"./egs/mini/run.sh --seed 1 '--limit' '4'"}
    assert {line["set"] for line in lines} == {"librispeech/test_clean", "librispeech/test_other"}
    assert "nothing was left to do" in summarize(tmp_path / "exp", tmp_path)


def test_findings_of_all_systems(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_scores(tmp_path / "exp", list(SCORES), seed)
    printed = summarize(tmp_path / "exp", tmp_path)
    lines = {
        line.split("|")[1].strip().split(":")[0]: line
        for line in printed.partition("in miniature")[2].splitlines()
        if "|" in line
    }
    assert "| yes: 94 % at least" in lines["BLSP follows all instructions zero-shot"]  # (85 + 86) / (90 + 91)
    assert lines["ASR pretraining loses instruction following"].endswith("| yes |")
    assert lines["BLSP+RP repeats better than BLSP"].endswith("WER 3.00 against 3.50 | yes |")
    assert lines["Whisper+LLM is ahead of CTC+LLM and BLSP"].endswith("| yes |")
    assert "better in 6 of 6 tasks" in lines["not in the paper"]
    assert "± 0.7" in printed  # of two seeds that are one apart


def test_a_record_keeps_what_other_runs_have_written(tmp_path: Path) -> None:
    """One seed and three systems leave the lines of other seeds and systems alone."""
    write_scores(tmp_path / "all", list(SCORES))
    summarize(tmp_path / "all", tmp_path)
    before = read_jsonl(tmp_path / "results.jsonl")
    write_scores(tmp_path / "other", ["text_llm", "blsp"], seed=2)
    write_scores(tmp_path / "other", ["blsp"])
    path = tmp_path / "other/seed1/blsp/decode/test_clean.asr/score.json"
    path.write_text(path.read_text().replace('"wer": 3', '"wer": 7').replace('"fingerprint": "3', '"fingerprint": "7'))
    summarize(tmp_path / "other", tmp_path, "--changed=--new")
    after = read_jsonl(tmp_path / "results.jsonl")
    assert len(after) == len(before) + 2 * 2 * len(summary.TASKS)
    (changed,) = [line for line in after if line["seed"] == 1 and line not in before]
    assert (changed["system"], changed["value"], changed["command"][-5:]) == ("blsp", 7, "--new")
    assert "CTC+LLM" in (tmp_path / "RESULTS.md").read_text()


def test_recipes_write_into_the_same_record(tmp_path: Path) -> None:
    write_scores(tmp_path / "exp", ["blsp"])
    score = {"system": "blsp", "task": "st_de", "set": "tst_COMMON_en_de", "metric": "bleu", "bleu": 12.34, "n": 5, "copy": 1.0,
             "signature": "s", "fingerprint": "f"}  # fmt: skip
    folder = tmp_path / "exp/seed1/recipes/must-c/decode/tst_COMMON_en_de.st_de"
    folder.mkdir(parents=True)
    (folder / "score.json").write_text(json.dumps(score))
    printed = summarize(tmp_path / "exp", tmp_path, "--recipes", "must-c", program="recipe_scores")
    row = "| must-c | tst_COMMON_en_de | st en-de | BLEU   | 12.3  | copy 1.0 | 5          |"
    assert row in printed and row in (tmp_path / "RESULTS-recipes.md").read_text()
    (line,) = [line for line in read_jsonl(tmp_path / "results.jsonl") if line["set"].startswith("must-c/")]
    assert line["command"] == "./egs/mini/run.sh --recipes must-c --seed 1"
    assert "## The paper's tables" not in summarize(tmp_path / "exp", tmp_path)


def test_the_tables_on_record_are_those_of_the_lines_on_record() -> None:
    lines = read_jsonl(LOCAL.parent / "results.jsonl")
    assert len({records.identity(line) for line in lines}) == len(lines)
    text = (LOCAL.parent / "RESULTS.md").read_text()
    for part in (summary.report(lines, "./egs/mini/run.sh --seed 1", {}), summary.findings(lines), summary.papers(lines)):
        assert part and part in text
    assert recipe_scores.report(lines) == (LOCAL.parent / "RESULTS-recipes.md").read_text()


@pytest.mark.parametrize("exp", ["nowhere", "."])
def test_without_scores_it_says_what_to_run(tmp_path: Path, exp: str) -> None:
    command = [sys.executable, LOCAL / "summary.py", "--exp-dir", tmp_path / exp, "--seed", "1"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 1 and "has no scores; run stages 0 to 5" in done.stderr
