"""What the LLM has made of a prompt before it answers: its last token's state, from speech and from text (Sections 2 and 5.2).

Alignment shows in two ways: speech and its transcript under one instruction have like states (Tables 8 and 13), and the same
speech under several instructions has unlike ones (Tables 7 and 12), as a text has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from blsp.base import command
from blsp.base.files import InputError, atomic_write, fingerprint
from blsp.data import mel
from blsp.data.data_dir import read_table
from blsp.data.normalization import normalizer
from blsp.model.blsp import BLSP
from blsp.model.generation import length_batches

States = dict[str, np.ndarray]  # instruction's name -> (n, d_llm), an utterance a row

FIGURE_COLORS = ("tab:orange", "tab:red", "tab:blue", "tab:gray")  # of Figures 1 and 3, in Table 6's order
COLORS = (*FIGURE_COLORS, "tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
SIZE, DPI = (6.0, 5.0), 150  # inches, dots per inch


class Contents:
    """What a trained model's prompts are about: a data directory's speech, or its transcripts as the LLM reads them."""

    def __init__(self, model: Path, data: Path, precision: str, normalize: str):
        self.model = BLSP.from_pretrained(model, precision, command.device())
        self.data, self.normalize = data, normalizer(normalize)

    def of(self, modality: str, utt_ids: Sequence[str]) -> tuple[Callable[[list[str]], list[torch.Tensor]], dict[str, int]]:
        """For collect_states(): contents of utterances, and all of these with their contents' lengths."""
        if modality == "speech":
            places, n_frames = read_table(self.data / "feats.scp"), read_table(self.data / "utt2num_frames")
            return lambda batch: self._speech([places[u] for u in batch]), {u: int(n_frames[u]) for u in utt_ids}
        transcripts = read_table(self.data / "text")
        ids = {u: self.model.prompter.content(self.normalize(transcripts[u])) for u in utt_ids}
        return lambda batch: [self.model.llm.embed(ids[u]) for u in batch], {u: len(i) for u, i in ids.items()}

    @torch.inference_mode()
    def _speech(self, places: Sequence[str]) -> list[torch.Tensor]:
        return self.model.speech_embeds([mel.read_features(place).to(self.model.device) for place in places])


@torch.inference_mode()
def prompt_states(model: BLSP, contents: Sequence[torch.Tensor], instructions: Mapping[str, str]) -> States:
    """The final layer's state, behind its norm, of the last token of each content's prompt under each instruction.

    contents: B tensors (n_i, d_llm), speech or a transcript's words. Returns (B, d_llm) float32 for each instruction; a batch
    gives what single contents give.
    """
    states = {}
    for name, instruction in instructions.items():
        prompt = model.prompter.prompt(instruction)
        rows = [model.prompt_embeds(prompt, content) for content in contents]
        states[name] = model.llm.last_states(rows).float().cpu().numpy()
    return states


def collect_states(
    model: BLSP,
    contents: Callable[[list[str]], list[torch.Tensor]],
    lengths: Mapping[str, int],
    instructions: Mapping[str, str],
    batch: int,
    output: Path,
    settings: str,
) -> None:
    """Write prompt_states() of all utterances to `output`, in the order of `lengths`; a job that was killed goes on.

    contents: of utterance ids; lengths: of the contents by utterance id, in any unit; settings: a fingerprint, see done_with().
    """
    parts = output.with_name(f"{output.stem}.parts")
    key, utt_ids = fingerprint([settings, batch]), list(lengths)
    batches = length_batches(list(lengths.values()), batch)
    states: States = {}
    for number, indices in enumerate(command.progress(batches, len(batches), str(output), "batch")):
        part = parts / f"{key}-{number}.safetensors"
        if not done_with(part, key):
            save_states(part, prompt_states(model, contents([utt_ids[i] for i in indices]), instructions), key)
        for name, rows in load_states(part, instructions).items():
            states.setdefault(name, np.zeros((len(utt_ids), rows.shape[1]), np.float32))[indices] = rows
    save_states(output, states, settings, utt_ids)
    shutil.rmtree(parts)


def save_states(path: Path, states: States, settings: str, utt_ids: Sequence[str] = ()) -> None:
    """A safetensors file: a tensor for each instruction; the fingerprint `settings` and the rows' utterances as metadata."""
    with atomic_write(path, "wb") as f:
        f.write(save(states, {"fingerprint": settings, "utt_ids": "\n".join(utt_ids)}))


