"""Log-mel features: together with pad() they equal WhisperFeatureExtractor on the padded window."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from blsp.base.files import InputError
from blsp.bin import features
from blsp.data import audio, mel
from blsp.data.data_dir import Utterance, read_data_dir, read_table, write_data_dir

RATE = mel.SAMPLE_RATE


def speechlike(n_samples: int, level: float = 0.3) -> np.ndarray:
    """Tones that come and go over noise."""
    random = np.random.default_rng(n_samples)
    time = np.arange(n_samples) / RATE
    tones = np.sin(2 * np.pi * 180 * time) + 0.5 * np.sin(2 * np.pi * 2400 * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    return (level * (tones + 0.02 * random.normal(size=n_samples))).astype(np.float32)


def whispers(audio: np.ndarray, n_mels: int, window: int) -> np.ndarray:
    """(n_frames of the window, n_mels) of transformers' extractor."""
    extractor = WhisperFeatureExtractor(feature_size=n_mels, chunk_length=window)
    return extractor(audio, sampling_rate=RATE, return_tensors="np").input_features[0].T


def ours(audio: np.ndarray, n_mels: int, window: int) -> np.ndarray:
    unpadded = torch.from_numpy(mel.log_mel(audio, n_mels, window))
    return mel.pad([unpadded], window * mel.FRAMES_PER_SECOND)[0].numpy()


def check(audio: np.ndarray, n_mels: int = 80, window: int = 2) -> None:
    expected, got = whispers(audio, n_mels, window), ours(audio, n_mels, window)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 1.99, 2.0])
def test_equals_whispers_extractor(seconds: float, n_mels: int) -> None:
    check(speechlike(round(seconds * RATE)), n_mels)


def test_equals_whispers_extractor_for_every_length_near_frames_and_the_windows_end() -> None:
    for n_samples in (1600, 1601, 1759, 1760, 1761, 4039, 4040, 4041, 31399, 31400, 31599, 31600, 31601, 31801, 31999, 32000):
        check(speechlike(n_samples))


def test_equals_whispers_extractor_on_thirty_seconds() -> None:
    for seconds in (7.3, 29.9, 30.0):
        check(speechlike(round(seconds * RATE)), window=30)


@pytest.mark.parametrize("level", [1.0, 1e-3, 1e-5, 1e-7])
def test_equals_whispers_extractor_on_quiet_audio(level: float) -> None:
    check(speechlike(12000, level))


def test_equals_whispers_extractor_on_silence_and_clicks() -> None:
    check(np.zeros(8000, dtype=np.float32))
    click = np.zeros(8000, dtype=np.float32)
    click[-1] = 1.0  # heard by frames behind the utterance's end
    check(click)
    late = np.zeros(32000, dtype=np.float32)
    late[31990:] = 0.5
    check(late)


