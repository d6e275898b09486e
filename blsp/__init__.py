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

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
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


AUTO = "transformers.models.auto.configuration_auto"  # where AutoConfig is
CONFIGURATION = "blsp.model.configuration"  # registers with it


class _WhenAutoConfigComes(MetaPathFinder):
    """Registers the model's configuration right behind the import of AutoConfig, which `import blsp` does not wait for."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(CONFIGURATION)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if AUTO in sys.modules:
    importlib.import_module(CONFIGURATION)
else:
    sys.meta_path.insert(0, _WhenAutoConfigComes())
