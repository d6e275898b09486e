"""The modality adapter (Section 4.1): three strided convolutions and a bottleneck, the only part that is trained."""

from __future__ import annotations

import torch
from torch import nn

N_LAYERS = 3
KERNEL, STRIDE, PADDING = 5, 2, 2  # Section 4.1: together the layers shorten by a factor of 8


def adapter_length(n_states: torch.Tensor | int) -> torch.Tensor | int:
    """Speech embeddings that the adapter makes of `n_states` encoder states: floor((n - 1) / 2) + 1, three times."""
    for _ in range(N_LAYERS):
        n_states = (n_states - 1) // STRIDE + 1
    return n_states


class Adapter(nn.Module):
    """Encoder states to speech embeddings in the LLM's embedding space.

    Follows the paper, and the authors' published checkpoint in what the paper leaves out: each convolution doubles its
    channels into a gated linear unit, the bottleneck (Houlsby et al. 2019) is residual, and a LayerNorm ends it.

    scale: initial gain of that LayerNorm; the RMS of the LLM's word embeddings starts the speech among the words.
    noise: standard deviation, in units of `scale`, of Gaussian noise on the embeddings while training (not in the paper).
           The norm of the embeddings is fixed, so noise leaves only directions that the LLM reads worth their energy.
    """

    def __init__(self, d_encoder: int, d_llm: int, d_bottleneck: int = 512, scale: float = 1.0, noise: float = 0.0):
        super().__init__()
        widths = [(d_encoder, d_encoder), (d_encoder, d_encoder), (d_encoder, d_llm)]
        self.convolutions = nn.ModuleList(nn.Conv1d(i, 2 * o, KERNEL, STRIDE, PADDING) for i, o in widths)
        self.down = nn.Linear(d_llm, d_bottleneck, bias=False)
        self.up = nn.Linear(d_bottleneck, d_llm, bias=False)
        self.norm = nn.LayerNorm(d_llm)
        nn.init.constant_(self.norm.weight, scale)
        self.noise = noise * scale

    def forward(self, states: torch.Tensor, n_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """states (B, S, d_encoder), n_states (B,) valid ones.

        Returns speech_embeds (B, N, d_llm) and n_embeds (B,). An utterance's embeddings do not depend on its
        neighbours: every convolution sees zeros past the utterance's end. Embeddings past n_embeds are meaningless.
        """
        x = states.to(self.norm.weight.dtype).transpose(1, 2)  # (B, d_encoder, S)
        lengths = n_states
        for convolution in self.convolutions:
            positions = torch.arange(x.shape[2], device=x.device)
            x = x.masked_fill(positions >= lengths[:, None, None], 0.0)
            x = nn.functional.glu(convolution(x), dim=1)
            lengths = (lengths - 1) // STRIDE + 1
        x = x.transpose(1, 2)  # (B, N, d_llm)
        x = x + self.up(nn.functional.gelu(self.down(x)))
        x = self.norm(x)
        if self.training and self.noise > 0:
            x = x + self.noise * torch.randn_like(x)
        return x, lengths
