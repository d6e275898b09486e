"""LibriSpeech as it is unpacked, and as it is after mishaps."""

from recipe_run import prepare, prepared, refused, rejected, table, write_audio


def chapter(corpus, split, reader, number, texts, content=None, **audio):
    folder = corpus / split / reader / number
    for n in range(len(texts)):
        write_audio(folder / f"{reader}-{number}-{n:04d}.flac", **audio)
    lines = "".join(f"{reader}-{number}-{n:04d} {text}\n" for n, text in enumerate(texts))
    (folder / f"{reader}-{number}.trans.txt").write_bytes(lines.encode() if content is None else content)
    return folder


def test_splits_that_are_present(tmp_path):
    corpus = tmp_path / "LibriSpeech"
    chapter(corpus, "dev-clean", "84", "121", ["GO AWAY", "IT'S NULL"])
    chapter(corpus, "dev-clean", "84", "99", ["NA"])
    chapter(corpus, "dev-clean", "8", "5", ["ONE"])
    chapter(corpus, "train-clean-100", "19", "198", ["NORTHANGER ABBEY"])
    (corpus / "SPEAKERS.TXT").write_text("; comment\n")
    out = prepared("librispeech", corpus, tmp_path / "data")
    assert "dev_clean: kept 4 + rejected 0 = found 4" in out
    assert sorted(path.name for path in (tmp_path / "data").iterdir() if path.is_dir()) == ["dev_clean", "train_clean_100"]
    assert table(tmp_path / "data" / "dev_clean" / "text") == {
        "8-5-0000": "ONE",
        "84-121-0000": "GO AWAY",
        "84-121-0001": "IT'S NULL",
        "84-99-0000": "NA",
    }
    assert table(tmp_path / "data" / "dev_clean" / "spk2utt") == {"8": "8-5-0000", "84": "84-121-0000 84-121-0001 84-99-0000"}
    assert set(table(tmp_path / "data" / "dev_clean" / "utt2dur").values()) == {"0.5"}


def test_mishaps(tmp_path):
    corpus = tmp_path / "LibriSpeech"
    lines = (
        "84-1-0000 FIRST\u00a0WORD\r\n84-1-0001\r\n84-1-0000 AGAIN\r\nno id here\r\n\r\n84-1-0002\tTAB \u2028 SEP\r\n"
        "84-1-0003 LOST\r\n"
        "../84-1-0002 OUT\r\n84-1-0004 <NOISE>"
    )
    folder = chapter(corpus, "dev-other", "84", "1", ["", "", "", "", ""], ("\ufeff" + lines).encode("utf-16-le"))
    (folder / "84-1-0003.flac").unlink()
    write_audio(folder / "84-1-0009.flac")
    (folder / "._84-1.trans.txt").write_bytes(b"\x00\x05\x16\x07 junk")
    (folder / "._84-1-0000.flac").write_bytes(b"\x00\x05\x16\x07 junk")
    out = prepared("librispeech", corpus, tmp_path / "data")
    assert "kept 2 + rejected 7 = found 9" in out and "macOS" in out and "UTF-16" in out and "CRLF" in out
    assert table(tmp_path / "data" / "dev_other" / "text") == {"84-1-0000": "FIRST WORD", "84-1-0002": "TAB SEP"}
    assert rejected(tmp_path / "data" / "dev_other") == {
        "84-1-0001": "empty transcript",
        "84-1-0000": "duplicate id",
        "84-1.trans.txt:4": "broken line: no `reader-chapter-number TEXT`",
        "84-1.trans.txt:8": "broken line: no `reader-chapter-number TEXT`",
        "84-1-0003": "missing audio",
        "84-1-0004": "garbage-only transcript",
        "84-1-0009.flac": "no transcript",
    }


def test_corpora_that_are_broken(tmp_path):
    corpus = tmp_path / "LibriSpeech"
    corpus.mkdir()
    assert str(corpus) in refused("librispeech", corpus, tmp_path / "data")
    (corpus / "dev-clean").mkdir()
    assert "dev_clean holds no utterances" in refused("librispeech", corpus, tmp_path / "data")
    folder = chapter(corpus, "dev-clean", "84", "1", ["WORD"])
    (folder / "84-1.trans.txt").unlink()
    assert f"{folder}/84-1.trans.txt: " in refused("librispeech", corpus, tmp_path / "data")
    chapter(corpus, "dev-clean", "84", "1", ["WORD"], seconds=31.0)
    assert "1 longer than 30 s" in refused("librispeech", corpus, tmp_path / "data")
    assert prepare("librispeech", corpus / "nowhere", tmp_path / "data").returncode == 1
