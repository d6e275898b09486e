"""Audio files to samples: what every model here hears is float32, mono, 16 kHz.

Files are really decoded: the length in a header can be wrong (files that were cut off) or absent (streams).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from blsp.base.files import InputError

SAMPLE_RATE = 16000  # Hz
OVERSHOOT = 0.05  # seconds that a segment may reach beyond its recording: what codecs and rounded times differ by
BLOCK = 1 << 20  # frames decoded at once: 65 s at 16 kHz
SMALL_BLOCK = 1 << 12  # frames, to find where a broken file stops to decode
SKIP = 1.0  # seconds; shorter gaps between segments are decoded and dropped, longer ones are sought over
EXACT_SEEK = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC"})  # formats that seek to the sample
PLAIN = frozenset({"PCM_16"})  # sample formats that are not worth a word
STREAM = 0x7FFF0000  # bytes; programs that write WAV to a pipe put this or more as its length
MPEG_SLACK = 0.1  # seconds that an MP3's estimated length may differ from the decoded one

FOREIGN = (  # containers that libsndfile does not read, told by their first bytes
    (re.compile(rb"^....ftyp", re.DOTALL), "MP4/M4A"),
    (re.compile(rb"^\x1a\x45\xdf\xa3"), "WebM/Matroska"),
    (re.compile(rb"^\x30\x26\xb2\x75"), "WMA"),
    (re.compile(rb"^#!AMR"), "AMR"),
    (re.compile(rb"^ADIF|^\xff[\xf0\xf1\xf8\xf9]"), "AAC"),
    (re.compile(rb"^NIST_1A.*shorten", re.DOTALL), "shorten-coded SPHERE"),
)


class AudioError(InputError):
    """A file whose audio cannot be used. `reason` goes without the file's name."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Probe:
    """What decoding a file showed."""

    n_frames: int  # that decode, at the file's rate
    rate: int  # Hz
    channels: int
    codec: str  # "FLAC", "WAV PCM_U8", "MP3"; sample format only where it is not 16-bit
    fault: str | None = None  # why not everything decodes

    @property
    def duration(self) -> float:
        """Seconds that decode."""
        return self.n_frames / self.rate


class _Stream(soundfile.SoundFile):
    # soundfile seeks to where it is after each read. In an MP3 that resets the decoder, and the next block comes out
    # wrong by up to a third of full scale; so this class says that it cannot seek, and seek() is called on purpose only.
    def seekable(self) -> bool:
        return False


