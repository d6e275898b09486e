"""BLSP: bootstrapping language-speech pre-training via behavior alignment.

Seven rooms on five floors. Imports go only downward, and the three rooms in the middle do not know one another; programs
never import one another, they meet in files (tests/test_layers.py reads this from the folders):

    bin                              the programs, one a stage
    training  evaluation  qa         what is learned; answers and scores; an LLM that asks and judges
    model                            the parts and the model
    data                             corpora, Kaldi data directories, audio, log-mel, normal forms of text
    base                             what every program stands on
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blsp.model.blsp import BLSP

__all__ = ["BLSP"]


def __getattr__(name: str) -> Any:
    """`from blsp import BLSP` loads the model's code and torch; `import blsp` does not."""
    if name == "BLSP":
        from blsp.model.blsp import BLSP

        return BLSP
    raise AttributeError(f"module 'blsp' has no attribute '{name}'")
