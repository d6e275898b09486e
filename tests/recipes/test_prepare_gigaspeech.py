"""GigaSpeech: one large JSON file read piece by piece, subsets, tags, and what a damaged copy does."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from recipe_run import ROOT, prepared, refused, rejected, table, write_audio

from blsp.base.files import InputError


def opus(root: Path, path: str, seconds: float = 3.0) -> None:
    write_audio(root / path, seconds, format="OGG", subtype="OPUS")


def segment(sid: str, start: Any, end: Any, text: Any, *subsets: str, **more: Any) -> dict[str, Any]:
    subsets = [f"{{{name}}}" for name in subsets]
    return {"sid": sid, "speaker": "N/A", "begin_time": start, "end_time": end, "text_tn": text, "subsets": subsets, **more}


def audio(aid: str, path: str, subsets: list[str], segments: Any) -> dict[str, Any]:
    return {"title": 'Ünïcode 😀 {["', "aid": aid, "path": path, "subsets": [f"{{{s}}}" for s in subsets], "segments": segments}


def write_json(root: Path, audios: list[Any], encoding: str = "utf-8", **layout: Any) -> Path:
    path = root / "GigaSpeech.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    value = {"dataset": "GigaSpeech", "version": "v1.0.0", "audios": audios, "numbers": [1, 2.5, None]}
    path.write_bytes(json.dumps(value, **layout).encode(encoding))
    return path


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gigaspeech", ROOT / "recipes/gigaspeech/local/prepare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gigaspeech") / "GigaSpeech"
    train, dev, odd = (
        "audio/podcast/P1/POD1.opus",
        "audio/youtube/P1/YOU1.opus",
        "audio/podcast/P1/-rf $(touch pwned); 'x\".opus",
    )
    for path in (train, dev, odd, "../outside.opus"):
        opus(root, path)
    good = "HELLO <COMMA> WORLD'S <QUESTIONMARK>"
    write_json(
        root,
        [
            audio(
                "POD1",
                train,
                ["XL", "XS"],
                [
                    segment("POD1_S0000001", 0.0, 1.0, good, "XL", "XS"),
                    segment("POD1_S0000002", 1.0, 2.5, "ONLY THE LARGEST <PERIOD>", "XL"),
                ],
            ),
            audio("POD2", odd, ["XL"], [segment("POD2_S0000001", 0.5, 1.5, "ODD NAME", "XL")]),
            audio(
                "YOU1",
                dev,
                ["DEV"],
                [
                    segment("YOU1_S0000001", "0.25", 1, "TIMES <EXCLAMATIONPOINT> AS STRINGS", "DEV"),
                    segment("YOU1_S0000002", 0, 1, "<MUSIC>", "DEV"),
                    segment("YOU1_S0000003", 0, 1, "WORDS <NOISE> TOO", "DEV"),
                    segment("YOU1_S0000004", 0, 1, "<COMMA>", "DEV"),
                    segment("YOU1_S0000005", 0, 1, "", "DEV"),
                    segment("YOU1_S0000006", 0, 1, None, "DEV"),
                    segment("YOU1_S0000007", 2, 9, "BEYOND THE END", "DEV"),
                    segment("YOU1_S0000008", 1, 1.05, "TOO SHORT", "DEV"),
                    segment("YOU1_S0000009", None, 1, "NO TIME", "DEV"),
                    segment("YOU1_S0000010", 0, 1, "UNKNOWN SUBSET", "XXL"),
                    segment("YOU1_S0000011", 0, 1, "UNKNOWN <TAG>", "DEV"),
                    segment("YOU1_S0000001", 1, 2, "TWICE", "DEV"),
                    segment("", 1, 2, "NO SID", "DEV"),
                    "no object",
                    segment("YOU1_S0000012", 1, 2, "NO-BREAK\u00a0SPACE\u2028AND\u200b LINE", "DEV"),
                ],
            ),
            audio("YOU2", "audio/absent.opus", ["DEV"], [segment("YOU2_S0000001", 0, 1, "NO AUDIO", "DEV")]),
            audio("YOU3", "../outside.opus", ["DEV"], [segment("YOU3_S0000001", 0, 1, "OUTSIDE", "DEV")]),
            {"aid": "YOU4", "subsets": ["{DEV}"], "segments": [segment("YOU4_S0000001", 0, 1, "NO PATH", "DEV")]},
            audio("YOU5", dev, ["DEV"], None),
            audio("YOU6", dev, [], [segment("YOU6_S0000001", 0, 1, "NO SUBSET")]),
        ],
        indent=1,
    )
    prepared("gigaspeech", root, root.parent / "data")
    assert not list(Path.cwd().glob("pwned")) and not list(root.rglob("pwned"))
    return root.parent / "data"


def test_each_subset_is_a_set_and_segments_decide(data: Path) -> None:
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == ["DEV", "XL", "XS"]
    assert table(data / "XS/text") == {"POD1_S0000001": "HELLO WORLD'S"}
    assert table(data / "XL/text") == {
        "POD1_S0000001": "HELLO WORLD'S",
        "POD1_S0000002": "ONLY THE LARGEST",
        "POD2_S0000001": "ODD NAME",
    }


def test_segments_lie_in_recordings_and_are_their_own_speakers(data: Path) -> None:
    recordings = {utt: fields.split() for utt, fields in table(data / "XL/segments").items()}
    assert recordings["POD1_S0000002"][0] == "POD1"
    assert [float(time) for time in recordings["POD1_S0000002"][1:]] == [1.0, 2.5]
    assert set(table(data / "XL/wav.scp")) == {"POD1", "POD2"}
    assert all(utt == spk for utt, spk in table(data / "XL/utt2spk").items())


def test_bad_segments_are_named(data: Path) -> None:
    assert table(data / "DEV/text") == {
        "YOU1_S0000001": "TIMES AS STRINGS",
        "YOU1_S0000012": "NO-BREAK SPACE AND LINE",
    }
    reasons = rejected(data / "DEV")
    assert "garbage" in reasons["YOU1_S0000002"] and "<MUSIC>" in reasons["YOU1_S0000002"]
    assert "garbage" in reasons["YOU1_S0000003"]
    assert "number" in reasons["YOU1_S0000009"]
    assert "XXL" in reasons["YOU1_S0000010"]
    assert "<TAG>" in reasons["YOU1_S0000011"]
    assert "no path" in reasons["YOU4_S0000001"]
    assert "no segments" in reasons["YOU5"]
    assert {"YOU1 segment 12", "YOU1 segment 13"} <= set(reasons)
    by_the_core = {f"YOU1_S000000{i}" for i in (4, 5, 6, 7, 8)} | {"YOU1_S0000001", "YOU2_S0000001", "YOU3_S0000001"}
    assert by_the_core <= set(reasons)
    assert "YOU6_S0000001" in rejected(data / "XS")  # names no subset: reported with the first one that is there


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_pieces_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, chunk: int) -> None:
    audios = [
        audio(
            f"A{i}", f"a/{i}.opus", ["TEST"], [segment(f"A{i}_S{j}", j, j + 1.5e0, f"É Ü {j} 😀 \\u", "TEST") for j in range(3)]
        )
        for i in range(4)
    ]
    path = write_json(tmp_path, audios, encoding, ensure_ascii=False)
    gigaspeech = program()
    monkeypatch.setattr(gigaspeech, "CHUNK", chunk)
    found = list(gigaspeech.parse(path.parent)["TEST"]())
    assert [u.utt_id for u in found] == [f"A{i}_S{j}" for i in range(4) for j in range(3)]
    assert found[4].text == "É Ü 1 😀 \\u" and (found[4].start, found[4].end) == (1, 2.5)


def test_a_json_cut_off_anywhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path, [audio("A", "a.opus", ["TEST"], [segment("A_S1", 0, 1, "A", "TEST")])])
    whole = path.read_bytes()
    gigaspeech = program()
    monkeypatch.setattr(gigaspeech, "CHUNK", 16)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="GigaSpeech.json"):
            gigaspeech.parse(tmp_path)


def test_a_mistake_in_the_json_is_found_without_reading_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "GigaSpeech.json").write_bytes(b'{"audios": [{"aid": nonsense ' + b" " * 10_000)
    gigaspeech = program()
    monkeypatch.setattr(gigaspeech, "CHUNK", 64)
    with pytest.raises(InputError, match="byte 12"):
        gigaspeech.parse(tmp_path)
    monkeypatch.setattr(gigaspeech, "LONGEST_AUDIO", 1000)
    (tmp_path / "GigaSpeech.json").write_bytes(b'{"audios": ["' + b"x" * 10_000)
    with pytest.raises(InputError, match="more than"):
        gigaspeech.parse(tmp_path)


def test_broken_corpora_are_one_line(tmp_path: Path) -> None:
    root, data_dir = tmp_path / "GigaSpeech", tmp_path / "data"
    root.mkdir()
    assert "GigaSpeech.json" in refused("gigaspeech", root, data_dir)
    path = write_json(root, [audio("A", "a.opus", ["TEST"], [segment("A_S1", 0, 1, "A", "TEST")])])
    path.write_bytes(path.read_bytes()[:-60])
    assert "cut off" in refused("gigaspeech", root, data_dir)
    for text in ('{"version": 1}', "[1]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError):
            program().parse(root)
