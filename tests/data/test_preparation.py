"""Stage 0: whatever a corpus holds ends in a data directory or, with a reason, in rejected.tsv."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.base.files import InputError, read_json
from blsp.data import audio, preparation, probing
from blsp.data.data_dir import read_data_dir, read_table
from blsp.data.preparation import Found, Rejected, prepare

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


def write(path, seconds=0.5, rate=RATE, channels=1, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).uniform(-0.2, 0.2, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    write(folder / "good.wav")
    return folder


def found(audio, text="SOME WORDS", name=None, **more):
    name = name or audio.stem
    return Found(**{"name": name, "utt_id": name, "spk": name, "audio": audio, "text": text, **more})


def outcome(corpus, *items, **options):
    """Prepare one set: its utterances by id, rejected.tsv, and the summary."""
    data = corpus.parent / "data"
    prepare(lambda _: {"dev": lambda: items}, corpus, data, **options)
    lines = (data / "dev" / "rejected.tsv").read_text().splitlines()
    rejected = dict(line.split("\t") for line in lines)
    summary = read_json(data / "dev" / "preparation.json")
    assert summary["found"] == len(items) == summary["kept"] + len(lines)
    return {u.utt_id: u for u in read_data_dir(data / "dev")}, rejected, summary


def test_audio_faults(corpus):
    (corpus / "empty.wav").touch()
    (corpus / "text.wav").write_text("no audio" * 100)
    soundfile.write(corpus / "zero.wav", np.zeros(0), RATE)
    write(corpus / "short.wav", 0.05)
    write(corpus / "long.wav", 2.6)
    for name in ("cut.wav", "cut.flac", "cut.mp3", "cut.sph"):
        path = write(corpus / name, 1.0, **({"format": "NIST"} if name.endswith("sph") else {}))
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (corpus / "folder.wav").mkdir()
    (corpus.parent / "outside.wav").write_bytes((corpus / "good.wav").read_bytes())
    (corpus / "link.wav").symlink_to(corpus.parent / "outside.wav")
    (corpus / "inner.wav").symlink_to("good.wav")
    (corpus / "dangling.wav").symlink_to("nothing.wav")
    names = ("good", "inner", "empty", "text", "zero", "short", "long", "folder", "link", "dangling", "missing")
    items = [found(corpus / f"{name}.wav") for name in names]
    items += [found(corpus / f"cut.{kind}", name=f"cut-{kind}") for kind in ("wav", "flac", "mp3", "sph")]
    items += [found(corpus / ".." / "outside.wav", name="dots"), found(Path("/etc/passwd"), name="absolute")]
    items += [found(corpus / "a\0b.wav", name="nul"), found(corpus / ("x" * 300), name="huge")]
    items += [Rejected("theirs", "the corpus says so")]
    kept, rejected, _ = outcome(corpus, *items, max_seconds=2.5)
    assert kept.keys() == {"good", "inner"} and kept["good"].duration == 0.5
    starts = {
        "empty": "empty audio file",
        "text": "undecodable audio: ",
        "zero": "zero samples",
        "short": "shorter than 0.1 s: 0.050 s",
        "long": "longer than 2.5 s: 2.60 s",
        "folder": "unreadable audio: not a regular file",
        "link": "path leaves the corpus folder",
        "dots": "path leaves the corpus folder",
        "absolute": "path leaves the corpus folder",
        "dangling": "missing audio",
        "missing": "missing audio",
        "nul": "missing audio",
        "huge": "missing audio",
        "theirs": "the corpus says so",
        **{f"cut-{kind}": "truncated audio: " for kind in ("wav", "flac", "mp3", "sph")},
    }
    assert rejected.keys() == starts.keys()
    for name, start in starts.items():
        assert rejected[name].startswith(start), (name, rejected[name])


def test_text_id_and_table_faults(corpus):
    wav = corpus / "good.wav"
    items = [
        found(wav, "words", "ok", tables={"intent": "go on", "translation.de": "Wörter"}),
        found(wav, None, "none", tables={"intent": "a", "translation.de": "b"}),
        found(wav, " \u00a0\u200b\r", "blank", tables={"intent": "a", "translation.de": "b"}),
        found(wav, "<MUSIC> {NOISE} [laughter] ...", "garbage", tables={"intent": "a", "translation.de": "b"}),
        found(wav, "na\udcefve", "bytes", tables={"intent": "a", "translation.de": "b"}),
        found(wav, "begin <s> end", "kaldi", tables={"intent": "a", "translation.de": "b"}),
        found(wav, "words", "untranslated", tables={"intent": "a", "translation.de": "\u3000"}),
        found(wav, "words", "unlabelled", tables={"translation.de": "b"}),
        found(wav, "again", "twice", utt_id="ok", spk="ok", tables={"intent": "a", "translation.de": "b"}),
        found(wav, "words", "space", utt_id="a b", spk="a", tables={"intent": "a", "translation.de": "b"}),
        found(wav, "words", "no id", utt_id="", spk="", tables={"intent": "a", "translation.de": "b"}),
        found(wav, "words", "stranger", spk="other", tables={"intent": "a", "translation.de": "b"}),
    ]
    kept, rejected, summary = outcome(corpus, *items)
    assert kept.keys() == {"ok"} and kept["ok"].text == "words" and summary["tables"] == ["intent", "translation.de"]
    assert read_table(corpus.parent / "data" / "dev" / "translation.de") == {"ok": "Wörter"}
    assert rejected == {
        "none": "empty transcript",
        "blank": "empty transcript",
        "garbage": "garbage-only transcript",
        "bytes": "text is not UTF-8",
        "kaldi": "transcript holds <s>, </s> or #0: Kaldi reserves them",
        "untranslated": "no translation.de",
        "unlabelled": "no intent",
        "twice": "duplicate id",
        "space": "id with whitespace or control characters",
        "no id": "empty id",
        "stranger": "id does not begin with its speaker",
    }


def test_the_good_one_of_two_with_the_same_id_is_kept(corpus):
    items = found(corpus / "missing.wav", name="a"), found(corpus / "good.wav", name="a")
    kept, rejected, _ = outcome(corpus, *items)
    assert kept.keys() == {"a"} and rejected == {"a": "missing audio"}


def test_segments(corpus):
    talk = write(corpus / "talk.flac", 2.0)
    cut = write(corpus / "cut.flac", 2.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])

    def part(name, start, end, path=talk, rec="talk"):
        return found(path, name=name, rec_id=rec, start=start, end=end)

    items = [
        part("t1", 0.0, 0.5),
        part("t2", 0.25, 1.0),
        part("edge", 1.5, 2.04),
        part("open", 1.5, None),
        part("beyond", 1.5, 2.06),
        part("behind", 2.01, 2.04),
        part("back", 1.0, 0.5),
        part("before", -0.1, 0.5),
        part("nan", float("nan"), 0.5),
        part("brief", 0.0, 0.09),
        part("long", 0.0, 1.9),
        part("c1", 0.0, 0.2, cut, "cut"),
        part("c2", 1.5, 1.8, cut, "cut"),
        part("other", 0.0, 0.3, corpus / "good.wav"),
        found(corpus / "good.wav", name="whole"),
    ]
    kept, rejected, summary = outcome(corpus, *items, max_seconds=1.5)
    assert kept.keys() == {"t1", "t2", "edge", "open", "c1", "whole"}
    assert (kept["edge"].start, kept["edge"].end, kept["edge"].duration) == (1.5, 2.0, 0.5)
    assert (kept["whole"].rec_id, kept["whole"].start, kept["whole"].end) == ("whole", 0.0, 0.5)
    assert summary["mended"] == {"segments that end just behind their recording": 1}
    assert list(read_table(corpus.parent / "data" / "dev" / "wav.scp")) == ["cut", "talk", "whole"]
    assert rejected["beyond"] == "segment beyond the recording's end: 2.06 s of 2.00 s"
    assert rejected["behind"].startswith("segment beyond")
    assert all(rejected[name].startswith("segment without length") for name in ("back", "before", "nan"))
    assert rejected["brief"].startswith("shorter") and rejected["long"].startswith("longer")
    assert rejected["c2"].startswith("truncated audio: ") and rejected["other"].startswith("duplicate recording id")


def test_what_is_odd_is_mended_and_counted(corpus, capsys):
    items = [
        found(write(corpus / "stereo.wav", channels=2)),
        found(write(corpus / "a.mp3", rate=48000)),
        found(write(corpus / "8bit.wav", subtype="PCM_U8")),
        found(write(corpus / "24bit.flac", subtype="PCM_24")),
        found(write(corpus / "a8k.wav", rate=8000), "a\u00a0b\u3000c\r"),
        found(corpus / "good.wav", "null"),
        found(corpus / "good.wav", "  NA\u2028na\u200b ", name="na"),
    ]
    kept, rejected, summary = outcome(corpus, *items)
    assert not rejected and kept["a8k"].text == "a b c" and kept["good"].text == "null" and kept["na"].text == "NA na"
    assert summary["mended"] == {
        "files with several channels": 1,
        "files of 48000 Hz": 1,
        "files of 8000 Hz": 1,
        "files in MP3": 1,
        "files in WAV PCM_U8": 1,
        "files in FLAC PCM_24": 1,
        "texts with no-break and wide spaces": 1,
        "texts with line separators": 2,
        "texts with zero-width marks": 1,
    }
    assert "dev: kept 7 + rejected 0 = found 7, 0.00 h" in capsys.readouterr().out


def test_file_names_are_data(corpus, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    names = ["a b", "a;touch x", "$(touch x)", "`touch x`", "'q\"", "-rf", "ünï", "100%", "* ?", "back\\slash", "| touch x"]
    items = [found(write(corpus / f"{name}.flac"), name=f"u{i}") for i, name in enumerate(names)]
    items += [found(write(corpus / "touch x |", format="WAV"), name="pipe")]
    items += [found(write(corpus / "new\nline.wav"), name="newline")]
    kept, rejected, _ = outcome(Path("corpus"), *items)
    assert [u.wav.stem for u in kept.values()] == [names[int(u[1:])] for u in kept] and len(kept) == len(names)
    assert all(u.wav.is_absolute() for u in kept.values())
    assert set(rejected) == {"pipe", "newline"} and set(rejected.values()) == {"path cannot stand in wav.scp"}
    assert not list(corpus.parent.rglob("x"))


def test_a_second_run_decodes_nothing(corpus, capsys, monkeypatch):
    items = [found(write(corpus / f"{name}.wav", 0.2 + i / 10)) for i, name in enumerate("abc")]
    outcome(corpus, *items)
    stamp = os.stat(corpus.parent / "data" / "dev").st_mtime_ns
    monkeypatch.setattr(probing, "probe_chunks", lambda *_: pytest.fail("decodes again"))
    outcome(corpus, *items)
    assert "dev: up to date, kept 3 + rejected 0 = found 3" in capsys.readouterr().out
    assert os.stat(corpus.parent / "data" / "dev").st_mtime_ns == stamp
    kept, rejected, _ = outcome(corpus, *items, max_seconds=0.35)  # another setting: what was decoded is known
    assert len(kept) == 2 and rejected["c"].startswith("longer")
    kept, _, _ = outcome(corpus, *items[:1])
    assert kept.keys() == {"a"}
    (corpus.parent / "data" / "dev" / "text").unlink()
    assert outcome(corpus, *items[:1])[0].keys() == {"a"}


def test_a_changed_file_is_decoded_again(corpus):
    items = [found(write(corpus / "a.wav", 0.2))]
    assert outcome(corpus, *items)[0]["a"].duration == 0.2
    write(corpus / "a.wav", 0.3)
    assert outcome(corpus, *items)[0]["a"].duration == 0.3


def test_values_of_other_types(corpus):
    wav = corpus / "good.wav"
    items = [Rejected("theirs", "odd \udcef\nreason"), found(wav), found(wav, 7, "number")]
    items += [found(wav, name="list", utt_id=["a"]), found(wav, name="time", end="0.3")]
    _, rejected, _ = outcome(corpus, *items)
    assert rejected == {
        "number": "a value that should be text is not",
        "list": "a value that should be text is not",
        "time": "a time that is not a number",
        "theirs": "odd ? reason",
    }


def test_limit(corpus, tmp_path):
    items = [Rejected("x", "y"), *(found(write(corpus / f"{name}.wav")) for name in "abc")]
    prepare(lambda _: {"dev": lambda: iter(items)}, corpus, tmp_path / "data", limit=2)
    assert [u.utt_id for u in read_data_dir(tmp_path / "data" / "dev")] == ["a", "b"]


def test_sets_and_corpora_without_use(corpus, tmp_path):
    good, bad = found(corpus / "good.wav"), found(corpus / "missing.wav")
    with pytest.raises(InputError, match="no such folder"):
        prepare(lambda _: {}, tmp_path / "nowhere", tmp_path / "data")
    with pytest.raises(InputError, match=f"{corpus}: holds no set"):
        prepare(lambda _: {}, corpus, tmp_path / "data")
    sets = {"train": lambda: [bad], "dev": lambda: [good], "test": list}
    with pytest.raises(InputError) as raised:
        prepare(lambda _: sets, corpus, tmp_path / "data")
    message = str(raised.value)
    assert "all 1 utterances of set train are rejected (1 missing audio)" in message
    assert "set test holds no utterances" in message and "\n" not in message
    assert (tmp_path / "data" / "train.rejected.tsv").read_text() == "missing\tmissing audio\n"
    assert sorted(p.name for p in (tmp_path / "data").iterdir() if p.is_dir()) == ["dev"]


def test_what_a_parser_trips_over_is_one_line(corpus, tmp_path):
    def broken():
        yield found(corpus / "good.wav")
        raise {}["audios"]

    def tells():
        raise InputError(f"{corpus}/dev.json: is not JSON")

    for read, message in ((broken, "does not have the expected form"), (tells, "dev.json: is not JSON")):
        with pytest.raises(InputError, match=message):
            prepare(lambda _, read=read: {"dev": read}, corpus, tmp_path / "data")
        assert not (tmp_path / "data").exists()


def test_names_with_line_ends_stay_on_one_line(corpus, tmp_path):
    def parse(_):
        raise InputError("dev\u2028a\nb\udcef.tsv: is empty")

    with pytest.raises(InputError) as raised:
        preparation.main(parse, "", ["--corpus-dir", str(corpus), "--data-dir", str(tmp_path / "data")])
    assert str(raised.value) == "dev a b?.tsv: is empty"


def test_an_unwritable_data_directory_is_one_line(corpus, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        prepare(lambda _: {"dev": lambda: [found(corpus / "good.wav")]}, corpus, tmp_path / "data")


def test_a_file_that_crashes_the_decoder_costs_only_itself(corpus, monkeypatch):
    real = audio.probe

    def crash(path):
        if path.endswith("b.wav"):
            os._exit(139)  # what a shell calls a segmentation fault
        return real(path)

    monkeypatch.setattr(audio, "probe", crash)
    items = [found(write(corpus / f"{name}.wav")) for name in "abc"]
    kept, rejected, _ = outcome(corpus, *items)
    assert kept.keys() == {"a", "c"} and rejected == {"b": "undecodable audio: the decoder crashed"}


def test_a_killed_worker_costs_nothing(corpus, tmp_path, monkeypatch):
    real = audio.probe

    def once(path):
        if not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    monkeypatch.setattr(audio, "probe", once)
    items = [found(write(corpus / f"{name}.wav")) for name in "abc"]
    kept, rejected, _ = outcome(corpus, *items, nj=2)
    assert len(kept) == 3 and not rejected and (tmp_path / "killed").exists()


PROGRAM = """
import sys, time
from pathlib import Path
from blsp.data import audio
from blsp.base import command
from blsp.data import preparation
from blsp.data import probing
probing.CHUNK_FILES = 1
real = audio.probe
def slow(path):
    time.sleep(0.05)
    return real(path)
