"""What the bytes of an audio file say of its length: chunks, pages and frames, without decoding them.

libsndfile believes headers. It stops at the count that one gives, at the end of the first of several joined files, and
passes over pages that were lost; so each file is looked through before a sample of it is trusted.

    WAV RF64 W64 AIFF AU CAF SPHERE    raw samples: the header's count against the bytes that are there
    Ogg (RFC 3533)                     pages with checksum and number; several streams may follow one another
    MP3 (ISO 11172-3, 13818-3)         in blsp.data.mpeg
    FLAC                               whether a second file is joined on; its frames are counted by decoding
"""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

Bytes = bytes | mmap.mmap
STREAM = 0x7FFF0000  # bytes; programs that write WAV to a pipe, or die, leave this or more as its length
FINISH = "if all of it is there, rewrite it: sox --ignore-length OLD NEW.flac"
SPLIT = "split it, or convert it to flac"
W64_TAIL = {  # of the GUIDs of Sony's Wave64, behind the four letters of the chunk
    b"riff": bytes.fromhex("2e91cf11a5d628db04c10000"),
    b"": bytes.fromhex("f3acd3118cd100c04f8edb8a"),
}
OPENINGS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"caff", b".snd", b"dns.", b"NIST_1A", b"fLaC", b"OggS")
TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")  # of music players, behind the sound
REVERSED = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))  # each byte with its bits in reverse


@dataclass(frozen=True)
class Structure:
    """What a file is made of."""

    fault: str | None = None  # why it may not be whole; what there is, up to there, is good
    refused: str | None = None  # why nothing of it can be used
    share: float = 1.0  # of the promised sound that is there
    end: int | None = None  # where players' tags begin that the decoder trips over; None: it takes the file to its end
    parts: tuple[bytes, ...] | None = None  # whole files to decode one behind the other instead; None: the file as it is
    skip: tuple[int, ...] = ()  # frames to drop at the beginning of each part
    enough: int | None = None  # if the decoder expects as many frames or more, it takes the file as it is in spite of `parts`
    remark: str | None = None  # odd but usable
    promised: tuple[int, int] | None = None  # the fewest and the most frames that it decodes to, where frames tell


WHOLE = Structure()


def refuse(reason: str) -> Structure:
    return Structure(refused=reason)


def id3_end(data: Bytes, at: int = 0) -> int:
    """Where the ID3v2 tags that begin at `at` end; `at` itself where there is none."""
    while data[at : at + 3] == b"ID3" and len(head := data[at : at + 10]) == 10 and max(head[6:10]) < 128:
        size = (head[6] << 21) | (head[7] << 14) | (head[8] << 7) | head[9]
        at += 10 + size + 10 * bool(head[5] & 0x10)
    return at


# --- raw samples ---------------------------------------------------------------------------------------------------------


class Chunk(NamedTuple):
    name: bytes
    start: int  # of its content, in bytes from the beginning of the file
    size: int  # bytes, as the file says; it may reach beyond the end


class Samples(NamedTuple):
    """Where a header says that the samples are."""

    start: int
    size: int | None  # bytes; None: it says that it does not know
    n_behind: int | None = None  # position behind which further chunks may stand; None: nothing may


def raw(data: Bytes, kind: str) -> Structure:
    """The structure of a file of raw samples. `kind`: libsndfile's name of its format."""
    base = id3_end(data)
    if data[base : base + 4] == b"RIFX":
        kind = "RIFX"
    read = {"AIFF": _aiff, "AU": _au, "CAF": _caff, "NIST": _sphere, "W64": _w64}.get(kind, _riff)
    found = read(data, base)
    if isinstance(found, Structure):
        return found
    start, size, behind = found
    there = max(0, len(data) - start)
    if size is None:
        return Structure(f"unfinished header: it does not say how long the recording is; {FINISH}")
    if size > there:
        return Structure("truncated audio", share=there / size)
    at = start + size if behind is None else behind
    rest = data[at : at + 8]
    if size == 0 and len(rest) == 8 and not _is_chunk(data, at, kind) and _tail(data, at, kind):
        return refuse(f"unfinished header: it counts no samples, but {len(data) - at} bytes lie behind it; {FINISH}")
    reason = _tail(data, at, kind)
    return refuse(reason) if reason else WHOLE


