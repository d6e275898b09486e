"""The recognizer of CTC+LLM (Section 4.2): frozen speech encoder, the adapter of BLSP, and a projector to CTC's pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blsp.base.files import InputError, atomic_write
from blsp.model.adapter import Adapter
from blsp.model.blsp import Batch, embed_speech, to_device
from blsp.model.ctc import BLANK, Vocabulary, greedy_search, prefix_beam_search
from blsp.model.encoder import Speech, SpeechEncoder
from blsp.model.folder import load_trained, load_weights, local_folder, named_parts, save_folder, trained
from blsp.model.llm import choose_dtype, precision_name

MODEL_TYPE = "blsp-ctc"


class Recognizer(nn.Module):
    """Adapter and projector are trained. The adapter is as wide as BLSP's, though no LLM reads it here."""

    def __init__(self, encoder: SpeechEncoder, adapter: Adapter, vocabulary: Vocabulary):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.adapter = adapter
        self.projector = nn.Linear(adapter.norm.normalized_shape[0], len(vocabulary))
        self.vocabulary = vocabulary
        self.reported: dict[str, torch.Tensor] = {}

    def train(self, mode: bool = True) -> Recognizer:
        """The frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.adapter.norm.weight.device

    def log_probs(self, speech: Sequence[Speech]) -> tuple[torch.Tensor, torch.Tensor]:
        """speech: B utterances. Returns (B, N, pieces), and (B,) how many of the N are valid."""
        embeds, n_embeds = embed_speech(self.encoder, self.adapter, speech)
        return self.projector(embeds).float().log_softmax(-1), n_embeds

    def forward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Summed CTC loss of the transcripts (scalar) and their number of pieces. Transcripts must fit (Vocabulary.fits)."""
        log_probs, n_embeds = self.log_probs(batch.features)
        targets = torch.tensor([piece for r in batch.responses for piece in r], device=self.device)
        n_targets = torch.tensor([len(r) for r in batch.responses], device=self.device)
        loss = nn.functional.ctc_loss(
            log_probs.transpose(0, 1), targets, n_embeds.to(self.device), n_targets, blank=BLANK, reduction="sum"
        )
        return loss, len(targets)

    @torch.inference_mode()
    def transcribe(self, speech: Sequence[Speech], beam: int = 1) -> list[str]:
        """Transcripts of utterances: greedy with a beam of 1, else by prefix beam search."""
        log_probs, n_embeds = self.log_probs(to_device(speech, self.device))
        rows = [row[:n] for row, n in zip(log_probs.cpu(), n_embeds.tolist(), strict=True)]
        return [self.vocabulary.text(greedy_search(row) if beam == 1 else prefix_beam_search(row, beam)[0]) for row in rows]

    def trained_state(self) -> dict[str, torch.Tensor]:
        return trained(self)

    def load_trained_state(self, state: dict[str, torch.Tensor]) -> None:
        load_trained(self, state)

    def save_pretrained(self, folder: str | Path, encoder: str, provenance: dict[str, Any]) -> None:
        """Write model.safetensors (what was trained), tokenizer.model (the pieces) and config.json, which names the encoder."""
        with atomic_write(Path(folder) / "tokenizer.model", "wb") as f:
            f.write(self.vocabulary.model)
        settings = {
            "encoder_padding": self.encoder.padding,
            "pieces": len(self.vocabulary),
            "precision": precision_name(self.encoder.encoder.dtype),
        }
        save_folder(folder, self, MODEL_TYPE, {"encoder": encoder}, settings, provenance)

    @classmethod
    def from_pretrained(cls, folder: str | Path, precision: str = "auto", device: str = "cpu") -> Recognizer:
        """A trained recognizer with the encoder that its config.json names, in evaluation mode."""
        folder = local_folder(folder)
        config, names = named_parts(folder, MODEL_TYPE, "encoder")
        dtype = choose_dtype(config.get("precision", "auto") if precision == "auto" else precision, device)
        try:
            vocabulary = Vocabulary((folder / "tokenizer.model").read_bytes())
        except (OSError, RuntimeError) as e:
            raise InputError(f"{folder}/tokenizer.model: cannot be read ({e})") from None
        encoder = SpeechEncoder.from_pretrained(names["encoder"], config["encoder_padding"], dtype)
        model = cls(encoder, Adapter(**config["adapter"]), vocabulary)
        load_weights(model, folder)
        return model.to(device).eval()
