"""How long a trained model takes to the first piece of a follow-up answer, with what it has read kept and without.

reads   the model's folder
writes  a line for each number of turns of speech (noise) before it, to standard output
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from blsp.base import command
from blsp.base.files import InputError
from blsp.data.audio import SAMPLE_RATE
from blsp.model.blsp import BLSP
from blsp.model.decoding import Decoding
from blsp.model.streaming import State


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a trained model's folder or hub name")
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 5, 20], help="before the one that is timed (1 5 20)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of speech in each (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is told (%(default)s)")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or float32 (%(default)s)")
    args = parser.parse_args()
    model = BLSP.from_pretrained(args.model, args.precision, command.device())
    random = np.random.default_rng(0)

    def turn() -> dict:
        speech = random.normal(scale=0.05, size=round(args.seconds * SAMPLE_RATE)).astype(np.float32)
        parts = [{"type": "text", "text": "Please repeat the following words."}, {"type": "audio", "audio": speech}]
        return {"role": "user", "content": parts}

    _first_piece(model, [turn()], State())  # what is done once only
    for n in args.turns:
        kept, anew = [], []
        for _ in range(args.repeats):
            state, history = State(), []
            for _ in range(n):
                history.append(turn())
                history.append({"role": "assistant", "content": _first_piece(model, history, state)[1]})
            history.append(turn())
            seconds, answer = _first_piece(model, history, state)
            kept.append(seconds)
            seconds, same = _first_piece(model, history, None)
            anew.append(seconds)
            if answer != same:
                raise InputError(f"the answers differ: '{answer}' with what was read, '{same}' without")
        n_tokens = len(model.processor.prepare(history).ids)
        print(
            f"{n} turns before, {n_tokens} tokens: {statistics.median(kept):.2f} s with what was read,"
            f" {statistics.median(anew):.2f} s without",
            flush=True,
        )


def _first_piece(model: BLSP, history: list[dict], state: State | None) -> tuple[float, str]:
    """Seconds to the first piece of an answer, and all of it."""
    begin = time.perf_counter()
    pieces = model.stream(history, Decoding(max_new_tokens=16), state)
    first = next(pieces, "")
    seconds = time.perf_counter() - begin
    return seconds, first + "".join(pieces)


if __name__ == "__main__":
    command.run(main)
