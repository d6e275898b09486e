"""The tables of several experiments: lines of results.jsonl, cells, means over seeds and directions, why a cell is empty."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT, call

from blsp.base.config import load_config
from blsp.base.files import InputError, read_jsonl, write_json

SIGNATURE = "nrefs:1|tok:13a"
LAYOUT = """
title: A small world
corpora: {librispeech: LibriSpeech, must-c: MUST-C, bstc: BSTC}
spoken: {bstc: zh}
systems: {text_llm: Text+LLM, whisper_llm: Whisper+LLM, blsp: BLSP}
recognizers: {text_llm: 0.0, whisper_llm: null}
tables:
  - number: 2
    caption: Overview
    columns:
      - {name: own, metric: wer, score: librispeech/test_clean.transcript}
      - {name: repeated, metric: wer, score: librispeech/test_clean.asr}
      - {name: MUST-C, metric: bleu, mean_of: 10}
  - number: 5
    caption: Translation into English
    columns:
      - {name: zh-en, metric: [bleu, comet], score: bstc/dev.st_en}
  - number: 10
    caption: Directions
    note: Two of them.
    columns:
      - {name: en-de, metric: bleu, score: must-c/tst_en_de.st_de}
      - {name: en-ru, metric: bleu, score: must-c/tst_en_ru.st_ru}
