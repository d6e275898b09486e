"""Data directories: sorted as Kaldi wants, whole or absent, and refused with file and line where they are wrong."""

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from blsp.base.files import InputError
from blsp.data import data_dir
from blsp.data.data_dir import Utterance, read_data_dir, read_further_tables, read_table, write_data_dir, write_table

PLAIN = [
    Utterance("b-1", "b", Path("/corpus/b 1; $(touch x).flac"), None, None, 1.25, "HELLO WORLD"),
    Utterance("a-2", "a", Path("/corpus/-n.flac"), None, None, 0.5, "éa \u2028inside"),
    Utterance("a-10", "a", Path('/corpus/it\'s "a10".flac'), None, None, 30.0, "NULL"),
]
PARTS = [
    Utterance("t-1", "t", Path("/corpus/t.wav"), 0.5, 1.75, 1.25, "one", "t"),
    Utterance("t-2", "t", Path("/corpus/t.wav"), 1.751235, 2.0, 0.248765, "two", "t"),
]


@pytest.fixture
def folder(tmp_path):
    write_data_dir(tmp_path / "dev", PARTS, {"intent": {"t-1": "switch on", "t-2": "off"}}, [("x\ty", "no\nthing")])
    return tmp_path / "dev"


def test_written_and_read(tmp_path):
    write_data_dir(tmp_path / "plain", PLAIN)
    assert read_data_dir(tmp_path / "plain") == sorted(PLAIN, key=lambda u: u.utt_id.encode())
    assert not (tmp_path / "plain" / "segments").exists()
    assert (tmp_path / "plain" / "spk2utt").read_text() == "a a-10 a-2\nb b-1\n"


def test_segments_and_tables(folder):
    assert read_data_dir(folder) == PARTS
    assert (folder / "wav.scp").read_text() == "t /corpus/t.wav\n"
    assert (folder / "segments").read_text() == "t-1 t 0.5 1.75\nt-2 t 1.751235 2\n"
    assert read_table(folder / "intent") == {"t-1": "switch on", "t-2": "off"}
    assert (folder / "rejected.tsv").read_text() == "x y\tno thing\n"


