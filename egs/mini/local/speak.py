#!/usr/bin/env python3
"""Speaks sentences of the mini world with espeak-ng, in LibriSpeech's native layout.

Writes OUT/LibriSpeech/{SPEAKERS.TXT,CHAPTERS.TXT,SPLIT/READER/CHAPTER/{*.flac,*.trans.txt}}, the references of the tasks
OUT/references/SPLIT/{translation.de,translation.fr,translation.zh,intent,sentiment,question,answer} (lines of `utt_id
value`) and text instructions for the LLM in Alpaca's format, OUT/instructions.json. test-clean has the voices of
train-clean-100; test-other has voices, speeds and pitches that training never has; so has dev-other, with voices of its own.
A run that was killed goes on where it stopped.
"""

import argparse
import hashlib
import json
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from chinese import chinese
from espeak import SAMPLE_RATE, Espeak, EspeakError
from french import french
from instructions import draw_example, draw_question
from tqdm import tqdm
from world import Sentence, sample_sentences

MAX_SECONDS = 3.95  # the mini Whisper hears 4 s
CHAPTER_SIZE = 40  # utterances
SILENCE = 0.125, 0.5  # seconds before the first word and behind the last, at most
ACCENTS = ("en-us", "gmw/en", "en-gb-x-rp")
SEEN_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4"),
    *("Andy", "Annie", "Michael", "Mike", "Alicia", "linda", "steph", "david", "edward", "benjamin"),
)
FEMALE_VARIANTS = ("f1", "f2", "f3", "f4", "f5", "Annie", "Alicia", "linda", "steph", "belinda")
SEEN_VOICES = tuple(f"{accent}+{variant}" for variant in SEEN_VARIANTS for accent in ACCENTS)
UNSEEN_VOICES = ("en-us+m5", "gmw/en+f5", "en-gb-x-rp+m8", "en-us+f5")
UNSEEN_DEV_VOICES = ("en-gb-x-rp+adam", "gmw/en+belinda", "en-us+robert", "gmw/en+pablo")
SEEN_RATES, SEEN_PITCHES = range(180, 221), range(30, 71)
UNSEEN_RATES, UNSEEN_PITCHES = (*range(170, 180), *range(221, 231)), (*range(22, 30), *range(71, 79))


@dataclass(frozen=True)
class Split:
    name: str
    sentences: str  # split of the world
    first_reader: int
    voices: tuple[str, ...]
    rates: tuple[int, ...] | range  # words a minute
    pitches: tuple[int, ...] | range  # 0-99


SPLITS = (
    Split("train-clean-100", "train", 1001, SEEN_VOICES, SEEN_RATES, SEEN_PITCHES),
    Split("dev-clean", "dev", 2001, SEEN_VOICES[::7], SEEN_RATES, SEEN_PITCHES),
    Split("dev-other", "dev", 2501, UNSEEN_DEV_VOICES, UNSEEN_RATES, UNSEEN_PITCHES),
    Split("test-clean", "test", 3001, SEEN_VOICES[::5], SEEN_RATES, SEEN_PITCHES),
    Split("test-other", "test", 4001, UNSEEN_VOICES, UNSEEN_RATES, UNSEEN_PITCHES),
)


@dataclass(frozen=True)
class Utterance:
    utt_id: str
    sentence: Sentence
    voice: str
    rate: int
    pitch: int
    silence: tuple[float, float]  # seconds before the first word and behind the last


