"""Reading the text files of a corpus: any of the usual encodings, lines, tables by column name, transcripts made clean.

What had to be mended on the way is counted in `mended`, which stage 0 prints and empties for each set.
"""

from __future__ import annotations

import codecs
import csv
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blsp.base.files import InputError
from blsp.data.writing import clean

mended: Counter[str] = Counter()  # what was odd but usable -> how often

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
HEAD = 4096  # bytes that decide the encoding
csv.field_size_limit(1 << 30)  # characters; the default of 131,072 is an error, not a limit

BINARY = (  # what lies where a text should, told by its first bytes
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"NIST_1A", "a SPHERE recording"),
    (b"RIFF", "a WAV recording"),
    (b"fLaC", "a FLAC recording"),
    (b"OggS", "an Ogg recording"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
)
NO_TEXT = 0.25  # of the characters may be none; of a line or two in another encoding stage 0 rejects the utterances
UNPACK = "unpack or download it again"
MAX_LINES = 100  # that a quoted field may span


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    line: int  # in the file, counted from 1
    values: dict[str, str]  # by column name; empty where `fault` says what is wrong
    fault: str | None = None
    raw: str = ""  # the line as it stands, where there is a fault


def encoding_of(path: str | Path) -> tuple[str, int]:
    """The encoding of a text file (UTF-8, or UTF-16 with or without byte-order mark), and the bytes of its mark.

    Raises InputError where the file cannot be read, or is no text.
    """
    try:
        with open(path, "rb") as f:
            head = f.read(HEAD)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    encoding, skip = _encoding(head)
    _must_be_text(path, head, encoding, skip)
    mended["files with a byte-order mark"] += skip > 0
    mended["files in UTF-16"] += encoding != "utf-8"
    return encoding, skip


def _encoding(head: bytes) -> tuple[str, int]:
    for bom, encoding in BOMS:
        if head.startswith(bom):
            return encoding, len(bom)
    # Text in UTF-8 holds no zero bytes; ASCII in UTF-16 has one in each pair, never two.
    for encoding, zeros, others in (("utf-16-le", head[1::2], head[0::2]), ("utf-16-be", head[0::2], head[1::2])):
        if head and zeros.count(0) > len(zeros) // 2 and 0 not in others:
            return encoding, 0
    return "utf-8", 0


