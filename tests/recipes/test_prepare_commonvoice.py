"""Common Voice: tables of any release without quoting, mp3 clips, and what a damaged copy does."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_run import prepared, refused, rejected, table, write_audio

V2 = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]
V13 = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "variant", "locale", "segment"]


def clip(root: Path, name: str, **kwargs: float) -> None:
    write_audio(root / "clips" / name, **kwargs)


def write_table(
    path: Path, columns: list[str], rows: list[tuple[str, str, str]], end: str = "\n", encoding: str = "utf-8"
) -> None:
    lines = ["\t".join(columns)]
    lines += ["\t".join((*row, *["2"] * (len(columns) - 3))) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("commonvoice") / "en"
    names = ("a", "b", "c", "d", "e", "f", "g", "h", "-rf $(touch pwned); 'x")
    for name in names:
        clip(root, f"{name}.mp3", rate=48000)
    clip(root, "stereo.mp3", rate=44100, channels=2)
    clip(root, "short.mp3", seconds=0.02)
    (root / "clips/empty.mp3").write_bytes(b"")
    (root / "clips/noise.mp3").write_bytes(b"not an mp3 at all" * 40)
    whole = (root / "clips/a.mp3").read_bytes()
    (root / "clips/cut.mp3").write_bytes(whole[: len(whole) // 3])
    write_audio(root.parent / "outside.mp3")
    dirty = [
        ("spk1", "a.mp3", '"Unbalanced quote.'),
        ("spk1", "b.mp3", "ends in a backslash \\"),
        ("spk2", "c.mp3", "null"),
        ("spk2", "d.mp3", "NA"),
        ("spk2", "e.mp3", "Wide\u3000and\u00a0no-break\u200b \u200fmarks\u2028."),
        ("", "f.mp3", "No speaker."),
        ("spk2", "stereo.mp3", "Stereo."),
        ("spk2", "-rf $(touch pwned); 'x.mp3", "Odd name."),
        ("spk3", "g.mp3", ""),
        ("spk3", "absent.mp3", "Absent."),
        ("spk3", "empty.mp3", "Zero bytes."),
        ("spk3", "noise.mp3", "Noise."),
        ("spk3", "cut.mp3", "Cut off."),
        ("spk3", "short.mp3", "Short."),
        ("spk3", "../../outside.mp3", "Outside."),
        ("spk1", "a.mp3", "Twice."),
        ("spk3", "", "No path."),
    ]
    write_table(root / "test.tsv", V13, dirty)
    with open(root / "test.tsv", "a") as f:
        f.write("spk3\th.mp3\n")
    write_table(root / "train.tsv", V2, [("spk1", "a", "First."), ("spk2", "b", "Second.")], "\r\n", "utf-16")
    write_table(root / "validated.tsv", V2, [("spk1", "h", "Not in a split.")])
    prepared("commonvoice", root, root.parent / "data")
    assert not list(Path.cwd().glob("pwned")) and not list(root.rglob("pwned"))
    return root.parent / "data"


def test_release_2_without_suffix(data: Path) -> None:
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == ["test", "train"]
    assert table(data / "train/text") == {"spk1-a": "First.", "spk2-b": "Second."}
    assert table(data / "train/utt2spk") == {"spk1-a": "spk1", "spk2-b": "spk2"}
    assert table(data / "train/wav.scp")["spk1-a"].endswith("clips/a.mp3")


def test_release_13_keeps_odd_but_usable_rows(data: Path) -> None:
    texts = table(data / "test/text")
    assert texts["spk1-a"] == '"Unbalanced quote.'
    assert texts["spk1-b"] == "ends in a backslash \\"
    assert texts["spk2-c"] == "null" and texts["spk2-d"] == "NA"
    assert texts["spk2-e"] == "Wide and no-break marks ."
    assert table(data / "test/utt2spk")["f"] == "f"
    assert texts["spk2-stereo"] == "Stereo."
    assert texts["spk2--rf_$(touch_pwned);_'x"] == "Odd name."
    assert len(texts) == 8


def test_bad_rows_are_named(data: Path) -> None:
    reasons = rejected(data / "test")
    files = {"g.mp3", "absent.mp3", "empty.mp3", "noise.mp3", "cut.mp3", "short.mp3", "../../outside.mp3", "a.mp3"}
    assert set(reasons) == files | {"test.tsv:18", "test.tsv:19"}
    assert "fields" in reasons["test.tsv:19"] and "path" in reasons["test.tsv:18"]


@pytest.mark.parametrize("columns", [V2, V13])
def test_rows_whose_fields_are_not_where_the_header_says(tmp_path: Path, columns: list[str]) -> None:
    names = [f"c{i}" for i in range(7)]
    for name in names:
        clip(tmp_path / "en", f"{name}.mp3")
    ends = ["2", "0"] + [""] * (len(columns) - 5)  # votes, and fields that speakers leave empty
    rows = [["spk", f"{name}.mp3", f"Sentence {name}.", *ends] for name in names]
    rows[1][2] = "First half\tsecond half."
    rows[2][2:] = ["First half", "second half.", *ends[:-1]]  # as many fields as the header has
    rows[3] = rows[3][:5]
    rows[4] = rows[4][:2]
    rows[5] = [""] * len(columns)
    lines = ["\t".join(row) for row in [columns, *rows]]
    (tmp_path / "en/train.tsv").write_text("".join(line + "\n" for line in lines))
    shown = prepared("commonvoice", tmp_path / "en", tmp_path / "data")
    assert "kept 2 + rejected 5 = found 7" in shown
    assert table(tmp_path / "data/train/text") == {"spk-c0": "Sentence c0.", "spk-c6": "Sentence c6."}
    reasons = rejected(tmp_path / "data/train")
    assert set(reasons) == {f"train.tsv:{n}" for n in range(3, 8)}
    assert "votes are no numbers" in reasons["train.tsv:4"] and reasons["train.tsv:7"] == "no path"


def test_clips_with_macos_files_beside_them_are_kept(tmp_path: Path) -> None:
    clip(tmp_path / "en", "a.mp3")
    (tmp_path / "en/clips/._a.mp3").write_bytes(b"\0\5\x16\7macOS")
    write_table(tmp_path / "en/train.tsv", V2, [("spk", "a", "Hello.")])
    (tmp_path / "en/._train.tsv").write_bytes(b"\0\5\x16\7macOS")
    prepared("commonvoice", tmp_path / "en", tmp_path / "data")
    assert table(tmp_path / "data/train/text") == {"spk-a": "Hello."}


def test_broken_corpora_are_one_line(tmp_path: Path) -> None:
    root, data_dir = tmp_path / "en", tmp_path / "data"
    clip(root, "a.mp3")
    assert "train.tsv" in refused("commonvoice", root, data_dir)
    (root / "train.tsv").write_text("client_id\tsentence\n")
    assert "path" in refused("commonvoice", root, data_dir)