def _tail(data: Bytes, at: int, kind: str) -> str | None:
    """What is wrong with the bytes behind the samples: only further chunks, players' tags and zeros belong there."""
    while at < len(data):
        head = data[at : at + 12]
        if head.startswith(OPENINGS) or head.startswith(b"data"):
            return f"a second recording is joined on at byte {at}; {SPLIT}"
        if head.startswith(TAGS):
            return None
        if kind not in ("AU", "NIST") and _is_chunk(data, at, kind):
            chunk = _chunk_at(data, at, kind)
            at = _next(chunk, kind)
            continue
        if kind not in ("AU", "NIST") and data[at : at + 1] == b"\0" and _is_chunk(data, at + 1, kind):
            at += 1  # a pad byte that the size did count, or that was not needed
            continue
        if not data[at : at + (1 << 16)].strip(b"\0") and not data[at:].strip(b"\0"):
            return None
        return f"header that counts too few samples: {len(data) - at} more bytes lie behind them; {FINISH}"
    return None


def _is_chunk(data: Bytes, at: int, kind: str) -> bool:
    head = data[at : at + 4]
    if len(head) < 4 or not all(0x20 <= c < 0x7F for c in head):
        return False
    if kind == "W64" and data[at + 4 : at + 16] not in W64_TAIL.values():
        return False
    chunk = _chunk_at(data, at, kind)
    return chunk is not None and 0 <= chunk.size <= len(data) - chunk.start


def _chunk_at(data: Bytes, at: int, kind: str) -> Chunk | None:
    width, order, head = {"AIFF": (4, "big", 4), "CAF": (8, "big", 4), "W64": (8, "little", 16)}.get(kind, (4, "little", 4))
    if kind == "RIFX":
        order = "big"
    start = at + head + width
    if start > len(data):
        return None
    size = int.from_bytes(data[at + head : start], order, signed=width == 8)
    return Chunk(data[at : at + 4], start, size - 24 if kind == "W64" else size)


