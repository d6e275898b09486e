"""Fluent Speech Commands: CSV rows, intents, and what a damaged copy does."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_run import prepared, refused, rejected, table, write_audio

HEADER = ",path,speakerId,transcription,action,object,location\n"
PAIRS = (
    *("activate lamp", "activate lights", "activate music", "deactivate lamp", "deactivate lights", "deactivate music"),
    *("bring juice", "bring newspaper", "bring shoes", "bring socks", "increase heat", "increase volume"),
    *("change language none", "change language Chinese", "change language English", "change language German"),
    *("change language Korean", "decrease heat", "decrease volume"),
)


def wav(root: Path, spk: str, name: str, **kwargs: float) -> str:
    path = f"wavs/speakers/{spk}/{name}.wav"
    write_audio(root / path, **kwargs)
    return path


def csv(root: Path, split: str, text: str, encoding: str = "utf-8") -> None:
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "data" / f"{split}_data.csv").write_bytes((HEADER + text).encode(encoding))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fsc") / "fluent_speech_commands_dataset"
    rows = []
    for i, pair in enumerate(PAIRS):
        action, thing = pair.rsplit(" ", 1)
        rows.append(f"{i},{wav(root, 's2B', f'uu-{i}', seconds=0.2)},s2B,Words of {i},{action},{thing},none\n")
    csv(root, "train", "".join(rows).replace("\n", "\r\n"), "utf-8-sig")
    dirty = [
        f'0,{wav(root, "spk", "quoted")},spk,"Lights on, please",activate,lights,none\n',
        f'1,{wav(root, "spk", "unbalanced")},spk,"Lamp on,activate,lamp,none\n',
        f"2,{wav(root, 'spk', 'null')},spk,null,bring,juice,none\n",
        f"3,{wav(root, 'spk', 'twice')},spk,Play,activate,music,none\n",
        "4,wavs/speakers/spk/twice.wav,spk,Play,activate,music,none\n",
        f"5,{wav(root, 'spk', 'coffee')},spk,Make coffee,brew,coffee,none\n",
        f"6,{wav(root, 'spk', 'nolabel')},spk,Make coffee,,,none\n",
        f"7,{wav(root, 'spk', 'broken')},spk\n",
        f"8,{wav(root, 'spk', 'empty')},spk,,bring,juice,none\n",
        "9,wavs/speakers/spk/absent.wav,spk,Louder,increase,volume,none\n",
        "10,../outside.wav,spk,Louder,increase,volume,none\n",
        f"11,{wav(root, 'spk', '-rf $(touch pwned); x')},spk,Louder,increase,volume,none\n",
        "12,,spk,Louder,increase,volume,none\n",
    ]
    write_audio(root.parent / "outside.wav")
    (root / "wavs/speakers/spk/._quoted.wav").write_bytes(b"macOS")
    csv(root, "test", "".join(dirty))
    prepared("fsc", root, root.parent / "data")
    assert not list(Path.cwd().glob("pwned")) and not list(root.rglob("pwned"))
    return root.parent / "data"


def test_all_pairs_are_kept_without_location(data: Path) -> None:
    intents = table(data / "train" / "intent")
    assert sorted(intents.values()) == sorted(PAIRS)
    assert intents["s2B-uu-4"] == "deactivate lights"
    assert table(data / "train" / "text")["s2B-uu-4"] == "Words of 4"
    assert table(data / "train" / "utt2spk")["s2B-uu-4"] == "s2B"
    assert rejected(data / "train") == {}


def test_absent_split_is_passed_over(data: Path) -> None:
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == ["test", "train"]


def test_quotes_commas_and_null_are_words(data: Path) -> None:
    text = table(data / "test" / "text")
    assert text["spk-quoted"] == "Lights on, please"
    assert text["spk-unbalanced"] == '"Lamp on'
    assert text["spk-null"] == "null"


def test_faulty_rows_are_named(data: Path) -> None:
    faults = rejected(data / "test")
    assert "duplicate" in faults.pop("twice")
    assert faults.pop("coffee") == "unknown label: brew coffee"
    assert faults.pop("nolabel") == "no intent"
    assert faults.pop("broken").startswith("broken line")
    assert "empty" in faults.pop("empty")
    assert faults.pop("test_data.csv:14") == "missing path"
    assert set(faults) == {"absent", "outside"}
    kept = table(data / "test" / "wav.scp")
    assert set(kept) == {"spk-quoted", "spk-unbalanced", "spk-null", "spk-twice", "spk--rf_$(touch_pwned);_x"}
    assert kept["spk--rf_$(touch_pwned);_x"].endswith("/spk/-rf $(touch pwned); x.wav")


def test_rows_of_several_lines_and_moved_fields(tmp_path: Path) -> None:
    paths = [wav(tmp_path / "c", "s", f"u{i}") for i in range(6)]
    csv(
        tmp_path / "c",
        "test",
        f'0,{paths[0]},s,"Lights on\r\nin the ""big"" kitchen",activate,lights,kitchen\r\n'
        f"1,{paths[1]},s,Lights on, please,activate,lights,\r\n"
        f'2,{paths[2]},s,"Lamp\r\n\r\non",activate\r\n'
        f'3,{paths[3]},s,"Unbalanced,activate,lamp,none\r\n'
        f'4,{paths[4]},s,"Juice\nplease",bring,juice,none\r\n'
        f'5,{paths[5]},s,"Cut',
    )
    assert "kept 3 + rejected 3 = found 6" in prepared("fsc", tmp_path / "c", tmp_path / "data")
    expected = {"s-u0": 'Lights on in the "big" kitchen', "s-u3": '"Unbalanced', "s-u4": "Juice please"}
    assert table(tmp_path / "data/test/text") == expected
    assert set(rejected(tmp_path / "data/test")) == {"u1", "u2", "u5"}


def test_without_any_table(tmp_path: Path) -> None:
    wav(tmp_path, "spk", "a")
    assert "test_data.csv" in refused("fsc", tmp_path, tmp_path / "data")


def test_missing_column(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test_data.csv").write_text("path,transcription,object\nx,y,z\n")
    assert "action" in refused("fsc", tmp_path, tmp_path / "out")
