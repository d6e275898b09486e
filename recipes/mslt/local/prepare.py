"""Stage 0 of the Microsoft Speech Language Translation corpus: spontaneous German and French with English translations.

    MSLT_Corpus/                                <- --corpus-dir
        Data/
            MSLT_Test_DE_20160516/
                MSLT_Test_DE_0001.T0.de.wav     audio
                MSLT_Test_DE_0001.T1.de.snt     what was said, with fillers and tags: <SPN/> <UNIN/> <LM>..</LM>
                MSLT_Test_DE_0001.T2.de.snt     the same, fluent and punctuated
                MSLT_Test_DE_0001.T3.en.snt     translation of T2
            MSLT_Dev_DE_20160616/  MSLT_Test_FR_20160516/  MSLT_Dev_FR_20160616/

Sets test_de, dev_de, test_fr, dev_fr (and those of further languages that are there) with the table `translation.en`.
The text is T2, or T1 without its tags where there is no T2. An .snt is UTF-16 or UTF-8, of one or several lines.
English recordings have several translations: one set per direction, test_en_de, test_en_fr ... Speakers are not
published, so each utterance is its own speaker.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import preparation
from blsp.data.corpus_files import glob, mended, read_lines
from blsp.data.preparation import Found, Rejected, Sets

FOLDER = re.compile(r"MSLT_(Test|Dev)_([A-Z]{2})(?:_\d+)?", re.IGNORECASE)
FILE = re.compile(r"(.+)\.(T[0-3])\.([a-z]{2})\.(wav|snt)", re.IGNORECASE)
TAG = re.compile(r"</?[A-Za-z][^<>]*>")


def parse(corpus_dir: Path) -> Sets:
    data = corpus_dir / "Data" if (corpus_dir / "Data").is_dir() else corpus_dir
    folders = defaultdict(list)  # set, target language -> folders; releases 1.0 and 1.1 may lie side by side
    for folder in glob(data, "*"):
        match = FOLDER.fullmatch(folder.name)
        if not match or not folder.is_dir():
            continue
        split, source = match[1].lower(), match[2].lower()
        for target in sorted(targets(folder)) if source == "en" else ["en"]:
            name = f"{split}_{source}" if target == "en" else f"{split}_{source}_{target}"
            folders[name, target].append(folder)
    return {name: partial(utterances, found, target) for (name, target), found in folders.items()}


def targets(folder: Path) -> set[str]:
    """Languages that the recordings of a folder are translated into."""
    matches = (FILE.fullmatch(path.name) for path in glob(folder, "*.snt"))
    return {match[3].lower() for match in matches if match and match[2].upper() == "T3"}


def utterances(folders: list[Path], target: str) -> Iterator[Found | Rejected]:
    """Every utterance of which any file is there."""
    for folder in folders:
        files: dict[str, dict[str, Path]] = defaultdict(dict)  # utterance -> "T0", "T1", "T2", "T3.en" -> path
        for path in glob(folder, "*"):
            match = FILE.fullmatch(path.name)
            if not match:
                if path.suffix.lower() in (".wav", ".snt"):
                    yield Rejected(path.name, "unknown file: its name is not ID.T0-3.LANGUAGE.wav or .snt")
                continue
            level = match[2].upper()
            files[match[1]][f"T3.{match[3].lower()}" if level == "T3" else level] = path
        for name, parts in files.items():
            try:
                text = sentence(parts.get("T2"))
                if not text and (text := sentence(parts.get("T1"))):
                    mended["transcripts from T1, without its tags"] += 1
                translation = sentence(parts.get(f"T3.{target}"))
            except InputError as e:  # one file, one utterance
                yield Rejected(name, f"unreadable transcript: {e}")
                continue
            native = "_".join(name.split())  # an id holds no white space
            yield Found(
                name=name,
                utt_id=native,
                spk=native,
                audio=parts.get("T0") or folder / f"{name}.T0.wav",
                text=text,
                tables={f"translation.{target}": translation},
            )


def sentence(path: Path | None) -> str:
    """The lines of an .snt as one, without tags; "" where there is none."""
    if path is None:
        return ""
    return TAG.sub(" ", " ".join(read_lines(path))).strip()


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
