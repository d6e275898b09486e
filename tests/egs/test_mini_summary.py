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

import summary  # noqa: E402

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
                score = {"system": system, "task": task, "set": name, "metric": metric, metric: value, "n": 4, **beside}
                (folder / "score.json").write_text(json.dumps(score))
                row = {"utt_id": "u", "instruction": "Repeat.", "reference": "WORDS", "hypothesis": "words"}
                (folder / "hyp.jsonl").write_text(json.dumps(row) + "\n")


def summarize(exp: Path, out: Path) -> str:
    command = [sys.executable, LOCAL / "summary.py", "--exp-dir", exp, "--data-dir", exp, "--seed", "1", "--out", out]
    done = subprocess.run([str(part) for part in [*command, "--time", "training=60"]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_table_and_records(tmp_path: Path) -> None:
    write_scores(tmp_path / "exp", ["text_llm", "whisper_llm", "blsp"])
    printed = summarize(tmp_path / "exp", tmp_path)
    assert (tmp_path / "RESULTS.md").read_text() in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("| BLSP ")]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["3.0 / 3.0", *["85.0 / 85.0"] * (len(summary.TASKS) - 1)]
    assert "findings" not in printed and "1.0 minutes" in printed
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(records) == 3 * len(summary.TASKS) * 2
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


@pytest.mark.parametrize("exp", ["nowhere", "."])
def test_without_scores_it_says_what_to_run(tmp_path: Path, exp: str) -> None:
    command = [sys.executable, LOCAL / "summary.py", "--exp-dir", tmp_path / exp, "--data-dir", tmp_path, "--seed", "1"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 1 and "has no scores; run stages 0 to 5" in done.stderr