audio.probe = slow
def parse(folder):
    paths = sorted(folder.glob("*.wav"))
    return {"dev": lambda: [preparation.Found(p.stem, p.stem, p.stem, p, "WORDS") for p in paths]}
command.run(lambda: preparation.main(parse, "A corpus."))
"""


def test_a_killed_run_goes_on(corpus, tmp_path):
    for n in range(40):
        write(corpus / f"u{n:02d}.wav", 0.1)
    command = [sys.executable, "-c", PROGRAM, "--corpus-dir", str(corpus), "--data-dir", str(tmp_path / "data"), "--nj", "1"]
    run = subprocess.Popen(command, cwd=ROOT)
    for _ in range(600):
        time.sleep(0.02)
        journals = list((tmp_path / "data").glob(".decoded.*"))
        if journals and journals[0].read_bytes().count(b"\n") >= 5:
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = journals[0].read_bytes()
    assert not (tmp_path / "data" / "dev").exists() and before.count(b"\n") < 41
    with open(journals[0], "ab") as journal:
        journal.write(b'["/torn')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "kept 41 + rejected 0 = found 41" in done.stdout, done.stderr
    after = journals[0].read_bytes()
    assert after.startswith(before) and after.count(b".wav") == 41  # nothing was decoded twice


def test_help_and_options(corpus, tmp_path):
    command = [sys.executable, "-c", PROGRAM]
    for n, text in enumerate(("window: 0.3\n", "window: soon\n", "lr: [\n")):
        (tmp_path / f"{n}.yaml").write_text(text)
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0 and "A corpus." in shown.stdout
    for option in ("--corpus-dir", "--data-dir", "--config", "--nj", "--limit"):
        assert option in shown.stdout
    for bad in (["--nj", "0"], ["--limit", "-1"], ["--nj=two"], ["--unknown", "1"], ["--", "--window=20"]):
        wrong = subprocess.run([*command, "--corpus-dir", ".", *bad], cwd=ROOT, capture_output=True, text=True)
        assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    here = ["--corpus-dir", str(corpus), "--data-dir", str(tmp_path / "data")]
    for bad, part in (
        (["--corpus-dir", "/nowhere"], "/nowhere: no such folder"),
        ([*here, "--config", str(tmp_path / "0.yaml")], "0.50 s"),
        ([*here, "--config", str(tmp_path / "0.yaml"), "--", "--window=0"], "window '0' is not a number"),
        ([*here, "--config", str(tmp_path / "1.yaml")], "window 'soon' is not a number"),
        ([*here, "--config", str(tmp_path / "2.yaml")], "2.yaml"),
    ):
        wrong = subprocess.run([*command, *bad], cwd=ROOT, capture_output=True, text=True)
        assert wrong.returncode == 1 and len(wrong.stderr.splitlines()) == 1, wrong.stderr
        told = wrong.stderr + "".join(path.read_text() for path in tmp_path.glob("data/*.rejected.tsv"))
        assert part in told, told
    given = [*here, "--config", str(tmp_path / "0.yaml"), "--", "--window=0.6"]
    right = subprocess.run([*command, *given], cwd=ROOT, capture_output=True, text=True)
    assert right.returncode == 0 and "kept 1" in right.stdout


def test_interface_of_parsers():
    assert Rejected("a", "b").reason == "b"
    assert Found("a", "a", "a", Path("a"), None).tables == {}
    assert preparation.Sets and preparation.Parser
