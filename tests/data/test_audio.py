"""Decoding: true lengths, one rate, one channel, and a reason for whatever does not decode."""

import os

import numpy as np
import pytest
import soundfile
import soxr

from blsp.data import audio
from blsp.data.audio import AudioError, decode, load, load_segments, probe

RATE = 16000


def noise(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, (round(seconds * rate), channels))
    return samples.astype(np.float32)


def write(path, seconds=1.0, rate=RATE, channels=1, **options):
    soundfile.write(path, noise(seconds, rate, channels), rate, **options)
    return path


FORMATS = {
    "pcm16.wav": {},
    "pcm8.wav": {"subtype": "PCM_U8"},
    "pcm24.wav": {"subtype": "PCM_24"},
    "float.wav": {"subtype": "FLOAT"},
    "a.flac": {},
    "a.mp3": {"rate": 48000},
    "a.ogg": {},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.sph": {"format": "NIST"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_to_its_length(tmp_path, name):
    path = write(tmp_path / name, 2.0, **FORMATS[name])
    found = probe(path)
    assert found.fault is None and found.duration == pytest.approx(2.0, abs=0.06) and found.channels == 1
    samples, rate = decode(path)
    assert samples.dtype == np.float32 and samples.shape == (found.n_frames,) and rate == found.rate
    assert len(load(path)) == pytest.approx(found.duration * RATE, abs=1)


@pytest.mark.parametrize("name", FORMATS)
def test_small_blocks_and_segments_give_the_same_samples(tmp_path, name, monkeypatch):
    path = write(tmp_path / name, 3.0, **FORMATS[name])
    whole, rate = decode(path)
    monkeypatch.setattr(audio, "BLOCK", 1000)
    assert np.array_equal(decode(path)[0], whole)
    spans = [(0.1, 0.5), (0.3, 0.35), (2.5, 2.6), (2.5, None)]
    for (start, end), part in zip(spans, load_segments(path, spans), strict=True):
        cut = whole[round(start * rate) : None if end is None else round(end * rate)]
        assert np.array_equal(part, cut if rate == RATE else soxr.resample(cut, rate, RATE))
        assert np.array_equal(part, load(path, start, end))


@pytest.mark.parametrize("name", ["pcm16.wav", "a.flac", "a.mp3", "a.opus", "a.sph"])
def test_files_that_were_cut_off(tmp_path, name):
    path = write(tmp_path / name, 3.0, **FORMATS[name])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = probe(path)
    assert found.fault.startswith("truncated audio: ") and 0.5 < found.duration < 2.0
    assert len(load(path, 0.0, 0.4)) == 0.4 * RATE  # what lies before the cut is good
    with pytest.raises(AudioError):
        load(path, 2.5, 2.9)


def test_reasons(tmp_path):
    def reason(path):
        with pytest.raises(AudioError) as raised:
            probe(path)
        with pytest.raises(AudioError):
            load(path)
        assert "\n" not in str(raised.value) and str(path) in str(raised.value)
        return raised.value.reason

    assert reason(tmp_path / "no.wav") == "missing audio"
    assert reason(tmp_path) == "unreadable audio (not a regular file)"
    (tmp_path / "empty.flac").touch()
    assert reason(tmp_path / "empty.flac") == "empty audio file"
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), RATE)
    assert reason(tmp_path / "zero.wav") == "zero samples"
    for name in ("text.wav", "text.mp3", "text.flac", "text.raw", "text"):
        (tmp_path / name).write_text("these are words\n" * 100)
        assert reason(tmp_path / name).startswith("undecodable audio: ")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    assert "MP4/M4A is not supported; convert" in reason(tmp_path / "a.m4a")
    (tmp_path / "a.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(100))
    assert "WebM" in reason(tmp_path / "a.webm")
    header = b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    (tmp_path / "s.sph").write_bytes(header.ljust(1024) + bytes(100))
    assert "shorten-coded SPHERE" in reason(tmp_path / "s.sph")
    samples = noise(1.0)
    samples[500] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        probe(tmp_path / "nan.wav")


def test_flac_whose_header_promises_nothing(tmp_path):
    path = write(tmp_path / "a.flac", 1.0)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples in STREAMINFO: 0 is "unknown"
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert probe(path).fault is None and probe(path).n_frames == RATE
    path.write_bytes(content[:42])
    with pytest.raises(AudioError):
        probe(path)


def test_stereo_is_averaged_and_rates_are_resampled(tmp_path):
    samples = noise(1.0, 44100, 2)
    soundfile.write(tmp_path / "s.wav", samples, 44100, subtype="FLOAT")
    expected = soxr.resample(samples.mean(axis=1), 44100, RATE)
    assert np.allclose(load(tmp_path / "s.wav"), expected, atol=1e-6)
    assert probe(tmp_path / "s.wav").channels == 2 and probe(tmp_path / "s.wav").codec == "WAV FLOAT"


def test_segments_outside_and_out_of_order(tmp_path):
    path = write(tmp_path / "a.wav", 1.0)
    assert len(load(path, 0.5, 1.04)) == RATE // 2  # within OVERSHOOT
    for start, end in ((0.5, 1.1), (5.0, 6.0), (0.5, 0.5)):
        with pytest.raises(AudioError, match="no segment"):
            load(path, start, end)
    with pytest.raises(ValueError, match="sorted"):
        list(load_segments(path, [(0.5, 0.6), (0.1, 0.2)]))


def test_odd_file_names_and_a_dash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-", "-n.wav", "a b;c.wav", "$(touch x).wav", 'it\'s "quoted".wav', "ünï.wav"):
        soundfile.write(tmp_path / name, noise(0.2), RATE, format="WAV")
        assert probe(name).n_frames == 3200 and len(load(name)) == 3200
    assert not (tmp_path / "x").exists()


def test_a_macos_file_beside_it(tmp_path):
    path = write(tmp_path / "a.mp3", 0.5)
    (tmp_path / "._a.mp3").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    assert probe(path).fault is None and len(load(path)) == pytest.approx(8000, abs=1200)


def test_files_are_closed(tmp_path):
    good = write(tmp_path / "a.flac", 0.2)
    (tmp_path / "bad.flac").write_text("no audio" * 50)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        load(good)
        with pytest.raises(AudioError):
            probe(tmp_path / "bad.flac")
    assert len(os.listdir("/proc/self/fd")) == before
