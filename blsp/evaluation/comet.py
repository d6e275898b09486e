"""COMET (Rei et al. 2020), a learned score of translations (Tables 4 and 5), in an environment of its own.

The package needs an older transformers than the toolkit: tools/setup_comet.sh installs it in .venv-comet, where
tools/comet_score.py does the scoring. BLSP_COMET_PYTHON names the Python of another environment that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blsp.base.files import InputError, ends_fingerprint

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-comet"
SET_UP = ROOT / "tools" / "setup_comet.sh"


@dataclass(frozen=True)
class Translations:
    """What is scored together: line i of the three lists belongs together."""

    name: str
    src: list[str]  # transcripts
    mt: list[str]  # hypotheses
    ref: list[str]  # references


def weights(model: str) -> str | None:
    """Fingerprint of the weights in a local folder; None for a name of the hub, which is its own."""
    path = Path(model) / "checkpoints" / "model.ckpt"
    return ends_fingerprint(path) if path.is_file() else None


def scores(sets: Iterable[Translations], model: str, log: Path) -> Iterator[dict[str, Any]]:
    """COMET of each set as soon as it is there: its "name", "comet" (the mean times 100) and "comet_signature".

    `model` is a name of the hub that has been downloaded, or a folder with hparams.yaml and checkpoints/model.ckpt. What COMET
    prints goes to the file `log`. Raises InputError where the environment or the model is missing, or scoring fails.
    """
    python = Path(os.environ.get("BLSP_COMET_PYTHON") or ENVIRONMENT / "bin" / "python")
    half_made = python.is_relative_to(ENVIRONMENT) and not (ENVIRONMENT / "blsp-setup").exists()
    if half_made or not python.exists():
        what = "installs COMET" if Path(model).is_dir() else f"{model} installs COMET and downloads the model"
        raise InputError(f"{python}: is not there, or not all that it needs; {SET_UP} {what}")
    log.parent.mkdir(parents=True, exist_ok=True)
    # These would lead the other Python into this one's packages.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    program = [python, ROOT / "tools" / "comet_score.py", "--model", model]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as texts, open(log, "w", encoding="utf-8") as errors:
        texts.writelines(json.dumps(asdict(s)) + "\n" for s in sets)
        texts.seek(0)
        with subprocess.Popen(
            program, stdin=texts, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8", env=environment
        ) as process:
            try:
                for line in process.stdout:
                    reply = json.loads(line)
                    if "error" in reply:
                        raise InputError(reply["error"])
                    signature = f"model:{model}|precision:fp32|version:{reply['version']}"
                    yield {"name": reply["name"], "comet": 100 * reply["score"], "comet_signature": signature}
            except BaseException:
                process.kill()  # nobody waits for its scores
                raise
    if process.returncode:
        raise InputError(f"tools/comet_score.py ended with status {process.returncode}; see {log}")