@pytest.mark.parametrize("n_samples", [1, 159, 160, 161, 1600, 1601, 8000, 8080, 15999, 31679, 31681, 31840, 31841, 32000])
def test_valid_frames_are_those_of_whispers_attention_mask(n_samples: int) -> None:
    features = torch.from_numpy(mel.log_mel(speechlike(n_samples), 80, 2))
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    mask = extractor(speechlike(n_samples), sampling_rate=RATE, return_attention_mask=True).attention_mask[0]
    assert mel.valid_frames(features) == sum(mask) == -(-n_samples // 160)
    assert features.shape == (sum(mask) + mel.ECHO, 80)


def test_the_echo_behind_the_valid_frames_is_all_that_is_not_silence() -> None:
    for n_samples in range(8000, 8160, 7):
        audio = speechlike(n_samples)
        audio[-1] = 1.0  # a click, heard by every frame that reaches it
        features = torch.from_numpy(mel.log_mel(audio, 80, 2))
        behind = torch.from_numpy(whispers(audio, 80, 2))[len(features) :]
        torch.testing.assert_close(behind, mel.silence(features).expand_as(behind), atol=1e-5, rtol=0)
        assert (features[-mel.ECHO] > mel.silence(features)).any()


def test_padding_keeps_each_utterances_own_silence() -> None:
    loud, quiet = (torch.from_numpy(mel.log_mel(speechlike(8000, level), 80, 2)) for level in (1.0, 1e-2))
    together = mel.pad([loud, quiet], 200)
    assert torch.equal(together[0], mel.pad([loud], 200)[0])
    assert torch.equal(together[1], mel.pad([quiet], 200)[0])
    assert together[0, -1, 0] != together[1, -1, 0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory of audio of several lengths."""
    utterances = []
    for i, seconds in enumerate((0.1, 0.7, 1.5, 2.0)):
        wav = tmp_path / f"{i}.wav"
        soundfile.write(wav, speechlike(round(seconds * RATE)), RATE, subtype="FLOAT")
        utterances.append(Utterance(f"s-{i}", "s", wav, None, None, seconds, "words"))
    write_data_dir(tmp_path / "data", utterances)
    return tmp_path / "data"


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {utt_id: mel.read_features(place) for utt_id, place in read_table(folder / "feats.scp").items()}


def test_an_archive_reproduces_whispers_extractor(folder: Path) -> None:
    features.extract(folder, 80, 2, False, 1)
    for utt_id, unpadded in read(folder).items():
        audio, _ = soundfile.read(folder.parent / f"{utt_id[2:]}.wav", dtype="float32")
        np.testing.assert_allclose(mel.pad([unpadded], 200)[0].numpy(), whispers(audio, 80, 2), atol=1e-5, rtol=0)
        assert str(mel.valid_frames(unpadded)) == read_table(folder / "utt2num_frames")[utt_id] == str(-(-len(audio) // 160))


def test_compressed_archives_are_smaller_and_near(folder: Path) -> None:
    features.extract(folder, 80, 2, False, 1)
    exact, size = read(folder), sum(p.stat().st_size for p in folder.glob("feats/*.ark"))
    features.extract(folder, 80, 2, True, 1)
    assert sum(p.stat().st_size for p in folder.glob("feats/*.ark")) < size / 3
    for utt_id, near in read(folder).items():
        assert near.shape == exact[utt_id].shape
        assert (near - exact[utt_id]).abs().mean() < 0.01


def test_features_are_made_anew_only_when_audio_or_settings_change(folder: Path) -> None:
    def times() -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in (*folder.glob("feats*"), *folder.glob("feats/*"))}

    features.extract(folder, 80, 2, False, 1)
    before = times()
    features.extract(folder, 80, 2, False, 2)
    assert times() == before
    soundfile.write(folder.parent / "1.wav", speechlike(RATE), RATE, subtype="FLOAT")
    features.extract(folder, 80, 2, False, 1)
    assert len(read(folder)["s-1"]) == 102
    assert len(list(folder.glob("feats/*.ark"))) == 1, "archives of the old audio are left"


def test_a_number_of_processes_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features.extract(folder, 80, 2, False, 1)
    whole = read(folder)
    monkeypatch.setattr(features, "BLOCK", 1)
    (folder / "feats.json").unlink()
    for path in folder.glob("feats/*"):
        path.unlink()
    features.extract(folder, 80, 2, False, 2)
    assert len(list(folder.glob("feats/*.ark"))) == 4
    for utt_id, value in read(folder).items():
        assert torch.equal(value, whole[utt_id])


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    """A data directory of segments of Opus recordings: they overlap, and ids sort otherwise than times and recordings."""
    rows = []
    for rec in ("a", "b", "c"):
        wav = tmp_path / f"{rec}.opus"
        soundfile.write(wav, speechlike(4 * RATE, 0.1), RATE, format="OGG", subtype="OPUS")
        for i in range(6):
            start = (5 - i) * 0.6
            rows.append(Utterance(f"s{i % 2}-{i}{rec}", f"s{i % 2}", wav, start, start + 0.8, 0.8, "words", rec))
    write_data_dir(tmp_path / "parts", rows)
    return tmp_path / "parts"


def test_segments_are_those_of_their_recording(segmented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = []
    for n_processes in (1, 7):
        monkeypatch.setattr(features, "BLOCK", 7)
        features.extract(segmented, 80, 2, False, n_processes)
        contents.append({path.name: path.read_bytes() for path in (*segmented.glob("feats/*"), segmented / "feats.scp")})
        (segmented / "feats.json").unlink()
        for path in segmented.glob("feats/*"):
            path.unlink()
    assert contents[0] == contents[1] and len(contents[0]) == 2 * 3 + 1
    features.extract(segmented, 80, 2, False, 1)
    got = read(segmented)
    assert list(read_table(segmented / "utt2num_frames")) == list(got) and len(got) == 18
    for u in read_data_dir(segmented):
        expected = mel.log_mel(audio.load(u.wav, u.start, u.end), 80, 2)
        assert torch.equal(got[u.utt_id], torch.from_numpy(expected))


def test_a_recording_is_opened_once_and_looked_at_once(segmented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = read_data_dir(segmented)
    opened, stats, real, stat = [], [], audio._open, os.stat
    monkeypatch.setattr(audio, "_open", lambda path, *more: opened.append(path) or real(path, *more))
    for block in features._blocks(utterances):
        assert list(features._extracted(segmented, block, {"n_mels": 80, "window": 2}))
    assert len(opened) == 3
    monkeypatch.setattr(os, "stat", lambda path, **more: stats.append(str(path)) or stat(path, **more))
    features.extract(segmented, 80, 2, False, 1)
    assert sum(path.endswith(".opus") for path in stats) == 3


def test_a_run_that_was_cut_off_goes_on_with_the_archives_that_are_whole(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(features, "BLOCK", 2)
    features.extract(folder, 80, 2, False, 1)
    expected = read(folder)
    first, second = sorted(folder.glob("feats/*.ark"))
    for name in ("feats.json", "feats.scp", "utt2num_frames"):
        (folder / name).unlink()
    second.unlink()
    kept = first.stat().st_mtime_ns
    features.extract(folder, 80, 2, False, 1)
    assert first.stat().st_mtime_ns == kept
    assert all(torch.equal(value, expected[utt_id]) for utt_id, value in read(folder).items())


def test_missing_and_too_long_audio_is_refused_by_its_name(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'s-2' has 1\.50 s, longer than the window"):
        features.extract(folder, 80, 1, False, 1)
    (folder.parent / "1.wav").unlink()
    with pytest.raises(InputError, match="'s-1'"):
        features.extract(folder, 80, 2, False, 1)
    assert not (folder / "feats.json").exists()


def test_features_that_are_gone_are_refused_in_one_line(folder: Path) -> None:
    features.extract(folder, 80, 2, False, 1)
    place = read_table(folder / "feats.scp")["s-0"]
    ark = Path(place.rpartition(":")[0])
    ark.write_bytes(ark.read_bytes()[:40])
    with pytest.raises(InputError, match="run stage 1 again"):
        mel.read_features(place)
    ark.unlink()
    with pytest.raises(InputError, match="run stage 1 again"):
        mel.read_features(place)
