"""What the folders and hub names of pretrained models say of themselves, without loading a model."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from blsp.base.files import InputError, read_json

PATIENCE = 5.0  # seconds that the hub has to answer


def pretrained_config(name: str | Path) -> dict[str, Any] | None:
    """The config.json of a model's folder or hub name; None where there is none to be read, as without network."""
    if Path(name).is_dir():
        path = Path(name) / "config.json"
        config = read_json(path) if path.exists() else None
    else:
        config = _of_hub(str(name))
    return config if isinstance(config, dict) else None


@lru_cache
def _of_hub(name: str) -> Any:
    """Asks the hub once, unless its answer is kept from an earlier time: hf_hub_download() tries for half a minute."""
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers

    try:
        if isinstance(path := try_to_load_from_cache(name, "config.json"), str):
            return read_json(path)
        url = hf_hub_url(name, "config.json")
        answer = get_session().get(url, headers=build_hf_headers(), timeout=PATIENCE, follow_redirects=True)
        return answer.raise_for_status().json()
    except Exception:  # no network, no such model, no valid name: whoever loads the model will say so
        return None


def part_of(folder: Path, name: str) -> str:
    """Where a frozen part is that the config.json in `folder` names: "./" is beside it, anything else stands for itself."""
    return os.path.normpath(folder / name) if name.startswith("./") else name


def check_mel_bins(encoder: str | Path, n_mels: int | None, origin: str | Path) -> None:
    """Raise InputError if a Whisper's encoder takes other mel bins than `origin`, a configuration or features, has.

    Passes where either number is not known.
    """
    wanted = (pretrained_config(encoder) or {}).get("num_mel_bins")
    if wanted and n_mels and wanted != n_mels:
        raise InputError(f"{origin}: n_mels is {n_mels}, but the encoder {encoder} wants {wanted} mel bins;"
                         f" set n_mels: {wanted} and run from stage 1")  # fmt: skip
