"""Stage 1: log-mel features of every set, as Kaldi archives.

reads   DATA_DIR/SET/{wav.scp,segments,...}
writes  DATA_DIR/SET/{feats.scp,utt2num_frames,feats.json} and DATA_DIR/SET/feats/*.ark
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blsp.base import command
from blsp.base.config import load_config, program_arguments, require
from blsp.base.files import InputError, fingerprint
from blsp.base.pretrained import check_mel_bins
from blsp.data import audio, mel
from blsp.data.archives import Archives
from blsp.data.data_dir import Utterance, read_data_dir
from blsp.data.tasks import present_sets

BLOCK = 500  # utterances in one archive, or those of one recording that has more: what a killed run loses at most, per process
VERSION = 3  # of what an archive holds; raised where features are computed otherwise than before
LOSSY = 2  # kaldiio's compression method "kSpeechFeature": 8 bits, per-column quantiles
log = command.logger("features")


def main() -> None:
    args = program_arguments("blsp.bin.features", __doc__, "nj").parse_args()
    config = load_config(args.config, args.overrides)
    require(config, "encoder", "train_sets", "dev_sets", "test_sets", "n_mels", "window", "compress_features")
    check_mel_bins(config["encoder"], config["n_mels"], args.config)
    test_sets = present_sets(args.data_dir, config["test_sets"])
    for name in dict.fromkeys([*config["train_sets"], *config["dev_sets"], *test_sets]):
        extract(args.data_dir / name, config["n_mels"], config["window"], config["compress_features"], args.nj)


def extract(folder: Path, n_mels: int, window: float, compress: bool, nj: int) -> None:
    """Features of one data directory, unless they are there already."""
    utterances = read_data_dir(folder)
    files = _files({str(u.wav) for u in utterances})
    inputs = [(u.utt_id, wav, u.start, u.end, *files[wav]) for u in utterances if (wav := str(u.wav)) in files]
    settings = {"version": [VERSION, audio.VERSION], "n_mels": n_mels, "window": window, "compress": compress}
    done = fingerprint([settings, inputs])
    blocks = list(_blocks(utterances))
    archives = Archives(folder, "feats", done, len(blocks))
    if archives.is_published():
        log.info(f"{folder}: features of {len(utterances)} utterances are there")
        return
    archives.withdraw()
    jobs = [(archives, i, block, settings) for i, block in enumerate(blocks) if not archives.has(i)]
    with ProcessPoolExecutor(max(1, min(nj, len(jobs))), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in command.progress(pool.map(_extract_block, jobs), len(jobs), f"{folder.name}: features", "block"):
            pass
    archives.publish("utt2num_frames", settings)
    log.info(f"{folder}: features of {len(utterances)} utterances written")


def _files(paths: set[str]) -> dict[str, tuple[int, int]]:
    """Size in bytes and modification time in ns of those files that are there."""
    found = {}
    for path in paths:
        with suppress(OSError):  # it is named when it is read
            status = os.stat(path)
            found[path] = status.st_size, status.st_mtime_ns
    return found


def _blocks(utterances: list[Utterance]) -> Iterator[list[Utterance]]:
    """All utterances, in blocks that hold whole recordings, so that each recording is decoded once.

    Recordings keep the order of their first utterance; an utterance's place depends on nothing but the data directory.
    """
    recordings: dict[str, list[Utterance]] = defaultdict(list)
    for u in utterances:
        recordings[str(u.wav)].append(u)
    block: list[Utterance] = []
    for parts in recordings.values():
        if block and len(block) + len(parts) > BLOCK:
            yield block
            block = []
        block += sorted(parts, key=lambda u: u.start or 0.0)
    if block:
        yield block


def _extract_block(job: tuple[Archives, int, list[Utterance], dict[str, Any]]) -> None:
    archives, number, utterances, settings = job
    how = {"compression_method": LOSSY} if settings["compress"] else {}
    archives.write(number, _extracted(archives.folder, utterances, settings), **how)


def _extracted(folder: Path, utterances: list[Utterance], settings: dict[str, Any]) -> Iterator[tuple[str, np.ndarray, str]]:
    """(utt_id, features (n_frames + ECHO, n_mels), n_frames) of each utterance."""
    longest = round(settings["window"] * audio.SAMPLE_RATE)
    for u, samples in _sound(folder, utterances):
        if len(samples) > longest:
            raise InputError(
                f"{folder}: utterance '{u.utt_id}' has {len(samples) / audio.SAMPLE_RATE:.2f} s, longer than the"
                f" window of {settings['window']} s; run stage 0 again with this configuration"
            )
        features = mel.log_mel(samples, settings["n_mels"], settings["window"])
        yield u.utt_id, features, str(mel.valid_frames(features))


def _sound(folder: Path, utterances: list[Utterance]) -> Iterator[tuple[Utterance, np.ndarray]]:
    """Each utterance with its samples, float32 (n_samples,) at 16 kHz; a recording's lie together, sorted by start."""
    for wav, group in itertools.groupby(utterances, key=lambda u: str(u.wav)):
        parts = list(group)
        segmented = parts[0].rec_id is not None
        sound = audio.load_segments(wav, [(u.start, u.end) for u in parts]) if segmented else (audio.load(wav) for _ in parts)
        for u in parts:
            try:
                samples = next(sound)
            except InputError as e:
                raise InputError(f"{folder}: utterance '{u.utt_id}': {e}; run stage 0 again") from None
            yield u, samples


if __name__ == "__main__":
    command.run(main)
