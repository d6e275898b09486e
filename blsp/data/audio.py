"""Audio files to samples: what every model here hears is float32, mono, 16 kHz.

Files are really decoded: the length in a header can be wrong (files that were cut off) or absent (streams).
"""

from __future__ import annotations

import io
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from blsp.base.files import InputError
from blsp.data import containers, mpeg
from blsp.data.containers import Bytes, Structure
from blsp.data.levels import LOUDEST, Levels

VERSION = 2  # raised when the same file is judged otherwise or gives other samples
SAMPLE_RATE = 16000  # Hz
OVERSHOOT = 0.05  # seconds that a segment may reach beyond its recording: what codecs and rounded times differ by
BLOCK = 1 << 20  # frames decoded at once: 65 s at 16 kHz
SMALL_BLOCK = 1 << 12  # frames, to find where a broken file stops to decode
SKIP = 1.0  # seconds; shorter gaps between segments are decoded and dropped, longer ones are sought over
RAW = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST"})  # formats of raw samples behind a header
EXACT_SEEK = RAW | {"FLAC"}  # formats that seek to the sample
FORMATS = EXACT_SEEK | {"OGG", "MP3"}  # whose structure is known here
PLAIN = frozenset({"PCM_16"})  # sample formats that are not worth a word
FLOATS = frozenset({"FLOAT", "DOUBLE"})

FOREIGN = (  # containers that libsndfile does not read, told by their first bytes
    (re.compile(rb"^....ftyp", re.DOTALL), "MP4/M4A"),
    (re.compile(rb"^\x1a\x45\xdf\xa3"), "WebM/Matroska"),
    (re.compile(rb"^\x30\x26\xb2\x75"), "WMA"),
    (re.compile(rb"^#!AMR"), "AMR"),
    (re.compile(rb"^ADIF|^\xff[\xf0\xf1\xf8\xf9]"), "AAC"),
    (re.compile(rb"^NIST_1A.*shorten", re.DOTALL), "shorten-coded SPHERE"),
)

# Endings, in lower case, of files that are taken for audio where no table names the files.
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aiff", ".aif", ".au", ".w64", ".caf")


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
    remark: str | None = None  # odd but usable, as stage 0 counts it

    @property
    def duration(self) -> float:
        """Seconds that decode."""
        return self.n_frames / self.rate


class _Stream(soundfile.SoundFile):
    # soundfile seeks to where it is after each read. In an MP3 that resets the decoder, and the next block comes out
    # wrong by up to a third of full scale; so this class says that it cannot seek, and seek() is called on purpose only.
    def seekable(self) -> bool:
        return False


class _Sound:
    """A file that is open for decoding: one stream, or several of the same form one behind the other."""

    def __init__(self, path: str, streams: list[_Stream], structure: Structure):
        self.path, self.streams, self.structure = path, streams, structure
        first = streams[0]
        self.format, self.subtype, self.rate, self.channels = first.format, first.subtype, first.samplerate, first.channels
        self.frames = sum(stream.frames for stream in streams)  # as the headers say
        self.at = 0  # the stream that is read

    def __enter__(self) -> _Sound:
        return self

    def __exit__(self, *_) -> None:
        for stream in self.streams:
            stream.close()

    def read(self, n_frames: int) -> np.ndarray:
        """float32 (n, channels) with 0 < n <= n_frames; (0, channels) at the end. Raises soundfile.LibsndfileError."""
        block = self.streams[self.at].read(n_frames, dtype="float32", always_2d=True)
        while not len(block) and self.at + 1 < len(self.streams):
            self.at += 1
            block = self.streams[self.at].read(n_frames, dtype="float32", always_2d=True)
        return block

    def seek(self, frame: int) -> None:
        self.streams[0].seek(frame)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """float32 (n, channels) until the end. Raises soundfile.LibsndfileError."""
        size = max(1, min(size, self.frames))
        while len(block := self.read(size)):
            yield block


class _Patched(io.FileIO):
    """A file with another beginning of the same length, and an earlier end."""

    def __init__(self, path: str, head: bytes, end: int | None):
        super().__init__(path)
        self.head = head
        self.end = os.fstat(self.fileno()).st_size if end is None else end

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(self.end + offset) if whence == os.SEEK_END else super().seek(offset, whence)

    def readinto(self, buffer) -> int:
        at = self.tell()
        view = memoryview(buffer).cast("B")
        n = super().readinto(view[: max(0, self.end - at)])
        part = self.head[at : at + n]
        view[: len(part)] = part
        return n


def _open(path: str | Path, every_frame: bool = False) -> _Sound:
    """Open a file by its structure. Raises AudioError where nothing of it can be used.

    every_frame: FLAC's own count of samples is not believed; all its frames decode.
    """
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
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        return _open_structure(path, descriptor, data, every_frame)


def _open_structure(path: str, descriptor: int, data: Bytes, every_frame: bool) -> _Sound:
    try:
        # Not by name: libsndfile takes macOS' `._a.mp3` beside a.mp3 for the resource fork of it, and refuses both.
        stream = _Stream(descriptor)
    except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as e:  # the descriptor is closed
        raise AudioError(path, _why_not(data, e)) from None
    try:
        if stream.format not in FORMATS:
            raise AudioError(path, f"undecodable audio: {stream.format} is not supported; convert it to flac")
        structure = _structure(data, stream.format)
        if structure.refused:
            raise AudioError(path, structure.refused)
        patched = structure.end is not None or (every_frame and stream.format == "FLAC")
        enough = structure.enough is not None and stream.frames >= structure.enough
        if enough or (structure.parts is None and not patched):
            return _Sound(path, [stream], structure)
    except BaseException:
        stream.close()
        raise
    stream.close()
    streams: list[_Stream] = []
    try:
        if structure.parts is None:
            head = containers.flac_without_count(data)[0] if every_frame else b""
            streams.append(_Stream(_Patched(path, head, structure.end)))
        else:
            streams.extend(_Stream(io.BytesIO(part)) for part in structure.parts)
            for stream, n_frames in zip(streams, structure.skip, strict=False):  # only MP3 has frames to skip
                stream.read(n_frames)
    except (soundfile.LibsndfileError, OSError) as e:
        raise AudioError(path, f"undecodable audio: {_reason(e)}") from None
    if len({(stream.samplerate, stream.channels, stream.subtype) for stream in streams}) > 1:
        raise AudioError(path, f"several recordings of different form are joined in one file; {containers.SPLIT}")
    return _Sound(path, streams, structure)


