"""The frames of an MP3 file (ISO 11172-3 and 13818-3), counted one by one.

mpg123 guesses the length of a file without Xing header from its first frame, and stops where a second run of an encoder
begins. What it cannot be trusted with is handed to it as one file a run, which begins so that it reads on to the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from blsp.data.containers import SPLIT, Bytes, Structure, id3_end, refuse

RATES = (44100, 48000, 32000)  # Hz, of MPEG 1; halved in MPEG 2, quartered in MPEG 2.5
BITRATES = {  # kbit/s by (MPEG 1, layer); index 0 is the free format
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SLACK = 0.1  # seconds by which a header's count may differ from the frames that are there
SEARCH = 1 << 16  # bytes before the first frame, as far as mpg123 looks


class Header(NamedTuple):
    """The four bytes before each frame."""

    size: int  # bytes of the frame, with these; 0: the free format does not say
    rate: int  # Hz
    channels: int
    layer: int
    n_samples: int  # in the frame, a channel
    side: int  # bytes between the header (with its checksum) and a Xing header


@dataclass
class Run:
    """Frames that one run of an encoder wrote."""

    header: Header
    word: int  # the first frame's header
    promised: int | None = None  # frames, by its Xing header
    trimmed: int = 0  # samples that its LAME tag says to drop at both ends
    start: int = 0  # of its first frame, the Xing header's if there is one
    n_frames: int = 0  # of sound
    spans: list[list[int]] = field(default_factory=list)  # start and end of the frames of sound, in bytes


@lru_cache(maxsize=4096)
def header_of(word: int) -> Header | None:
    """What four bytes say as the header of a frame; None if they are none."""
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bitrate, rate = word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate == 15 or rate == 3:
        return None
    first = version == 3
    hertz = RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    padding, mono = word >> 9 & 1, word >> 6 & 3 == 3
    bits = BITRATES[first, layer][bitrate] * 1000
    n_samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
    size = (12 * bits // hertz + padding) * 4 if layer == 1 else n_samples // 8 * bits // hertz + padding
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return Header(size if bits else 0, hertz, 1 if mono else 2, layer, n_samples, side)


def mp3(data: Bytes) -> Structure:
    """Every byte behind the first frame belongs to a frame, a tag or silence at the end; and each run has what it promises."""
    at = _first_frame(data)
    if at < 0:
        return refuse("damaged audio: no MPEG frame begins where one should")
    runs: list[Run] = []
    fault = None
    n_bytes = len(data)
    while at < n_bytes:
        word = int.from_bytes(data[at : at + 4], "big")
        header = header_of(word)
        if header is None or at + 4 > n_bytes:
            behind = _tag_end(data, at)
            if behind > at:
                at = behind
                continue
            if not data[at:].strip(b"\0"):
                break  # padding
            seconds = _seconds(runs)
            fault = f"damaged audio: bytes that are no MPEG frame at {seconds:.2f} s"
            break
        if header.size == 0:
            return refuse("free-format MP3, whose length cannot be known; convert it to flac")
        if runs and header[1:4] != runs[0].header[1:4]:
            return refuse(
                f"a second recording ({header.rate} Hz, {header.channels} channels) is joined on at byte {at}; {SPLIT}"
            )
        if at + header.size > n_bytes:
            fault = f"truncated audio: the last frame is cut at {_seconds(runs):.2f} s"
            break
        promised = _xing(data, at, header)
        if promised is not None or not runs:
            runs.append(Run(header, word, start=at))
        run = runs[-1]
        if promised is not None:
            run.promised, run.trimmed = promised
        else:
            if run.spans and run.spans[-1][1] == at:
                run.spans[-1][1] = at + header.size
            else:
                run.spans.append([at, at + header.size])
            run.n_frames += 1
        at += header.size
    return _judge(data, runs, fault)


def _judge(data: Bytes, runs: list[Run], fault: str | None) -> Structure:
    n_samples, rate = runs[0].header.n_samples, runs[0].header.rate
    share = 1.0
    for run in runs:
        missing = 0 if run.promised is None else run.promised - run.n_frames
        if missing * n_samples > SLACK * rate:
            if run is not runs[-1]:
                return refuse(f"damaged audio: {missing} frames are missing before a second recording is joined on")
            if fault is None or fault.startswith("truncated"):
                fault, share = "truncated audio", run.n_frames / run.promised
        # More frames than promised: the header lies, or CBR files without headers are joined on.
        if missing < -1:
            run.promised, run.trimmed = None, 0
    n_total = sum(run.n_frames for run in runs) * n_samples
    promised = (n_total - sum(run.trimmed for run in runs), n_total)
    heard = [run for run in runs if run.n_frames]
    parts = tuple(_file(data, run) for run in heard)
    trusted = len(runs) == 1 and len(runs[0].spans) == 1 and runs[0].promised is not None
    trusted = trusted and not (fault or "").startswith("damaged")
    if trusted or not parts or runs[0].header.layer != 3:  # Xing headers exist in layer III only
        return Structure(fault, share=share, promised=promised)
    remark = "MP3 files of several runs in a row" if len(parts) > 1 else None
    skip = tuple(n_samples if run.promised is None else 0 for run in heard)
    as_it_is = len(runs) == 1 and len(runs[0].spans) == 1 and runs[0].start == runs[0].spans[0][0] and not fault
    enough = n_total if as_it_is else None
    return Structure(fault, share=share, parts=parts, skip=skip, enough=enough, remark=remark, promised=promised)


def _file(data: Bytes, run: Run) -> bytes:
    """A file of one run. Without a Xing header that is right, it begins with a silent frame of the lowest bit rate.

    From this frame mpg123 guesses a length that is too high, which does no harm: it decodes until the end. (A Xing header of
    our own would make it drop its delay of 529 samples, which it does not where there is none.)
    """
    sound = b"".join(data[start:end] for start, end in run.spans)
    if run.promised is not None:
        return data[run.start : run.spans[0][0]] + sound
    word = run.word & 0xFFFF0DFF | 1 << 16  # no padding, no checksum
    for index in range(1, 15):
        word = word & ~(0xF << 12) | index << 12
        frame = header_of(word)
        if frame.size >= 4 + frame.side:
            break
    return word.to_bytes(4, "big").ljust(frame.size, b"\0") + sound


def _seconds(runs: list[Run]) -> float:
    return sum(run.n_frames * run.header.n_samples / run.header.rate for run in runs)


def _first_frame(data: Bytes) -> int:
    """The first place with a frame behind which another one, or the end, follows."""
    begin = id3_end(data)
    for at in range(begin, min(begin + SEARCH, len(data) - 3)):
        if data[at] != 0xFF or (header := header_of(int.from_bytes(data[at : at + 4], "big"))) is None:
            continue
        if header.size == 0:
            return at
        following = header_of(int.from_bytes(data[at + header.size : at + header.size + 4], "big"))
        if at + header.size >= len(data) or (following and following[1:4] == header[1:4]):
            return at
        if _tag_end(data, at + header.size) > at + header.size:
            return at
    return -1


def _xing(data: Bytes, at: int, header: Header) -> tuple[int, int] | None:
    """Frames that a Xing, Info or VBRI header promises, and the samples that its LAME tag trims; None if it is none."""
    frame = data[at : at + header.size]
    if header.layer != 3:
        return None
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big"), 0
    for side in (4 + header.side, 6 + header.side):  # behind a checksum too
        if frame[side : side + 4] not in (b"Xing", b"Info"):
            continue
        flags = int.from_bytes(frame[side + 4 : side + 8], "big")
        if not flags & 1:
            return None
        n_frames = int.from_bytes(frame[side + 8 : side + 12], "big")
        lame = side + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
        trim = frame[lame + 21 : lame + 24] if frame[lame : lame + 4] in (b"LAME", b"Lavc", b"Lavf") else b""
        delay, padding = (trim[0] << 4 | trim[1] >> 4, (trim[1] & 15) << 8 | trim[2]) if len(trim) == 3 else (0, 0)
        return n_frames, delay + padding
    return None


def _tag_end(data: Bytes, at: int) -> int:
    """Where the tag that begins at `at` ends; `at` itself where none does."""
    if (end := id3_end(data, at)) > at:
        return end
    head = data[at : at + 32]
    if head.startswith(b"TAG") and at + 128 <= len(data):
        return at + 128
    if head.startswith(b"APETAGEX") and len(head) == 32:
        return at + 32 + int.from_bytes(head[12:16], "little")
    if head.startswith(b"LYRICSBEGIN"):
        for mark in (b"LYRICS200", b"LYRICSEND"):
            if (end := data.find(mark, at)) >= 0:
                return end + 9
    foot = data.find(b"APETAGEX", at, at + SEARCH)  # older APE tags have no header; the footer gives the size
    if foot >= 0 and foot + 32 - int.from_bytes(data[foot + 12 : foot + 16], "little") == at:
        return foot + 32
    return at
