"""tools/make_data_dir.py: one's own recordings in the forms that people have them in, and with the faults that these have."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from recipe_run import in_kaldi_form, rejected, table, write_audio

from blsp.base.files import InputError

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "make_data_dir.py"


@pytest.fixture
def make(tmp_path, monkeypatch, capfd):
    """Call the tool with a source and options; gives what it printed. The directory is tmp_path/data/mine."""

    def call(source: Path, *options: object) -> str:
        spec = importlib.util.spec_from_file_location("make_data_dir", TOOL)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        argv = [TOOL.name, source, tmp_path / "data" / "mine", "--nj", 1, *options]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        module.main()
        for utt2spk in (tmp_path / "data").glob("*/utt2spk"):
            in_kaldi_form(utt2spk.parent)
        return capfd.readouterr().out

    return call


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "data" / "mine"


def folder(root: Path, files: dict[str, str | bytes | None]) -> Path:
    """Audio files, and beside each its transcript; None: no .txt."""
    for name, text in files.items():
        write_audio(root / name)
        if text is not None:
            (root / name).with_suffix(".txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return root


def lines(path: Path, *rows: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.write_bytes("".join(row + end for row in rows).encode(encoding))
    return path


def refused(make: Any, source: Path, *options: object) -> str:
    with pytest.raises(InputError) as e:
        make(source, *options)
    assert "\n" not in str(e.value)
    return str(e.value)


def sound(rate: int = 16000, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.sin(np.arange(rate // 2) / 9), rate, format=kind)
    return buffer.getvalue()


def test_a_folder_of_audio_and_text(tmp_path, make, mine):
    source = folder(tmp_path / "my voice", {"one.wav": "Hello, World!\n", "anna/two.FLAC": "\ufefftwo\u00a0words\r\n\r\n"})
    assert "kept 2 + rejected 0 = found 2" in make(source)
    assert table(mine / "text") == {"anna-two": "two words", "one": "Hello, World!"}
    assert table(mine / "utt2spk") == {"anna-two": "anna-two", "one": "one"}
    assert table(mine / "wav.scp")["anna-two"] == str(source / "anna/two.FLAC")
    assert "up to date" in make(source)
    (source / "one.txt").write_text("other words")
    assert "kept 2" in make(source) and table(mine / "text")["one"] == "other words"
    make(source, "--folders-are-speakers")
    assert table(mine / "utt2spk") == {"anna-two": "anna", "one": "one"}


def test_faults_of_a_folder_are_named(tmp_path, make, mine):
    good = {"good.wav": "good"}
    bad = {"silent.wav": None, "many.wav": "one\ntwo\n", "empty.wav": " \n", "latin.wav": "caf\xe9".encode("latin-1")}
    source = folder(tmp_path / "source", {**good, **bad, "odd (1), it's.wav": "odd name"})
    folder(source, {"same.wav": "same", "same.flac": "same"})
    (source / "alone.txt").write_text("nothing to hear")
    (source / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(64))
    (source / "phone.txt").write_text("from a phone")
    (source / "zipped.txt").write_bytes(b"PK\x03\x04" + bytes(range(128, 256)) * 8)
    write_audio(source / "zipped.wav")
    (source / "._good.wav").write_bytes(b"macOS")
    (source / ".hidden").mkdir()
    write_audio(source / ".hidden" / "no.wav")
    make(source)
    found = rejected(mine)
    assert table(mine / "text") == {"good": "good", "odd_1_it_s": "odd name", "same": "same"}
    assert found.pop("many.wav") == "transcript of several lines: many.txt has 2, one was expected"
    assert found.pop("silent.wav") == "no transcript: silent.txt should lie beside it"
    assert found.pop("empty.wav") == "empty transcript"
    assert found.pop("latin.wav") == "text is not UTF-8"
    assert found.pop("same.wav") == "duplicate id"
    assert found.pop("alone.txt") == "no audio beside it"
    assert "convert it to flac" in found.pop("phone.m4a")
    assert found.pop("zipped.wav")
    assert not found


def test_a_csv_as_spreadsheets_write_it(tmp_path, make, mine):
    for name in ("a", "b", "c"):
        write_audio(tmp_path / f"clips/{name}.wav")
    rows = ("File_Name;Transcript;who;German", 'clips/a.wav;"Hello;\n""you""";Anna B;Hallo', "clips/b.wav;two;Anna B;zwei")
    source = lines(tmp_path / "mine.csv", *rows, f"{tmp_path}/clips/c.wav;three;Ben;drei", end="\r\n", encoding="utf-8-sig")
    out = make(source, "--speaker", "who", "--table", "translation.de=German")
    assert "audio from 'File_Name', text from 'Transcript', speaker from 'who', translation.de from 'German'" in out
    assert table(mine / "text") == {
        "Anna_B-clips-a": 'Hello; "you"',
        "Anna_B-clips-b": "two",
        "Ben-clips-c": "three",
    }
    assert table(mine / "translation.de")["Ben-clips-c"] == "drei"
    assert not (mine / "segments").exists()