@dataclass(frozen=True)
class Chapter:
    """The unit of work: a folder that is whole once its .spoken is there."""

    split: str
    reader: int
    number: int
    utterances: tuple[Utterance, ...]

    @property
    def folder(self) -> str:
        return f"{self.split}/{self.reader}/{self.number}"

    @property
    def transcripts(self) -> str:
        """Upper case, as in LibriSpeech."""
        return "".join(f"{u.utt_id} {u.sentence.text.upper()}\n" for u in self.utterances)

    @property
    def key(self) -> str:
        """Changes with anything of how the chapter is said."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


def plan_split(split: Split, n: int, seed: int) -> list[Chapter]:
    """Deals n sentences out to the split's readers, each of whom reads chapters of CHAPTER_SIZE."""
    rng = random.Random(f"{split.name} {seed}")
    sentences = sample_sentences(split.sentences, n, f"{split.name} {seed}") if n else []
    quiet = random.Random(f"silence {split.name} {seed}")
    chapters = []
    for index, voice in enumerate(split.voices):
        own = sentences[index :: len(split.voices)]
        reader = split.first_reader + index
        for start in range(0, len(own), CHAPTER_SIZE):
            number = reader * 100 + start // CHAPTER_SIZE
            utterances = []
            for i, sentence in enumerate(own[start : start + CHAPTER_SIZE]):
                how = rng.choice(split.rates), rng.choice(split.pitches)
                silence = round(quiet.uniform(0, SILENCE[0]), 3), round(quiet.uniform(0, SILENCE[1]), 3)
                utterances.append(Utterance(f"{reader}-{number}-{i:04d}", sentence, voice, *how, silence))
            chapters.append(Chapter(split.name, reader, number, tuple(utterances)))
    return chapters


