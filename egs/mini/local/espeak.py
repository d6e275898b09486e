"""espeak-ng through ctypes: text to 16 kHz samples. The library and its voices come with the wheel espeakng-loader."""

import ctypes
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

SAMPLE_RATE = 16000  # Hz
SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to the callback; the mode RETRIEVAL polls a thread, 8 times slower
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
CHARS_UTF8 = 1
SILENCE = 0.01  # of the largest amplitude
MARGIN = 0.03  # seconds kept around the speech

# short *wav, number of samples, events -> 0 to go on
SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class EspeakError(RuntimeError):
    """espeak-ng refused something; the message says what."""


class Espeak:
    """One process may hold one of these: the library has global state."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self.data = Path(espeakng_loader.get_data_path())
        self.native_rate = self.lib.espeak_Initialize(SYNCHRONOUS, 0, str(self.data).encode(), 0)
        if self.native_rate <= 0:
            raise EspeakError(f"espeak_Initialize failed with {self.native_rate} on {self.data}")
        self.chunks: list[np.ndarray] = []
        self.callback = SynthCallback(self.collect)  # kept: the library holds only its address
        self.lib.espeak_SetSynthCallback(self.callback)

    def collect(self, samples, n_samples: int, events) -> int:
        if samples and n_samples > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, shape=(n_samples,)).copy())
        return 0

    def set_voice(self, voice: str) -> None:
        """voice is `language+variant`. The library would silently take its default for an unknown variant."""
        variant = voice.partition("+")[2]
        if not (self.data / "voices" / "!v" / variant).is_file():
            raise EspeakError(f"espeak-ng has no voice variant {variant!r}")
        self.check("espeak_SetVoiceByName", self.lib.espeak_SetVoiceByName(voice.encode()), voice)

    def speak(self, text: str, *, voice: str, rate: int, pitch: int) -> np.ndarray:
        """Returns float32 samples (n,) at SAMPLE_RATE, trimmed of silence; rate in words a minute, pitch 0-99."""
        self.set_voice(voice)
        for parameter, value in ((RATE, rate), (PITCH, pitch)):
            self.check("espeak_SetParameter", self.lib.espeak_SetParameter(parameter, value, 0), str(value))
        self.chunks = []
        data = text.encode() + b"\0"
        code = self.lib.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, CHARS_UTF8, None, None)
        self.check("espeak_Synth", code, text)
        self.check("espeak_Synchronize", self.lib.espeak_Synchronize(), text)
        if not self.chunks:
            raise EspeakError(f"espeak-ng said nothing for {text!r}")
        samples = np.concatenate(self.chunks).astype(np.float32) / 32768
        return trim(soxr.resample(samples, self.native_rate, SAMPLE_RATE))

    @staticmethod
    def check(function: str, code: int, argument: str) -> None:
        if code != 0:
            raise EspeakError(f"{function} returned {code} for {argument!r}")


def trim(samples: np.ndarray) -> np.ndarray:
    """Cuts silence off both ends."""
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    margin = int(MARGIN * SAMPLE_RATE)
    return samples[max(0, loud[0] - margin) : loud[-1] + 1 + margin]