def test_segments_ids_and_faults_of_a_tsv(tmp_path, make, mine):
    write_audio(tmp_path / "audio/talk.wav", seconds=3)
    rows = (
        "wav\tsentence\tfrom\tto\tkey",
        'talk.wav\t"quoted" is a word\t0\t1\tfirst',
        "talk.wav\ttwo\t1.0\t\tsecond",
        "talk.wav\tthree\tone\t2\tthird",
        "talk.wav\tfour\t2\t1\tfourth",
        "talk.wav\tfive\t2\t3\tsecond",
        "talk.wav\tsix\t2\t9\tsixth",
        "talk.wav\tseven\t2\t3\t",
        "\teight\t2\t3\teighth",
        "gone.wav\tnine\t2\t3\tninth",
        "talk.wav\tten",
    )
    source = lines(tmp_path / "talks.tsv", *rows)
    options = ("--audio-root", tmp_path / "audio", "--start", "from", "--end", "to")
    make(source, *options, "--id", "key")
    assert table(mine / "text") == {"first": '"quoted" is a word', "second": "two"}
    assert table(mine / "segments") == {"first": "talk 0 1", "second": "talk 1 3"}
    found = rejected(mine)
    assert found["talks.tsv:4"] == "broken row: column 'from' holds 'one', not a number of seconds"
    assert "segment without length" in found["talk.wav (talks.tsv:5)"]
    assert found["talk.wav (talks.tsv:6)"] == "duplicate id"
    assert "segment beyond" in found["talk.wav (talks.tsv:7)"]
    assert found["talks.tsv:8"] == "broken row: column 'key' is empty"
    assert found["talks.tsv:9"] == "broken row: column 'wav' is empty"
    assert found["gone.wav (talks.tsv:10)"] == "missing audio"
    assert found["talks.tsv:11"].startswith("broken line: 2 fields")
    make(source, *options)
    assert "talk-0000000-0000100" in table(mine / "text")


def test_json_lines(tmp_path, make, mine):
    write_audio(tmp_path / "a.wav")
    values = (
        {"text": "no path"},
        {"audio_filepath": "a.wav", "text": "one", "speaker": 7},
        {"audio_filepath": ["a.wav"], "text": "two"},
        {"audio_filepath": "a.wav", "text": {"no": "text"}},
        {"audio_filepath": "a.wav"},
    )
    source = lines(tmp_path / "manifest.json", *map(json.dumps, values), "", '{"text": ', "[1]")
    make(source)
    assert table(mine / "text") == {"7-a": "one"}
    assert rejected(mine) == {
        "manifest.json:1": "broken row: column 'audio_filepath' is empty",
        "manifest.json:3": "broken row: column 'audio_filepath' is empty",
        "manifest.json:4": "broken row: column 'text' holds neither text nor a number",
        "a.wav (manifest.json:5)": "empty transcript",
        "manifest.json:7": "broken line: not a JSON object",
        "manifest.json:8": "broken line: not a JSON object",
    }


def test_what_is_wrong_with_the_whole_is_one_line(tmp_path, make):
    source = lines(tmp_path / "t.csv", "name,words", "a.wav,b")
    line = refused(make, source)
    assert line == f"{source}: has no column for audio by a usual name; its columns are: name, words; name one with --audio"
    assert "has no column for text by a usual name" in refused(make, source, "--audio", "name")
    assert "has no column 'who'; its columns are: name, words" in refused(make, source, "--speaker", "who")
    line = refused(make, source, "--audio", "name", "--text", "words")
    assert "all 1 utterances of set mine are rejected (1 missing audio)" in line
    assert "has more than one column 'text'" in refused(make, lines(tmp_path / "twice.csv", "audio,text,text", "a.wav,b,c"))
    assert "is not there" in refused(make, tmp_path / "none")
    assert "no table or dataset by its name" in refused(make, lines(tmp_path / "t.doc", "x"))
    assert "a header line was expected" in refused(make, lines(tmp_path / "e.csv"))
    assert "holds no JSON object" in refused(make, lines(tmp_path / "e.jsonl", "nothing"))
    (tmp_path / "nothing").mkdir()
    assert "holds no utterances" in refused(make, tmp_path / "nothing")
    assert "no column 'who'" in refused(make, tmp_path / "nothing", "--speaker", "who")
    assert "--split: does not go with a table" in refused(make, source, "--split", "train")
    assert "--table text" in refused(make, source, "--table", "text")
    assert not (tmp_path / "data" / "mine").exists()


