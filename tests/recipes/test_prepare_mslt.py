"""MSLT: one file per level of an utterance, UTF-16 or UTF-8."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_run import prepared, rejected, table, write_audio


def utterance(folder: Path, name: str, source: str = "de", audio: bool = True, **levels: bytes) -> None:
    """Write the files of an utterance; levels T1, T2, T3 (English) or T3_fr ... as bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    if audio:
        write_audio(folder / f"{name}.T0.{source}.wav")
    for level, content in levels.items():
        level, _, target = level.partition("_")
        language = (target or "en") if level == "T3" else source
        (folder / f"{name}.{level}.{language}.snt").write_bytes(content)


def utf16(text: str) -> bytes:
    return b"\xff\xfe" + text.replace("\n", "\r\n").encode("utf-16-le")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mslt")
    folders = root / "MSLT_Corpus" / "Data"
    de = folders / "MSLT_Test_DE_20160516"
    utterance(de, "MSLT_Test_DE_0001", T1=utf16("äh ja"), T2=utf16("Ja.\nÜber uns.\n"), T3=utf16("Yes.\nAbout us.\n"))
    utterance(de, "MSLT_Test_DE_0002", T2="\ufeffNein,\u3000danke.\n".encode(), T3=b"No, thanks.\n")
    utterance(de, "MSLT_Test_DE_0003", T1=utf16("so <SPN/> ein <LM>Meeting</LM> <UNIN/>\n"), T3=utf16("Such a meeting\n"))
    utterance(de, "MSLT_Test_DE_0004", T1=utf16("<SPN/> <NON/>\n"), T2=utf16("\n"), T3=utf16("\n"))
    utterance(de, "MSLT_Test_DE_0005", T2=utf16("Gut.\n"))
    utterance(de, "MSLT_Test_DE_0006", T2=utf16("Gut.\n"), T3=utf16("Good.\n"), audio=False)
    utterance(de, "MSLT_Test_DE_0007")
    (de / "._MSLT_Test_DE_0008.T0.de.wav").write_bytes(b"macOS")
    (de / "oddly named.wav").write_bytes(b"")
    fr = folders / "MSLT_Dev_FR_20160616"
    utterance(fr, "MSLT_Dev_FR_0001", "fr", T2="Ça va ?".encode("utf-16-be"), T3=b"How are you?")
    utterance(folders / "MSLT_Test_EN_20160516", "E1", "en", T2=utf16("Hi."), T3_de=utf16("Hallo."), T3_fr=utf16("Salut."))
    prepared("mslt", root / "MSLT_Corpus", root / "data")
    return root / "data"


def test_text_is_t2_or_t1_without_tags(data: Path) -> None:
    assert table(data / "test_de" / "text") == {
        "MSLT_Test_DE_0001": "Ja. Über uns.",
        "MSLT_Test_DE_0002": "Nein, danke.",
        "MSLT_Test_DE_0003": "so ein Meeting",
    }
    assert table(data / "test_de" / "translation.en")["MSLT_Test_DE_0001"] == "Yes. About us."
    assert table(data / "dev_fr" / "text") == {"MSLT_Dev_FR_0001": "Ça va ?"}


def test_one_set_per_split_and_direction(data: Path) -> None:
    assert {path.name for path in data.iterdir() if path.is_dir()} == {"test_de", "dev_fr", "test_en_de", "test_en_fr"}
    assert table(data / "test_en_fr" / "translation.fr") == {"E1": "Salut."}


def test_the_others_are_named(data: Path) -> None:
    faults = rejected(data / "test_de")
    assert faults["MSLT_Test_DE_0005"] == "no translation.en"
    expected = {f"MSLT_Test_DE_000{i}" for i in (4, 5, 6, 7)} | {"oddly named.wav"}
    assert set(faults) == expected