def _open(path: str | Path) -> _Stream:
    path = os.path.abspath(path)  # libsndfile takes "-" for standard input
    try:
        status = os.stat(path)
    except OSError as e:
        raise AudioError(
            path, "missing audio" if isinstance(e, FileNotFoundError) else f"unreadable audio ({e.strerror})"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(path, "unreadable audio (not a regular file)")
    if status.st_size == 0:
        raise AudioError(path, "empty audio file")
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as e:
        raise AudioError(path, f"unreadable audio ({e.strerror})") from None
    try:
        # Not by name: libsndfile takes macOS' `._a.mp3` beside a.mp3 for the resource fork of it, and refuses both.
        return _Stream(descriptor)
    except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as e:  # the descriptor is closed
        with open(path, "rb") as f:
            head = f.read(1024)
        for magic, name in FOREIGN:
            if magic.search(head):
                raise AudioError(path, f"undecodable audio: {name} is not supported; convert it to flac") from None
        raise AudioError(path, f"undecodable audio: {_reason(e)}") from None


def _reason(e: Exception) -> str:
    text = " ".join(e.error_string.split()).strip(" :.") if isinstance(e, soundfile.LibsndfileError) else "unknown format"
    return "no audio format that is known" if text.startswith(("File does not exist", "Format not recognised")) else text


def _blocks(f: _Stream, size: int) -> Iterator[np.ndarray]:
    """float32 (n, channels) until the end. Raises soundfile.LibsndfileError."""
    size = max(1, min(size, f.frames))
    while len(block := f.read(size, dtype="float32", always_2d=True)):
        yield block


def _declared_frames(path: str | Path, f: _Stream) -> int | None:
    """The number of frames that the header promises, None where it promises nothing."""
    if f.format in ("WAV", "WAVEX", "NIST"):  # libsndfile corrects these by the file's size; the header shows the cut
        with open(path, "rb") as raw:
            head = raw.read(1 << 16)
        if f.format == "NIST":
            found = re.search(rb"\nsample_count -i (\d+)", head)
            return int(found[1]) if found else None
        at = 12
        while at + 8 <= len(head):
            size = int.from_bytes(head[at + 4 : at + 8], "little")
            if head[at : at + 4] == b"data":
                width = int.from_bytes(_chunk(head, b"fmt ")[12:14], "little")  # bytes a frame
                return size // width if 0 < size < STREAM and width else None
            at += 8 + size + size % 2
        return None
    if f.format == "OGG":
        return None
    return f.frames if f.frames < 1 << 62 else None


def _chunk(head: bytes, name: bytes) -> bytes:
    at = head.find(name, 12)
    return head[at + 8 :] if at >= 0 else b""


def _ogg_is_cut(path: str | Path) -> bool:
    """Whether an Ogg file lacks the end of its last page, or that page is not marked as the last."""
    with open(path, "rb") as raw:
        raw.seek(max(0, raw.seek(0, os.SEEK_END) - (1 << 17)))  # a page has at most 65,307 bytes
        tail = raw.read()
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return True
    count = tail[at + 26]
    whole = at + 27 + count + sum(tail[at + 27 : at + 27 + count])
    return len(tail) < whole or not tail[at + 5] & 4


def probe(path: str | Path) -> Probe:
    """Decode a whole file block by block and say what is in it.

    Raises AudioError where nothing decodes: missing, empty or foreign file, zero samples. A file of which only a part
    decodes comes back with `fault` set.
    """
    with _open(path) as f:
        codec = f.format if f.subtype in PLAIN or f.format == "MP3" else f"{f.format} {f.subtype}"
        may_be_nan = f.subtype in ("FLOAT", "DOUBLE")
        n_frames, fault = 0, None
        try:
            for block in _blocks(f, BLOCK):
                if may_be_nan and not np.isfinite(block).all():
                    raise AudioError(path, "undecodable audio: samples that are not finite")
                n_frames += len(block)
        except soundfile.LibsndfileError as e:
            fault = f"undecodable audio: {_reason(e)}"
            n_frames = _decodable(path)
        rate, channels = f.samplerate, f.channels
        declared = _declared_frames(path, f)
        slack = MPEG_SLACK * rate if f.format == "MP3" else 0
        if declared is not None and n_frames + slack < declared:
            fault = f"truncated audio: {n_frames / rate:.2f} s of {declared / rate:.2f} s decode"
        elif f.format == "OGG" and fault is None and n_frames and _ogg_is_cut(path):
            fault = f"truncated audio: the stream stops at {n_frames / rate:.2f} s without its end"
    if n_frames == 0:
        raise AudioError(path, fault or "zero samples")
    return Probe(n_frames, rate, channels, codec, fault)


def _decodable(path: str | Path) -> int:
    n_frames = 0
    with _open(path) as f:
        try:
            for block in _blocks(f, SMALL_BLOCK):
                n_frames += len(block)
        except soundfile.LibsndfileError:
            pass
    return n_frames


def decode(path: str | Path) -> tuple[np.ndarray, int]:
    """A whole file: float32 (n_frames,) mono (the mean of the channels) at the file's own rate, and that rate in Hz.

    Raises AudioError where not all of it decodes.
    """
    with _open(path) as f:
        pieces = []
        try:
            pieces = [_mono(block) for block in _blocks(f, BLOCK)]
        except soundfile.LibsndfileError as e:
            raise AudioError(path, f"undecodable audio: {_reason(e)}") from None
        if not pieces:
            raise AudioError(path, "zero samples")
        return np.concatenate(pieces), f.samplerate


def load(path: str | Path, start: float | None = None, end: float | None = None) -> np.ndarray:
    """float32 (n_samples,) mono at 16 kHz: a whole file, or its part from `start` to `end` (seconds).

    Of WAV, FLAC and SPHERE only the part is decoded. Raises AudioError.
    """
    return next(load_segments(path, [(start, end)]))


def load_segments(path: str | Path, spans: Sequence[tuple[float | None, float | None]]) -> Iterator[np.ndarray]:
    """Several parts of one recording, which is decoded at most once, in memory of one part.

    Args:
        spans: (start, end) in seconds, sorted by start; they may overlap. None: the recording's own start or end.
            An end may lie up to OVERSHOOT behind the recording's.
    Yields: float32 (n_samples,) mono at 16 kHz for each span, equal to load(path, start, end).
    Raises AudioError where a part does not decode or lies outside, ValueError where spans are not sorted.
    """
    with _open(path) as f:
        rate, kept, kept_from = f.samplerate, np.zeros(0, np.float32), 0  # `kept`: decoded frames from `kept_from` on
        for start, end in spans:
            first = round((start or 0.0) * rate)
            last = None if end is None else round(end * rate)
            if first < kept_from:
                raise ValueError(f"{path}: segments have to be sorted by start")
            try:
                position = kept_from + len(kept)
                if first - position > SKIP * rate and f.format in EXACT_SEEK and first < f.frames:
                    f.seek(first)
                    kept, kept_from = kept[:0], first
                pieces = [kept[first - kept_from :]] if first < kept_from + len(kept) else []
                position = kept_from + len(kept)
                while last is None or position < last:
                    size = BLOCK if last is None else min(BLOCK, last - position)
                    block = f.read(size, dtype="float32", always_2d=True)
                    if not len(block):
                        break
                    pieces.append(_mono(block)[max(0, first - position) :])
                    position += len(block)
            except soundfile.LibsndfileError as e:
                raise AudioError(path, f"undecodable audio behind {start or 0:.2f} s: {_reason(e)}") from None
            kept = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
            kept_from = min(first, position)
            if len(kept) == 0 or (last is not None and position < last - OVERSHOOT * rate):
                asked = "" if start is None and end is None else f"no segment {start or 0:.2f} to {end or 0:.2f} s: "
                raise AudioError(path, f"{asked}{position / rate:.2f} s decode" if asked or position else "zero samples")
            yield _resample(kept[: None if last is None else last - first], rate)


def _mono(block: np.ndarray) -> np.ndarray:
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    return samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE)
