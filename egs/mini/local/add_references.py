"""Adds the references of the world's tasks (translation.de, intent, sentiment) to data directories after stage 0.

A real LibriSpeech has none, so its recipe knows nothing of them.

reads   REFERENCES/SPLIT/TABLE, DATA_DIR/SET/text
writes  DATA_DIR/SET/TABLE for every set that has references
"""

import argparse
from pathlib import Path

from blsp.base import command
from blsp.base.files import InputError
from blsp.data.data_dir import read_table, write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--references", type=Path, required=True, help="folder with one folder of tables per split")
    parser.add_argument("--data-dir", type=Path, required=True, help="parent of the sets' data directories")
    args = parser.parse_args()
    for split in sorted(p for p in args.references.iterdir() if p.is_dir()):
        folder = args.data_dir / split.name.replace("-", "_")
        if not folder.is_dir():
            continue
        utt_ids = read_table(folder / "text")
        for path in sorted(split.iterdir()):
            add(path, utt_ids, folder / path.name)


def add(source: Path, utt_ids: dict[str, str], target: Path) -> None:
    """Write those lines of `source` whose utterances the data directory has, unless they are there already."""
    table = read_table(source)
    if missing := [u for u in utt_ids if u not in table]:
        raise InputError(f"{source}: has no line for utterance '{missing[0]}'; speak the world again")
    wanted = {u: table[u] for u in utt_ids}
    if not target.exists() or read_table(target) != wanted:
        write_table(target, wanted)


if __name__ == "__main__":
    command.run(main)
