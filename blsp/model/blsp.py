"""The model (Figure 2): frozen speech encoder, trained adapter, frozen LLM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from blsp.base.files import InputError, atomic_write, model_fingerprint, read_json, write_json
from blsp.base.pretrained import part_of
from blsp.model.adapter import Adapter
from blsp.model.encoder import Speech, SpeechEncoder
from blsp.model.llm import LLM, choose_dtype, load_llm, precision_name
from blsp.model.prompts import OPTIONS, TEMPLATE, Prompt, Prompter, saved_template


@dataclass
class Batch:
    """What the loss of some utterances is computed from."""

    features: list[Speech]  # B utterances: log-mel features (n_frames_i + ECHO, n_mels), see mel.py, or states made of them
    prompts: list[Prompt]  # B, one for each utterance
    responses: list[list[int]]  # B, token ids, with the end of sequence where the response has ended
    transcripts: list[list[int]] = field(default_factory=list)  # B, token ids, where the LLM is its own teacher; else none

    def to(self, device: torch.device | str) -> Batch:
        self.features = to_device(self.features, device)
        return self


class BLSP(nn.Module):
    """Speech encoder, adapter and LLM as one model; only the adapter is trained.

    kd_weight: share of the loss that is the divergence from what the LLM predicts given the transcript (not in the paper).
    kd_temperature: divides the logits of both sides of that divergence.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        adapter: Adapter,
        llm: LLM,
        prompter: Prompter,
        kd_weight: float = 0.0,
        kd_temperature: float = 2.0,
    ):
        super().__init__()
        if not (0 <= kd_weight <= 1 and kd_temperature > 0):
            raise InputError(f"kd_weight {kd_weight} should be from 0 to 1, kd_temperature {kd_temperature} above 0")
        self.encoder = encoder.requires_grad_(False)
        self.adapter = adapter
        self.llm = llm
        self.prompter = prompter
        self.kd_weight, self.kd_temperature = kd_weight, kd_temperature
        self.reported: dict[str, torch.Tensor] = {}  # sums over the last batch's targets that belong beside its loss

    def train(self, mode: bool = True) -> BLSP:
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        self.llm.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.adapter.norm.weight.device

    def speech_embeds(self, speech: Sequence[Speech]) -> list[torch.Tensor]:
        """Embeddings of each utterance's speech in the LLM's space: B tensors (n_embeds_i, d_llm) in the LLM's dtype."""
        embeds, n_embeds = embed_speech(self.encoder, self.adapter, speech)
        embeds = embeds.to(self.llm.dtype)
        return [row[:n] for row, n in zip(embeds, n_embeds.tolist(), strict=True)]

    def forward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Language modeling loss of the responses given the speech (Section 3, second step).

        Returns the summed loss (scalar) and the number of target tokens. With a kd_weight the loss in training is
        (1 - kd_weight) * cross-entropy + kd_weight * kd_temperature^2 * divergence; elsewhere it is the cross-entropy alone,
        which can be compared with that of other models.
        """
        speech = self.speech_embeds(batch.features)
        if not (self.training and self.kd_weight):
            return self.response_loss(speech, batch)
        logits = self.response_logits(speech, batch)
        with torch.no_grad():
            teacher = self.response_logits([self.llm.embed(ids) for ids in batch.transcripts], batch)
        cross_entropy, n_targets = _cross_entropy(logits, batch)
        kl = divergence(teacher, logits, self.kd_temperature)
        self.reported = {"cross_entropy": cross_entropy.detach(), "kl": kl.detach()}
        # The square keeps the gradient's size from shrinking as the temperature grows (Hinton et al. 2015).
        return (1 - self.kd_weight) * cross_entropy + self.kd_weight * self.kd_temperature**2 * kl, n_targets

    def response_loss(self, contents: list[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, int]:
        """Summed cross-entropy of the responses and their number of tokens, given what response_logits() is given."""
        return _cross_entropy(self.response_logits(contents, batch), batch)

    def response_logits(self, contents: list[torch.Tensor], batch: Batch) -> torch.Tensor:
        """(targets, vocabulary) float32 logits of all response tokens, one response behind the other.

        contents: B tensors (n_i, d_llm), what stands between prefix and suffix of the prompts: speech or a transcript's words.
        """
        prefix = batch.prompts[0].prefix
        shared = all(p.prefix == prefix for p in batch.prompts)
        rows = []
        for content, prompt, response in zip(contents, batch.prompts, batch.responses, strict=True):
            before = [] if shared else [self.llm.embed(prompt.prefix)]
            # The last response token is predicted and never read.
            rows.append(torch.cat([*before, content, self.llm.embed([*prompt.suffix, *response[:-1]])]))
        # Logits only where a response token is predicted: from the suffix' last token to the response's last but one.
        return self.llm.logits(rows, [len(r) for r in batch.responses], prefix if shared else ())

    def prompt_embeds(self, prompt: Prompt, content: torch.Tensor) -> torch.Tensor:
        """(L, d_llm) embeddings of a whole prompt, ready for generation; content (n, d_llm)."""
        return torch.cat([self.llm.embed(prompt.prefix), content, self.llm.embed(prompt.suffix)])

    def trained_state(self) -> dict[str, torch.Tensor]:
        """The parameters that training changes, by name."""
        return trained(self)

    def load_trained_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore trained_state(); a state that does not fit this model raises InputError."""
        load_trained(self, state)

    def save_pretrained(self, folder: str | Path, encoder: str, llm: str, provenance: dict[str, Any]) -> None:
        """Write model.safetensors (what was trained) and config.json, which names encoder and LLM. Not the frozen parts.

        A template that is a file is copied to template.jinja.
        """
        prompter = self.prompter
        settings = {"template": prompter.template, **{key: getattr(prompter, key) for key in OPTIONS}}
        if prompter.file is not None:
            settings["template"] = TEMPLATE
            with atomic_write(Path(folder) / TEMPLATE) as f:
                f.write(prompter.file)
        settings["precision"] = precision_name(self.llm.dtype)
        save_folder(folder, self, "blsp", {"encoder": encoder, "llm": llm}, settings, provenance)

    @classmethod
    def from_pretrained(cls, folder: str | Path, precision: str = "auto", device: str = "cpu") -> BLSP:
        """A trained model with the encoder and LLM that its config.json names, in evaluation mode.

        precision: of the frozen parts; auto: what it was trained in.
        """
        folder = Path(folder)
        config, names = named_parts(folder, "blsp", "encoder", "llm")
        dtype = choose_dtype(config.get("precision", "auto") if precision == "auto" else precision, device)
        encoder = SpeechEncoder.from_pretrained(names["encoder"], config["encoder_padding"], dtype)
        llm = load_llm(names["llm"], dtype, device)
        prompter = Prompter(
            llm.tokenizer, saved_template(folder, config), **{key: config.get(key, default) for key, default in OPTIONS.items()}
        )
        model = cls(encoder, Adapter(**config["adapter"]), llm, prompter)
        load_weights(model, folder)
        return model.to(device).eval()


