"""Text files of corpora in every encoding that occurs."""

import gzip
import random
import struct

import pytest

from blsp.base.files import InputError
from blsp.data import corpus_files
from blsp.data.corpus_files import clean_text, glob, mended, read_lines, read_rows


@pytest.fixture(autouse=True)
def empty_counts():
    mended.clear()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    path = tmp_path / "text"
    path.write_bytes(end.join(["plain words", "café — naïve", "", "last"]).encode(encoding))
    assert read_lines(path) == ["plain words", "café — naïve", "", "last"]
    assert ("files with CRLF line ends" in mended) == (end == "\r\n") or mended["files with CRLF line ends"] == 0


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("a\u2028b\x85c\x0bd\re\nsecond\n".encode())
    assert read_lines(path) == ["a\u2028b\x85c\x0bd\re", "second"]


def test_bytes_that_are_not_utf8_spoil_their_line_only(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"good\nna\xefve\ngood")
    first, second, third = read_lines(path)
    assert first == third == "good" and second == "na\udcefve"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing.txt: cannot be read"):
        read_lines(tmp_path / "nothing.txt")


def test_rows_by_column_name_without_quoting(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text('path\tsentence\tlocale\nb\t"Unbalanced\ten\na\tends in \\\ten\nnull\tNA\t\n\nx\ty\n')
    rows = list(read_rows(path, columns=("sentence", "path")))
    assert [row.values.get("sentence") for row in rows] == ['"Unbalanced', "ends in \\", "NA", None]
    assert rows[2].values == {"path": "null", "sentence": "NA", "locale": ""}
    assert rows[3].line == 6 and rows[3].fault.startswith("broken line") and rows[3].raw == "x\ty"


def test_rows_with_quoting(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbf,path,text\r\n0,a.wav,"Turn it on, now"\r\n1,"b, c.wav","say ""hi"""\r\n2,d.wav,"open\r\n')
    rows = [row.values for row in read_rows(path, ",", quoting=True)]
    assert [row["text"] for row in rows] == ["Turn it on, now", 'say "hi"', '"open']
    assert rows[1]["path"] == "b, c.wav" and rows[0][""] == "0"
    assert mended["lines with unbalanced quotes"] == 1


def test_missing_columns_and_headers(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match=r"t.tsv:1: has no column 'sentence'; its columns are: a, b"):
        list(read_rows(path, columns=("a", "sentence")))
    path.write_text("")
    with pytest.raises(InputError, match="is empty"):
        list(read_rows(path))


def test_a_very_long_quoted_field(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text('a,b\n"' + "x" * 200_000 + '",2\n')
    assert next(read_rows(path, ",", quoting=True)).values["b"] == "2"


def test_glob_leaves_macos_files(tmp_path):
    for name in ("b.txt", "a.txt", "._a.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in glob(tmp_path, "*.txt")] == ["a.txt", "b.txt"]
    assert mended == {"macOS ._ files passed over": 1}


@pytest.mark.parametrize(
    ("text", "clean", "mark"),
    [
        ("a\u00a0b", "a b", "no-break and wide spaces"),
        ("一\u3000二", "一 二", "no-break and wide spaces"),
        ("zero\u200bwidth\ufeff", "zerowidth", "zero-width marks"),
        ("\u200fleft\u202eright", "leftright", "bidirectional marks"),
        ("one\u2028two\x85three\rfour", "one two three four", "line separators"),
        ("tab\tbed", "tab bed", "tabs"),
        ("bell\x07", "bell", "control characters"),
    ],
)
def test_marks_are_mended_and_counted(text, clean, mark):
    assert clean_text(text) == clean
    assert mended == {f"texts with {mark}": 1}


def test_words_and_case_stay():
    for text in ("Straße, « déjà » vu!", "e\u0301 stays decomposed", "null", "NA", "it's 5 % – “so”"):
        assert clean_text(text) == text
    assert clean_text("  two   spaces ") == "two spaces"
    assert clean_text("\u00a0\u200b") == ""
    assert not corpus_files.mended["texts with tabs"]


@pytest.mark.parametrize(("delimiter", "quoting"), [("\t", False), (",", True)])
def test_every_row_is_given_once_whole_or_with_its_fault(tmp_path, delimiter, quoting):
    path = tmp_path / "t"
    rows = [
        ["a", "one", "2", ""],
        ["b", "first half", "second half", "2", ""],  # a delimiter in the text, and an empty field at the end
        ["c", "cut"],
        ["d"],
        ["", "", "", ""],
        ["e", "too many", "2", "", "", ""],
        ["f", "six", "2", "en"],
    ]
    path.write_text("".join(delimiter.join(row) + "\n" for row in [["path", "text", "votes", "more"], *rows]))
    found = list(read_rows(path, delimiter, quoting))
    assert [row.line for row in found] == [2, 3, 4, 5, 6, 7, 8]
    assert [row.fault is None for row in found] == [True, False, False, False, True, False, True]
    assert found[0].values == {"path": "a", "text": "one", "votes": "2", "more": ""}
    assert "5 fields where the header has 4" in found[1].fault and found[3].raw == "d"


def test_quoted_fields_over_several_lines(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(
        b"path,text,n\r\n"
        b'a,"two\r\nlines, and ""quotes""",1\r\n'
        b'b,"open,2\r\n'  # nothing closes the quote: it is a letter
        b'c,"three\r\n\r\nlines",3\r\n'
        b'd,"broken\r\nin two"\r\n'
        b'e,"say, ""x""",5\r\n'
        b'f,"cut off,'
    )
    rows = list(read_rows(path, ",", quoting=True))
    assert [row.values.get("text") for row in rows] == [
        'two\nlines, and "quotes"',
        '"open',
        "three\n\nlines",
        None,
        'say, "x"',
        '"cut off',
    ]
    assert [row.line for row in rows] == [2, 4, 5, 8, 10, 11]
    assert rows[3].fault == "broken line: 2 fields where the header has 3"
    path.write_text("a,b\n" + '1,"x\n' * 3000)  # no quadratic time, no line lost
    assert len(list(read_rows(path, ",", quoting=True))) in (1500, 3000)


def test_columns_that_are_there_twice(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("path\ttext\ttext\n1\t2\t3\n")
    with pytest.raises(InputError, match="t.tsv:1: has more than one column 'text'"):
        list(read_rows(path, columns=("path", "text")))
    assert next(read_rows(path, columns=("path",))).values["path"] == "1"


RANDOM = random.Random(0).randbytes(6000)


@pytest.mark.parametrize(
    "content",
    [
        RANDOM,
        RANDOM[:60],
        b"\xff\xfe" + RANDOM,
        bytes(3000),
        struct.pack("<500h", *range(-250, 250)),
        b"NIST_1A\n   1024\nsample_count -i 9\nend_head\n".ljust(1024) + bytes(99),
        gzip.compress(b"words\n"),
        b"\0\5\x16\7\0\2\0\0Mac OS X".ljust(100, b"\0"),
        "Привет, это русский текст\n".encode("cp1251"),
        "这是中文文本\n".encode("gbk"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt: is (not text|a SPHERE|a gzip)") as raised:
        read_lines(tmp_path / "a.txt")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "\n", "Привет\n" * 900, "这是中文\n" * 900, "café \U0001f600\tté\r\n" * 700, "a\0b and more\n"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_is_text_stays(tmp_path, text, encoding):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert "\n".join(read_lines(tmp_path / "a.txt")) == text.removesuffix("\n").replace("\r", "")
