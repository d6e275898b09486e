#!/usr/bin/env python3
"""Check data directories: the rules of Kaldi's validate_data_dir.sh, and that all audio decodes with segments inside.

Every fault is one line on standard output; the exit status is 1 if there is any.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import audio
from blsp.data.data_dir import Utterance, read_data_dir, read_table, same_keys
from blsp.data.probing import probe_chunks

OF_UTTERANCES = ("feats.scp", "utt2num_frames", "utt2lang", "utt2uniq", "vad.scp", "utt2warp", "intent", "sentiment")
OF_SPEAKERS = ("cmvn.scp", "spk2gender", "spk2warp")
RESERVED = re.compile(r"(?<!\w)(<s>|</s>|#0)(?!\w)")
SLACK = 0.01  # seconds by which utt2dur may differ from the audio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", nargs="+", type=Path)
    parser.add_argument("--no-audio", action="store_true", help="check the tables only")
    parser.add_argument("--no-feats", action="store_true", help="feats.scp need not be there")
    parser.add_argument("--no-spk-sort", action="store_true", help="utt2spk need not be sorted by speaker as well")
    parser.add_argument(
        "--nj", type=int, default=len(os.sched_getaffinity(0)), help="processes that decode (default: all cores)"
    )
    args = parser.parse_args()
    wrong = 0
    for folder in args.data_dir:
        n_faults = 0
        for fault in faults(folder, not args.no_audio, not args.no_feats, not args.no_spk_sort, max(1, args.nj)):
            print(fault, flush=True)
            n_faults += 1
        print(f"{folder}: {f'{n_faults} faults' if n_faults else 'valid'}", flush=True)
        wrong += n_faults > 0
    sys.exit(wrong > 0)


def faults(folder: Path, check_audio: bool, need_feats: bool, sorted_by_speaker: bool, nj: int) -> Iterator[str]:
    """What is wrong with a data directory, a line each."""
    try:
        utterances = read_data_dir(folder)
        utt2spk = {u.utt_id: u.spk for u in utterances}
        speakers = read_table(folder / "spk2utt")
        if need_feats and not (folder / "feats.scp").exists():
            yield f"{folder / 'feats.scp'}: does not exist; run stage 1, or say --no-feats"
        for name in (*OF_UTTERANCES, *(path.name for path in sorted(folder.glob("translation.*")))):
            if (folder / name).exists():
                same_keys(folder / name, read_table(folder / name), "utt2spk", utt2spk)
        for name in OF_SPEAKERS:
            if (folder / name).exists():
                same_keys(folder / name, read_table(folder / name), "spk2utt", speakers)
        if (folder / "utt2num_frames").exists():
            for number, value in enumerate(read_table(folder / "utt2num_frames").values(), 1):
                if not value.isdigit() or int(value) == 0:
                    yield f"{folder / 'utt2num_frames'}:{number}: expected a number above 0, found {value!r}"
    except InputError as e:
        yield str(e)
        return
    if sorted_by_speaker and list(utt2spk.values()) != sorted(utt2spk.values()):
        yield f"{folder / 'utt2spk'}: is not sorted by speaker as well; speaker ids have to be prefixes of utterance ids"
    yield from _text_faults(folder, utterances)
    used = {u.rec_id for u in utterances}
    for number, (key, path) in enumerate(read_table(folder / "wav.scp").items(), 1):
        if path.startswith("~"):
            yield f"{folder / 'wav.scp'}:{number}: {key!r} has a path with a tilde, which nothing expands"
        if None not in used and key not in used:
            yield f"{folder / 'wav.scp'}:{number}: recording {key!r} is in no line of segments"
    if check_audio:
        yield from _audio_faults(folder, utterances, nj)


def _text_faults(folder: Path, utterances: list[Utterance]) -> Iterator[str]:
    for number, u in enumerate(utterances, 1):
        where = f"{folder / 'text'}:{number}: {u.utt_id!r}"
        if not u.text.strip():
            yield f"{where} has no transcript"
        elif u.text != u.text.strip() or "  " in u.text:
            yield f"{where} has spaces at its ends or double ones"
        if not u.text.isprintable():
            odd = next(c for c in u.text if not c.isprintable())
            yield f"{where} holds U+{ord(odd):04X}, which does not print or is an odd space"
        if found := RESERVED.search(u.text):
            yield f"{where} holds {found[0]}, which Kaldi reserves"


def _audio_faults(folder: Path, utterances: list[Utterance], nj: int) -> Iterator[str]:
    paths = sorted({str(u.wav) for u in utterances})
    chunks = iter([paths[i : i + 16] for i in range(0, len(paths), 16)])
    results = (result for results in probe_chunks(chunks, nj) for result in results)
    outcomes = dict(command.progress(results, len(paths), str(folder), "files"))
    for number, u in enumerate(utterances, 1):
        found = outcomes[str(u.wav)]
        where = f"{folder / ('segments' if u.rec_id else 'utt2dur')}:{number}: {u.utt_id!r}"
        if isinstance(found, str):
            yield f"{folder / 'wav.scp'}: {u.utt_id!r}: {u.wav}: {found}"
        elif u.end is not None and u.end > found.duration + audio.OVERSHOOT:
            yield f"{where} ends at {u.end:g} s; {u.wav} lasts {found.duration:.2f} s"
        elif u.end is None and found.fault:
            yield f"{folder / 'wav.scp'}: {u.utt_id!r}: {u.wav}: {found.fault}"
        elif abs(u.duration - ((u.end - u.start) if u.end is not None else found.duration)) > SLACK:
            yield f"{where} lasts {found.duration if u.end is None else u.end - u.start:.3f} s; utt2dur has {u.duration:g}"


if __name__ == "__main__":
    command.run(main)