def test_tables_sort_by_bytes(tmp_path):
    keys = ["a", "a-1", "a1", "B", "é", "z", "\U0001f600", "\uffff"]
    write_table(tmp_path / "t", dict.fromkeys(reversed(keys), ""))
    assert list(read_table(tmp_path / "t")) == sorted(keys, key=str.encode)
    with pytest.raises(ValueError, match="not a line"):
        write_table(tmp_path / "t", {"two words": "x"})
    assert list(read_table(tmp_path / "t")) == sorted(keys, key=str.encode)  # the old table is still whole


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text", "t-1 one\n", "segments:2: utterance 't-2' is not in text; run stage 0 again"),
        ("text", "t-1 one\nt-2 two\nt-3 three\n", "text:3: utterance 't-3' is not in segments"),
        ("text", "t-2 two\nt-1 one\n", "text:2: 't-1' is not sorted: it comes after 't-2'"),
        ("text", "t-1 one\nt-1 two\n", "text:2: 't-1' occurs twice"),
        ("text", "t-1 one\nt-2 tw", "text:2: the last line has no end"),
        ("text", "t-1 one\n two\n", "text:2: expected `key value`, found 'two'"),
        ("text", "", "text: holds no utterances"),
        ("text", b"t-1 \xff\n", "text:1: is not UTF-8"),
        ("wav.scp", "t sox a.wav -t wav - |\n", "wav.scp:1: 't' is a command, which is not run"),
        ("wav.scp", "t\n", "wav.scp:1: 't' has no path"),
        ("wav.scp", "u /corpus/t.wav\n", "segments:1: recording 't' is not in wav.scp"),
        ("segments", "t-1 t 0.5\nt-2 t 1 2\n", "segments:1: expected `utt_id rec_id start end`"),
        ("segments", "t-1 t 0.5 1\nt-2 t 2 2\n", "segments:2: expected 0 <= start < end"),
        ("segments", "t-1 t 0.5 nan\nt-2 t 2 3\n", "segments:1: expected 0 <= start < end"),
        ("utt2spk", "t-1 t\n", "text:2: utterance 't-2' is not in utt2spk"),
        ("utt2spk", "t-1 t\nt-2 t u\n", "utt2spk:2: 't-2' should have one speaker, not 't u'"),
        ("spk2utt", "t t-1\n", "spk2utt: speaker 't' has other utterances than in utt2spk"),
        ("utt2dur", "t-1 1.2\nt-2 soon\n", "utt2dur:2: 't-2' should last a number of seconds above 0, not 'soon'"),
        ("utt2dur", "t-1 1.2\nt-2 0\n", "utt2dur:2: 't-2' should last"),
        ("utt2dur", None, "utt2dur: does not exist; run stage 0 again"),
    ],
)
def test_faults_name_file_and_line(folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as raised:
        read_data_dir(folder)
    assert str(raised.value).startswith(f"{folder}/{message}") and "\n" not in str(raised.value)


NAMES = ("wav.scp", "segments", "text", "utt2spk", "spk2utt", "utt2dur", "intent")


@pytest.mark.parametrize("gap", ["\t", "  ", " \t "])
def test_tabs_and_several_blanks_separate(folder, gap):
    expected = read_data_dir(folder)
    for name in NAMES:
        lines = (folder / name).read_text().splitlines()
        if name == "spk2utt":
            lines = [line.replace(" ", gap) for line in lines]
        (folder / name).write_text("".join(line.replace(" ", gap, 1) + "\t\n" for line in lines))
    assert read_data_dir(folder) == expected
    assert read_further_tables(folder, ["t-1", "t-2"]) == {"intent": {"t-1": "switch on", "t-2": "off"}}
    (folder / "intent").write_text("t-1 switch\ton\nt-2\toff\n")
    assert read_table(folder / "intent")["t-1"] == "switch on"
    (folder / "wav.scp").write_text("t\t/corpus/a\tb  c.wav\n")
    assert read_data_dir(folder)[0].wav == Path("/corpus/a\tb  c.wav")


@pytest.mark.parametrize("name", NAMES)
def test_windows_line_ends_and_marks_are_named(folder, name):
    content = (folder / name).read_bytes()
    read = (lambda: read_further_tables(folder, ["t-1", "t-2"])) if name == "intent" else (lambda: read_data_dir(folder))
    (folder / name).write_bytes(content.replace(b"\n", b"\r\n"))
    with pytest.raises(InputError) as raised:
        read()
    assert f"{folder / name}:1: the file has Windows line ends (CRLF); convert them: sed -i" in str(raised.value)
    subprocess.run(str(raised.value).partition("convert them: ")[2], shell=True, check=True)
    assert (folder / name).read_bytes() == content
    (folder / name).write_bytes(b"\xef\xbb\xbf" + content)
    with pytest.raises(InputError, match=f"{name}:1: begins with a byte-order mark") as raised:
        read()
    subprocess.run(str(raised.value).partition("remove it: ")[2], shell=True, check=True)
    assert (folder / name).read_bytes() == content


def test_other_files_in_the_directory_are_passed_over(folder):
    (folder / "README").write_bytes(b"Words of\r\nsomebody\r\n")
    (folder / "binary").write_bytes(b"\xff\xfe\0\1")
    (folder / "empty").touch()
    assert read_further_tables(folder, ["t-1", "t-2"]).keys() == {"intent"}


def test_no_such_directory(tmp_path):
    with pytest.raises(InputError, match="no such data directory"):
        read_data_dir(tmp_path / "dev")


def test_a_failure_leaves_the_old_directory(folder):
    with pytest.raises(ValueError, match="there twice"):
        write_data_dir(folder, PARTS + PARTS)
    with pytest.raises(ValueError, match="not a line"):
        write_data_dir(folder, [replace(PARTS[0], text="two\nlines")])
    assert read_data_dir(folder) == PARTS
    assert os.listdir(folder.parent) == ["dev"]


def test_a_kill_leaves_no_half_directory(tmp_path):
    pid = os.fork()
    if pid == 0:
        data_dir._lines = lambda mapping: os._exit(9)  # dies while the first table is written
        write_data_dir(tmp_path / "dev", PARTS)
    os.waitpid(pid, 0)
    assert not (tmp_path / "dev").exists()
    write_data_dir(tmp_path / "dev", PARTS)
    assert os.listdir(tmp_path) == ["dev"]


def test_replacing_removes_what_was_added(folder):
    (folder / "feats.scp").touch()
    write_data_dir(folder, PARTS)
    assert not (folder / "feats.scp").exists()


def test_reading_takes_linear_time(tmp_path):
    many = [Utterance(f"s-{n:07d}", "s", Path("/a.wav"), None, None, 1.0, "WORDS") for n in range(20_000)]
    write_data_dir(tmp_path / "many", many)
    begin = time.process_time()
    assert len(read_data_dir(tmp_path / "many")) == 20_000
    assert time.process_time() - begin < 2.0
    shutil.rmtree(tmp_path / "many")