"""


class Folder:
    """An experiments' folder, the program's call and what it wrote."""

    def __init__(self, folder: Path):
        self.exp, self.out, self.config = folder / "exp", folder / "out", folder / "tables.yaml"
        self.config.write_text(LAYOUT)

    def put(self, place: str, system: str, name: str, metric: str, value: float, **further: object) -> Path:
        """The score.json of SET.TASK in a folder below exp/."""
        data, _, task = name.partition(".")
        path = self.exp / place / "decode" / name / "score.json"
        beside = {"signature": SIGNATURE} if metric == "bleu" else {"normalizer": "lower"}
        fields = {metric: value, "n": 40, "system": system, "task": task, "set": data, "metric": metric,
                  "fingerprint": f"{value}"}  # fmt: skip
        write_json(path, fields | beside | further)
        (path.parent / "hyp.jsonl").touch()
        return path

    def run(self, *options: object, sources: tuple[Path, ...] = ()) -> list[dict]:
        reproduced = "./run.sh --systems {system} --recipes {corpus} --seed {seed}"
        call("tables", "--config", self.config, "--out", self.out, "--command", reproduced, *options, *(sources or [self.exp]))
        return read_jsonl(self.out / "results.jsonl")

    def cells(self, number: int) -> dict[str, list[str]]:
        """Method -> cells of a table in RESULTS.md."""
        text = (self.out / "RESULTS.md").read_text().partition(f"## Table {number}:")[2].partition("\n## ")[0]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
        return {row[0]: row[1:] for row in rows}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_line_has_task_direction_and_set_and_says_how_it_was_made(folder: Folder) -> None:
    folder.put("seed3/blsp/must-c", "blsp", "tst_en_de.st_de", "bleu", 12.346, chrf=40.0, copy=1.0)
    write_json(folder.exp / "seed3/blsp/model/config.json", {"provenance": {"commit": "abc1234"}})
    (line,) = folder.run()
    assert line == {
        "system": "blsp", "task": "st", "direction": "en-de", "set": "must-c/tst_en_de", "metric": "bleu", "value": 12.35,
        "n": 40, "signature": SIGNATURE, "seed": 3, "command": "./run.sh --systems blsp --recipes must-c --seed 3",
        "commit": "abc1234", "fingerprint": "12.346", "copy": 1.0, "chrf": 40.0,
    }  # fmt: skip
    folder.put("seed3/text_llm", "text_llm", "test_clean.asr", "wer", 1.0)
    untrained = next(line for line in folder.run() if line["system"] == "text_llm")
    assert untrained["commit"] == "unknown" or re.fullmatch(r"[0-9a-f]{7,}\+?", untrained["commit"])
    assert (untrained["signature"], untrained["set"]) == ("normalizer:lower", "librispeech/test_clean")


@pytest.mark.parametrize(
    ("place", "name", "expected"),
    [
        ("seed1/blsp/bstc", "dev.st_en", {"task": "st", "direction": "zh-en"}),
        ("seed1/blsp/must-c", "test_fr.st_fr_en", {"task": "st", "direction": "fr-en"}),
        ("seed1/whisper_llm", "test_clean.transcript", {"task": "asr", "variant": "recognizer"}),
        ("seed1/asr_pretrain", "test_clean.asr_transcribe", {"task": "asr", "variant": "transcribe"}),
        ("seed1/blsp", "test_clean.sa", {"task": "sa"}),
    ],
)
def test_tasks_by_their_names(folder: Folder, place: str, name: str, expected: dict) -> None:
    folder.put(place, place.split("/")[1], name, "wer", 1.0)
    (line,) = folder.run()
    assert {key: line[key] for key in ("task", "direction", "variant") if key in line} == expected


def test_seeds_become_mean_and_spread_and_directions_their_mean(folder: Folder) -> None:
    for seed, german, russian in ((1, 10.0, 20.0), (2, 14.0, 22.0)):
        folder.put(f"seed{seed}/blsp/must-c", "blsp", "tst_en_de.st_de", "bleu", german)
        folder.put(f"seed{seed}/recipes/must-c", "blsp", "tst_en_ru.st_ru", "bleu", russian)
    folder.run()
    assert folder.cells(10)["BLSP"] == ["12.0 ± 2.8", "21.0 ± 1.4"]
    assert folder.cells(2)["BLSP"][2] == "16.5 ± 2.1"  # of 15 and 18
    assert folder.cells(10)["utterances"] == ["40", "40"]
    text = (folder.out / "RESULTS.md").read_text()
    assert "Seeds 1, 2; mean ± standard deviation" in text
    assert f"Two of them. Signatures: {SIGNATURE}." in text


def test_the_recognizers_score_stands_beside_the_prompted_one(folder: Folder) -> None:
    folder.put("seed1/whisper_llm", "whisper_llm", "test_clean.transcript", "wer", 3.4)
    folder.put("seed1/whisper_llm", "whisper_llm", "test_clean.asr", "wer", 5.9)
    folder.run()
    cells = folder.cells(2)
    assert cells["method"] == ["own, WER ↓", "repeated, WER ↓", "MUST-C, BLEU ↑"]
    assert cells["Whisper+LLM"][:2] == ["3.4", "5.9"]
    assert cells["Text+LLM"][0] == "0.0"  # by definition
    assert cells["BLSP"][0] == "—"


def test_an_empty_cell_says_why(folder: Folder, tmp_path: Path) -> None:
    for name in ("librispeech/test_clean", "must-c/tst_en_de", "must-c/tst_en_ru"):
        (tmp_path / "data" / name).mkdir(parents=True)
    folder.put("seed1/blsp/must-c", "blsp", "tst_en_de.st_de", "bleu", 10.0)
    folder.put("seed1/blsp", "blsp", "test_clean.asr", "wer", 10.0).unlink()
    folder.run("--data-dir", tmp_path / "data")
    assert folder.cells(2)["BLSP"] == ["—", "not scored", "1 of 2 sets"]
    assert folder.cells(2)["Text+LLM"][1:] == ["not run", "not run"]
    assert folder.cells(5)["BLSP"] == ["needs BSTC"]
    folder.run()
    assert folder.cells(5)["BLSP"] == ["not run"]
    folder.put("seed1/recipes/bstc", "blsp", "dev.st_en", "bleu", 5.0)  # a path that names no system
    folder.run()
    assert folder.cells(5)["BLSP"] == ["5.0 / no COMET model"]


def test_comet_is_a_line_of_its_own(folder: Folder) -> None:
    folder.put("seed1/blsp/bstc", "blsp", "dev.st_en", "bleu", 49.8, comet=49.8, comet_signature="some model")
    bleu, comet = folder.run()
    assert (bleu["metric"], bleu["signature"]) == ("bleu", SIGNATURE)
    assert (comet["metric"], comet["value"], comet["signature"]) == ("comet", 49.8, "some model")
    assert folder.cells(5)["BLSP"] == ["49.8 / 49.8"]


def test_agreement_stands_with_its_divergence_which_is_small(folder: Folder) -> None:
    folder.config.write_text(
        LAYOUT.replace("[bleu, comet], score: bstc/dev.st_en", "[agreement, kl], score: must-c/tst.agree_go")
    )
    for seed, value, kl in ((1, 61.44, 0.01234), (2, 63.44, 0.01434)):
        further = {"kl": kl, "chrf": 70.0, "chrf_signature": "nc:6"}
        folder.put(f"seed{seed}/blsp/must-c", "blsp", "tst.agree_go", "agreement", value, **further)
    agreement, kl = (line for line in folder.run() if line["seed"] == 1)
    assert (agreement["value"], agreement["chrf"], agreement["signature"]) == (61.44, 70.0, "chrF nc:6")
    assert (kl["task"], kl["variant"], kl["metric"], kl["value"], kl["signature"]) == ("agree", "go", "kl", 0.0123, None)
    assert folder.cells(5)["BLSP"] == ["62.4 ± 1.4 / 0.013 ± 0.001"]
    assert "same answer, % ↑ / KL, nats a token ↓" in (folder.out / "RESULTS.md").read_text()


def test_the_papers_values_stand_in_parentheses(folder: Folder, tmp_path: Path) -> None:
    folder.put("seed1/blsp/bstc", "blsp", "dev.st_en", "bleu", 4.0)
    paper = tmp_path / "paper.jsonl"
    paper.write_text(
        '{"table": 5, "system": "blsp", "column": "zh-en", "metric": "bleu", "value": 5.0}\n'
        '{"table": 5, "system": "blsp", "column": "zh-en", "metric": "comet", "value": 49.8}\n'
    )
    folder.run("--paper", paper)
    assert folder.cells(5)["BLSP"] == ["4.0 / no COMET model (5.0 / 49.8)"]
    assert folder.cells(5)["Text+LLM"] == ["not run"]
    folder.run()
    assert folder.cells(5)["BLSP"] == ["4.0 / no COMET model"]


def test_a_line_stays_until_its_score_changes(folder: Folder) -> None:
    path = folder.put("seed1/blsp", "blsp", "test_clean.asr", "wer", 10.0)
    (first,) = folder.run()
    results = folder.out / "results.jsonl"
    results.write_text(results.read_text().replace(first["commit"], "before"))
    (second,) = folder.run()
    assert second == first | {"commit": "before"}  # it was measured then
    folder.put("seed1/blsp", "blsp", "test_clean.asr", "wer", 9.0)
    (third,) = folder.run()
    assert (third["value"], third["commit"]) == (9.0, first["commit"])
    path.unlink()
    assert folder.run() == [third]  # a record outlives the files


def test_lines_of_another_machine_are_joined(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Folder(tmp_path / "other")
    other.put("seed2/blsp", "blsp", "test_clean.asr", "wer", 20.0)
    other.run()
    folder.put("seed1/blsp", "blsp", "test_clean.asr", "wer", 10.0)
    assert len(folder.run(sources=(folder.exp, other.out / "results.jsonl"))) == 2
    assert folder.cells(2)["BLSP"][1] == "15.0 ± 7.1"


def test_two_experiments_for_one_cell_are_refused(folder: Folder) -> None:
    folder.put("seed1/blsp", "blsp", "test_clean.asr", "wer", 10.0)
    folder.put("seed1/blsp_again", "blsp", "test_clean.asr", "wer", 11.0)
    with pytest.raises(InputError, match="is the same system, task, set and seed as"):
        folder.run()


def test_a_missing_folder_and_a_configuration_without_tables_are_refused(folder: Folder) -> None:
    with pytest.raises(InputError, match="no such folder"):
        folder.run()
    folder.config.write_text("title: nothing\n")
    with pytest.raises(InputError, match="has no 'corpora'"):
        folder.run()


PAPER = ROOT / "egs/paper"


def test_the_papers_numbers_are_the_papers() -> None:
    """Typed in from the paper by hand: some of each table's corners."""
    values = {(p["table"], p["row"], p["column"], p["metric"]): p["value"] for p in read_jsonl(PAPER / "paper_values.jsonl")}
    assert len(values) == 143
    left, right = "LibriSpeech test-clean, recognizer", "LibriSpeech test-clean, prompted"
    for row, column, metric, value in (
        ("Text+LLM", left, "wer", 0.0),
        ("Text+LLM", "TED-LIUM 3, prompted", "wer", 14.5),
        ("Whisper+LLM", left, "wer", 3.4),
        ("Whisper+LLM", right, "wer", 5.9),
        ("CTC+LLM", "TED-LIUM 3, recognizer", "wer", 8.4),
        ("ASR pretraining", right, "wer", 3.7),
        ("BLSP", "MUST-C", "bleu", 12.3),
        ("BLSP", "SLUE-VoxCeleb", "accuracy", 76.0),
        ("+RP", "MUST-C", "bleu", 14.9),
        ("+RP", "FSC", "accuracy", 77.5),
    ):
        assert values[2, row, column, metric] == value
    assert not [key for key in values if key[1] in ("ASR pretraining", "BLSP", "+RP") and key[2].endswith("recognizer")]
    assert values[3, "Text+LLM", "Accept Rate", "accept_rate"] == 94.5
    assert values[3, "+RP", "Accept Rate", "accept_rate"] == 88.3
    assert values[5, "CTC+LLM", "BSTC zh-en", "bleu"] == 1.1
    assert values[5, "BLSP", "MSLT fr-en", "comet"] == 64.8
    assert values[9, "Text+LLM", "en-ca", "bleu"] == 24.8
    assert values[9, "+RP", "en-sv", "bleu"] == 19.3
    assert values[10, "ASR+LLM", "en-nl", "bleu"] == 20.7
    assert values[10, "+RP", "en-ru", "bleu"] == 10.2


