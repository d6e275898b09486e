"""The frozen speech encoder: the encoder half of a Whisper model (Section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.base.files import InputError
from blsp.data import mel

STRIDE = 2  # feature frames per encoder state: one state every 20 ms
PAUSE = 7  # feature frames over which the loudness is averaged where a long utterance is cut
QUIET = 0.01  # of scaled log-mel, 0.4 dB: moments that are as quiet as the quietest
PREFIX = r"^(?:model\.)?encoder\."  # what the encoder's weights are called by in a whole Whisper, with or without its head
Model = TypeVar("Model", bound=PreTrainedModel)
# An utterance, as models take it: its log-mel features (n_frames + ECHO, n_mels), or the states of its pieces, encoded before.
Speech = torch.Tensor | list[torch.Tensor]


def cut(features: torch.Tensor, window: int) -> list[torch.Tensor]:
    """Pieces of an utterance that fit into Whisper's window: an utterance that does not is cut in pauses, not in words.

    features (n_frames + ECHO, n_mels); window in feature frames. Returns pieces (n_i + ECHO, n_mels), n_i even but for the
    last. A piece ends in the second half of the window, where it is quietest; at the end of that pause, so that the next piece
    begins with speech. Behind a piece is its own silence, behind the last the utterance's echo.
    """
    pieces = []
    while mel.valid_frames(features) > window:
        loudness = features[:window].mean(1)[None]
        smooth = nn.functional.avg_pool1d(loudness, PAUSE, 1, PAUSE // 2, count_include_pad=False)[0, window // 2 :]
        end = window // 2 + int((smooth <= smooth.min() + QUIET).nonzero().max())
        piece, features = features[: end - end % STRIDE], features[end - end % STRIDE :]
        pieces.append(torch.cat([piece, mel.silence(piece).expand(mel.ECHO, piece.shape[1])]))
    return [*pieces, features]


class SpeechEncoder(nn.Module):
    """Whisper's encoder on utterances, or pieces of them, that fit into its window.

    Whisper attends over the padding of its window and was trained so: `padding` "window" gives it whole windows.
    "batch" encodes only up to the longest of the batch, and masks what is behind the end of a shorter one: faster, and
    still as if each were alone, but with a frozen encoder the states differ from those that it was trained to give.
    """

    def __init__(self, encoder: WhisperEncoder, padding: str = "window"):
        super().__init__()
        if padding not in ("window", "batch"):
            raise InputError(f"encoder_padding: '{padding}' is neither window nor batch")
        self.encoder = encoder
        self.padding = padding
        self.d_model = encoder.config.d_model
        self.n_mels = encoder.config.num_mel_bins
        self.window = STRIDE * encoder.config.max_source_positions  # feature frames; 3000, 30 s, for all of OpenAI's

    @classmethod
    def from_pretrained(cls, name: str, padding: str = "window", dtype: torch.dtype = torch.float32) -> SpeechEncoder:
        """The encoder of a Whisper folder or hub name. Raises InputError where it cannot be loaded."""
        return cls(load_whisper(_EncoderHalf, name, dtype, key_mapping={PREFIX: ""}), padding)

    def save(self, folder: str | Path) -> None:
        """Write the encoder alone, so that from_pretrained() reads it."""
        encoder = WhisperEncoder(self.encoder.config)  # the class whose weights have no prefix when they are saved
        encoder.load_state_dict(self.encoder.state_dict(), assign=True)
        encoder.save_pretrained(folder)

    def padded_length(self, n_frames: int) -> int:
        """Frames that pieces, the longest of `n_frames`, are padded to."""
        if self.padding == "batch":
            # One state's worth behind the end, the echo, for the convolutions to see as they do in a longer batch.
            return min(n_frames + n_frames % STRIDE + mel.ECHO, self.window)
        return self.window

    def forward(self, pieces: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """pieces: B tensors of features (n_frames_i + ECHO, n_mels), of at most `window` valid frames.

        Returns states (B, S, d_model), those of the longest piece, and n_states (B,), ceil(n_frames_i / STRIDE).
        """
        n_frames = torch.tensor([mel.valid_frames(piece) for piece in pieces], device=pieces[0].device)
        padded = mel.pad(pieces, self.padded_length(int(n_frames.max()))).to(self.encoder.conv1.weight.dtype)
        if self.padding == "window":
            states = self.encoder(padded.transpose(1, 2)).last_hidden_state
        else:
            states = self._encode(padded, n_frames)
        n_states = (n_frames + STRIDE - 1) // STRIDE
        return states[:, : int(n_states.max())], n_states

    @torch.no_grad()
    def encode(self, speech: Sequence[Speech]) -> list[list[torch.Tensor]]:
        """The states (n_i, d_model) of each utterance's pieces; of utterances that are states already, those."""
        if isinstance(speech[0], list):
            return list(speech)
        cuts = [cut(utterance, self.window) for utterance in speech]
        states, n_states = self([piece for pieces in cuts for piece in pieces])
        valid = iter(row[:n] for row, n in zip(states, n_states.tolist(), strict=True))
        return [[next(valid) for _ in pieces] for pieces in cuts]

    def _encode(self, windows: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
        """What WhisperEncoder does, but for any length up to its window, and without attending past n_frames (W,).

        windows (W, T, n_mels). Returns (W, T / 2, d_model).
        """
        encoder = self.encoder
        states = nn.functional.gelu(encoder.conv1(windows.transpose(1, 2)))
        states = nn.functional.gelu(encoder.conv2(states)).transpose(1, 2)
        states = states + encoder.embed_positions.weight[: states.shape[1]]
        past = STRIDE * torch.arange(states.shape[1], device=states.device) >= n_frames[:, None]
        mask = torch.zeros(past.shape, dtype=states.dtype, device=states.device)
        mask = mask.masked_fill(past, torch.finfo(states.dtype).min)[:, None, None]
        for layer in encoder.layers:
            states = layer(states, mask)
        return encoder.layer_norm(states)


class _EncoderHalf(WhisperEncoder):
    """Of a whole Whisper only the encoder is read."""

    _keys_to_ignore_on_load_unexpected = (r"decoder\.", r"proj_out\.")


def load_whisper(kind: type[Model], name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Model:
    """A Whisper, or its encoder, from a folder or hub name, in evaluation mode.

    Raises InputError where it cannot be loaded or lacks weights, which Transformers would draw at random.
    """
    with loading(name):
        if AutoConfig.from_pretrained(name, trust_remote_code=False).model_type != "whisper":
            raise InputError(f"encoder: {name} is not a Whisper model")
        model, found = kind.from_pretrained(
            name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    for faulty, what in ((found["missing_keys"], "are not there"), (found["mismatched_keys"], "do not fit its config.json")):
        if faulty:
            names = sorted(key if isinstance(key, str) else key[0] for key in faulty)
            raise InputError(f"encoder: {name}: {len(names)} of the weights {what}, among them {names[0]}")
    return model.eval()


@contextmanager
def loading(name: str) -> Iterator[None]:
    """What a Whisper's files can be wrong in, as one line."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError, UnpicklingError,
            StrictDataclassError) as e:  # fmt: skip
        reason = next(iter(str(e).splitlines()), type(e).__name__)
        raise InputError(f"encoder: {name} cannot be loaded ({reason})") from None