def test_other_things_are_not_overwritten(tmp_path, make, mine):
    source = folder(tmp_path / "data", {"a.wav": "one"})
    (mine / "keep").mkdir(parents=True)
    assert f"{mine}: is there and was not written by this program" in refused(make, source)
    (mine / "keep").rmdir()
    make(source)
    assert "up to date" in make(source)


def hub_table(names: list[str], content: bytes | None = None, **more: Any) -> pa.Table:
    audio = [{"bytes": content or sound(), "path": name} for name in names]
    rows = {"audio": audio, "text": [f"word {n}" for n in range(len(names))], "speaker_id": [84] * len(names), **more}
    return pa.table(rows)


def parquet(root: Path, name: str, tab: pa.Table, **options: Any) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(tab, root / name, **options)
    return root


def with_labels(tab: pa.Table) -> pa.Table:
    """`intent` as the feature ClassLabel of datasets: numbers, their names in the schema."""
    tab = tab.append_column("intent", pa.array([n % 2 for n in range(len(tab))]))
    features = {"intent": {"names": ["go", "stop"], "_type": "ClassLabel"}}
    return tab.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_parquet_with_audio_inside(tmp_path, make, mine):
    source = tmp_path / "dataset"
    for shard in (0, 1):
        names = [f"84-{shard}-{n}.flac" for n in range(3)]
        tab = with_labels(hub_table(names, sound(22050, "FLAC")))
        parquet(source, f"data/train.100-0000{shard}-of-00002.parquet", tab, row_group_size=2)
    parquet(source, "data/test-00000-of-00001-0123abcd.parquet", with_labels(hub_table(["x.wav"])))
    make(source, "--table", "intent")
    train, test = mine.with_name("mine_train_100"), mine.with_name("mine_test")
    assert table(train / "text")["84-1-2"] == "word 2" and len(table(train / "text")) == 6
    assert table(test / "utt2spk") == {"84-x": "84"}
    assert list(table(train / "intent").values()) == ["go", "stop", "go"] * 2
    wavs = [Path(path) for path in (*table(train / "wav.scp").values(), *table(test / "wav.scp").values())]
    assert {path.suffix for path in wavs} == {".flac", ".wav"}
    assert all(path.is_relative_to(mine.with_name("audio") / "mine") for path in wavs)
    before = {path: path.stat().st_ino for path in wavs}
    assert "up to date" in make(source, "--table", "intent")
    assert {path: path.stat().st_ino for path in wavs} == before
    wavs[0].unlink()  # as after a kill: what is missing is written, nothing else
    make(source, "--table", "intent")
    assert {path for path in wavs if path.stat().st_ino == before[path]} >= set(wavs[1:])
    make(source, "--split", "test", "--audio-dir", tmp_path / "there")
    (path,) = table(mine / "wav.scp").values()
    assert Path(path).is_relative_to(tmp_path / "there")


def test_a_parquet_file_that_has_changed_is_not_mixed_with_the_old(tmp_path, make, mine):
    source = parquet(tmp_path, "x.parquet", hub_table(["a.wav"])) / "x.parquet"
    make(source)
    parquet(tmp_path, "x.parquet", hub_table(["a.wav"], sound(8000)))
    make(source)
    (path,) = table(mine / "wav.scp").values()
    assert soundfile.info(path).samplerate == 8000


