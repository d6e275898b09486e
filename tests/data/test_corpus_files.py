"""Text files of corpora in every encoding that occurs."""

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
