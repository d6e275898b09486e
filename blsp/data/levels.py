"""How loud the channels of a recording are: samples of another scale, and channels that cancel out when they are averaged."""

from __future__ import annotations

import numpy as np

LOUDEST = 16.0  # times full scale; a mix of floats may pass 1.0, but 24 dB above it are integers of another scale
WINDOW = 0.25  # seconds over which energies are compared
LOUD = 1e-4  # of the loudest window's energy (-40 dB): quieter windows have no say
CANCELLED = 0.1  # of the channels' energy is left in their mean (-10 dB); unrelated channels leave 0.5, one dead channel too
SHARE = 0.05  # of the loud windows that may cancel out
DEAD = 1e-6  # of the loudest channel's energy (-60 dB)


class Levels:
    """Collects energies block by block, in memory of one number a window."""

    def __init__(self, rate: int, channels: int, floats: bool):
        self.size = max(1, round(WINDOW * rate))  # frames in a window
        self.channels, self.floats = channels, floats
        self.peak, self.whole_numbers, self.finite = 0.0, True, True
        self.energy = np.zeros(channels)  # of each channel
        self.windows: list[np.ndarray] = []  # (n, 2): mean energy of the channels, energy of their mean

    def add(self, block: np.ndarray) -> None:
        """block: float32 (n_frames, channels)."""
        if self.floats:
            self.finite = self.finite and bool(np.isfinite(block).all())
            if not self.finite:
                return
            self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
            self.whole_numbers = self.whole_numbers and bool((block == np.rint(block)).all())
        if self.channels == 1:
            return
        mean = block.mean(axis=1)
        starts = np.arange(0, len(block), self.size)
        squares = np.square(block, dtype=np.float64)
        self.energy += squares.sum(axis=0)
        pair = (squares.mean(axis=1), np.square(mean, dtype=np.float64))
        self.windows.append(np.stack([np.add.reduceat(x, starts) for x in pair], axis=1))

    def fault(self) -> str | None:
        """Why the samples cannot be used."""
        if not self.finite:
            return "undecodable audio: samples that are not finite"
        if self.peak > LOUDEST or (self.peak > 1 and self.whole_numbers):
            return f"samples of another scale: floats up to {self.peak:.0f}, not 1; divide them by the integers' full scale"
        if cancelled := self._cancelled():
            return (
                f"channels in antiphase: {cancelled:.0%} of the sound cancels out when they are averaged; "
                "turn the sign of a channel, or keep one"
            )
        return None

    def remark(self) -> str | None:
        """What is odd but usable."""
        if self.channels > 1 and self.energy.min() <= DEAD * self.energy.max() and self.energy.max() > 0:
            return "files with a dead channel, at half level or less"
        return None

    def _cancelled(self) -> float:
        """The share of loud windows that cancel out, 0 where it is small."""
        if not self.windows:
            return 0.0
        windows = np.concatenate(self.windows)
        loud = windows[windows[:, 0] > LOUD * windows[:, 0].max()]
        share = float((loud[:, 1] < CANCELLED * loud[:, 0]).mean()) if len(loud) else 0.0
        return share if share > SHARE else 0.0
