"""MuST-C: parallel files of segments and texts, several directions, and what a damaged copy does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from recipe_run import ROOT, prepared, refused, rejected, table, write_audio

from blsp.base.files import InputError

PLAIN = "- {{duration: {1:f}, offset: {0:f}, rW: 9, uW: 0, speaker_id: spk.{2}, wav: ted_{2}.wav}}"


def entry(start: float, duration: float, talk: int) -> str:
    return PLAIN.format(start, duration, talk)


def write_split(
    root: Path, language: str, split: str, rows: list[tuple[str, str, str]], encoding: str = "utf-8", end: str = "\n"
) -> Path:
    """Rows of (yaml line, English, translation)."""
    txt = root / f"en-{language}" / "data" / split / "txt"
    txt.mkdir(parents=True, exist_ok=True)
    for suffix, lines in zip(("yaml", "en", language), zip(*rows, strict=True), strict=True):
        (txt / f"{split}.{suffix}").write_bytes("".join(line + end for line in lines).encode(encoding))
    return txt


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("must_c", ROOT / "recipes/must-c/local/prepare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("must-c") / "MUST-C"
    wavs = root / "en-de/data/tst-COMMON/wav"
    for name in ("ted_1", "ted_2", "-rf $(touch pwned); x", "unused"):
        write_audio(wavs / f"{name}.wav", 12.0)
    write_audio(root / "outside.wav")
    rows = [
        (entry(9.0, 1.0, 1), "Nine.", "Neun."),
        (entry(10.0, 1.0, 1), "Ten.", "Zehn."),
        (entry(0.5, 1.0, 2), "Other talk.\u2028Same line.\x85", "Anderer Vortrag.\u2028\u2028"),
        (entry(2.0, 1.0, 1), 'CA: "Back again. (Laughter)', "„Wieder da. (Gelächter)"),
        (entry(3.0, 1.0, 1), "(Laughter) (Applause)", "(Gelächter)"),
        (entry(4.0, 1.0, 1), "", "Leer."),
        (entry(5.0, 1.0, 1), "No translation.", " "),
        (entry(11.5, 3.0, 1), "Beyond the end.", "Jenseits."),
        (entry(6.0, 0.01, 1), "Short.", "Kurz."),
        (entry(0.0, 1.0, 3), "No audio.", "Kein Ton."),
        ("- {duration: 1.0, offset: 1.0, rW: 1, uW: 0, speaker_id: spk.1, wav: ../../../../outside.wav}", "Out.", "Aus."),
        ("- {duration: 1.0, offset: soon, rW: 1, uW: 0, speaker_id: spk.1, wav: ted_1.wav}", "Time.", "Zeit."),
        ("- {duration: 1.0, offset: 1.0, rW: 1, uW: 0, speaker_id: spk.1}", "No wav.", "Kein wav."),
        ("- {duration: 1.0, offset: 1.0, rW: 1,", "Broken.", "Kaputt."),
        ("- {duration: 1.0, offset: 1.0, speaker_id: spk.1, wav: '-rf $(touch pwned); x.wav'}", "Odd name.", "Name."),
        ("- {duration: 1.0, offset: !!python/object/apply:os.system ['touch pwned'], wav: ted_1.wav}", "Tag.", "Marke."),
        (entry(7.0, 1.0, 1), "null", "NA"),
    ]
    write_split(root, "de", "tst-COMMON", rows)
    write_audio(root / "en-es/data/tst-HE/wav/ted_1.wav", 3.0, rate=8000)
    write_split(root, "es", "tst-HE", [(entry(0.0, 1.0, 1), "Hello.", "¡Hola!")], "utf-16", "\r\n")
    (root / "en-es/data/tst-HE/wav/._ted_1.wav").write_bytes(b"macOS")
    (root / "en-fr").mkdir()
    prepared("must-c", root, root.parent / "data")
    assert not list(Path.cwd().glob("pwned")) and not list(root.rglob("pwned"))
    return root.parent / "data"


def test_directions_and_splits_that_are_there(data: Path) -> None:
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == ["tst_COMMON_en_de", "tst_HE_en_es"]
    assert table(data / "tst_HE_en_es/text") == {"spk.1-ted_1_0": "Hello."}
    assert table(data / "tst_HE_en_es/translation.es") == {"spk.1-ted_1_0": "¡Hola!"}


def test_texts_stay_with_their_segments(data: Path) -> None:
    folder = data / "tst_COMMON_en_de"
    texts, translations = table(folder / "text"), table(folder / "translation.de")
    assert texts.keys() == translations.keys()
    pairs = {(texts[utt], translations[utt]) for utt in texts}
    assert {("Nine.", "Neun."), ("Ten.", "Zehn."), ("null", "NA"), ("Odd name.", "Name.")} <= pairs
    assert ("Other talk. Same line.", "Anderer Vortrag.") in pairs
    assert ('CA: "Back again. (Laughter)', "„Wieder da. (Gelächter)") in pairs
    assert len(pairs) == 6
    ids = {text: utt for utt, text in texts.items()}
    assert ids["Other talk. Same line."] == "spk.2-ted_2_0"
    start, end = (float(time) for time in table(folder / "segments")[ids["Ten."]].split()[1:])
    assert (start, end) == (10.0, 11.0)
    number = {text: int(utt.rsplit("_", 1)[1]) for text, utt in ids.items()}
    assert number["Ten."] == number["Nine."] + 1, "offsets are numbers: 9.0 comes before 10.0"


def test_bad_rows_are_named(data: Path) -> None:
    reasons = rejected(data / "tst_COMMON_en_de")
    assert {"tst-COMMON.en:12", "tst-COMMON.en:13", "tst-COMMON.en:14", "tst-COMMON.en:16", "unused.wav"} <= set(reasons)
    assert sum("garbage" in reason for reason in reasons.values()) == 1
    by_the_core = {"ted_1_2", "ted_1_3", "ted_1_8", "ted_1_4", "ted_3_0", ".._.._.._.._outside_0"}
    assert set(reasons) - by_the_core == {"ted_1_1", *(f"tst-COMMON.en:{i}" for i in (12, 13, 14, 16)), "unused.wav"}


@pytest.mark.parametrize("layout", ["block", "wrapped", "comments"])
def test_other_yaml_is_read_too(tmp_path: Path, layout: str) -> None:
    txt = write_split(tmp_path, "de", "dev", [(entry(0, 1, 1), "One.", "Eins."), (entry(2, 1, 1), "Two.", "Zwei.")])
    text = (txt / "dev.yaml").read_text()
    if layout == "block":
        text = "".join(f"- duration: 1.0\n  offset: {start}\n  speaker_id: spk.1\n  wav: ted_1.wav\n" for start in (0, 2))
    elif layout == "wrapped":
        text = text.replace("rW", "\n  rW")
    else:
        text = "# times\n---\n" + text
    (txt / "dev.yaml").write_text(text)
    found = list(program().parse(tmp_path)["dev_en_de"]())
    assert [(u.name, u.start, u.end, u.text) for u in found] == [("ted_1_0", 0, 1, "One."), ("ted_1_1", 2, 3, "Two.")]


def test_a_broken_line_costs_one_segment(tmp_path: Path) -> None:
    rows = [(entry(i, 1, 1), f"Line {i}.", f"Zeile {i}.") for i in range(4)]
    rows[0] = ("duration: 1.0, ]", *rows[0][1:])
    rows[2] = ("- {wav: \x00}", *rows[2][1:])
    write_split(tmp_path, "de", "dev", rows)
    items = list(program().parse(tmp_path)["dev_en_de"]())
    assert [item.name for item in items] == ["dev.en:1", "ted_1_0", "dev.en:3", "ted_1_1"]
    assert [item.text for item in items[1::2]] == ["Line 1.", "Line 3."]


def test_files_that_are_not_parallel_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "MUST-C"
    rows = [(entry(i, 1, 1), f"Line {i}.", f"Zeile {i}.") for i in range(3)]
    write_audio(root / "en-de/data/dev/wav/ted_1.wav", 4.0)
    txt = write_split(root, "de", "dev", rows)
    whole = {path: path.read_text() for path in txt.iterdir()}
    for path, text in whole.items():
        path.write_text("".join(line + "\n" for line in text.split("\n")[:-2]))
        line = refused("must-c", root, tmp_path / "data") if path.suffix == ".de" else ""
        with pytest.raises(InputError, match="dev.*lines where dev.yaml has"):
            list(program().parse(root)["dev_en_de"]())
        assert path.suffix != ".de" or str(path) in line
        path.unlink()
        with pytest.raises(InputError, match="no such file"):
            list(program().parse(root)["dev_en_de"]())
        path.write_text(text)
    (txt / "dev.yaml").write_text("- duration: 1\n  offset: [")
    with pytest.raises(InputError, match="not YAML"):
        list(program().parse(root)["dev_en_de"]())
    (txt / "dev.yaml").write_text("- {a: " + "[" * 100_000)
    with pytest.raises(InputError):
        list(program().parse(root)["dev_en_de"]())
