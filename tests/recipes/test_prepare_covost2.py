"""CoVoST 2: tables of translations joined with Common Voice, and what a damaged copy does."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_run import prepared, refused, rejected, table, write_audio

COLUMNS = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent", "locale", "segment"]
COMMON_VOICE = "cv-corpus-4-2019-12-10/en"


def common_voice(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    for _, path, _ in rows:
        if path.startswith("clip"):
            write_audio(folder / "clips" / f"{path.removesuffix('.mp3')}.mp3", rate=48000)
    lines = ["\t".join(COLUMNS)] + ["\t".join((*row, *["2"] * (len(COLUMNS) - 3))) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "validated.tsv").write_text("".join(line + "\n" for line in lines))


def covost(path: Path, rows: list[tuple[str, ...]], header: str = "path\ttranslation\tsplit", encoding: str = "utf-8") -> None:
    path.write_bytes("".join(line + "\n" for line in [header, *map("\t".join, rows)]).encode(encoding))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("covost2") / "covost2"
    names = [f"clip{i}.mp3" for i in range(12)]
    rows = [(f"spk{i % 2}", name, f"Sentence {i}.") for i, name in enumerate(names)]
    rows[1] = ("spk1", names[1], '"A quote and a backslash \\')
    rows[2] = ("spk0", "clip2", "No suffix.")
    rows[4] = ("", names[4], "No speaker.")
    rows[5] = ("spk1", names[5], "")
    rows.append(("spk0", "../../../../outside.mp3", "Outside."))
    rows.append(("spk0", "absent.mp3", "Absent."))
    common_voice(root / COMMON_VOICE, rows)
    write_audio(root.parent / "outside.mp3")
    covost(
        root / "covost_v2.en_de.tsv",
        [
            (names[0], "Satz 0.", "train"),
            (names[1], "Satz 1.", "train_covost"),
            (names[2], "null", "dev"),
            (names[3], "„Satz 3.", "test"),
            (names[4], "Satz 4.", "test"),
            (names[5], "Leer.", "test"),
            (names[6], "", "test"),
            (names[3], "Noch einmal.", "test"),
            (names[7], "Unbekannt.", "holdout"),
            (names[8], "Kaputt."),
            ("unknown.mp3", "Fehlt.", "test"),
            ("../../../../outside.mp3", "Draußen.", "test"),
            ("absent.mp3", "Kein Ton.", "test"),
            ("", "Kein Pfad.", "test"),
        ],
    )
    covost(
        root / "covost_v2.en_sv-SE.tsv", [("test", "x", names[9], "Mening\u00a09.")], "split\tmore\tpath\ttranslation", "utf-16"
    )
    covost(root / "covost_v2.en_de.test.tsv", [(names[0], "From the official split script.", "test")])
    prepared("covost2", root, root.parent / "data")
    return root.parent / "data"


def test_splits_and_directions(data: Path) -> None:
    sets = sorted(path.name for path in data.iterdir() if path.is_dir())
    assert sets == ["dev_en_de", "test_en_de", "test_en_sv_SE", "train_en_de"]
    assert table(data / "train_en_de/text") == {"spk0-clip0": "Sentence 0.", "spk1-clip1": '"A quote and a backslash \\'}
    assert table(data / "train_en_de/translation.de") == {"spk0-clip0": "Satz 0.", "spk1-clip1": "Satz 1."}
    assert table(data / "dev_en_de/text") == {"spk0-clip2": "No suffix."}
    assert table(data / "dev_en_de/translation.de") == {"spk0-clip2": "null"}
    assert table(data / "test_en_sv_SE/translation.sv-SE") == {"spk1-clip9": "Mening 9."}


def test_bad_rows_are_named(data: Path) -> None:
    assert table(data / "test_en_de/translation.de") == {"spk1-clip3": "„Satz 3.", "clip4": "Satz 4."}
    reasons = rejected(data / "test_en_de")
    assert "duplicate" in reasons["clip3.mp3"]
    assert "validated.tsv" in reasons["unknown.mp3"]
    assert "path" in reasons["covost_v2.en_de.tsv:15"]
    assert set(reasons) == {
        "clip3.mp3",
        "clip5.mp3",
        "clip6.mp3",
        "unknown.mp3",
        "../../../../outside.mp3",
        "absent.mp3",
        "covost_v2.en_de.tsv:15",
    }
    reasons = rejected(data / "train_en_de")  # what belongs to no split is reported with the first
    assert set(reasons) == {"clip7.mp3", "covost_v2.en_de.tsv:11"} and "holdout" in reasons["clip7.mp3"]


def test_rows_whose_fields_are_not_where_the_header_says(tmp_path: Path) -> None:
    folder = tmp_path / "c" / COMMON_VOICE
    names = [f"clip{i}.mp3" for i in range(6)]
    common_voice(folder, [("spk", name, f"Sentence {i}.") for i, name in enumerate(names)])
    rest = ["2", "0"] + [""] * (len(COLUMNS) - 5)
    rows = [["spk", name, f"Sentence {i}.", *rest] for i, name in enumerate(names)]
    rows[1][2] = "First half\tsecond half."
    rows[2][2:] = ["First half", "second half.", *rest[:-1]]
    rows[3] = rows[3][:4]
    (folder / "validated.tsv").write_text("".join("\t".join(row) + "\n" for row in [COLUMNS, *rows]))
    more = [(name, f"Satz {i}.", "dev", "") for i, name in enumerate(names)]
    more[4] = (names[4], "Erste Hälfte\tzweite.", "dev", "")
    more.append((names[5],))
    covost(tmp_path / "c/covost_v2.en_de.tsv", more, "path\ttranslation\tsplit\tmore")
    shown = prepared("covost2", tmp_path / "c", tmp_path / "data")
    assert "dev_en_de: kept 2 + rejected 5 = found 7" in shown
    assert table(tmp_path / "data/dev_en_de/text") == {"spk-clip0": "Sentence 0.", "spk-clip5": "Sentence 5."}
    places = {"covost_v2.en_de.tsv:6", "covost_v2.en_de.tsv:8"}
    assert set(rejected(tmp_path / "data/dev_en_de")) == {*names[1:4], *places}


def test_a_table_without_a_row_that_can_be_read(tmp_path: Path) -> None:
    common_voice(tmp_path / "c" / COMMON_VOICE, [("spk", "clip1.mp3", "One.")])
    covost(tmp_path / "c/covost_v2.en_ca.tsv", [("clip1.mp3", "U.", "dev")])
    covost(tmp_path / "c/covost_v2.en_de.tsv", [("clip1.mp3", "Eins.")])
    assert "covost_v2.en_de.tsv: none of its rows has a split" in refused("covost2", tmp_path / "c", tmp_path / "data")


@pytest.mark.parametrize("place", [".", "en"])
def test_a_flat_common_voice_is_found(tmp_path: Path, place: str) -> None:
    common_voice(tmp_path / "c" / place, [("spk", "clip1.mp3", "One.")])
    covost(tmp_path / "c/covost_v2.en_ca.tsv", [("clip1.mp3", "U.", "dev")])
    prepared("covost2", tmp_path / "c", tmp_path / "data")
    assert table(tmp_path / "data/dev_en_ca/translation.ca") == {"spk-clip1": "U."}


def test_broken_corpora_are_one_line(tmp_path: Path) -> None:
    root, data_dir = tmp_path / "covost2", tmp_path / "data"
    root.mkdir()
    assert str(root) in refused("covost2", root, data_dir)
    covost(root / "covost_v2.en_ca.tsv", [("clip1.mp3", "U.", "dev")])
    assert "validated.tsv" in refused("covost2", root, data_dir)
    common_voice(root / COMMON_VOICE, [("spk", "clip1.mp3", "One.")])
    covost(root / "covost_v2.en_ca.tsv", [("clip1.mp3", "U.")], "path\ttranslation")
    assert "split" in refused("covost2", root, data_dir)
