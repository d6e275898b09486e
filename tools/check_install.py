"""Repairs torchaudio beside a torch without CUDA, then imports what the toolkit needs and says what is wrong.

The public torchaudio wheel links CUDA libraries. Every SpeechBrain imports torchaudio; beside a CPU-only torch that fails.
torchaudio itself takes absent extension files for "no extension", and the toolkit uses none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

MODULES = ("torchaudio", "speechbrain", "transformers", "accelerate", "sentencepiece", "kaldiio", "hyperpyyaml", "sacrebleu",
           "jiwer", "tensorboard", "soundfile", "soxr", "whisper_normalizer", "espeakng_loader", "blsp")  # fmt: skip


def disable_torchaudio_extensions() -> None:
    """Rename torchaudio's shared libraries where torch has no CUDA to link them with."""
    import torch

    found = importlib.util.find_spec("torchaudio")
    if torch.version.cuda is not None or found is None or found.origin is None:
        return
    for library in (Path(found.origin).parent / "lib").glob("*.so"):
        library.rename(library.with_suffix(".so.needs-cuda"))


def main() -> None:
    disable_torchaudio_extensions()
    failed = False
    for name in MODULES:
        try:
            importlib.import_module(name)
        except Exception as e:  # whatever an import may raise, the user wants it in one line
            print(f"tools/check_install.py: import {name} fails: {' '.join(str(e).split())[:200]}", file=sys.stderr)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
