"""speechocean762 as it is unpacked, with the dirt that copies of it have."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_run import prepared, refused, rejected, table, write_audio

NAME = "speechocean762"


def split(corpus: Path, name: str, people: dict[str, str], n: int = 2, suffix: str = ".WAV") -> None:
    """`people`: number of a speaker -> age. Separators as in the archive: tabs, but for utt2spk and spk2utt."""
    utts = {f"0{spk}{i:04d}": spk for spk in people for i in range(1, n + 1)}
    for utt, spk in utts.items():
        write_audio(corpus / f"WAVE/SPEAKER{spk}/{utt}{suffix}")
    put(corpus / name / "wav.scp", "".join(f"{utt}\tWAVE/SPEAKER{spk}/{utt}.WAV\n" for utt, spk in utts.items()))
    put(corpus / name / "text", "".join(f"{utt}\tWE CALL IT {utt[-1]}\n" for utt in utts))
    put(corpus / name / "utt2spk", "".join(f"{utt} {spk}\n" for utt, spk in utts.items()))
    put(corpus / name / "spk2age", "".join(f"{spk}\t{age}\n" for spk, age in people.items()))
    put(corpus / name / "spk2gender", "".join(f"{spk}\tf\n" for spk in people))
    put(corpus / name / "spk2utt", "9999 nonsense\n")


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / NAME
    split(folder, "train", {f"{number:04d}": "7" if number % 2 else "30" for number in range(1, 12)}, n=1)
    split(folder, "test", {"0003": "6", "1030": "27", "2001": "15", "3000": "18"})
    put(folder / "scores.json", "not JSON, and not read")
    return folder


def test_sets_tables_and_ids(corpus: Path) -> None:
    data = corpus.parent / "data"
    printed = prepared(NAME, corpus, data)
    assert "test: kept 8 + rejected 0 = found 8" in printed
    assert {p.name for p in data.iterdir() if p.is_dir()} == {
        *("train", "train_nodev", "train_dev", "test", "test_adults", "test_children")
    }
    assert table(data / "test" / "text")["SPEAKER0003-000030002"] == "WE CALL IT 2"
    assert table(data / "test" / "utt2spk")["SPEAKER1030-010300001"] == "SPEAKER1030"
    assert table(data / "test" / "age")["SPEAKER1030-010300001"] == "27"
    assert set(table(data / "test" / "gender").values()) == {"f"}
    assert set(table(data / "test_adults" / "spk2utt")) == {"SPEAKER1030", "SPEAKER3000"}
    assert set(table(data / "test_children" / "spk2utt")) == {"SPEAKER0003", "SPEAKER2001"}
    assert set(table(data / "train_dev" / "spk2utt")) == {"SPEAKER0010"}
    assert len(table(data / "train_nodev" / "text")) == 10
    assert len(table(data / "train" / "text")) == 11


def test_a_copy_in_another_format(tmp_path: Path) -> None:
    corpus = tmp_path / NAME
    split(corpus, "test", {"0003": "6"}, suffix=".flac")
    put(corpus / "WAVE/SPEAKER0003/000030001.lab", "no audio")
    put(corpus / "WAVE/SPEAKER0003/._000030002.flac", "macOS")
    write_audio(corpus / "WAVE/SPEAKER0003/000030002.WAV")  # what wav.scp names comes first
    printed = prepared(NAME, corpus, tmp_path / "data")
    assert "1 recordings in another format than wav.scp names" in printed
    wavs = table(tmp_path / "data" / "test" / "wav.scp")
    assert [Path(path).name for path in wavs.values()] == ["000030001.flac", "000030002.WAV"]
    assert not (tmp_path / "data" / "test_adults").exists() and (tmp_path / "data" / "test_children").exists()


def test_dirt(corpus: Path) -> None:
    test = corpus / "test"
    wavs, texts, utt2spk = ((test / name).read_text() for name in ("wav.scp", "text", "utt2spk"))
    wavs = wavs.replace("WAVE/SPEAKER0003/000030002.WAV", "touch pwned |")
    wavs = wavs.replace("WAVE/SPEAKER1030/010300002.WAV", "../outside.WAV")
    put(test / "wav.scp", wavs + "000030009\tWAVE/SPEAKER0003/000030001.WAV\n000030008\n")
    write_audio(corpus.parent / "outside.WAV")
    texts = texts.replace("010300001\tWE", "010300001   WE\u00a0").replace("020010001\tWE CALL IT 1", "020010001")
    texts += "\n000030001\tTWICE\n000030007\tNO FILE\n000030008\tNO FILE\n"
    put(test / "text", "\ufeff" + texts.replace("\n", "\r\n"))
    put(test / "utt2spk", utt2spk.replace("020010002 2001\n", "").replace(" ", "\t"))
    put(test / "spk2gender", (test / "spk2gender").read_text().replace("3000\tf\n", ""))
    put(corpus / "WAVE/SPEAKER0003/._000030001.WAV", "macOS")
    printed = prepared(NAME, corpus, corpus.parent / "data")
    assert "test: kept 2 + rejected 10 = found 12" in printed
    assert table(corpus.parent / "data/test/text") == {
        "SPEAKER0003-000030001": "WE CALL IT 1",
        "SPEAKER1030-010300001": "WE CALL IT 1",
    }
    assert rejected(corpus.parent / "data/test") == {
        "000030001": "duplicate id",
        "000030002": "missing audio",
        "000030007": "not in utt2spk",
        "000030008": "not in utt2spk",
        "000030009": "no transcript",
        "010300002": "path leaves the corpus folder",
        "020010001": "empty transcript",
        "020010002": "not in utt2spk",
        "030000001": "no gender",
        "030000002": "no gender",
    }
    assert not list(Path.cwd().glob("pwned")) and not list(corpus.rglob("pwned"))
    assert set(table(corpus.parent / "data/test_adults/text")) == {"SPEAKER1030-010300001"}


def test_corpora_that_are_broken(corpus: Path) -> None:
    data = corpus.parent / "data"
    (corpus / "test" / "wav.scp").unlink()
    (corpus / "test" / "spk2age").unlink()
    (corpus / "train").rename(corpus / "elsewhere")
    assert f"{corpus}/test/wav.scp: cannot be read" in refused(NAME, corpus, data)
    (corpus / "test").rename(corpus / "nowhere")
    assert "holds no set of this corpus" in refused(NAME, corpus, data)
