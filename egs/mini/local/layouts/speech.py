"""What all layouts share: who says which sentences of the world, and the audio file that this becomes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from espeak import SAMPLE_RATE
from lexicon import ENGLISH, Lexicon
from speak import (
    FEMALE_VARIANTS,
    SEEN_PITCHES,
    SEEN_RATES,
    SEEN_VOICES,
    UNSEEN_PITCHES,
    UNSEEN_RATES,
    UNSEEN_VOICES,
    worker_espeak,
)
from world import Sentence, stream_sentences

MAX_SECONDS = 3.7  # of one utterance: the mini Whisper hears 4 s, and an mp3 is 0.05 s longer than what went in
MARGIN = 0.05  # seconds of a pause that a segment takes in on either side
CODECS = {  # suffix -> format and subtype of libsndfile
    ".flac": ("FLAC", "PCM_16"),
    ".wav": ("WAV", "PCM_16"),
    ".sph": ("NIST", "PCM_16"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


@dataclass(frozen=True)
class Part:
    """A part of the world: sentences of one split, and those who say them."""

    sentences: str
    voices: tuple[str, ...]
    rates: Sequence[int]  # words a minute
    pitches: Sequence[int]  # 0-99


# No sentence of "test" is in another part, nor a voice, speed or pitch.
PARTS = {
    "train": Part("train", SEEN_VOICES, SEEN_RATES, SEEN_PITCHES),
    "dev": Part("dev", SEEN_VOICES[::4], SEEN_RATES, SEEN_PITCHES),
    "test": Part("test", UNSEEN_VOICES, UNSEEN_RATES, UNSEEN_PITCHES),
}


@dataclass(frozen=True)
class Spoken:
    """A sentence and how it is said."""

    sentence: Sentence
    words: str  # what the synthesizer reads: the sentence, in whatever language
    voice: str
    rate: int
    pitch: int


@dataclass(frozen=True)
class Recording:
    """One audio file. The suffix of its path says in which codec."""

    split: str  # of the corpus
    path: str  # in the corpus' folder
    spoken: tuple[Spoken, ...]
    pauses: tuple[float, ...]  # seconds before each of them, and after the last
    gaps: tuple[str, ...] = ()  # what is heard in each pause: silence (where this is empty), noise or music
    sample_rate: int = SAMPLE_RATE


Times = list[tuple[float, float]]  # start and end of each utterance of a recording, seconds


def draw(
    part: str,
    n: int,
    seed: str,
    per_voice: int = 1,
    words: Callable[[Sentence], str] = lambda sentence: sentence.text,
    accent: str = "",
    lexicon: Lexicon = ENGLISH,
) -> list[tuple[Spoken, ...]]:
    """Groups of `per_voice` utterances that one voice says, n utterances in all, every sentence once.

    `words` gives what is read aloud; `accent` replaces that of the voices; `lexicon` has the sentences' words.
    """
    people = PARTS[part]
    rng = random.Random(f"{seed} {part}")
    found: dict[Sentence, str] = {}
    for sentence in stream_sentences(people.sentences, f"{seed} {part}", lexicon):
        if len(found) == n:
            break
        found[sentence] = words(sentence)
    sentences = list(found.items())
    groups = []
    for number, start in enumerate(range(0, n, per_voice)):
        voice = people.voices[number % len(people.voices)]
        voice = f"{accent}+{voice.partition('+')[2]}" if accent else voice
        groups.append(
            tuple(
                Spoken(sentence, said, voice, rng.choice(people.rates), rng.choice(people.pitches))
                for sentence, said in sentences[start : start + per_voice]
            )
        )
    return groups


def long_recording(split: str, path: str, group: tuple[Spoken, ...], rng: random.Random, **more: object) -> Recording:
    """A talk: a longer pause at either end, shorter ones between."""
    between = [round(rng.uniform(0.4, 0.9), 2) for _ in group[1:]]
    return Recording(split, path, group, (1.0, *between, 1.0), **more)


def clip(split: str, path: str, spoken: Spoken, sample_rate: int = SAMPLE_RATE) -> Recording:
    """One utterance with next to nothing around it."""
    return Recording(split, path, (spoken,), (0.05, 0.05), sample_rate=sample_rate)


def write_recording(root: Path, recording: Recording) -> Times:
    """Speak a recording into its file; the file is whole or absent."""
    gaps = recording.gaps or ("silence",) * len(recording.pauses)
    pieces, times, at = [], [], 0
    for pause, gap, spoken in zip(recording.pauses, gaps, (*recording.spoken, None), strict=True):
        pieces.append(filler(gap, round(pause * SAMPLE_RATE)))
        at += len(pieces[-1])
        if spoken is None:
            break
        pieces.append(utter(spoken))
        start, at = at, at + len(pieces[-1])
        times.append((start / SAMPLE_RATE, at / SAMPLE_RATE))
    samples = np.concatenate(pieces)
    if recording.sample_rate != SAMPLE_RATE:
        samples = soxr.resample(samples, SAMPLE_RATE, recording.sample_rate)
    path = root / recording.path
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    container, subtype = CODECS[path.suffix.lower()]
    with soundfile.SoundFile(beside, "w", recording.sample_rate, 1, subtype, format=container) as f:
        for block in range(0, len(samples), recording.sample_rate):  # libsndfile's Ogg writer overflows on large blocks
            f.write(samples[block : block + recording.sample_rate])
    os.replace(beside, path)
    return times


def utter(spoken: Spoken) -> np.ndarray:
    """Samples (n,) of an utterance; said faster where it would not fit into the window."""
    rate = spoken.rate
    while True:
        samples = worker_espeak().speak(spoken.words, voice=spoken.voice, rate=rate, pitch=spoken.pitch)
        if len(samples) <= MAX_SECONDS * SAMPLE_RATE:
            return samples
        rate += 15


def filler(gap: str, n_samples: int) -> np.ndarray:
    """Samples (n,) of what is heard where nobody speaks."""
    time = np.arange(n_samples) / SAMPLE_RATE
    if gap == "noise":
        return np.random.default_rng(n_samples).normal(0, 0.03, n_samples).astype(np.float32)
    if gap == "music":
        return (0.1 * sum(np.sin(2 * np.pi * pitch * time) for pitch in (220, 277.2, 329.6))).astype(np.float32)
    return np.zeros(n_samples, np.float32)


def segment(times: tuple[float, float], digits: int = 2) -> tuple[float, float]:
    """Start and end of an utterance as a corpus writes them: with a little of the pauses around."""
    return round(times[0] - MARGIN, digits), round(times[1] + MARGIN, digits)


def cased(words: str) -> str:
    """As people write: a capital at the beginning, a full stop at the end."""
    return f"{words[0].upper()}{words[1:]}."


def gender(voice: str) -> str:
    return "female" if voice.partition("+")[2] in FEMALE_VARIANTS else "male"
