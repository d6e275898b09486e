"""The encoder's states of whole data directories, kept for the trainings and decodings to come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blsp.base import command
from blsp.base.files import InputError, fingerprint
from blsp.data import mel, states
from blsp.data.archives import Archives
from blsp.data.data_dir import read_table
from blsp.model.blsp import choose_dtype
from blsp.model.encoder import SpeechEncoder, cut

BLOCK = 100  # utterances in one archive: what a killed run loses at most, per process
BATCH = 16  # utterances, and pieces of them, that are encoded at once
log = command.logger("encode")


def encode_all(shard: int, n_shards: int, device: str, jobs: list[tuple[Path, dict[str, Any]]], config: dict[str, Any]) -> None:
    """Encode this shard's blocks of each data directory; the last shard to finish one joins its tables."""
    dtype = choose_dtype(config["precision"], device)
    encoder = SpeechEncoder.from_pretrained(config["encoder"], config["encoder_padding"], dtype).to(device)
    for folder, settings in jobs:
        places = read_table(folder / "feats.scp")
        utt_ids = list(places)
        blocks = [utt_ids[i : i + BLOCK] for i in range(0, len(utt_ids), BLOCK)]
        archives = Archives(folder, states.NAME, fingerprint(settings), len(blocks))
        mine = [i for i in range(shard, len(blocks), n_shards) if not archives.has(i)]
        for i in command.progress(mine, len(mine), f"{folder.name}: encoder states", "block"):
            archives.write(i, encode(encoder, {u: places[u] for u in blocks[i]}, device), write_function="numpy")
        if archives.publish(states.LENGTHS, settings):
            log.info(f"{folder}: encoder states of {len(utt_ids)} utterances written")


@torch.inference_mode()
def encode(encoder: SpeechEncoder, places: dict[str, str], device: str) -> Iterator[tuple[str, np.ndarray, str]]:
    """places: utterance -> its features. Yields (utt_id, states (n, d_model) float16, n of each piece)."""
    features = {utt_id: mel.read_features(place) for utt_id, place in places.items()}
    longest_first = sorted(features, key=lambda utt_id: -len(features[utt_id]))  # the shorter, the less `batch` pads
    for begin in range(0, len(longest_first), BATCH):
        batch = longest_first[begin : begin + BATCH]
        cuts = [cut(features[utt_id].to(device), encoder.window) for utt_id in batch]
        pieces = [piece for of_one in cuts for piece in of_one]
        encoded: list[np.ndarray] = []
        for i in range(0, len(pieces), BATCH):
            rows, n_states = encoder(pieces[i : i + BATCH])
            rows = rows.to("cpu", torch.float16)
            encoded += [row[:n].numpy() for row, n in zip(rows, n_states.tolist(), strict=True)]
        of_all = iter(encoded)
        for utt_id, of_one in zip(batch, cuts, strict=True):
            parts = [next(of_all) for _ in of_one]
            joined = np.concatenate(parts)
            if not np.isfinite(joined).all():
                raise InputError(f"utterance '{utt_id}': an encoder state is beyond float16; set cache_encoder: false")
            yield utt_id, joined, " ".join(str(len(part)) for part in parts)
