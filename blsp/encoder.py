"""The frozen speech encoder: the encoder half of a Whisper model (Section 4.1)."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.files import InputError

STRIDE = 2  # feature frames per encoder state: one state every 20 ms


class SpeechEncoder(nn.Module):
    """Whisper's encoder on utterances of any length.

    Whisper attends over the padding of its window and was trained so: `padding` "window" gives it whole windows,
    longer utterances window by window. "batch" encodes only up to the longest utterance of the batch, and masks what is
    behind the end of a shorter one: faster, and still as if each were alone, but with a frozen encoder the states differ
    from those that it was trained to give.
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
        try:
            if AutoConfig.from_pretrained(name).model_type != "whisper":
                raise InputError(f"encoder: {name} is not a Whisper model")
            model = WhisperModel.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError, SafetensorError) as e:
            raise InputError(f"encoder: {name} cannot be loaded ({str(e).splitlines()[0]})") from None
        return cls(model.encoder, padding)

    def padded_length(self, n_frames: int) -> int:
        """Frames that a batch whose longest utterance has `n_frames` must be padded to."""
        if self.padding == "batch" and n_frames < self.window:
            # One state's worth of silence, for the convolutions to see behind the end as they do in a longer batch.
            return min(n_frames + n_frames % STRIDE + STRIDE, self.window)
        return -(-n_frames // self.window) * self.window

    def forward(self, features: torch.Tensor, n_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """features (B, T, n_mels), T = padded_length of the longest; n_frames (B,) valid feature frames.

        Returns states (B, S, d_model), cut to the longest utterance, and n_states (B,).
        """
        n_states = (n_frames + STRIDE - 1) // STRIDE
        batch, frames, n_mels = features.shape
        length = min(frames, self.window)
        windows = features.to(self.encoder.conv1.weight.dtype).reshape(-1, length, n_mels)
        if self.padding == "window":
            states = self.encoder(windows.transpose(1, 2)).last_hidden_state
        else:
            begins = torch.arange(0, frames, length, device=n_frames.device)
            states = self._encode(windows, (n_frames[:, None] - begins).clamp(0, length).flatten())
        states = states.reshape(batch, -1, self.d_model)
        return states[:, : int(n_states.max())], n_states

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


def load_recognizer(name: str, dtype: torch.dtype = torch.float32) -> WhisperForConditionalGeneration:
    """The whole Whisper, for the cascade Whisper+LLM (Section 4.2)."""
    try:
        return WhisperForConditionalGeneration.from_pretrained(name, dtype=dtype).eval()
    except (OSError, ValueError, SafetensorError) as e:
        raise InputError(f"encoder: {name} cannot be loaded ({str(e).splitlines()[0]})") from None