def _structure(data: Bytes, kind: str) -> Structure:
    if kind in RAW:
        return containers.raw(data, kind)
    return {"FLAC": containers.flac, "OGG": containers.ogg, "MP3": mpeg.mp3}[kind](data)


def _why_not(data: Bytes, e: Exception) -> str:
    """Why libsndfile does not open a file."""
    head = data[:1024]
    for magic, name in FOREIGN:
        if magic.search(head):
            return f"undecodable audio: {name} is not supported; convert it to flac"
    for magic, kind in ((b"RIFF", "WAV"), (b"RIFX", "WAV"), (b"RF64", "RF64"), (b"FORM", "AIFF"), (b"caff", "CAF")):
        if head.startswith(magic):
            structure = containers.raw(data, kind)
            if structure.refused or (structure.fault and structure.share == 1):
                return structure.refused or structure.fault
    return f"undecodable audio: {_reason(e)}"


def _reason(e: Exception) -> str:
    text = " ".join(e.error_string.split()).strip(" :.") if isinstance(e, soundfile.LibsndfileError) else "unknown format"
    return "no audio format that is known" if text.startswith(("File does not exist", "Format not recognised")) else text


def probe(path: str | Path) -> Probe:
    """Decode a whole file block by block and say what is in it.

    Raises AudioError where nothing of it can be used: a missing, empty or foreign file, zero samples, a header that was
    never finished, a second recording joined on, samples of another scale, channels that cancel out. A file of which only
    a part is there or decodes comes back with `fault` set.
    """
    with _open(path, every_frame=True) as f:
        codec = f.format if f.subtype in PLAIN or f.format == "MP3" else f"{f.format} {f.subtype}"
        levels = Levels(f.rate, f.channels, f.subtype in FLOATS)
        n_frames, error = 0, None
        try:
            for block in f.blocks(BLOCK):
                levels.add(block)
                n_frames += len(block)
        except soundfile.LibsndfileError as e:
            error = f"undecodable audio: {_reason(e)}"
            n_frames = _decodable(path)
        rate, channels = f.rate, f.channels
        fault = _fault(path, f, n_frames, error)
    if n_frames == 0:
        raise AudioError(path, fault or "zero samples")
    if reason := levels.fault():
        raise AudioError(path, reason)
    return Probe(n_frames, rate, channels, codec, fault, f.structure.remark or levels.remark())


def _fault(path: str | Path, f: _Sound, n_frames: int, error: str | None) -> str | None:
    """Why a file of which `n_frames` decode is not whole; None if it is."""
    structure, declared, slack = f.structure, None, 0.0
    if structure.share < 1:
        declared = n_frames / structure.share
    elif f.format == "MP3":
        declared, slack = structure.promised[0], mpeg.SLACK * f.rate
    elif f.format == "OGG":
        declared = f.frames
    elif f.format == "FLAC":
        with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
            declared = containers.flac_without_count(data)[1]  # 0: unknown
        if 0 < declared < n_frames:
            raise AudioError(path, f"header that counts too few samples: {declared} of {n_frames}; {containers.FINISH}")
    if declared is not None and n_frames + slack < declared:
        return f"truncated audio: {n_frames / f.rate:.2f} s of {declared / f.rate:.2f} s decode"
    return error or structure.fault


def _decodable(path: str | Path) -> int:
    n_frames = 0
    with _open(path, every_frame=True) as f, suppress(soundfile.LibsndfileError):
        for block in f.blocks(SMALL_BLOCK):
            n_frames += len(block)
    return n_frames


def decode(path: str | Path) -> tuple[np.ndarray, int]:
    """A whole file: float32 (n_frames,) mono (the mean of the channels) at the file's own rate, and that rate in Hz.

    Raises AudioError where not all of it decodes.
    """
    with _open(path) as f:
        _must_be_whole(f)
        pieces = []
        try:
            pieces = [_mono(block) for block in f.blocks(BLOCK)]
        except soundfile.LibsndfileError as e:
            raise AudioError(path, f"undecodable audio: {_reason(e)}") from None
        if not pieces:
            raise AudioError(path, "zero samples")
        return np.concatenate(pieces), f.rate


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
        rate, kept, kept_from = f.rate, np.zeros(0, np.float32), 0  # `kept`: decoded frames from `kept_from` on
        for start, end in spans:
            if end is None:
                _must_be_whole(f)
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
                    block = f.read(size)
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
            if f.subtype in FLOATS and not np.abs(kept).max() <= LOUDEST:
                raise AudioError(path, "samples of another scale, or not finite")
            yield _resample(kept[: None if last is None else last - first], rate)


def _must_be_whole(f: _Sound) -> None:
    if fault := f.structure.fault:
        there = f": {f.structure.share:.0%} of it is there" if f.structure.share < 1 else ""
        raise AudioError(f.path, fault + there)


def _mono(block: np.ndarray) -> np.ndarray:
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    return samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE)
