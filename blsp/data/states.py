"""Encoder states of a data directory's utterances, kept where `cache_encoder` is on: stages 3 and 4 need not encode again.

states.scp        utt_id ARCHIVE:OFFSET   (n_states, d_model) float16: the valid states of its pieces, one behind the other
utt2num_states    utt_id N [N ...]        of each piece; what fits into the encoder's window is one piece
states.json       what they were made of
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blsp.base.files import InputError, fingerprint, model_fingerprint, read_json
from blsp.data.archives import read_matrix
from blsp.data.data_dir import read_table

if TYPE_CHECKING:
    import torch

NAME, LENGTHS = "states", "utt2num_states"
VERSION = 1  # of what an archive holds; raised where states are computed otherwise than before


def states_settings(folder: Path, encoder: str, padding: str, precision: str) -> dict[str, Any]:
    """What the states of a data directory depend on."""
    features = read_json(folder / "feats.json")["fingerprint"]
    return {"version": VERSION, "features": features, "encoder": model_fingerprint(encoder), "padding": padding,
            "precision": precision}  # fmt: skip


def check_states(folder: Path, encoder: str, padding: str, precision: str) -> None:
    """Raise InputError unless a data directory holds the states of this encoder and of its present features."""
    path = folder / f"{NAME}.json"
    wanted = fingerprint(states_settings(folder, encoder, padding, precision))
    if not path.exists() or read_json(path).get("fingerprint") != wanted:
        raise InputError(f"{path}: is missing or of another encoder, padding, precision or features than {encoder}, {padding},"
                         f" {precision}; run stage 1 with these, or set cache_encoder: false")  # fmt: skip


def read_states(place: str, lengths: str) -> list[torch.Tensor]:
    """States (n, d_model) float16 of each piece of one utterance, as states.scp and utt2num_states have it."""
    import torch

    states = read_matrix(place, "encoder states")
    sizes = [int(n) for n in lengths.split()]
    if states.ndim != 2 or states.dtype != np.float16 or len(states) != sum(sizes):
        raise InputError(f"{place}: does not hold {lengths} encoder states in float16; run stage 1 again")
    return list(torch.from_numpy(states).split(sizes))


def speech_reader(folder: Path, cached: bool) -> Callable[[str], Any]:
    """What reads an utterance's speech for a model: its log-mel features, or the states of its pieces where they are kept."""
    from blsp.data import mel

    if not cached:
        feats = read_table(folder / "feats.scp")
        return lambda utt_id: mel.read_features(feats[utt_id])
    places, lengths = read_table(folder / f"{NAME}.scp"), read_table(folder / LENGTHS)
    return lambda utt_id: read_states(places[utt_id], lengths[utt_id])
