"""Alpaca: the text rule of the authors' release, and rows that must not become training targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recipe_run import prepared, refused, rejected


def row(instruction: Any, output: Any, more: Any = "") -> dict[str, Any]:
    return {"instruction": instruction, "input": more, "output": output}


def test_rule_and_rejected_rows(tmp_path: Path) -> None:
    rows = [
        row("Name a fruit", "Apple"),
        row("Who’s there?", " « Nobody » "),
        row("Convert", "20°C is 68°F.", "20°C"),
        row("Sum!", "12", "3, 4, 5"),
        row("Empty", ""),
        row("Translate", "你好"),
        row("Skip", "<nooutput>"),
        row("", "An answer"),
        {"instruction": "No output"},
        "not an object",
        row("Number", 5),
        row("Odd", "x", ["y"]),
        {"instruction": "No input\nat all", "output": "1\n2"},
    ]
    text = json.dumps(rows, ensure_ascii=False)
    (tmp_path / "alpaca_data.json").write_text("\ufeff" + text, encoding="utf-8")
    assert "kept 5 + rejected 8 = found 13" in prepared("alpaca", tmp_path, tmp_path / "data")
    lines = (tmp_path / "data" / "alpaca.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"instruction": "Name a fruit.", "output": "Apple"},
        {"instruction": "Who's there?", "output": "  Nobody  "},
        {
            "instruction": "Convert. 20  degrees centigrade",
            "output": "20  degrees centigrade is 68 degrees fahrenheit.",
        },
        {"instruction": "Sum! 3, 4, 5", "output": "12"},
        {"instruction": "No input\nat all.", "output": "1\n2"},
    ]
    faults = rejected(tmp_path / "data")
    assert set(faults) == {"4", "5", "6", "7", "8", "9", "10", "11"}
    assert faults["6"] == "output is a placeholder: <nooutput>"


def test_kept_and_rejected_add_up(tmp_path: Path) -> None:
    (tmp_path / "alpaca_data.json").write_text(json.dumps([row("a", "b"), row("c", "")]))
    assert "kept 1 + rejected 1 = found 2" in prepared("alpaca", tmp_path, tmp_path / "data")


def test_cut_off(tmp_path: Path) -> None:
    (tmp_path / "alpaca_data.json").write_text('[{"instruction": "a", "inp')
    assert "alpaca_data.json" in refused("alpaca", tmp_path, tmp_path / "data")
    assert "alpaca_data.json" in refused("alpaca", tmp_path / "nowhere", tmp_path / "data")
