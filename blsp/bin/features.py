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

import kaldiio
import numpy as np
import torch

from blsp.base import command
from blsp.base.config import load_config, program_arguments, require
from blsp.base.files import InputError, atomic_write, fingerprint, read_json, write_json
from blsp.base.pretrained import check_mel_bins
from blsp.data import audio, mel
from blsp.data.data_dir import Utterance, read_data_dir, write_table
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
    info = folder / "feats.json"
    if info.exists() and (folder / "feats.scp").exists() and read_json(info).get("fingerprint") == done:
        log.info(f"{folder}: features of {len(utterances)} utterances are there")
        return
    info.unlink(missing_ok=True)  # a kill must not leave it beside other features
    blocks = list(_blocks(utterances))
    jobs = [(folder, i, block, settings, done) for i, block in enumerate(blocks)]
    scp: dict[str, str] = {}
    n_frames: dict[str, str] = {}
    with ProcessPoolExecutor(max(1, min(nj, len(jobs))), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for rows in command.progress(pool.map(_extract_block, jobs), len(jobs), f"{folder.name}: features", "block"):
            for utt_id, place, frames in rows:
                scp[utt_id], n_frames[utt_id] = place, str(frames)
    write_table(folder / "utt2num_frames", n_frames)
    write_table(folder / "feats.scp", scp)
    write_json(info, {"fingerprint": done, **settings})
    kept = {f"{done}.{i}.ark" for i in range(len(blocks))}
    for old in (folder / "feats").glob("*.ark*"):
        if old.name.removesuffix(".json") not in kept:
            old.unlink()  # other settings' archives
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


def _extract_block(job: tuple[Path, int, list[Utterance], dict[str, Any], str]) -> list[tuple[str, str, int]]:
    """Write one archive. Returns (utt_id, its place in the archive, n_frames) of each utterance."""
    folder, number, utterances, settings, done = job
    ark = (folder / "feats" / f"{done}.{number}.ark").resolve()
    index = ark.with_name(f"{ark.name}.json")
    if ark.exists() and index.exists():
        return [tuple(row) for row in read_json(index)]
    rows = []
    longest = round(settings["window"] * audio.SAMPLE_RATE)
    with atomic_write(ark, "wb") as f:
        for u, samples in _sound(folder, utterances):
            if len(samples) > longest:
                raise InputError(
                    f"{folder}: utterance '{u.utt_id}' has {len(samples) / audio.SAMPLE_RATE:.2f} s, longer than the"
                    f" window of {settings['window']} s; run stage 0 again with this configuration"
                )
            features = mel.log_mel(samples, settings["n_mels"], settings["window"])
            key = f"{u.utt_id} ".encode()
            offset = f.tell() + len(key)
            kaldiio.save_ark(f, {u.utt_id: features}, compression_method=LOSSY if settings["compress"] else None)
            rows.append((u.utt_id, f"{ark}:{offset}", mel.valid_frames(features)))
    write_json(index, rows)
    return rows


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
