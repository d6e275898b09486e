"""SLUE-VoxCeleb: segments of raw clips, three sentiments, the blind test."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_run import prepared, refused, rejected, table, write_audio

HEADER = "id\tnormalized_text\tspeaker_id\tsplit\tsentiment\tstart_second\tend_second\n"
BLIND = "id\tspeaker_id\tsplit\tstart_second\tend_second\nid3_a_1\tid3\ttest\t0.1\t0.5\n"


def clip(root: Path, split: str, name: str, seconds: float = 1.0) -> str:
    write_audio(root / f"{split}_raw" / f"{name}.flac", seconds)
    return name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slue") / "slue-voxceleb"
    good = [
        f"{clip(root, 'fine-tune', 'id1_a_1')}\tso glad\tid1\tfine-tune\tPositive\t0.25\t0.75\n",
        f'{clip(root, "fine-tune", "id1_a_2")}\tsaid "fine\tid1\tfine-tune\tNeutral\t0\t1.0\n',
        f"{clip(root, 'fine-tune', 'x_b_3')}\tna\u00a0na\tid2\tfine-tune\tNegative\t0.1\t0.6\n",
    ]
    (root / "slue-voxceleb_fine-tune.tsv").write_text("\ufeff" + (HEADER + "".join(good)).replace("\n", "\r\n"), newline="")
    dirty = [
        f"{clip(root, 'dev', 'id4_a_1')}\tfine\tid4\tdev\tneutral\t0.0\t0.5\n",
        f"{clip(root, 'dev', 'id4_a_2')}\tfine\tid4\tdev\t<mixed>\t0.0\t0.5\n",
        f"{clip(root, 'dev', 'id4_a_3')}\tfine\tid4\tdev\tDisagreement\t0.0\t0.5\n",
        f"{clip(root, 'dev', 'id4_a_4')}\tfine\tid4\tdev\t\t0.0\t0.5\n",
        f"{clip(root, 'dev', 'id4_a_5')}\tfine\tid4\tdev\tNeutral\tnan\t0.5\n",
        f"{clip(root, 'dev', 'id4_a_6')}\tfine\tid4\tdev\tNeutral\t0.5\t9.5\n",
        f"{clip(root, 'dev', 'id4_a_7')}\tfine\tid4\n",
        f"{clip(root, 'dev', 'id4_a_8')}\t\tid4\tdev\tNeutral\t0.0\t0.5\n",
        "id4_a_9\tfine\tid4\tdev\tNeutral\t0.0\t0.5\n",
        "\tfine\tid4\tdev\tNeutral\t0.0\t0.5\n",
        "id4_a_1\tfine\tid4\tdev\tneutral\t0.0\t0.5\n",
    ]
    clip(root, "dev", "id5_unlisted_1")
    (root / "dev_raw" / "._id4_a_1.flac").write_bytes(b"macOS")
    (root / "slue-voxceleb_dev.tsv").write_text(HEADER + "".join(dirty))
    clip(root, "test", "id3_a_1")
    (root / "slue-voxceleb_test_blind.tsv").write_text(BLIND)
    log = prepared("slue-voxceleb", root, root.parent / "data")
    (root.parent / "data" / "log").write_text(log)
    return root.parent / "data"


def test_utterances_are_parts_of_the_clips(data: Path) -> None:
    segments = {utt: rest.split() for utt, rest in table(data / "fine_tune" / "segments").items()}
    assert [float(x) for x in segments["id1_a_1"][1:]] == [0.25, 0.75]
    duration = {utt: float(x) for utt, x in table(data / "fine_tune" / "utt2dur").items()}
    assert duration == pytest.approx({"id1_a_1": 0.5, "id1_a_2": 1.0, "id2-x_b_3": 0.5})


def test_text_speaker_and_sentiment(data: Path) -> None:
    fine_tune = data / "fine_tune"
    assert table(fine_tune / "text") == {"id1_a_1": "so glad", "id1_a_2": 'said "fine', "id2-x_b_3": "na na"}
    assert table(fine_tune / "sentiment") == {"id1_a_1": "positive", "id1_a_2": "neutral", "id2-x_b_3": "negative"}
    assert table(fine_tune / "utt2spk")["id2-x_b_3"] == "id2"
    assert rejected(fine_tune) == {}


def test_faulty_rows_are_named(data: Path) -> None:
    lines = (data / "dev" / "rejected.tsv").read_text().splitlines()
    assert len(lines) == 11
    assert any(line.startswith("id4_a_1\t") and "duplicate" in line for line in lines)
    faults = rejected(data / "dev")
    assert faults["id4_a_2"] == "unknown label: <mixed>"
    assert faults["id4_a_3"] == "unknown label: Disagreement"
    assert faults["id4_a_4"] == "no sentiment"
    assert "not a number" in faults["id4_a_5"]
    assert faults["id4_a_7"].startswith("broken line")
    assert faults["slue-voxceleb_dev.tsv:11"] == "missing id"
    assert "no transcript" in faults["id5_unlisted_1"]
    assert {"id4_a_6", "id4_a_8", "id4_a_9"} < set(faults)
    assert list(table(data / "dev" / "text")) == ["id4_a_1"]


def test_blind_test_is_passed_over(data: Path) -> None:
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == ["dev", "fine_tune"]
    assert "test: passed over: slue-voxceleb_test_blind.tsv" in (data / "log").read_text()


def test_clips_without_their_table(tmp_path: Path) -> None:
    clip(tmp_path, "dev", "id4_a_1")
    assert "slue-voxceleb_dev.tsv" in refused("slue-voxceleb", tmp_path, tmp_path / "data")
