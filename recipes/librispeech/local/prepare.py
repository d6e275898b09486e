"""LibriSpeech (OpenSLR 12): its splits, those that are present, one data directory each.

LibriSpeech/                                 <- --corpus-dir
    train-clean-100/                         -> data/train_clean_100
        19/                                     reader: the speaker
            198/                                chapter
                19-198-0000.flac
                19-198.trans.txt                one line an utterance: 19-198-0000 NORTHANGER ABBEY
    train-clean-360/ train-other-500/ dev-clean/ dev-other/ test-clean/ test-other/
    SPEAKERS.TXT CHAPTERS.TXT ...               not read
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import preparation
from blsp.data.corpus_files import glob, iter_lines
from blsp.data.preparation import Found, Rejected, Sets

ID = re.compile(r"[^-/]+-[^-/]+-[^-/]+")
SPLITS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)


def parse(corpus_dir: Path) -> Sets:
    present = [split for split in SPLITS if (corpus_dir / split).is_dir()]
    return {split.replace("-", "_"): partial(read_split, corpus_dir / split) for split in present}


def read_split(folder: Path) -> Iterator[Found | Rejected]:
    """The utterances of a split: those that the transcripts name, and the flac files that none names.

    Raises InputError for a chapter that has audio and no transcript file.
    """
    audio: dict[Path, set[str]] = {}
    for path in glob(folder, "*/*/*.flac"):
        audio.setdefault(path.parent, set()).add(path.stem)
    transcripts = {path.parent: path for path in glob(folder, "*/*/*.trans.txt")}
    for chapter in sorted({*audio, *transcripts}):
        if chapter not in transcripts:
            raise InputError(
                f"{chapter / f'{chapter.parent.name}-{chapter.name}.trans.txt'}: the chapter's transcripts are missing"
            )
        named = set()
        for number, line in enumerate(iter_lines(transcripts[chapter]), 1):
            if not line.strip():
                continue
            utt_id, text = [*line.split(maxsplit=1), ""][:2]
            named.add(utt_id)
            if ID.fullmatch(utt_id):
                yield Found(utt_id, utt_id, utt_id.partition("-")[0], chapter / f"{utt_id}.flac", text)
            else:
                yield Rejected(f"{transcripts[chapter].name}:{number}", "broken line: no `reader-chapter-number TEXT`")
        for stem in sorted(audio.get(chapter, set()) - named):
            yield Rejected(f"{stem}.flac", "no transcript")


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
