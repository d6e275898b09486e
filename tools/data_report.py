#!/usr/bin/env python3
"""Say what is in data directories: utterances, speakers, hours, words, and how long utterances are."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from blsp.base import command
from blsp.data.data_dir import Utterance, read_data_dir

BIN = 2.0  # seconds
WIDTH = 50  # characters of the longest bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", nargs="+", type=Path)
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the lengths into FILE as well")
    args = parser.parse_args()
    sets = {str(folder): read_data_dir(folder) for folder in args.data_dir}
    width = max(len("set"), *map(len, sets))
    columns = ("utterances", "speakers", "hours", "words", "shortest", "mean", "longest")
    print(f"{'set':{width}}", *(f"{column:>10}" for column in columns))
    for name, utterances in sets.items():
        print(f"{name:{width}}", *(f"{value:>10}" for value in figures(utterances)))
    for name, utterances in sets.items():
        print(f"\n{name}: utterances by length in seconds")
        print("\n".join(histogram(utterances)))
    if args.png:
        draw(sets, args.png)
        print(f"\n{args.png}: the same as a picture")


def figures(utterances: Sequence[Utterance]) -> list[str]:
    seconds = [u.duration for u in utterances]
    return [
        str(len(utterances)),
        str(len({u.spk for u in utterances})),
        f"{sum(seconds) / 3600:.2f}",
        str(sum(len(u.text.split()) for u in utterances)),
        *(f"{value:.2f} s" for value in (min(seconds), sum(seconds) / len(seconds), max(seconds))),
    ]


def histogram(utterances: Sequence[Utterance]) -> list[str]:
    """A line for each 2 s: the range, a bar, the number."""
    counts = Counter(int(u.duration // BIN) for u in utterances)
    most = max(counts.values())
    return [
        f"{n * BIN:4.0f} - {(n + 1) * BIN:<4.0f} {'#' * -(-counts[n] * WIDTH // most):{WIDTH}} {counts[n]}"
        for n in range(max(counts) + 1)
    ]


def draw(sets: dict[str, list[Utterance]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(sets), 1, figsize=(7, 2.5 * len(sets)), squeeze=False, layout="constrained")
    for axis, (name, utterances) in zip(axes[:, 0], sets.items(), strict=True):
        longest = max(u.duration for u in utterances)
        axis.hist([u.duration for u in utterances], bins=[n * BIN for n in range(int(longest // BIN) + 2)])
        axis.set(title=f"{name}: {sum(u.duration for u in utterances) / 3600:.2f} h", xlabel="length (s)", ylabel="utterances")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, format="png")


if __name__ == "__main__":
    command.run(main)