def _next(chunk: Chunk, kind: str) -> int:
    align = {"W64": 8, "CAF": 1}.get(kind, 2)
    return chunk.start + -(-chunk.size // align) * align


def _chunks(data: Bytes, at: int, kind: str) -> Iterator[Chunk]:
    while (chunk := _chunk_at(data, at, kind)) is not None and chunk.size >= 0:
        yield chunk
        at = _next(chunk, kind)


def _samples(chunk: Chunk, kind: str, skip: int = 0) -> Samples:
    return Samples(chunk.start + skip, chunk.size - skip, _next(chunk, kind))


def _riff(data: Bytes, base: int) -> Samples | Structure:
    kind = "RIFX" if data[base : base + 4] == b"RIFX" else "WAV"
    large = None  # the size of the samples in an RF64 file
    for chunk in _chunks(data, base + 12, kind):
        if chunk.name == b"ds64":
            large = int.from_bytes(data[chunk.start + 8 : chunk.start + 16], "little", signed=True)
        elif chunk.name == b"data":
            there = len(data) - chunk.start
            if chunk.size == 0xFFFFFFFF and large is not None:
                chunk = chunk._replace(size=large)
                if large <= 0 < there:
                    return Samples(chunk.start, None)
            elif chunk.size >= STREAM and chunk.size > there:
                return Samples(chunk.start, None)
            return _samples(chunk, kind)
    return refuse("zero samples: it has no data chunk")


def _w64(data: Bytes, base: int) -> Samples | Structure:
    for chunk in _chunks(data, base + 40, "W64"):
        if chunk.name == b"data":
            return _samples(chunk, "W64") if chunk.size < 1 << 62 else Samples(chunk.start, None)
    return refuse("unfinished header: it has no data chunk of a size that can be")


def _aiff(data: Bytes, base: int) -> Samples | Structure:
    width = n_frames = 0
    for chunk in _chunks(data, base + 12, "AIFF"):
        if chunk.name == b"COMM":
            comm = data[chunk.start : chunk.start + 22]
            n_frames = int.from_bytes(comm[2:6], "big")
            # of compressed samples (AIFC) the bytes of a frame are not known
            plain = chunk.size < 22 or comm[18:22] in (b"NONE", b"twos", b"sowt", b"fl32", b"FL32", b"fl64", b"FL64", b"raw ")
            width = int.from_bytes(comm[:2], "big") * (-(-int.from_bytes(comm[6:8], "big") // 8)) if plain else 0
        elif chunk.name == b"SSND":
            found = _samples(chunk, "AIFF", 8 + int.from_bytes(data[chunk.start : chunk.start + 4], "big"))
            if chunk.size == 0:
                return Samples(chunk.start, 0, chunk.start + (8 if len(data) >= chunk.start + 8 else 0))
            if width and n_frames == 0 < found.size:
                return refuse(f"unfinished header: it counts no samples, but {found.size} bytes are there; {FINISH}")
            if width and n_frames * width < found.size - width:
                return refuse(f"header that counts too few samples: {n_frames} of {found.size // width}; {FINISH}")
            if width and n_frames * width > found.size:
                return Structure("truncated audio", share=min(found.size, len(data) - found.start) / (n_frames * width))
            return found
    return refuse("zero samples: it has no SSND chunk")


def _au(data: Bytes, base: int) -> Samples:
    order = "big" if data[base : base + 4] == b".snd" else "little"
    offset, size = (int.from_bytes(data[base + n : base + n + 4], order) for n in (4, 8))
    return Samples(base + offset, None if size == 0xFFFFFFFF else size)


def _caff(data: Bytes, base: int) -> Samples | Structure:
    at = base + 8
    while (chunk := _chunk_at(data, at, "CAF")) is not None:
        if chunk.name == b"data":
            return Samples(chunk.start, None) if chunk.size < 0 else _samples(chunk, "CAF", min(4, chunk.size))
        if chunk.size < 0:
            break
        at = _next(chunk, "CAF")
    return refuse("zero samples: it has no data chunk")


def _sphere(data: Bytes, base: int) -> Samples | Structure:
    head = data[base : base + (1 << 16)]
    length = re.match(rb"NIST_1A\s+(\d+)", head)
    if not length:
        return refuse("SPHERE header without its length")
    start = base + int(length[1])
    head = data[base:start]
    values = {name: int(value) for name, value in re.findall(rb"\n(\w+) -i (-?\d+)", head)}
    if values.get(b"sample_count", -1) < 0:
        return Samples(start, None)
    width = values.get(b"sample_n_bytes", 2) * values.get(b"channel_count", 1)
    return Samples(start, values[b"sample_count"] * width)


# --- FLAC ----------------------------------------------------------------------------------------------------------------


def flac(data: Bytes) -> Structure:
    """Whether a second FLAC file is joined on to the first, and where tags begin behind the last frame."""
    at = data.find(b"fLaC", id3_end(data) + 4)
    while at >= 0:
        if data[at + 4 : at + 5] in (b"\x00", b"\x80") and data[at + 5 : at + 8] == b"\x00\x00\x22":  # STREAMINFO: 34 bytes
            return refuse(f"a second recording is joined on at byte {at}; {SPLIT}")
        at = data.find(b"fLaC", at + 4)
    end = len(data)
    if data[end - 128 : end - 125] == b"TAG":
        end -= 128
    if data[end - 32 : end - 24] == b"APETAGEX":
        size, has_header = (int.from_bytes(data[end - n : end - n + 4], "little") for n in (20, 12))
        end -= size + 32 * (has_header >> 31)
    return Structure(end=end) if 0 < end < len(data) else WHOLE


def flac_without_count(data: Bytes) -> tuple[bytes, int]:
    """The beginning of a FLAC file with an unknown number of samples, so that all frames decode; and the number it gave."""
    at = data.find(b"fLaC", 0, 1 << 24)
    head = bytearray(data[: at + 26])
    n_frames = int.from_bytes(head[at + 21 : at + 26], "big") & (1 << 36) - 1
    head[at + 21] &= 0xF0
    head[at + 22 : at + 26] = bytes(4)
    return bytes(head), n_frames


# --- Ogg -----------------------------------------------------------------------------------------------------------------


class Page(NamedTuple):
    start: int
    end: int
    flags: int  # 2: a stream begins, 4: it ends
    granule: int  # position in its stream; -1: no packet ends here
    serial: int
    number: int


def ogg(data: Bytes) -> Structure:
    """Pages follow one another without a gap, and each stream has its end. Streams that follow one another are parts."""
    links: list[list[int]] = []  # start and end of each stream
    last: Page | None = None
    granule = 0
    for page in _pages(data):
        if page.flags & 2:
            if last is not None and last.flags & 2:
                return refuse("several Ogg streams at once; convert it to flac")
            if last is not None and not last.flags & 4:
                return _cut(data, links, f"truncated audio: a stream stops at byte {last.end} without its end")
            links.append([page.start, page.end])
            granule = 0
        elif last is None or page.serial != last.serial:
            return _cut(data, links, f"damaged audio: a stream without its beginning at byte {page.start}")
        elif last.flags & 4 or page.number != (last.number + 1) & 0xFFFFFFFF:
            return _cut(data, links, f"damaged audio: pages are missing before byte {page.start}")
        elif page.granule >= 0:
            if page.granule < granule:
                return _cut(data, links, f"damaged audio: the time goes backwards at byte {page.start}")
            granule = page.granule
        links[-1][1] = page.end
        last = page
    if last is None:
        return refuse("damaged audio: no Ogg page is whole")
    if not last.flags & 4:
        return _cut(data, links, "truncated audio: the stream stops without its end")
    if data.find(b"OggS", last.end) >= 0:
        return _cut(data, links, f"damaged audio: a broken page at byte {data.find(b'OggS', last.end)}")
    if len(links) == 1:
        return WHOLE
    return Structure(parts=tuple(data[start:end] for start, end in links), remark="files of several streams in a row")


def _cut(data: Bytes, links: list[list[int]], fault: str) -> Structure:
    # In a later stream nothing says where its beginning lies in time, so segments of the file cannot be trusted.
    return Structure(fault, parts=(data[slice(*links[0])],)) if len(links) == 1 else refuse(fault)


def _pages(data: Bytes) -> Iterator[Page]:
    """The pages whose checksum holds."""
    at = data.find(b"OggS")
    while at >= 0:
        head = data[at : at + 27]
        lengths = data[at + 27 : at + 27 + head[26]] if len(head) == 27 else b""
        end = at + 27 + len(lengths) + sum(lengths)
        if len(head) == 27 and len(lengths) == head[26] and end <= len(data):
            body = data[at:end]
            if _checksum(body[:22] + bytes(4) + body[26:]) == int.from_bytes(head[22:26], "little"):
                granule, serial, number = (
                    int.from_bytes(head[a:b], "little", signed=a == 6) for a, b in ((6, 14), (14, 18), (18, 22))
                )
                yield Page(at, end, head[5], granule, serial, number)
                at = data.find(b"OggS", end)
                continue
        at = data.find(b"OggS", at + 4)


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32, which is zlib's with all bits in reverse and no inversion."""
    crc = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
