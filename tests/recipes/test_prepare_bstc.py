"""BSTC: sentences with times (CCMT 2019), or whole talks (AutoSimTrans)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipe_run import prepared, refused, rejected, table, write_audio


def line(offset: str, duration: str, text: str, translation: str, key: str = "transcript") -> str:
    return json.dumps({"offset": offset, "duration": duration, key: text, "translation": translation}, ensure_ascii=False)


def ccmt(root: Path, **talks: str) -> Path:
    folder = root / "CCMT_2019_BSTC" / "data" / "development_data"
    for talk, content in talks.items():
        write_audio(folder / f"{talk.strip('t')}.wav", 3.0)
        (folder / f"{talk.strip('t')}.asr.json").write_text(content, encoding="utf-8")
    return root / "CCMT_2019_BSTC"


def grown(*sentences: str) -> str:
    return "".join(sentence[:i] + "\n" for sentence in sentences for i in range(1, len(sentence) + 1))


def autosimtrans(root: Path, streaming: str, reference: str, seconds: float = 3.0) -> Path:
    texts = root / "bstc_transcription_translation"
    for folder, content in (("streaming_transcription", streaming), ("ref_text", reference)):
        (texts / "dev" / folder).mkdir(parents=True)
        (texts / "dev" / folder / "7.txt").write_text(content, encoding="utf-8")
    write_audio(root / "devdata" / "7.wav", seconds)
    return root


def test_sentences_are_parts_of_talks(tmp_path: Path) -> None:
    clean = [line("0.100", "0.500", "你好。", "Hello."), line("1.0", "0.75", "再见。", "Bye.", key="asr")]
    dirty = [
        line("0.1", "0.5", "一。", "One."),
        "{broken} line}",
        line("0.1", "0.5", "一。", "One."),
        line("0.5", "much", "二。", "Two."),
        line("0.5", "0.5", "三。", ""),
        line("0.5", "0.5", "", "Four."),
        line("2.0", "9.0", "五。", "Five."),
        "[]",
    ]
    root = ccmt(tmp_path, t1="\n".join(clean) + "\n", t10="\r\n".join(dirty), t2="[" + ",".join(clean) + "]")
    prepared("bstc", root, tmp_path / "data")
    dev = tmp_path / "data" / "dev"
    text = table(dev / "text")
    assert text == {"1-1_0": "你好。", "1-1_1": "再见。", "2-2_0": "你好。", "2-2_1": "再见。", "10-10_0": "一。"}
    assert table(dev / "translation.en")["1-1_1"] == "Bye."
    assert [float(x) for x in table(dev / "segments")["1-1_1"].split()[1:]] == [1.0, 1.75]
    assert table(dev / "segments")["1-1_1"].split()[0] == "1"
    faults = rejected(dev)
    assert faults["10_1"].startswith("broken line") and faults["10_7"].startswith("broken line")
    assert faults["10_2"] == "duplicate: the same as 10_0"
    assert faults["10_4"] == "no translation.en"
    assert set(faults) == {f"10_{i}" for i in range(1, 8)}


def test_broken_talks(tmp_path: Path) -> None:
    good = line("0.1", "0.5", "你好。", "Hello.")
    assert "1.asr.json" in refused("bstc", ccmt(tmp_path / "cut", t1=good + "\n" + good[:-20]), tmp_path / "a")
    root = ccmt(tmp_path / "missing", t1=good)
    write_audio(root / "data" / "development_data" / "3.wav")
    assert "3.asr.json" in refused("bstc", root, tmp_path / "b")
    (tmp_path / "packed" / "data").mkdir(parents=True)
    (tmp_path / "packed" / "data" / "development_data.zip").write_bytes(b"PK")
    assert "unzip" in refused("bstc", tmp_path / "packed", tmp_path / "c")


def test_whole_talks(tmp_path: Path) -> None:
    root = autosimtrans(tmp_path, "\ufeff" + grown("啊，", "我用 by the 你"), "Ah,\nI use\u2028it.\n\n")
    train = root / "bstc_transcription_translation" / "train"
    train.mkdir()
    (train / "1.json").write_text(line("0.1", "0.5", "你好。", "Hello."), encoding="utf-8")
    assert "train: passed over: 1 transcripts" in prepared("bstc", root, tmp_path / "data")
    dev = tmp_path / "data" / "dev"
    assert table(dev / "text") == {"7": "啊，我用 by the 你"}
    assert table(dev / "translation.en") == {"7": "Ah, I use it."}
    assert float(table(dev / "utt2dur")["7"]) == pytest.approx(3.0)
    write_audio(root / "traindata" / "1.wav", 1.0)
    prepared("bstc", root, tmp_path / "data")
    assert table(tmp_path / "data" / "train" / "text") == {"1-1_0": "你好。"}


def test_counts_of_sentences_and_translations_differ(tmp_path: Path) -> None:
    root = autosimtrans(tmp_path, grown("啊，", "你好。"), "Ah,\n")
    assert "7.txt" in refused("bstc", root, tmp_path / "data")


def test_long_talk_is_rejected_by_name(tmp_path: Path) -> None:
    root = autosimtrans(tmp_path, grown("啊，"), "Ah,\n", seconds=31.0)
    assert "longer than 30 s" in refused("bstc", root, tmp_path / "data")
    assert (tmp_path / "data" / "dev.rejected.tsv").read_text().startswith("7\t")
