"""The tools that look at data directories, join them and cut them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.base.files import InputError
from blsp.data.data_dir import Utterance, read_data_dir, read_table, write_data_dir

TOOLS = Path(__file__).resolve().parents[2] / "tools"
NAMES = ("validate_data_dir", "combine_data_dirs", "subset_data_dir", "data_report")


@pytest.fixture
def run(monkeypatch, capsys):
    """Call a tool's main with arguments; gives what it printed, and its exit status."""

    def call(name, *arguments):
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        status = 0
        try:
            module.main()
        except SystemExit as e:
            status = e.code
        return capsys.readouterr().out, status

    return call


@pytest.fixture
def plain(tmp_path):
    utterances = []
    for n, seconds in enumerate((0.5, 1.0, 2.5, 0.75)):
        path = tmp_path / "audio" / f"{n}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.full(round(seconds * 16000), 0.1), 16000)
        utterances.append(Utterance(f"s{n % 2}-{n}", f"s{n % 2}", path, None, None, seconds, f"WORD {n}"))
    write_data_dir(tmp_path / "plain", utterances, {"intent": {u.utt_id: f"i{u.utt_id}" for u in utterances}})
    return tmp_path / "plain"


@pytest.fixture
def parts(tmp_path, plain):
    talk = tmp_path / "audio" / "2.wav"
    rows = [Utterance(f"t-{n}", "t", talk, n / 2, n / 2 + 0.5, 0.5, "ein Wort", "t") for n in range(4)]
    tables = {"intent": {u.utt_id: "go" for u in rows}, "translation.en": {u.utt_id: "a word" for u in rows}}
    write_data_dir(tmp_path / "parts", rows, tables)
    return tmp_path / "parts"


def test_help():
    for name in NAMES:
        shown = subprocess.run([sys.executable, TOOLS / f"{name}.py", "--help"], capture_output=True, text=True)
        assert shown.returncode == 0 and "usage:" in shown.stdout


def test_one_line_for_a_directory_that_is_not_there(tmp_path):
    wrong = subprocess.run([sys.executable, TOOLS / "data_report.py", tmp_path / "no"], capture_output=True, text=True)
    assert wrong.returncode == 1 and len(wrong.stderr.splitlines()) == 1


def test_valid_directories(run, plain, parts):
    out, status = run("validate_data_dir", plain, parts, "--no-feats", "--nj", "1")
    assert status == 0 and out.splitlines() == [f"{plain}: valid", f"{parts}: valid"]
    out, status = run("validate_data_dir", plain, "--no-audio")
    assert status == 1 and "feats.scp: does not exist" in out


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("text", "WORD 2", "WORD\u00a02", "text:2: 's0-2' holds U+00A0"),
        ("text", "WORD 2", "WORD\u200b2", "text:2: 's0-2' holds U+200B"),
        ("text", "WORD 2", "WORD  2", "text:2: 's0-2' has spaces"),
        ("text", "s0-2 WORD 2", "s0-2", "text:2: 's0-2' has no transcript"),
        ("text", "WORD 2", "</s>", "text:2: 's0-2' holds </s>"),
        ("text", "s0-2 WORD 2\n", "", "wav.scp:2: utterance 's0-2' is not in text"),
        ("intent", "s0-2 is0-2\n", "", "utt2spk:2: utterance 's0-2' is not in intent"),
        ("utt2dur", "s0-2 2.5", "s0-2 2.4", "utt2dur:2: 's0-2' lasts 2.500 s; utt2dur has 2.4"),
        ("wav.scp", "s0-2 /", "s0-2 ~/", "wav.scp:2: 's0-2' has a path with a tilde"),
        ("wav.scp", "/2.wav", "/9.wav", "missing audio"),
        ("wav.scp", "/2.wav", "/2.wav |", "wav.scp:2: 's0-2' is a command"),
    ],
)
def test_faults(run, plain, file, old, new, fault):
    replace_in(plain / file, old, new)
    out, status = run("validate_data_dir", plain, "--no-feats", "--nj", "1")
    assert status == 1 and fault in out and "1 faults" in out.splitlines()[-1] or "tilde" in fault and fault in out


