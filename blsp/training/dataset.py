"""Pairs of speech and response for training, cut into batches by a token budget."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from blsp.base.files import InputError
from blsp.data import mel, states
from blsp.data.data_dir import pairs_fingerprint
from blsp.model.adapter import adapter_length
from blsp.model.blsp import Batch
from blsp.model.ctc import Vocabulary
from blsp.model.encoder import STRIDE, Speech
from blsp.model.prompts import Prompter

TARGETS = ("stop", "length")  # finish reasons of responses that are training targets
UNFIT = "transcripts with more pieces than the speech has adapter states"  # no path of CTC leads through these


class Lines:
    """Random access to the lines of a text file; only their offsets are in memory."""

    def __init__(self, path: str | Path):
        self.path = str(path)
        offsets = [0]
        try:
            with open(path, "rb") as f:
                for line in f:
                    offsets.append(offsets[-1] + len(line))
        except OSError as e:
            raise InputError(f"{path}: cannot be read ({e.strerror})") from None
        self.offsets = np.array(offsets, dtype=np.int64)
        self._fd: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDONLY)
        begin, end = int(self.offsets[i]), int(self.offsets[i + 1])
        return os.pread(self._fd, end - begin, begin).decode().rstrip("\n")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fd": None}  # each loader process opens the file itself


def speech_length(n_frames: Any) -> Any:
    """Speech embeddings that utterances of `n_frames` valid feature frames (an integer, or an array of them) become."""
    return adapter_length((n_frames + STRIDE - 1) // STRIDE)


def read_targets(data_dir: Path, sets: Sequence[str], mix: Mapping[str, float]) -> Iterator[str]:
    """The responses that are training targets."""
    for behaviour in mix:
        for name in sets:
            lines = Lines(Path(data_dir) / name / f"responses.{behaviour}.jsonl")
            rows = (json.loads(lines[i]) for i in range(len(lines)))
            yield from (row["response"] for row in rows if row["finish_reason"] in TARGETS)


def recorded_precision(data_dir: Path, sets: Sequence[str], mix: Mapping[str, float]) -> str | None:
    """What the LLM generated the responses in, so that it reads them in the same; None where it wrote none of them.

    Raises InputError where some were generated in another precision than others.
    """
    found: dict[str, Path] = {}
    for behaviour in mix:
        for name in sets:
            lines = Lines(Path(data_dir) / name / f"responses.{behaviour}.jsonl")
            rows = (json.loads(lines[i]) for i in range(len(lines)))
            found.setdefault(next((row["precision"] for row in rows if "precision" in row), ""), Path(lines.path))
    found.pop("", None)
    if len(found) > 1:
        where = ", ".join(f"{path} in {precision}" for precision, path in found.items())
        raise InputError(f"responses were generated in different precisions ({where}); set precision to one of them")
    return next(iter(found), None)


class Pairs:
    """The (speech, response) pairs of one data directory under one behaviour.

    fits: tells of a response and the number of its speech embeddings whether the pair can be trained on; None: all can.
    Raises InputError if features are missing or the responses do not cover the data directory, line by line.
    """

    def __init__(self, folder: Path, behaviour: str, fits: Callable[[str, int], bool] | None = None, cached: bool = False):
        self.fingerprint = pairs_fingerprint(folder, behaviour)
        path = folder / f"responses.{behaviour}.jsonl"
        self.feats, self.responses = Lines(folder / "feats.scp"), Lines(path)
        # Where encoder states are kept, they are read instead.
        self.states = (Lines(folder / f"{states.NAME}.scp"), Lines(folder / states.LENGTHS)) if cached else None
        if self.states and not len(self.states[0]) == len(self.states[1]) == len(self.feats):
            raise InputError(f"{folder}/{states.NAME}.scp: has not the utterances of feats.scp; run stage 1 again")
        n_frames = Lines(folder / "utt2num_frames")
        if not len(self.feats) == len(self.responses) == len(n_frames):
            raise InputError(f"{path}: has {len(self.responses)} responses for {len(self.feats)} utterances; run stage 2 again")
        kept, frames, characters = [], [], []
        self.left_out: dict[str, int] = {}
        for i in range(len(self.feats)):
            try:
                row = json.loads(self.responses[i])
            except json.JSONDecodeError:
                raise InputError(f"{path}:{i + 1}: is not JSON; remove the file and run stage 2 again") from None
            utt_id, _, length = n_frames[i].partition(" ")
            if not row["utt_id"] == utt_id == self.feats[i].partition(" ")[0]:
                raise InputError(f"{path}:{i + 1}: '{row['utt_id']}' where '{utt_id}' was expected; run stages 1 and 2 again")
            reason = row["finish_reason"]
            if reason in TARGETS and fits and not fits(row["response"], int(speech_length(int(length)))):
                reason = UNFIT
            if reason not in TARGETS:
                self.left_out[reason] = self.left_out.get(reason, 0) + 1
                continue
            kept.append(i)
            frames.append(int(length))
            characters.append(len(row["response"]))
        self.lines = np.array(kept, dtype=np.int64)
        self.n_frames = np.array(frames, dtype=np.int64)
        n_embeds = speech_length(self.n_frames)
        # Tokens that a pair brings into the LLM; of the response an estimate, four characters a token.
        self.n_tokens = n_embeds + np.array(characters, dtype=np.int64) // 4 + 1

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: int) -> tuple[Speech, dict[str, Any]]:
        """The speech and the response's row."""
        line = int(self.lines[i])
        if self.states:
            place, lengths = (table[line].partition(" ")[2] for table in self.states)
            return states.read_states(place, lengths), json.loads(self.responses[line])
        return mel.read_features(self.feats[line].partition(" ")[2]), json.loads(self.responses[line])


