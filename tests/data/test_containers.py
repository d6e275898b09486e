"""Files whose header is wrong: all that is there is kept, or the file is refused by name."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from blsp.data import containers, mpeg
from blsp.data.audio import AudioError, load, load_segments, probe

RATE = 16000
FORMATS = {
    "wav": {"format": "WAV"},
    "wavex": {"format": "WAVEX"},
    "float": {"format": "WAV", "subtype": "FLOAT"},
    "adpcm": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "rifx": {"format": "WAV", "endian": "BIG"},
    "rf64": {"format": "RF64"},
    "w64": {"format": "W64"},
    "aiff": {"format": "AIFF"},
    "aifc": {"format": "AIFF", "subtype": "FLOAT"},
    "au": {"format": "AU"},
    "ulaw": {"format": "AU", "subtype": "ULAW"},
    "caf": {"format": "CAF"},
    "sph": {"format": "NIST"},
    "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
}
RAW = [name for name in FORMATS if name not in ("flac", "ogg", "opus", "mp3")]


def sound(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """float32 (n,) of low-passed noise."""
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate) + 7)
    return np.convolve(samples, np.ones(8) / 8, "valid").astype(np.float32)


def encoded(name: str, seconds: float = 2.0, rate: int = RATE, seed: int = 0, **more) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound(seconds, rate, seed), rate, **{**FORMATS[name], **more})
    return file.getvalue()


@pytest.fixture
def put(tmp_path):
    def write(content: bytes):
        path = tmp_path / "a"
        path.write_bytes(content)
        return path

    return write


def reason(path) -> str:
    """Why a file cannot be used, at stage 0 and where it is loaded alike."""
    with pytest.raises(AudioError) as refused:
        probe(path)
    with pytest.raises(AudioError):
        load(path)
    return refused.value.reason


@pytest.mark.parametrize("name", FORMATS)
def test_good_files_have_no_fault(put, name):
    found = probe(put(encoded(name)))
    assert found.fault is None and found.remark is None and found.duration == pytest.approx(2.0, abs=0.06)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("ogg", "opus", "mp3")])
def test_a_second_file_joined_on_is_refused(put, name):
    assert "joined on" in reason(put(encoded(name) + encoded(name, 1.0, seed=1)))


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_streams_that_follow_one_another_are_all_kept(put, name):
    first, second = encoded(name), encoded(name, 1.0, seed=1)
    expected = np.concatenate([load(put(part)) for part in (first, second)])
    path = put(first + second)
    found = probe(path)
    assert found.fault is None and found.n_frames == len(expected) == 3 * RATE
    assert "in a row" in found.remark
    assert np.array_equal(load(path), expected)
    parts = list(load_segments(path, [(0.5, 1.5), (1.9, 2.5), (2.5, 3.0)]))
    assert np.array_equal(parts[1], expected[round(1.9 * RATE) : round(2.5 * RATE)])
    path.write_bytes(first + second[: len(second) // 2])
    assert probe(path).fault.startswith("truncated audio") if name == "mp3" else "truncated audio" in reason(path)


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_streams_of_different_form_are_refused(put, name):
    other = 24000 if name == "opus" else 22050  # Hz
    assert "joined" in reason(put(encoded(name) + encoded(name, 1.0, rate=other)))


@pytest.mark.parametrize("name", RAW)
def test_bytes_behind_the_counted_samples_are_refused(put, name):
    content = encoded(name)
    more = (np.arange(1, 20001) * 7919 % 60000 - 30000).astype("<i2").tobytes()
    assert "counts too few samples" in reason(put(content + more))
    assert probe(put(content + bytes(100))).fault is None  # zeros are silence
    assert probe(put(content + b"TAG" + bytes(125))).fault is None


@pytest.mark.parametrize("name", RAW)
def test_cut_off(put, name):
    content = encoded(name)
    path = put(content[: len(content) * 2 // 3])
    try:
        assert probe(path).fault.startswith("truncated audio: ") and 1.0 < probe(path).duration < 1.5
        assert len(load(path, 0.2, 0.7)) == RATE // 2
    except AudioError as e:  # libsndfile opens no CAF that was cut
        assert name == "caf" and "undecodable" in str(e)
    with pytest.raises(AudioError):
        load(path)


def set_size(name: str, content: bytes, size: int) -> bytes:
    """The file with another count of bytes in its header."""
    if name == "sph":
        return content.replace(b"sample_count -i 32000", b"sample_count -i %05d" % size)
    if name in ("au", "ulaw"):
        return content[:8] + struct.pack(">I", size & 0xFFFFFFFF) + content[12:]
    if name == "rf64" and b"ds64" in content:
        at = content.index(b"ds64") + 16
        return content[:at] + struct.pack("<q", size) + content[at + 8 :]
    at = content.index(b"SSND" if name in ("aiff", "aifc") else b"data") + 4
    if name == "caf":
        return content[:at] + struct.pack(">q", size) + content[at + 8 :]
    if name == "w64":
        return content[: at + 12] + struct.pack("<q", size) + content[at + 20 :]
    if name in ("aiff", "aifc"):  # COMM counts too
        frames = content.index(b"COMM") + 10
        content = content[:frames] + struct.pack(">I", size & 0xFFFFFFFF) + content[frames + 4 :]
    return content[:at] + struct.pack(">I" if name in ("rifx", "aiff", "aifc") else "<I", size & 0xFFFFFFFF) + content[at + 4 :]


@pytest.mark.parametrize("name", RAW)
def test_a_header_that_was_never_finished(put, name):
    assert "unfinished header" in reason(put(set_size(name, encoded(name), 0)))


@pytest.mark.parametrize("name", ["wav", "float", "rifx", "rf64", "au", "caf"])
def test_a_header_that_does_not_know_the_length(put, name):
    path = put(set_size(name, encoded(name), -1))
    if name in ("rf64", "caf"):  # which libsndfile does not open
        assert "unfinished header" in reason(path)
        return
    assert probe(path).fault.startswith("unfinished header")
    assert len(load(path, 0.5, 1.5)) == RATE  # but segments say themselves where they end
    with pytest.raises(AudioError, match="unfinished header"):
        load(path)


def test_a_sphere_header_that_counts_too_few_or_too_many(put):
    content = encoded("sph")
    assert "counts too few samples" in reason(put(set_size("sph", content, 16000)))
    assert probe(put(set_size("sph", content, 48000))).fault == "truncated audio: 2.00 s of 3.00 s decode"


@pytest.mark.parametrize("n_promised", [16000, 48000])
def test_a_flac_header_that_lies(put, n_promised):
    content = bytearray(encoded("flac"))
    content[22:26] = struct.pack(">I", n_promised)
    if n_promised < 32000:
        with pytest.raises(AudioError, match="header that counts too few samples: 16000 of 32000"):
            probe(put(bytes(content)))
    else:
        assert probe(put(bytes(content))).fault == "truncated audio: 2.00 s of 3.00 s decode"


def test_tags_around_flac_are_passed_over(put):
    id3 = b"ID3\x04\0\0\0\0\1\0" + bytes(128)
    good, id3v1 = encoded("flac"), b"TAG" + b"x" * 125
    for content in (good + id3v1, good + APE + id3v1, id3 + good, id3 + encoded("wav")):
        assert probe(put(content)).fault is None and probe(put(content)).n_frames == 2 * RATE
        assert np.array_equal(load(put(content)), load(put(content), 0.0, 2.0))


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_lost_and_broken_pages(put, name):
    content = encoded(name, 5.0)
    starts = [n for n in range(len(content)) if content.startswith(b"OggS", n)]
    lost, after = starts[3:5]
    for broken in (
        content[:lost] + content[after:],
        content[: lost + 100] + bytes([content[lost + 100] ^ 255]) + content[lost + 101 :],
    ):
        found = probe(put(broken))
        assert found.fault.startswith(("damaged audio: pages are missing", "truncated")) and found.duration < 4.0
    found = probe(put(content[:lost] + b"junk" * 99 + content[lost:]))  # every page is there
    assert found.fault is None and found.n_frames == 5 * RATE


def test_several_ogg_streams_at_once(put):
    first, second = encoded("ogg"), encoded("ogg", seed=1)
    at, to = (content.index(b"OggS", 4) for content in (first, second))
    assert "several Ogg streams at once" in reason(put(first[:at] + second[:to] + first[at:] + second[to:]))


# --- MP3 -----------------------------------------------------------------------------------------------------------------


def frames_of(content: bytes) -> list[bytes]:
    """The frames of an MP3 file, its Xing header first."""
    at, frames = 0, []
    while at < len(content):
        header = mpeg.header_of(int.from_bytes(content[at : at + 4], "big"))
        frames.append(content[at : at + header.size])
        at += header.size
    return frames


def variable(seconds: float = 4.0) -> list[bytes]:
    """The frames of an MP3 of variable bit rate: hiss, then near silence."""
    samples = sound(seconds)
    samples[len(samples) // 2 :] *= 1e-3
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    frames = frames_of(file.getvalue())
    assert len({len(frame) for frame in frames[1:]}) > 2
    return frames


@pytest.mark.parametrize("order", [1, -1])
def test_variable_bit_rate_without_xing_header(put, order):
    frames = variable()[1:][::order]
    whole = len(frames) * 576 / RATE
    found = probe(put(b"".join(frames)))
    assert found.fault is None and found.duration == whole
    assert len(load(put(b"".join(frames)))) == found.n_frames


def test_a_constant_bit_rate_without_xing_header_is_as_libsndfile_decodes_it(put):
    file = io.BytesIO()
    soundfile.write(file, sound(2.0), RATE, format="MP3", bitrate_mode="CONSTANT")
    content = b"".join(frames_of(file.getvalue())[1:])
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    frames = len(frames_of(content))
    got = load(put(content))
    assert len(got) == probe(put(content)).n_frames == 576 * frames
    assert np.allclose(got[: len(expected)], expected[: len(got)], atol=1e-4)


@pytest.mark.parametrize("change", [-40, 40])
def test_a_xing_header_that_lies(put, change):
    xing, *frames = variable()
    at = xing.index(b"Xing") + 8
    xing = xing[:at] + struct.pack(">I", len(frames) + change) + xing[at + 4 :]
    found = probe(put(xing + b"".join(frames)))
    if change < 0:
        assert found.fault is None and found.duration == pytest.approx(len(frames) * 576 / RATE, abs=0.1)
    else:
        assert found.fault.startswith("truncated audio: ")


APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 8, 1, 1 << 31 | 1 << 29) + bytes(8)
APE += b"x" * 8 + b"APETAGEX" + struct.pack("<IIII", 2000, 40, 1, 1 << 31) + bytes(8)
OLD_APE = b"y" * 8 + b"APETAGEX" + struct.pack("<IIII", 1000, 40, 1, 0) + bytes(8)
ID3 = b"ID3\x04\0\0\0\0\1\0" + b"z" * 128


@pytest.mark.parametrize("tag", [b"TAG" + b"t" * 125, ID3, APE, OLD_APE, b"LYRICSBEGIN la la 000009LYRICS200"])
def test_tags_behind_and_between_frames_are_passed_over(put, tag):
    frames = variable()
    content = b"".join(frames)
    n_frames = probe(put(content)).n_frames
    assert probe(put(content + tag)).n_frames == n_frames and probe(put(content + tag)).fault is None
    middle = probe(put(b"".join(frames[:30]) + tag + b"".join(frames[30:])))
    assert middle.n_frames == n_frames and middle.fault is None
    joined = probe(put(content + tag + content))
    assert joined.n_frames == 2 * n_frames and joined.fault is None


def test_bytes_that_are_no_frames(put):
    frames = variable()
    path = put(b"".join(frames[:51]) + b"\x11" * 700 + b"".join(frames[51:]))
    assert probe(path).fault.startswith("damaged audio: bytes that are no MPEG frame at 1.80 s")
    assert probe(path).duration == pytest.approx(1.8, abs=0.1)
    assert len(load(path, 0.2, 1.2)) == RATE
    assert probe(put(b"".join(frames) + bytes(5000))).fault is None
    assert probe(put(b"".join(frames[1:])[:-20])).fault.startswith("truncated audio: the last frame is cut")


def test_the_free_format_is_refused(put):
    frames = [bytes([*frame[:2], frame[2] & 0x0F, *frame[3:]]) for frame in variable()[1:]]
    assert mpeg.mp3(b"".join(frames)).refused.startswith("free-format MP3")
    with pytest.raises(AudioError):
        probe(put(b"".join(frames)))


def test_frames_of_layers_and_rates():
    assert mpeg.header_of(0xFFFB9064) == (417, 44100, 2, 3, 1152, 32)
    assert mpeg.header_of(0xFFF388C4) == (288, 16000, 1, 3, 576, 9)
    assert mpeg.header_of(0xFFFD8404)[:4] == (384, 48000, 2, 2)
    assert mpeg.header_of(0xFFFBF064) is mpeg.header_of(0xFFE89064) is mpeg.header_of(0x52494646) is None


# --- what the samples say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "CAF", "AU"])
def test_floats_of_another_scale(tmp_path, kind):
    path = tmp_path / "a"
    for peak in (0.5, 1.4, 4.0):  # a mix may pass full scale
        soundfile.write(path, sound(1.0) / np.abs(sound(1.0)).max() * peak, RATE, format=kind, subtype="FLOAT")
        assert probe(path).fault is None and np.abs(load(path)).max() == pytest.approx(peak)
    for samples in (np.rint(sound(1.0) * 32767), sound(1.0) * 32768 + 0.1, np.rint(sound(1.0) * 20)):
        soundfile.write(path, samples, RATE, format=kind, subtype="FLOAT")
        with pytest.raises(AudioError, match="another scale"):
            probe(path)
    soundfile.write(path, np.rint(sound(1.0) * 32767), RATE, format=kind, subtype="DOUBLE")
    assert "another scale" in reason(path)


def stereo(path, left, right):
    soundfile.write(path, np.stack([left, right], axis=1), RATE, format="WAV", subtype="FLOAT")
    return path


def test_channels_that_cancel_out(tmp_path):
    left, other, path = sound(4.0), sound(4.0, seed=1), tmp_path / "a.wav"
    half = left.copy()
    half[len(half) // 2 :] *= -1
    for right, share in ((-left, "100%"), (-0.8 * left, "100%"), (half, "50%")):
        with pytest.raises(AudioError, match=f"antiphase: {share} of the sound"):
            probe(stereo(path, left, right))
    for right in (left, other, 0.5 * left, 0.3 * left + other):
        assert probe(stereo(path, left, right)).remark is None
    pause = left.copy()
    pause[RATE : 2 * RATE] *= -1e-3  # what is hardly heard may cancel out
    quiet = left.copy()
    quiet[RATE : 2 * RATE] *= 1e-3
    assert probe(stereo(path, quiet, pause)).fault is None


def test_a_dead_channel_is_told(tmp_path):
    path = stereo(tmp_path / "a.wav", sound(1.0), np.zeros(RATE))
    assert probe(path).fault is None and "dead channel" in probe(path).remark
    assert probe(stereo(path, np.zeros(RATE), np.zeros(RATE))).remark is None


def test_formats_whose_structure_is_not_known(tmp_path):
    for kind in ("VOC", "PAF", "SVX", "HTK", "MAT5"):
        soundfile.write(tmp_path / "a", sound(1.0), RATE, format=kind, subtype="PCM_16")
        assert f"{kind} is not supported; convert it to flac" in reason(tmp_path / "a")


def test_oggs_checksum():
    content = encoded("ogg")
    assert len(list(containers._pages(content))) == content.count(b"OggS")
