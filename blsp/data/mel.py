"""Log-mel features, equal to Whisper's, stored without padding.

Whisper counts ceil(n_samples / 160) frames of an utterance as valid: they become encoder states. The one or two frames behind
them still see its last samples. They are an echo of speech, not silence, and Whisper's convolutions read them; so the features
of an utterance are its valid frames and ECHO more.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from blsp.data.archives import read_matrix
from blsp.data.audio import SAMPLE_RATE  # 16000 Hz

N_FFT = 400  # samples: a window of 25 ms
HOP_LENGTH = 160  # samples: 10 ms per feature frame
ECHO = 2  # frames: half of a window, 12.5 ms, reaches less than two frames behind the last valid one
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH
DYNAMIC_RANGE = 8.0  # log10 units that Whisper keeps below an utterance's maximum
FLOOR = -10.0  # log10 of the smallest mel energy, 1e-10


@lru_cache
def mel_filters(n_mels: int) -> torch.Tensor:
    """(n_mels, N_FFT / 2 + 1) triangular filters on Slaney's mel scale, 0 to 8 kHz."""
    filters = mel_filter_bank(N_FFT // 2 + 1, n_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters.T.astype(np.float32))


def log_mel(audio: np.ndarray, n_mels: int, window: float) -> np.ndarray:
    """Whisper's scaled log-mel spectrogram of an utterance.

    audio: (n_samples,) float32 at 16 kHz, not longer than `window` seconds.
    Returns (n_frames + ECHO, n_mels) float32, n_frames = ceil(n_samples / 160); pad() restores the rest of the window. Together
    they equal WhisperFeatureExtractor(feature_size=n_mels, chunk_length=window), which transforms the whole padded window.
    """
    n_samples, n_window = len(audio), round(window * SAMPLE_RATE)
    assert n_samples <= n_window, f"{n_samples} samples are longer than the window of {window} s"
    n_rows = math.ceil(n_samples / HOP_LENGTH) + ECHO
    n_seen = min(n_rows, n_window // HOP_LENGTH)  # of frames behind the window's end Whisper has none
    # Zeros so far that the reflection at the end of the transform touches none of the frames kept,
    # unless the window itself ends there.
    n_padded = min(n_seen * HOP_LENGTH + N_FFT, n_window)
    signal = torch.zeros(max(n_padded, N_FFT))
    signal[:n_samples] = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    stft = torch.stft(signal, N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), return_complex=True)
    power = stft[:, :n_seen].abs().square()
    log10 = (mel_filters(n_mels) @ power).clamp(min=10**FLOOR).log10()
    log10 = log10.maximum(log10.max() - DYNAMIC_RANGE)
    features = ((log10 + 4.0) / 4.0).T
    return torch.cat([features, silence(features).expand(n_rows - n_seen, n_mels)]).contiguous().numpy()


def valid_frames(features: torch.Tensor) -> int:
    """n_frames of an utterance's features (n_frames + ECHO, n_mels)."""
    return len(features) - ECHO


def silence(features: torch.Tensor) -> torch.Tensor:
    """The value that Whisper's extractor gives to digital silence behind an utterance.

    features: (n, n_mels), scaled. Returns a scalar: the maximum minus 8 in log10, not under log10 of 1e-10.
    """
    return (features.max() - DYNAMIC_RANGE / 4.0).clamp(min=(FLOOR + 4.0) / 4.0)


def read_features(place: str) -> torch.Tensor:
    """(n_frames + ECHO, n_mels) float32 of one utterance; `place` as feats.scp has it: archive:offset."""
    return torch.from_numpy(np.array(read_matrix(place, "features"), dtype=np.float32))


def pad(utterances: list[torch.Tensor], n_frames: int) -> torch.Tensor:
    """Stack features of (n_i, n_mels) to (B, n_frames, n_mels), filled up with silence, each with its own, or cut to it."""
    padded = torch.stack([silence(features).expand(n_frames, features.shape[1]) for features in utterances])
    padded = padded.contiguous()
    for row, features in zip(padded, utterances, strict=True):
        row[: len(features)] = features[:n_frames]
    return padded
