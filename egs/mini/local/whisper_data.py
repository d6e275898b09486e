"""Speech in the layouts of LibriSpeech and Common Voice to tensors: features of a 4 s window, token ids, characters."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import WhisperFeatureExtractor, WhisperTokenizer

SAMPLE_RATE = 16000  # Hz
WINDOW = 4  # seconds
N_MELS = 80
EOT, SOT, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
TRANSCRIBE, TRANSLATE = "<|transcribe|>", "<|translate|>"
LANGUAGES = ("en", "de")
SPECIALS = (
    EOT,
    SOT,
    *(f"<|{language}|>" for language in LANGUAGES),
    TRANSLATE,
    TRANSCRIBE,
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    NO_TIMESTAMPS,
)
CHARACTERS = " abcdefghijklmnopqrstuvwxyz'äöüß"  # 0 is CTC's blank, so these count from 1


@dataclass(frozen=True)
class Recording:
    utt_id: str
    path: Path
    text: str  # lower case, no punctuation
    language: str = "en"


def read_clips(table: Path, language: str) -> list[Recording]:
    """Reads a split of Common Voice: the clips that train.tsv, dev.tsv or test.tsv lists."""
    columns, *rows = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines())
    recordings = []
    for row in rows:
        clip = dict(zip(columns, row, strict=True))
        path = table.parent / "clips" / f"{clip['path']}.mp3"
        recordings.append(Recording(clip["path"], path, clip["sentence"].rstrip(".").lower(), language))
    return recordings


def read_split(folder: Path) -> list[Recording]:
    """Reads a split of LibriSpeech in the order of its utterance ids."""
    recordings = []
    for transcripts in folder.glob("*/*/*.trans.txt"):
        for line in transcripts.read_text(encoding="utf-8").splitlines():
            utt_id, text = line.split(" ", 1)
            recordings.append(Recording(utt_id, transcripts.parent / f"{utt_id}.flac", text.lower()))
    if not recordings:
        raise FileNotFoundError(f"{folder} holds no READER/CHAPTER/*.trans.txt; run speak.py first")
    return sorted(recordings, key=lambda recording: recording.utt_id)


def feature_extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=N_MELS, sampling_rate=SAMPLE_RATE, chunk_length=WINDOW)


def extract_features(recordings: list[Recording], cache: Path | None = None) -> torch.Tensor:
    """Log-mel features (N, 80, 400) in float16; kept in the folder `cache`, if there is one, for the next run."""
    signature = hashlib.sha256("".join(f"{r.path} {r.text} {r.path.stat().st_mtime}\n" for r in recordings).encode())
    kept = cache / f"features-{signature.hexdigest()[:16]}.pt" if cache else None
    if kept and kept.is_file():
        return torch.load(kept)
    extractor = feature_extractor()
    features = torch.empty(len(recordings), N_MELS, WINDOW * 100, dtype=torch.float16)
    for start in tqdm(range(0, len(recordings), 64), desc="features", unit="batch", disable=None):
        audio = [read_audio(r.path) for r in recordings[start : start + 64]]
        for recording, samples in zip(recordings[start : start + 64], audio, strict=True):
            if len(samples) > WINDOW * SAMPLE_RATE:
                raise ValueError(f"{recording.path} is longer than {WINDOW} s")
        batch = extractor(audio, sampling_rate=SAMPLE_RATE, return_tensors="np", device="cpu").input_features
        features[start : start + len(audio)] = torch.from_numpy(np.asarray(batch)).half()
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(features, kept)
    return features


def read_audio(path: Path) -> np.ndarray:
    """Samples (n,) at SAMPLE_RATE."""
    samples, rate = soundfile.read(path, dtype="float32")
    return samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE)


def train_tokenizer(texts: list[str]) -> WhisperTokenizer:
    """A byte-level BPE tokenizer in which each word of the texts is one token, with Whisper's special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator((" " + text for text in texts), trainer)
    vocab = bpe.get_vocab()
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    for special in SPECIALS:
        vocab[special] = len(vocab)
    tokenizer = WhisperTokenizer(vocab=vocab, merges=merges, pad_token=EOT)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS[1:])})
    return tokenizer


def token_targets(tokenizer: WhisperTokenizer, recordings: list[Recording]) -> torch.Tensor:
    """Decoder sequences (N, T): SOT, language, task, no timestamps, words, EOT; -100 past the end."""
    ids = tokenizer.convert_tokens_to_ids
    rows = []
    for recording in recordings:
        head = [SOT, f"<|{recording.language}|>", TRANSCRIBE, NO_TIMESTAMPS]
        rows.append([*ids(head), *tokenizer.encode(" " + recording.text, add_special_tokens=False), ids(EOT)])
    targets = torch.full((len(rows), max(map(len, rows))), -100)
    for i, row in enumerate(rows):
        targets[i, : len(row)] = torch.tensor(row)
    return targets


def character_targets(texts: list[str]) -> list[torch.Tensor]:
    return [torch.tensor([CHARACTERS.index(character) + 1 for character in text]) for text in texts]