def test_parquet_in_other_shapes(tmp_path, make, mine):
    write_audio(tmp_path / "set" / "clip.wav")
    audio = [{"bytes": sound(), "path": None}, {"bytes": None, "path": "clip.wav"}, {"bytes": None, "path": None}, None]
    tab = pa.table({"audio": audio, "text": list("abcd"), "n": [1.5, 2.5, 3.5, 4.5]})
    make(parquet(tmp_path, "set/one.parquet", tab) / "set/one.parquet", "--table", "score=n")
    assert table(mine / "text") == {"clip": "b", "one-0000001": "a"}
    assert table(mine / "score") == {"clip": "2.5", "one-0000001": "1.5"}
    assert rejected(mine) == {f"one.parquet:{n}": "no audio in column 'audio'" for n in (3, 4)}
    raw = pa.table({"audio": [sound()], "text": ["bytes alone"]})
    make(parquet(tmp_path, "raw.parquet", raw) / "raw.parquet")
    assert table(mine / "text") == {"raw-0000001": "bytes alone"}
    make(parquet(tmp_path, "paths.parquet", pa.table({"file": ["set/clip.wav"], "text": ["a path"]})) / "paths.parquet")
    assert table(mine / "text") == {"clip": "a path"}


def test_folders_of_parquet_tell_splits(tmp_path, make, mine):
    for name in ("clean/test/0000.parquet", "other/test/0000.parquet", "default/train/0000.parquet"):
        parquet(tmp_path / "set", name, hub_table(["a.wav"]))
    make(tmp_path / "set")
    names = {path.name for path in mine.parent.iterdir() if path.is_dir() and path.name != "audio"}
    assert names == {"mine_clean_test", "mine_other_test", "mine_train"}
    assert "it has: clean_test, train, other_test" in refused(make, tmp_path / "set", "--split", "dev")


def test_what_save_to_disk_writes(tmp_path, make, mine):
    source = tmp_path / "saved"
    for split in ("train", "test"):
        tab = with_labels(hub_table(["a.wav", "b.wav"]))
        (source / split).mkdir(parents=True)
        with pa.ipc.new_stream(str(source / split / "data-00000-of-00001.arrow"), tab.schema) as f:
            f.write_table(tab, max_chunksize=1)
        (source / split / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (source / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    make(source, "--table", "intent")
    assert table(mine.with_name("mine_test") / "intent") == {"84-a": "go", "84-b": "stop"}
    assert "up to date" in make(source, "--table", "intent")
    make(source / "train")
    assert len(table(mine / "text")) == 2


def test_audiofolder(tmp_path, make, mine):
    for split in ("train", "test"):
        write_audio(tmp_path / "set" / split / "clips/a.wav")
        lines(tmp_path / "set" / split / "metadata.csv", "file_name,transcription", f'clips/a.wav,"{split}, yes"')
    make(tmp_path / "set")
    assert table(mine.with_name("mine_train") / "text") == {"clips-a": "train, yes"}
    write_audio(tmp_path / "flat/a.wav")
    lines(tmp_path / "flat/metadata.jsonl", '{"file_name": "a.wav", "text": "flat"}')
    make(tmp_path / "flat")
    assert table(mine / "text") == {"a": "flat"}


def test_datasets_that_are_broken(tmp_path, make):
    source = parquet(tmp_path / "set", "data/train-00001-of-00002.parquet", hub_table(["a.wav"]))
    assert "train-00000-of-00002.parquet: is missing; download it" in refused(make, source)
    whole = (source / "data/train-00001-of-00002.parquet").read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "cut.parquet: is no parquet file, or was cut off" in refused(make, cut)
    cut.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "run git lfs pull" in refused(make, cut)
    samples = parquet(tmp_path, "samples.parquet", pa.table({"audio": [[0.1, 0.2]], "text": ["x"]})) / "samples.parquet"
    assert "column 'audio' holds list" in refused(make, samples)
    assert not (tmp_path / "data" / "mine").exists()


def test_without_pyarrow_the_line_says_what_to_install(tmp_path, make, monkeypatch):
    source = parquet(tmp_path, "x.parquet", hub_table(["a.wav"])) / "x.parquet"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow; pip install -e '.[parquet]'" in refused(make, source)


def test_limit_takes_the_first_and_writes_no_more(tmp_path, make, mine):
    source = parquet(tmp_path, "x.parquet", hub_table([f"{n:03d}.wav" for n in range(40)])) / "x.parquet"
    make(source, "--limit", 2)
    assert list(table(mine / "text")) == ["84-000", "84-001"]
    assert len(list(mine.with_name("audio").rglob("*.wav"))) < 40


def test_as_a_user_calls_it(tmp_path):
    shown = subprocess.run([sys.executable, TOOL, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "--folders-are-speakers" in shown.stdout
    assert os.access(TOOL, os.X_OK)
    wrong = subprocess.run(
        [sys.executable, TOOL, tmp_path / "a\nb", "x"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert wrong.returncode == 1 and len(wrong.stderr.splitlines()) == 1