class AlignmentData(Dataset):
    """Pairs of several sets and behaviours. An item is not a pair but a Batch: its key is a tuple of pair numbers.

    prompter: the LLM's, or for CTC the vocabulary, which leaves pairs out that do not fit.
    normalize: what an LLM that is its own teacher reads transcripts through; None: batches hold no transcripts.
    cached: batches hold encoder states that stage 1 has kept instead of features.
    """

    def __init__(
        self,
        data_dir: Path,
        sets: Sequence[str],
        mix: Mapping[str, float],
        prompter: Prompter | Vocabulary,
        normalize: Callable[[str], str] | None = None,
        cached: bool = False,
    ):
        self.prompter, self.normalize = prompter, normalize
        fits = prompter.fits if isinstance(prompter, Vocabulary) else None
        self.behaviours = list(mix)
        self.pairs: list[Pairs] = []
        behaviour_of: list[int] = []
        for number, behaviour in enumerate(self.behaviours):
            for name in sets:
                self.pairs.append(Pairs(Path(data_dir) / name, behaviour, fits, cached))
                behaviour_of.append(number)
        sizes = [len(p) for p in self.pairs]
        if not sum(sizes):
            reasons = sorted({reason for p in self.pairs for reason in p.left_out})
            raise InputError(f"{data_dir}: no pair to train on in {', '.join(sets)}; all are left out: {', '.join(reasons)}")
        self.first = np.cumsum([0, *sizes])
        self.n_tokens = np.concatenate([p.n_tokens for p in self.pairs])
        self.n_frames = np.concatenate([p.n_frames for p in self.pairs])
        self.behaviour = np.repeat(behaviour_of, sizes)
        self.fingerprint = [p.fingerprint for p in self.pairs]

    def __len__(self) -> int:
        return len(self.n_tokens)

    def hours(self) -> float:
        """Of speech, in all pairs together."""
        return round(float(self.n_frames.sum()) / mel.FRAMES_PER_SECOND / 3600, 3)

    def __getitem__(self, key: tuple[int, ...]) -> Batch:
        features, prompts, responses, transcripts = [], [], [], []
        for number in key:
            part = int(np.searchsorted(self.first, number, side="right")) - 1
            feats, row = self.pairs[part][number - int(self.first[part])]
            features.append(feats)
            prompts.append(self.prompter.prompt(row["instruction"]))
            responses.append(self.prompter.response(row["response"], ended=row["finish_reason"] == "stop"))
            if self.normalize:
                transcripts.append(self.prompter.content(self.normalize(row["transcript"])))
        return Batch(features, prompts, responses, transcripts)


class StepSampler(Sampler):
    """For each optimizer step, this process' micro-batches: lists of keys for AlignmentData.

    A step takes `batch_size` pairs whatever the number of processes. They are ordered by behaviour and length and cut
    into micro-batches of at most `max_tokens` LLM tokens (speech embeddings and response, padding included), which are
    dealt to the processes. All of it follows from seed and epoch, so that `done` steps are all there is to resume.

    mix: relative number of pairs of each behaviour; an epoch has all pairs of the behaviour with the largest share,
    and of the others as many as their share asks for, drawn anew in each epoch.
    """

    def __init__(
        self,
        data: AlignmentData,
        mix: Mapping[str, float],
        batch_size: int,
        max_tokens: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.data, self.batch_size, self.max_tokens, self.seed = data, batch_size, max_tokens, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.done = 1, 0
        counts = np.bincount(data.behaviour, minlength=len(mix))
        largest = max(mix.values())
        self.drawn = []  # pairs of each behaviour in an epoch
        reference = counts[[i for i, b in enumerate(data.behaviours) if mix[b] == largest][0]]
        for i, behaviour in enumerate(data.behaviours):
            wanted = round(reference * mix[behaviour] / largest)
            self.drawn.append(min(int(counts[i]), wanted))

    def __len__(self) -> int:
        """Steps in an epoch; a last incomplete batch is dropped unless it is the only one."""
        return max(1, sum(self.drawn) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        random = np.random.default_rng([self.seed, self.epoch])
        drawn = []
        for i, n in enumerate(self.drawn):
            numbers = np.flatnonzero(self.data.behaviour == i)
            drawn.append(random.permutation(numbers)[:n])
        numbers = random.permutation(np.concatenate(drawn))
        for step in range(self.done, len(self)):
            yield self.micro_batches(numbers[step * self.batch_size : (step + 1) * self.batch_size])

    def micro_batches(self, numbers: np.ndarray) -> list[tuple[int, ...]]:
        """This process' share of one step's pairs."""
        order = np.lexsort((numbers, self.data.n_tokens[numbers], self.data.behaviour[numbers]))
        cut: list[list[int]] = []
        longest = 0
        for number in numbers[order].tolist():
            tokens = int(self.data.n_tokens[number])
            longest = max(longest, tokens)
            same = cut and self.data.behaviour[cut[-1][0]] == self.data.behaviour[number]
            if same and longest * (len(cut[-1]) + 1) <= self.max_tokens:
                cut[-1].append(number)
            else:
                cut.append([number])
                longest = tokens
        while len(cut) < self.world_size and max(map(len, cut)) > 1:  # every process needs one
            largest = max(cut, key=len)
            cut.remove(largest)
            cut += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
        return [tuple(micro_batch) for micro_batch in cut[self.rank :: self.world_size]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.done = state["epoch"], state["done"]