def test_the_papers_means_are_the_means_but_for_one() -> None:
    values = read_jsonl(PAPER / "paper_values.jsonl")
    for column, table in (("MUST-C", 10), ("CoVoST-2", 9)):
        for overview in (p for p in values if (p["table"], p["column"]) == (2, column) and p["system"] != "asr_pretrain"):
            directions = [p["value"] for p in values if (p["table"], p["system"]) == (table, overview["system"])]
            mean = sum(directions) / len(directions)
            expected = 14.3 if (column, overview["system"]) == ("MUST-C", "blsp_rp") else overview["value"]
            assert mean == pytest.approx(expected, abs=0.0501), overview


def test_every_value_of_the_paper_has_a_cell() -> None:
    layout = load_config(PAPER / "conf/tables.yaml")
    cells = {
        (table["number"], column["name"], metric)
        for table in layout["tables"]
        for column in table["columns"]
        for metric in ([column["metric"]] if isinstance(column["metric"], str) else column["metric"])
    }
    values = read_jsonl(PAPER / "paper_values.jsonl")
    assert {(p["table"], p["column"], p["metric"]) for p in values} == cells
    assert {p["system"] for p in values} == set(layout["systems"]) - {"blsp_kd"}


def test_the_layout_asks_for_scores_that_the_recipes_make() -> None:
    """CORPUS/SET.TASK: the recipe has that test set, and that task for it."""
    layout = load_config(PAPER / "conf/tables.yaml")
    scores = [column["score"] for table in layout["tables"] for column in table["columns"] if "score" in column]
    for score in scores:
        name, _, task = score.partition(".")
        corpus, _, data = name.partition("/")
        if (corpus, task) == ("gigaspeech", "qa"):
            continue
        recipe = ROOT / "recipes" / corpus / "conf"
        config = load_config(recipe / ("blsp.yaml" if corpus == "librispeech" else "evaluate.yaml"))
        assert data in config["test_sets"], score
        assert task == "transcript" or data in config["tasks"][task]["sets"], score
    assert {score.partition("/")[0] for score in scores} == set(layout["corpora"])