def embed_speech(encoder: SpeechEncoder, adapter: Adapter, speech: Sequence[Speech]) -> tuple[torch.Tensor, torch.Tensor]:
    """speech: B utterances. Returns the adapter's (B, N, d_llm) and (B,) valid ones of each.

    What is longer than the encoder's window is cut in pauses, and each piece passes encoder and adapter as if alone: no
    training utterance is longer, so neither has seen what stands at such a joint.
    """
    utterances = encoder.encode(speech)
    pieces = [states for utterance in utterances for states in utterance]
    n_states = torch.tensor([len(states) for states in pieces], device=pieces[0].device)
    embeds, n_embeds = adapter(nn.utils.rnn.pad_sequence(pieces, batch_first=True), n_states)
    if len(embeds) > len(utterances):
        valid = iter(row[:n] for row, n in zip(embeds, n_embeds.tolist(), strict=True))
        joined = [torch.cat([next(valid) for _ in utterance]) for utterance in utterances]
        n_embeds = torch.tensor([len(row) for row in joined], device=embeds.device)
        embeds = nn.utils.rnn.pad_sequence(joined, batch_first=True)
    return embeds, n_embeds


def to_device(speech: Sequence[Speech], device: torch.device | str) -> list[Speech]:
    """One transfer for all utterances."""
    rows = [row for utterance in speech for row in (utterance if isinstance(utterance, list) else [utterance])]
    moved = iter(torch.cat(rows).to(device, non_blocking=True).split([len(row) for row in rows]))
    return [[next(moved) for _ in utterance] if isinstance(utterance, list) else next(moved) for utterance in speech]


