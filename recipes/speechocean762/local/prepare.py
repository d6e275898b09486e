"""speechocean762 (OpenSLR 101): English sentences read by Mandarin speakers, half of them children, with Kaldi's tables.

speechocean762/                              <- --corpus-dir
    train/  test/                            2,500 utterances of 125 speakers each, no speaker in both
        wav.scp                              000010011 WAVE/SPEAKER0001/000010011.WAV
        text                                 000010011 WE CALL IT BEAR
        utt2spk                              000010011 0001
        spk2age  spk2gender                  0001 6      0001 m
        spk2utt                              not read
    WAVE/SPEAKER0001/000010011.WAV           16 kHz, mono, 16 bit
    scores.json  scores-detail.json  resource/   not read: marks for pronunciation

Some of the tables have a tab between key and value, others a space. Sets, with the tables `age` (years) and `gender` (m, f):

    train  test                              the corpus' own
    train_nodev  train_dev                   train without every tenth speaker, and these
    test_adults  test_children               test by age: from 18 years on, and below

The numbers of an utterance and of its speaker do not begin alike, so ids are made of both: SPEAKER0001-000010011. Where the
file that wav.scp names is not there, one of the same name in another format is taken (000010011.flac).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path

from blsp.base import command
from blsp.data import preparation
from blsp.data.audio import SUFFIXES
from blsp.data.corpus_files import glob, iter_lines, mended
from blsp.data.preparation import Found, Rejected, Sets

ADULT = 18  # years; the corpus has nobody from 16 to 18
DEV_EVERY = 10  # of the training speakers


def parse(corpus_dir: Path) -> Sets:
    train, test = corpus_dir / "train", corpus_dir / "test"
    sets = {split.name: partial(utterances, split) for split in (train, test) if split.is_dir()}
    if train.is_dir():
        people = sorted({spk for spk in table(train / "utt2spk").values() if spk})
        dev = set(people[DEV_EVERY - 1 :: DEV_EVERY])
        if dev:
            sets["train_nodev"] = partial(utterances, train, set(people) - dev)
            sets["train_dev"] = partial(utterances, train, dev)
    if (test / "spk2age").is_file():
        ages = {spk: int(age) for spk, age in table(test / "spk2age").items() if age.isdecimal()}
        adults = {spk for spk, age in ages.items() if age >= ADULT}
        parts = {"test_adults": adults, "test_children": ages.keys() - adults}
        sets |= {name: partial(utterances, test, people) for name, people in parts.items() if people}
    return sets


def utterances(split: Path, people: Container[str] | None = None) -> Iterator[Found | Rejected]:
    """The utterances of a split, then the recordings without transcript; or only the utterances of some speakers."""
    wavs, speakers = table(split / "wav.scp"), table(split / "utt2spk")
    about = {name: table(split / f"spk2{name}") for name in ("age", "gender") if (split / f"spk2{name}").is_file()}
    transcribed = set()
    for utt, text in lines(split / "text"):
        transcribed.add(utt)
        spk = speakers.get(utt)
        if people is not None and spk not in people:
            continue
        if not spk or not wavs.get(utt):
            yield Rejected(utt, f"not in {'wav.scp' if spk else 'utt2spk'}")
            continue
        yield Found(
            name=utt,
            utt_id=f"SPEAKER{spk}-{utt}",
            spk=f"SPEAKER{spk}",
            audio=recording(split.parent / wavs[utt]),
            text=text,
            tables={name: values.get(spk, "") for name, values in about.items()},
        )
    for utt in sorted(wavs.keys() - transcribed) if people is None else ():
        yield Rejected(utt, "no transcript")


def table(path: Path) -> dict[str, str]:
    """A table of the corpus; of a key that is there twice, the first line."""
    found: dict[str, str] = {}
    for key, value in lines(path):
        found.setdefault(key, value)
    return found


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Key and value of each line that is not blank, the value "" where there is none."""
    for line in iter_lines(path):
        if fields := line.split(maxsplit=1):
            yield fields[0], fields[1].strip() if len(fields) == 2 else ""


def recording(path: Path) -> Path:
    """The file that wav.scp names, or the same recording in another format."""
    if path.is_file():
        return path
    others = [other for other in glob(path.parent, "*") if other.stem == path.stem and other.suffix.lower() in SUFFIXES]
    if others:
        mended["recordings in another format than wav.scp names"] += 1
        return others[0]
    return path


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
