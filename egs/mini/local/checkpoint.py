"""The state of a training run in the model's folder: one that was killed goes on, one that has ended is not done again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch


class Checkpoint:
    """settings: whatever the run depends on; a checkpoint of other settings is not taken up."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.path, self.end = folder / ".training.pt", folder / ".finished"
        told = sorted((key, str(value)) for key, value in settings.items() if key not in ("out", "cache", "threads"))
        self.settings = hashlib.sha256(repr(told).encode()).hexdigest()

    def load(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        state = torch.load(self.path)
        return state if state.pop("settings") == self.settings else None

    def save(self, state: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        torch.save({**state, "settings": self.settings}, beside)
        os.replace(beside, self.path)

    def is_finished(self) -> bool:
        return self.end.is_file() and json.loads(self.end.read_text()) == {"settings": self.settings}

    def finish(self) -> None:
        """Says that the model is whole."""
        self.end.write_text(json.dumps({"settings": self.settings}) + "\n")
        self.path.unlink(missing_ok=True)
