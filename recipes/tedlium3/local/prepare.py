"""TED-LIUM 3: whole talks in NIST SPHERE, their segments and words in stm files. The legacy split is prepared.

    TEDLIUM_release-3/                              --corpus-dir
        legacy/{train,dev,test}/
            sph/AlGore_2009.sph                     in train often a link into data/
            stm/AlGore_2009.stm
        data/  speaker-adaptation/  LM/  doc/  TEDLIUM.152k.dic     not read

A line of an stm file, where the label may be missing and ";;" begins a comment:

    <talk> <channel> <speaker> <start> <end> <label> <words ...>
    AlGore_2009 1 AlGore_2009 12.11 17.14 <o,f0,male> it 's a <unk> privilege {NOISE}

Utterance ids are Kaldi's, the talk and both times in hundredths of a second; the talk is the speaker. What stands in <>, {}
or [] is markup and is removed, and a clitic is joined to its word ("it 's": "it's"), as all published results do. The gaps
between segments (ignore_time_segment_in_scoring) are rejected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import corpus_files, preparation
from blsp.data.preparation import Found, Rejected, Sets

SPLITS = ("train", "dev", "test")
IGNORED = "ignore_time_segment_in_scoring"
LABEL = re.compile(r"<(?!unk>|sil>)[^<>\s]*>", re.IGNORECASE)  # <NA>, <o,f0,male>, <F0_M>; <unk> is a word already
MARKUP = re.compile(r"<[^<>]*>|\{[^{}]*\}|\[[^\[\]]*\]|\(\d+\)")  # <unk> {NOISE} [NOISE], and the variant in is(2)
UTT_NAME = re.compile(r"\([^()\s]*[-_\d][^()\s]*\)\s*$")  # older releases close a line with (AlGore_2009-12.11-17.14)
CLITIC = re.compile(r"\s+'(?=(?:s|d|m|t|ll|re|ve)\b)", re.IGNORECASE)  # it 's; but not: just 'cause


def parse(corpus_dir: Path) -> Sets:
    """One set per split of legacy/; the releases before the third have the splits at the top."""
    top = corpus_dir / "legacy" if (corpus_dir / "legacy").is_dir() else corpus_dir
    return {split: partial(utterances, top / split) for split in SPLITS if (top / split).is_dir()}


def utterances(folder: Path) -> Iterator[Found | Rejected]:
    """The segments of all talks of a split, then the recordings that no stm file describes."""
    stms = corpus_files.glob(folder / "stm", "*.stm")
    if not stms:
        raise InputError(f"{folder / 'stm'}: holds no .stm file; unpack the archive again")
    talks = set()
    for stm in stms:
        for number, line in enumerate(corpus_files.iter_lines(stm), 1):
            if not line.strip() or line.lstrip().startswith(";;"):
                continue
            item = utterance(line, f"{stm.name}:{number}", folder / "sph")
            talks.update([item.rec_id] if isinstance(item, Found) else [])
            yield item
        talks.add(stm.stem)
    for sph in corpus_files.glob(folder / "sph", "*.sph"):
        if sph.stem not in talks:
            yield Rejected(sph.name, "no stm file describes the recording")


def utterance(line: str, place: str, sph: Path) -> Found | Rejected:
    """One line of an stm file; `place` names it if it is broken."""
    fields = line.split(maxsplit=5)
    if len(fields) < 5:
        return Rejected(place, f"broken line: {len(fields)} fields where an stm line has at least 5")
    talk, _, speaker, *times = fields[:5]
    start, end = map(seconds, times)
    if start is None or end is None:
        return Rejected(place, "broken line: start or end is not a number of seconds")
    words = fields[5] if len(fields) == 6 else ""
    if label := LABEL.match(words):
        words = words[label.end() :]
    utt_id = f"{talk}-{centiseconds(start)}-{centiseconds(end)}"
    if speaker == "inter_segment_gap" or words.strip() == IGNORED:
        return Rejected(utt_id, "a gap between segments (ignore_time_segment_in_scoring)")
    return Found(utt_id, utt_id, talk, sph / f"{talk}.sph", plain(words), rec_id=talk, start=start, end=end)


def plain(words: str) -> str:
    """The words without markup, clitics joined."""
    return CLITIC.sub("'", MARKUP.sub(" ", UTT_NAME.sub(" ", words)))


def seconds(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def centiseconds(time: float) -> str:
    return f"{round(time * 100):07d}"


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
