#!/usr/bin/env python3
"""Writes the synthetic world in the native layouts of the real corpora: their codecs, their tables, their oddities.

Each corpus goes to OUT/NAME, which is what its recipe calls --corpus-dir. A run that was killed goes on where it stopped:
a corpus is put in place when it is whole, and recordings of an unfinished one are kept beside it.
"""

import argparse
import importlib
import os
import shutil
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from espeak import EspeakError
from layouts.speech import Recording, Times, write_recording
from tqdm import tqdm

from blsp.base import command
from blsp.base.files import InputError, fingerprint, read_json, write_json

NAMES = (
    *("gigaspeech", "gigaspeech-qa", "commonvoice", "commonvoice-de", "must-c", "tedlium3", "covost2"),
    *("snips", "fsc", "slue-voxceleb", "bstc", "mslt", "speechocean762", "alpaca"),
)
VERSION = 1  # raised when a writer changes what it writes of the same plan
DONE = "layout.json"  # in the corpus' folder; no recipe reads it


@dataclass(frozen=True)
class Corpus:
    name: str
    sizes: dict[str, int]
    seed: int
    recordings: tuple[Recording, ...]
    key: str  # changes when anything of the plan does

    @property
    def writer(self) -> ModuleType:
        return writer(self.name)


def writer(name: str) -> ModuleType:
    return importlib.import_module(f"layouts.{name.replace('-', '_')}")


def plan(name: str, seed: int = 1, limit: int = 0) -> Corpus:
    """What is to be said where; `limit` caps the utterances of each split."""
    module = writer(name)
    sizes = {split: min(n, limit) if limit else n for split, n in module.SIZES.items()}
    recordings = tuple(module.plan(sizes, seed))
    return Corpus(name, sizes, seed, recordings, fingerprint([VERSION, sizes, seed, [asdict(r) for r in recordings]]))


def is_done(folder: Path, key: str) -> bool:
    return (folder / DONE).is_file() and read_json(folder / DONE).get("key") == key


def open_workshop(corpus: Corpus, out: Path) -> Path:
    """The folder beside, with what an earlier run has spoken of the same plan."""
    workshop = out / f".{corpus.name}.part"
    if not (workshop / "plan.json").is_file() or read_json(workshop / "plan.json") != {"key": corpus.key}:
        shutil.rmtree(workshop, ignore_errors=True)
        write_json(workshop / "plan.json", {"key": corpus.key})
    (workshop / "corpus").mkdir(exist_ok=True)
    return workshop


def speak(workshop: Path, number: int, recording: Recording) -> Times:
    """The times of a recording's utterances; it is spoken unless they are known already."""
    known = workshop / "times" / f"{number}.json"
    if known.is_file():
        return [(start, end) for start, end in read_json(known)]
    times = write_recording(workshop / "corpus", recording)
    write_json(known, times)
    return times


def put_in_place(corpus: Corpus, workshop: Path, times: list[Times], out: Path) -> None:
    folder = workshop / "corpus"
    more = {"sizes": corpus.sizes, "seed": corpus.seed} if not corpus.recordings else {}
    corpus.writer.describe(folder, list(corpus.recordings), times, **more)
    write_json(folder / DONE, {"key": corpus.key, "utterances": corpus.sizes})
    shutil.rmtree(out / corpus.name, ignore_errors=True)
    os.replace(folder, out / corpus.name)
    shutil.rmtree(workshop)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per corpus")
    parser.add_argument("--recipes", default="all", help=f"names in blanks, or all of {' '.join(NAMES)} (all)")
    parser.add_argument("--limit", type=int, default=0, help="at most N utterances of each split; 0: all")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of sentences and of how they are said (1)")
    parser.add_argument("--nj", type=int, default=os.cpu_count(), help="processes (all cores)")
    args = parser.parse_args()
    args.recipes = list(NAMES) if args.recipes.split() == ["all"] else args.recipes.replace(",", " ").split()
    if unknown := [name for name in args.recipes if name not in NAMES]:
        parser.error(f"--recipes: '{unknown[0]}' is not one of all, {', '.join(NAMES)}")
    if args.limit < 0 or args.nj < 1:
        parser.error("--limit is at least 0, --nj at least 1")
    return args


def main() -> None:
    args = parse_args()
    corpora = [plan(name, args.seed, args.limit) for name in args.recipes]
    missing = [corpus for corpus in corpora if not is_done(args.out / corpus.name, corpus.key)]
    if missing:
        try:
            write(missing, args.out, args.nj)
        except EspeakError as e:
            raise InputError(f"{args.out}: {e}") from None
    for corpus in corpora:
        state = "spoken now" if corpus in missing else "there already"
        print(f"{args.out / corpus.name}: {', '.join(f'{n} {split}' for split, n in corpus.sizes.items())}; {state}")


def write(corpora: list[Corpus], out: Path, nj: int) -> None:
    total = sum(len(r.spoken) for corpus in corpora for r in corpus.recordings)
    with ProcessPoolExecutor(nj) as pool, tqdm(total=total, unit="utt", disable=None, desc="speaking layouts") as bar:
        jobs: list[tuple[Corpus, Path, list[Future[Times]]]] = []
        for corpus in corpora:
            workshop = open_workshop(corpus, out)
            futures = [pool.submit(speak, workshop, number, r) for number, r in enumerate(corpus.recordings)]
            jobs.append((corpus, workshop, futures))
        for corpus, workshop, futures in jobs:
            times = []
            for future, recording in zip(futures, corpus.recordings, strict=True):
                times.append(future.result())
                bar.update(len(recording.spoken))
            put_in_place(corpus, workshop, times, out)


if __name__ == "__main__":
    command.run(main)