def _must_be_text(path: str | Path, head: bytes, encoding: str, skip: int) -> None:
    """Raise InputError where the beginning of a file is binary, or text of another encoding throughout."""
    for magic, what in BINARY:
        if head.startswith(magic):
            raise InputError(f"{path}: is {what} where a text file should be; {UNPACK}")
    if encoding == "utf-8":
        text = head[skip:].decode("utf-8", "surrogateescape")
    else:  # the last character may be cut
        text = head[skip : skip + (len(head) - skip) // 2 * 2].decode(encoding, "replace")
    if len(head) == HEAD:
        text = text[:-3]
    odd = sum(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") and c not in "\t\n\v\f\r\x1a" or c == "\ufffd" for c in text)
    # Random pairs of bytes are characters more often than random bytes are UTF-8.
    if odd > (NO_TEXT if encoding == "utf-8" else NO_TEXT / 2) * len(text):
        raise InputError(f"{path}: is not text in UTF-8 or UTF-16; {UNPACK}, or convert it with iconv")


def iter_lines(path: str | Path) -> Iterator[str]:
    r"""The lines of a text file without their line ends, read as they are asked for.

    Lines end at "\n" (or "\r\n") only: U+2028, U+0085 and a lone "\r" stay inside, so that parallel files keep step.
    Bytes that are not UTF-8 become lone surrogates: stage 0 then rejects the one utterance instead of the file.
    Raises InputError where the file cannot be read, or is no text.
    """
    encoding, skip = encoding_of(path)
    try:
        with open(path, encoding=encoding, errors="surrogateescape" if encoding == "utf-8" else "replace", newline="\n") as f:
            f.seek(skip)
            crlf = False
            for number, line in enumerate(f):
                line = line.removesuffix("\n")
                if number == 0:
                    line = line.removeprefix("\ufeff")
                if line.endswith("\r"):
                    crlf = True
                    line = line[:-1]
                yield line
            mended["files with CRLF line ends"] += crlf
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None


def read_lines(path: str | Path) -> list[str]:
    """`iter_lines` as a list."""
    return list(iter_lines(path))


def read_rows(path: str | Path, delimiter: str = "\t", quoting: bool = False, columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a table with a header, by column name; empty lines are passed over.

    Args:
        quoting: fields may stand in double quotes (CSV), and then hold delimiters and line breaks. Without it a quote is a
            letter like any other, and so is a backslash. A line whose quotes do not pair is read without quoting where
            that gives the right fields.
        columns: names that must be there.

    A row with too few or too many fields, empty ones too, is yielded with `fault` set, for nothing tells which field is
    which: reject it as f"{path.name}:{row.line}". All values are strings as they stand ("null", "NA" and "" too). Raises
    InputError for an unreadable file, no header, a missing column or one that is there twice.
    """
    header: list[str] | None = None
    lines = _Lines(path)
    for number, line in lines:
        if not line.strip(" "):
            continue
        if header is None:
            header = [name.strip() for name in _fields(line, delimiter, quoting, None)]
            if missing := [name for name in columns if name not in header]:
                raise InputError(f"{path}:{number}: has no column '{missing[0]}'; its columns are: {', '.join(header)}")
            if twice := [name for name in columns if header.count(name) > 1]:
                raise InputError(f"{path}:{number}: has more than one column '{twice[0]}'")
            continue
        fields = _fields_over_lines(line, lines, delimiter, len(header)) if quoting and '"' in line else None
        if fields is None:
            fields = _fields(line, delimiter, quoting, len(header))
        if len(fields) != len(header):
            yield Row(number, {}, f"broken line: {len(fields)} fields where the header has {len(header)}", line)
        else:
            yield Row(number, dict(zip(header, fields, strict=True)))
    if header is None:
        raise InputError(f"{path}: is empty; a header line was expected")


class _Lines:
    """Numbered lines, of which some can be looked at before they are taken."""

    def __init__(self, path: str | Path):
        self.source = enumerate(iter_lines(path), 1)
        self.ahead: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while self.ahead or self._more():
            yield self.ahead.popleft()

    def _more(self) -> bool:
        line = next(self.source, None)
        if line is not None:
            self.ahead.append(line)
        return line is not None

    def peek(self, limit: int) -> Iterator[str]:
        """The next lines, at most `limit`, without taking them."""
        for n in range(limit):
            if n == len(self.ahead) and not self._more():
                return
            yield self.ahead[n][1]

    def take(self, n: int) -> None:
        for _ in range(n):
            self.ahead.popleft()


def _fields_over_lines(line: str, lines: _Lines, delimiter: str, expected: int) -> list[str] | None:
    """The fields of a row of which a quoted one goes on over several lines, which are then taken; None if it is not so."""
    n_used = 0

    def record() -> Iterator[str]:
        nonlocal n_used
        yield line + "\n"
        for following in lines.peek(MAX_LINES):
            n_used += 1
            yield following + "\n"

    try:
        fields = next(csv.reader(record(), delimiter=delimiter, strict=True))
    except csv.Error:  # the quotes do not pair: it is the line that is odd
        return None
    if not n_used:
        return None
    if len(fields) != expected:
        # Rather a broken row of several lines than broken lines, unless one of them is a row by itself.
        alone = (line, *lines.peek(n_used))
        if any(len(_fields(each, delimiter, True, None)) == expected for each in alone):
            return None
    lines.take(n_used)
    return fields


def _fields(line: str, delimiter: str, quoting: bool, expected: int | None) -> list[str]:
    plain = line.split(delimiter)
    if not quoting or '"' not in line:
        return plain
    try:
        quoted = next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error:  # a quote that nothing closes, or text behind the closing one
        quoted = next(csv.reader([line], delimiter=delimiter))
        if expected in (len(plain), len(quoted)):
            mended["lines with unbalanced quotes"] += 1
        return plain if len(plain) == expected else quoted
    return quoted


def header_of(path: str | Path, delimiter: str, quoting: bool) -> list[str]:
    """The names of a table's columns, as `read_rows` has them. Raises InputError."""
    line = next((line for line in iter_lines(path) if line.strip(" \t")), None)
    if line is None:
        raise InputError(f"{path}: is empty; a header line was expected")
    return [name.strip() for name in _fields(line, delimiter, quoting, None)]


def glob(folder: str | Path, pattern: str) -> list[Path]:
    """The paths in `folder` that match, sorted; without the `._` files that macOS leaves beside the real ones."""
    found = sorted(Path(folder).glob(pattern))
    kept = [path for path in found if not path.name.startswith("._")]
    if len(kept) < len(found):
        mended["macOS ._ files passed over"] += len(found) - len(kept)
    return kept


def clean_text(text: str) -> str:
    """`clean`, with a count of what was mended in `mended`: what stage 0 does to transcripts, translations and labels."""
    return clean(text, mended)