def write_atomically(path: Path, text: str) -> None:
    """Writes beside and renames, unless the file says this already."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def speak_chapter(root: Path, chapter: Chapter) -> tuple[str, float]:
    """Speaks what is missing of a chapter; returns its folder and the seconds of audio spoken."""
    espeak = worker_espeak()
    folder = root / chapter.folder
    folder.mkdir(parents=True, exist_ok=True)
    seconds, longest = 0.0, int(MAX_SECONDS * SAMPLE_RATE)
    for utterance in chapter.utterances:
        path = folder / f"{utterance.utt_id}.flac"
        rate = utterance.rate
        while True:
            samples = espeak.speak(utterance.sentence.text, voice=utterance.voice, rate=rate, pitch=utterance.pitch)
            if len(samples) <= longest:
                break
            rate += 15
        before, behind = (int(seconds * SAMPLE_RATE) for seconds in utterance.silence)
        before = min(before, longest - len(samples))
        samples = np.pad(samples, (before, min(behind, longest - len(samples) - before)))
        beside = folder / f".{utterance.utt_id}.{os.getpid()}.flac"
        soundfile.write(beside, samples, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        os.replace(beside, path)
        seconds += len(samples) / SAMPLE_RATE
    write_atomically(folder / f"{chapter.reader}-{chapter.number}.trans.txt", chapter.transcripts)
    write_atomically(folder / ".spoken", chapter.key)
    return chapter.folder, seconds


_ESPEAK: Espeak | None = None  # one for each worker process


def worker_espeak() -> Espeak:
    global _ESPEAK
    if _ESPEAK is None:
        _ESPEAK = Espeak()
    return _ESPEAK


def is_spoken(root: Path, chapter: Chapter) -> bool:
    done = root / chapter.folder / ".spoken"
    return done.is_file() and done.read_text(encoding="utf-8") == chapter.key


def clear_other_chapters(root: Path, chapters: list[Chapter]) -> None:
    """Removes what an earlier run with other settings spoke: chapters that are said otherwise now or are not planned."""
    planned = {chapter.folder: chapter for chapter in chapters}
    for transcripts in root.glob("*/*/*/*.trans.txt"):
        folder = transcripts.parent
        chapter = planned.get(str(folder.relative_to(root)))
        if chapter is None or not is_spoken(root, chapter):
            (folder / ".spoken").unlink(missing_ok=True)  # first: a folder without it is known to be unfinished
            for path in (*folder.glob("*.flac"), transcripts):
                path.unlink()
            if chapter is None:
                folder.rmdir()


def write_tables(out: Path, chapters: list[Chapter], n_instructions: int, seed: int) -> None:
    """Writes what describes the corpus, the references of the tasks and the LLM's instructions."""
    readers = {chapter.reader: chapter for chapter in chapters}
    lines = ["; Synthetic: NAME is an espeak-ng voice", ";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for reader, chapter in sorted(readers.items()):
        voice = chapter.utterances[0].voice
        sex = "F" if voice.partition("+")[2] in FEMALE_VARIANTS else "M"
        size = sum(len(c.utterances) for c in chapters if c.reader == reader)
        lines.append(f"{reader:<5}| {sex} | {chapter.split:<17}| {size * 2.3 / 60:<6.2f}| {voice}")
    write_atomically(out / "LibriSpeech" / "SPEAKERS.TXT", "\n".join(lines) + "\n")
    lines = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"]
    for chapter in sorted(chapters, key=lambda c: c.number):
        minutes = len(chapter.utterances) * 2.3 / 60
        lines.append(f"{chapter.number:<7}| {chapter.reader:<5}| {minutes:<6.2f}| {chapter.split:<17}| 0 | 0 | - | mini world")
    write_atomically(out / "LibriSpeech" / "CHAPTERS.TXT", "\n".join(lines) + "\n")
    for split in {chapter.split for chapter in chapters}:
        sentences = {u.utt_id: u.sentence for c in chapters if c.split == split for u in c.utterances}
        asked = {utt_id: draw_question(sentence, random.Random(utt_id)) for utt_id, sentence in sentences.items()}
        tables = {
            "translation.de": {utt_id: sentence.german for utt_id, sentence in sentences.items()},
            "translation.fr": {utt_id: french(sentence) for utt_id, sentence in sentences.items()},
            "translation.zh": {utt_id: chinese(sentence) for utt_id, sentence in sentences.items()},
            "intent": {utt_id: sentence.intent for utt_id, sentence in sentences.items()},
            "sentiment": {utt_id: sentence.sentiment for utt_id, sentence in sentences.items()},
            "question": {utt_id: question for utt_id, (question, _) in asked.items()},
            "answer": {utt_id: answer for utt_id, (_, answer) in asked.items()},
        }
        for name, table in tables.items():
            write_atomically(out / "references" / split / name, "".join(sorted(f"{u} {value}\n" for u, value in table.items())))
    rng = random.Random(seed)
    examples = [draw_example(s, rng) for s in sample_sentences("train", n_instructions, f"alpaca {seed}")]
    alpaca = [{"instruction": e.instruction, "input": e.content, "output": e.response} for e in examples]
    write_atomically(out / "instructions.json", json.dumps(alpaca, indent=1, ensure_ascii=False) + "\n")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that is written")
    parser.add_argument("--train", type=int, default=8000, help="utterances of train-clean-100")
    parser.add_argument("--dev", type=int, default=200, help="utterances of dev-clean and of dev-other each")
    parser.add_argument("--test", type=int, default=400, help="utterances of test-clean and of test-other each")
    parser.add_argument("--instructions", type=int, default=10000, help="text instructions in instructions.json")
    parser.add_argument("--seed", type=int, default=2, help="of the sentences; those of the tiny Whisper are of seed 1")
    parser.add_argument("--nj", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    for name in ("train", "dev", "test", "instructions"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is at least 1")
    return args


def main() -> None:
    args = parse_args()
    sizes = {"train": args.train, "dev": args.dev, "test": args.test}
    chapters = [chapter for split in SPLITS for chapter in plan_split(split, sizes[split.sentences], args.seed)]
    root = args.out / "LibriSpeech"
    clear_other_chapters(root, chapters)
    missing = [chapter for chapter in chapters if not is_spoken(root, chapter)]
    n_utterances = sum(len(chapter.utterances) for chapter in missing)
    with (
        ProcessPoolExecutor(max(1, min(args.nj, len(missing)))) as pool,
        tqdm(total=n_utterances, unit="utt", disable=None, desc="speaking") as bar,
    ):
        futures = [pool.submit(speak_chapter, root, chapter) for chapter in missing]
        seconds = 0.0
        for future, chapter in zip(futures, missing, strict=True):
            seconds += future.result()[1]
            bar.update(len(chapter.utterances))
    write_tables(args.out, chapters, args.instructions, args.seed)
    total = sum(len(chapter.utterances) for chapter in chapters)
    print(f"{args.out}: {total} utterances, {n_utterances} of them spoken now ({seconds / 3600:.2f} h)")


if __name__ == "__main__":
    try:
        main()
    except (OSError, EspeakError, ValueError) as error:
        sys.exit(f"speak.py: {error}")
