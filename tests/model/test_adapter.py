"""The adapter: lengths, independence of the batch, noise only in training."""

from __future__ import annotations

import pytest
import torch

from blsp.model.adapter import Adapter, adapter_length


@pytest.fixture
def adapter() -> Adapter:
    torch.manual_seed(0)
    return Adapter(d_encoder=6, d_llm=10, d_bottleneck=4).eval()


def law(n: int) -> int:
    for _ in range(3):
        n = (n - 1) // 2 + 1
    return n


def test_length_law_equals_the_convolutions(adapter: Adapter) -> None:
    for n in range(1, 101):
        embeds, n_embeds = adapter(torch.randn(1, n, 6), torch.tensor([n]))
        assert embeds.shape == (1, law(n), 10)
        assert n_embeds.tolist() == [law(n)] == adapter_length(torch.tensor([n])).tolist()
        assert adapter_length(n) == law(n)


def test_embeddings_do_not_depend_on_the_batch(adapter: Adapter) -> None:
    lengths = [1, 2, 7, 8, 9, 16, 17, 40]
    states = torch.randn(len(lengths), max(lengths), 6)  # what stands past an utterance's end is not zero
    embeds, n_embeds = adapter(states, torch.tensor(lengths))
    for i, n in enumerate(lengths):
        alone, _ = adapter(states[i : i + 1, :n], torch.tensor([n]))
        assert n_embeds[i] == alone.shape[1]
        torch.testing.assert_close(embeds[i, : n_embeds[i]], alone[0], atol=1e-6, rtol=0)


def test_embeddings_start_with_the_given_scale() -> None:
    adapter = Adapter(6, 64, 4, scale=0.05).eval()
    embeds, _ = adapter(torch.randn(2, 30, 6), torch.tensor([30, 30]))
    torch.testing.assert_close(embeds.square().mean(-1).sqrt(), torch.full((2, 4), 0.05), atol=1e-3, rtol=0)


def test_noise_is_added_in_training_only() -> None:
    torch.manual_seed(0)
    adapter = Adapter(6, 64, 4, scale=0.05, noise=0.5)
    states, lengths = torch.randn(8, 80, 6), torch.full((8,), 80)
    noisy, _ = adapter.train()(states, lengths)
    clean, _ = adapter.eval()(states, lengths)
    assert torch.equal(clean, adapter(states, lengths)[0])
    assert (noisy - clean).std().item() == pytest.approx(0.5 * 0.05, rel=0.05)
