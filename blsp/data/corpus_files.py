"""Reading the text files of a corpus: any of the usual encodings, lines, tables by column name, transcripts made clean.

What had to be mended on the way is counted in `mended`, which stage 0 prints and empties for each set.
"""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blsp.base.files import InputError
from blsp.data.writing import clean

mended: Counter[str] = Counter()  # what was odd but usable -> how often

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
HEAD = 4096  # bytes that decide the encoding
csv.field_size_limit(1 << 30)  # characters; the default of 131,072 is an error, not a limit


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    line: int  # in the file, counted from 1
    values: dict[str, str]  # by column name; empty where `fault` says what is wrong
    fault: str | None = None
    raw: str = ""  # the line as it stands, where there is a fault


def encoding_of(path: str | Path) -> tuple[str, int]:
    """The encoding of a text file (UTF-8, or UTF-16 with or without byte-order mark), and the bytes of its mark.

    Raises InputError where the file cannot be read.
    """
    try:
        with open(path, "rb") as f:
            head = f.read(HEAD)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    for bom, encoding in BOMS:
        if head.startswith(bom):
            mended["files with a byte-order mark"] += 1
            mended["files in UTF-16"] += encoding != "utf-8"
            return encoding, len(bom)
    # Text in UTF-8 holds no zero bytes; ASCII in UTF-16 has one in each pair.
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
        if head and zeros.count(0) > len(zeros) // 2:
            mended["files in UTF-16"] += 1
            return encoding, 0
    return "utf-8", 0


def iter_lines(path: str | Path) -> Iterator[str]:
    r"""The lines of a text file without their line ends, read as they are asked for.

    Lines end at "\n" (or "\r\n") only: U+2028, U+0085 and a lone "\r" stay inside, so that parallel files keep step.
    Bytes that are not UTF-8 become lone surrogates: stage 0 then rejects the one utterance instead of the file.
    Raises InputError where the file cannot be read.
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
    """The rows of a table with a header, by column name; blank lines are passed over.

    Args:
        quoting: fields may stand in double quotes (CSV). Without it a quote is a letter like any other, and so is a
            backslash. A line whose quotes do not pair is read without quoting where that gives the right fields.
        columns: names that must be there.

    A line with too few or too many fields is yielded with `fault` set: reject it as f"{path.name}:{row.line}".
    All values are strings as they stand ("null", "NA" and "" too). Raises InputError for an unreadable file, no header
    or a missing column.
    """
    header: list[str] | None = None
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip(" \t"):
            continue
        if header is None:
            header = [name.strip() for name in _fields(line, delimiter, quoting, None)]
            if missing := [name for name in columns if name not in header]:
                raise InputError(f"{path}:{number}: has no column '{missing[0]}'; its columns are: {', '.join(header)}")
            continue
        fields = _fields(line, delimiter, quoting, len(header))
        while len(fields) > len(header) and not fields[-1]:
            fields.pop()
        if len(fields) != len(header):
            yield Row(number, {}, f"broken line: {len(fields)} fields where the header has {len(header)}", line)
        else:
            yield Row(number, dict(zip(header, fields, strict=True)))
    if header is None:
        raise InputError(f"{path}: is empty; a header line was expected")


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