def done_with(path: Path, settings: str) -> bool:
    """Whether save_states() has written this file with these settings."""
    try:
        with safe_open(path, "np") as f:
            return f.metadata()["fingerprint"] == settings
    except (OSError, SafetensorError, KeyError, TypeError):
        return False


def load_states(path: Path, names: Iterable[str]) -> States:
    """What save_states() wrote, in the order of `names`, which the file does not keep. Raises InputError for a broken file."""
    try:
        states = load_file(path)
        return {name: states[name] for name in names}
    except (OSError, SafetensorError, KeyError) as e:
        raise InputError(f"{path}: cannot be read ({e}); remove it and run again") from None


def similarities(speech: States, text: States) -> dict[str, Any]:
    """Means over all utterances of cosine similarities.

    paired: speech and its own transcript under the same instruction (Tables 8 and 13);
    unpaired: speech and the other utterances' transcripts, which says what a value of `paired` is worth (not in the paper; None
              where there is one utterance);
    speech: the same speech under two instructions (Tables 7 and 12), instruction -> instruction -> value;
    text: the same transcript likewise, what speech would have if it were text (not in the paper).
    """
    speech, text = _unit(speech), _unit(text)
    paired, unpaired = {}, {}
    for name in speech:
        own = float((speech[name] * text[name]).sum())
        n = len(speech[name])
        paired[name] = own / n
        every = float(speech[name].sum(0) @ text[name].sum(0))  # of every speech with every text
        unpaired[name] = (every - own) / (n * (n - 1)) if n > 1 else None
    return {"paired": paired, "unpaired": unpaired, "speech": _across(speech), "text": _across(text)}


def _unit(states: States) -> States:
    """Each state divided by its length."""
    wide = {name: rows.astype(np.float64) for name, rows in states.items()}
    return {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in wide.items()}


def _across(states: States) -> dict[str, dict[str, float]]:
    return {a: {b: float((states[a] * states[b]).sum(1).mean()) for b in states} for a in states}


def tsne(speech: States, text: States, seed: int, perplexity: float) -> tuple[States, States]:
    """Both modalities and all instructions in one plane (n, 2), by t-SNE (van der Maaten and Hinton 2008).

    The perplexity is lowered where there are fewer than three times as many points.
    """
    from sklearn.manifold import TSNE

    points = np.concatenate([*speech.values(), *text.values()])
    perplexity = min(perplexity, (len(points) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    parts = np.split(plane, len(speech) + len(text))
    return dict(zip(speech, parts, strict=False)), dict(zip(text, parts[len(speech) :], strict=True))


def draw(speech: States, text: States, shown: Sequence[int], joined: int, title: str, file: IO[bytes]) -> None:
    """A picture like Figures 1 and 3, as PNG: color for instruction, triangles for speech, crosses for text.

    speech, text: (n, 2) for each instruction, as of tsne(); shown: the utterances that are drawn. The first `joined` of these
    get circles around speech and text and a dashed line between the two.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = list(shown)
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    legend = []
    for name, color in zip(speech, cycle(COLORS), strict=False):
        spoken, written = speech[name][shown], text[name][shown]
        axes.scatter(*spoken.T, s=28, marker="^", color=color, alpha=0.75, linewidths=0)
        axes.scatter(*written.T, s=28, marker="x", color=color, linewidths=1)
        for ends in zip(spoken[:joined], written[:joined], strict=True):
            axes.plot(*np.stack(ends).T, "--", color="black", linewidth=0.8)
            axes.scatter(*np.stack(ends).T, s=110, facecolors="none", edgecolors="black", linewidths=0.8)
        legend.append(Line2D([], [], marker="s", linestyle="", color=color, label=name))
    for marker, label in (("^", "speech"), ("x", "text")):
        legend.append(Line2D([], [], marker=marker, linestyle="", color="black", label=label))
    axes.set(title=title, xticks=[], yticks=[])  # the axes of t-SNE mean nothing
    figure.legend(
        handles=legend,
        loc="outside lower center",
        ncols=min(len(legend), 8),
        frameon=False,
        fontsize=9,
        columnspacing=1.2,
        handletextpad=0.1,
    )
    figure.savefig(file, format="png")