def test_faults_of_segments_and_speakers(run, parts, tmp_path):
    replace_in(parts / "segments", "t-3 t 1.5 2\n", "t-3 t 1.5 2.6\n")
    out, status = run("validate_data_dir", parts, "--no-feats", "--nj", "1")
    assert status == 1 and "segments:4: 't-3' ends at 2.6 s" in out
    replace_in(parts / "wav.scp", "t /", "a /none.wav\nt /")
    out, _ = run("validate_data_dir", parts, "--no-feats", "--no-audio")
    assert "wav.scp:1: recording 'a' is in no line of segments" in out
    rows = [Utterance(i, s, Path("/a"), None, None, 1.0, "W") for i, s in (("a1_x", "a1"), ("a_x", "a"))]
    write_data_dir(tmp_path / "order", rows)
    out, status = run("validate_data_dir", tmp_path / "order", "--no-feats", "--no-audio")
    assert status == 1 and "is not sorted by speaker as well" in out
    assert run("validate_data_dir", tmp_path / "order", "--no-feats", "--no-audio", "--no-spk-sort")[1] == 0


def test_combine(run, plain, parts, tmp_path):
    out, _ = run("combine_data_dirs", tmp_path / "both", plain, parts)
    both = {u.utt_id: u for u in read_data_dir(tmp_path / "both")}
    assert len(both) == 8 and "left out, since not every directory has them: translation.en" in out
    assert (both["s0-0"].rec_id, both["s0-0"].start, both["s0-0"].end) == ("s0-0", 0.0, 0.5)
    assert both["t-1"] == read_data_dir(parts)[1]
    assert len(read_table(tmp_path / "both" / "intent")) == 8
    assert run("validate_data_dir", tmp_path / "both", "--no-feats", "--nj", "1")[1] == 0
    with pytest.raises(InputError, match="is there already"):
        run("combine_data_dirs", tmp_path / "both", plain)
    with pytest.raises(InputError, match="is in .*plain as well"):
        run("combine_data_dirs", tmp_path / "twice", plain, plain)
    assert not (tmp_path / "twice").exists()


def test_subset(run, plain, tmp_path):
    (tmp_path / "ids").write_text("s0-2 anything\n\ns1-1\n")
    (tmp_path / "spk").write_text("s1\n")
    for options, expected in (
        (("--first", 2), ["s0-0", "s0-2"]),
        (("--shortest", 2), ["s0-0", "s1-3"]),
        (("--utterances", tmp_path / "ids"), ["s0-2", "s1-1"]),
        (("--speakers", tmp_path / "spk"), ["s1-1", "s1-3"]),
    ):
        name = options[0]
        run("subset_data_dir", plain, tmp_path / name, *options)
        assert [u.utt_id for u in read_data_dir(tmp_path / name)] == expected
        assert list(read_table(tmp_path / name / "intent")) == expected
    chosen = []
    for seed in (1, 1, 2, 3, 4):
        run("subset_data_dir", plain, tmp_path / f"r{len(chosen)}", "--random", 2, "--seed", seed)
        chosen.append(tuple(u.utt_id for u in read_data_dir(tmp_path / f"r{len(chosen)}")))
    assert chosen[0] == chosen[1] and len(set(chosen)) > 1
    run("subset_data_dir", plain, tmp_path / "h", "--hours", 2 / 3600)
    assert sum(u.duration for u in read_data_dir(tmp_path / "h")) <= 2
    (tmp_path / "ids").write_text("s0-2\nnobody\n")
    with pytest.raises(InputError, match="ids:2: 'nobody' is not in"):
        run("subset_data_dir", plain, tmp_path / "x", "--utterances", tmp_path / "ids")
    with pytest.raises(InputError, match="chooses none of its 4"):
        run("subset_data_dir", plain, tmp_path / "x", "--first", 0)


def test_report(run, plain, parts, tmp_path):
    out, _ = run("data_report", plain, parts, "--png", tmp_path / "report.png")
    rows = [line.split() for line in out.splitlines()[1:3]]
    assert rows[0][1:] == ["4", "2", "0.00", "8", "0.50", "s", "1.19", "s", "2.50", "s"]
    assert f"{plain}: utterances by length in seconds" in out and "0 - 2    ####" in out
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