def _cross_entropy(logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, int]:
    targets = torch.tensor([token for r in batch.responses for token in r], device=logits.device)
    return nn.functional.cross_entropy(logits, targets, reduction="sum"), len(targets)


def divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Summed Kullback-Leibler divergence of the teacher's next-token distributions from the student's.

    teacher, student (targets, vocabulary): logits, divided by the temperature on both sides.
    """
    expected, given = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return nn.functional.kl_div(given, expected, reduction="sum", log_target=True)


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a model that training changes, by name."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: value.detach() for name, value in model.state_dict().items() if name in names}


def load_trained(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Restore trained(); a state that does not fit this model raises InputError."""
    expected = trained(model)
    if expected.keys() != state.keys() or any(expected[k].shape != state[k].shape for k in state):
        raise InputError("the saved weights do not fit the model; was it trained with another encoder or LLM?")
    model.load_state_dict(state, strict=False)


def save_folder(
    folder: str | Path,
    model: nn.Module,
    model_type: str,
    parts: dict[str, str],
    settings: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Write a model's folder: model.safetensors has what was trained, config.json names the frozen `parts` by path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / ".model.safetensors.part"
    save_file({k: v.cpu().contiguous() for k, v in trained(model).items()}, beside)
    os.replace(beside, folder / "model.safetensors")
    config: dict[str, Any] = {"model_type": model_type}
    for part, name in parts.items():
        config |= {part: _portable(name, folder), f"{part}_fingerprint": model_fingerprint(name)}
    adapter = {
        "d_encoder": model.encoder.d_model,
        "d_llm": model.adapter.norm.normalized_shape[0],
        "d_bottleneck": model.adapter.down.out_features,
    }
    config |= {"encoder_padding": model.encoder.padding, **settings, "adapter": adapter, "provenance": provenance}
    write_json(folder / "config.json", config)


def named_parts(folder: Path, model_type: str, *parts: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The config.json of a model's folder, and where the frozen parts that it names are.

    Raises InputError where it is of another type of model, or a part is not the one that it was trained with.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != model_type:
        kind = {"blsp": "a BLSP model", "blsp-ctc": "a CTC recognizer (objective: ctc)"}[model_type]
        raise InputError(f"{folder}/config.json: is not of {kind}; give the folder exp/NAME/model")
    names = {}
    for part in parts:
        names[part] = part_of(folder, config[part])
        if model_fingerprint(names[part]) != config[f"{part}_fingerprint"]:
            raise InputError(f"{names[part]}: is missing or not the {part} that {folder} was trained with")
    return config, names


def load_weights(model: nn.Module, folder: Path) -> None:
    """What save_folder() wrote to model.safetensors."""
    try:
        load_trained(model, load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError) as e:
        raise InputError(f"{folder}/model.safetensors: cannot be read ({e})") from None


def _portable(name: str, folder: Path) -> str:
    """A local folder relative to the model's, so that both can move together; a hub name as it is."""
    return os.path.join(".", os.path.relpath(name, folder)) if os.path.isdir(name) else name
