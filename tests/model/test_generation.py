"""Text generation: equal to stepping by hand, sampling that depends on the utterance only, true finish reasons."""

from __future__ import annotations

import pytest
import torch
from conftest import World

from blsp.base.files import InputError
from blsp.model.generation import Decoding, _SampleRows, generate, length_batches
from blsp.model.llm import LLM, load_llm
from blsp.model.prompts import Prompter

Pair = tuple[LLM, Prompter]


@pytest.fixture(scope="module")
def llm(world: World) -> Pair:
    llm = load_llm(str(world.llm))
    return llm, Prompter(llm.tokenizer)


def prompts_of(llm: Pair, *texts: str) -> list[torch.Tensor]:
    return [llm[0].embed(llm[0].tokenizer.encode(text)) for text in texts]


@torch.no_grad()
def by_hand(llm, prompt: torch.Tensor, n: int) -> list[int]:
    """Greedy tokens, each by a forward over all that stands before."""
    model = llm[0].model
    ids: list[int] = []
    for _ in range(n):
        embeds = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))])
        ids.append(int(model(inputs_embeds=embeds[None]).logits[0, -1].argmax()))
        if ids[-1] == model.config.eos_token_id:
            break
    return ids


def test_a_padded_batch_gives_the_greedy_tokens_of_stepping_by_hand(llm) -> None:
    texts = ["the farmer", "a doctor hides two green apples near the river", "x"]
    prompts = prompts_of(llm, *texts)
    for prompt, generated in zip(prompts, generate(*llm, prompts, Decoding(8), texts), strict=True):
        ids = by_hand(llm, prompt, 8)
        assert generated.text == llm[0].tokenizer.decode([i for i in ids if i != 2], skip_special_tokens=True).strip()


def test_finish_reasons_and_token_counts(world: World) -> None:
    """With the third greedy token as the end of sequence, a response of it stops, at the limit as well as before."""
    loaded = load_llm(str(world.llm))
    llm = loaded, Prompter(loaded.tokenizer)
    prompt = prompts_of(llm, "the farmer")
    first, second, third = by_hand(llm, prompt[0], 3)
    assert third not in (first, second)
    loaded.tokenizer.eos_token = loaded.tokenizer.convert_ids_to_tokens(third)
    llm = LLM(loaded.model, loaded.tokenizer), Prompter(loaded.tokenizer)
    assert llm[0].ends == {third}
    for limit, reason, n_tokens in ((2, "length", 2), (3, "stop", 2), (8, "stop", 2)):
        (generated,) = generate(*llm, prompt, Decoding(limit), ["k"])
        assert (generated.finish_reason, generated.n_tokens) == (reason, n_tokens)


def test_sampling_depends_on_the_utterance_and_the_seed_only(llm) -> None:
    prompts = prompts_of(llm, "the farmer", "a doctor hides his letter", "my sister")
    keys = ["u1", "u2", "u3"]
    decoding = Decoding(10, temperature=1.0, top_p=0.95)
    first = generate(*llm, prompts, decoding, keys)
    torch.manual_seed(123)
    assert generate(*llm, prompts[::-1], decoding, keys[::-1]) == first[::-1]
    assert generate(*llm, prompts[1:2], decoding, keys[1:2]) == first[1:2]
    assert generate(*llm, prompts, Decoding(10, temperature=1.0, top_p=0.95, seed=1), keys) != first
    assert generate(*llm, prompts[:1], decoding, ["u9"]) != first[:1]


def sampled(decoding: Decoding, logits: list[float], n: int) -> torch.Tensor:
    """Share of each token among n utterances."""
    rows = _SampleRows(decoding, [str(i) for i in range(n)], torch.device("cpu"))
    tokens = rows(torch.zeros(n, 1), torch.tensor([logits] * n)).argmax(-1)
    return torch.bincount(tokens, minlength=len(logits)) / n


def test_sampling_follows_the_distribution_at_its_temperature() -> None:
    logits = [2.0, 1.0, 0.0, -1.0, -30.0]
    for temperature in (0.5, 1.0, 2.0):
        expected = (torch.tensor(logits) / temperature).softmax(-1)
        torch.testing.assert_close(sampled(Decoding(1, temperature), logits, 3000), expected, atol=0.03, rtol=0)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    shares = sampled(Decoding(1, 1.0, top_p=0.7), logits, 1000)
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0, 0]), atol=0.05, rtol=0)
    assert sampled(Decoding(1, 1.0, top_p=0.4), logits, 50).tolist() == [1, 0, 0, 0]


def test_batches_hold_every_item_once_longest_first() -> None:
    lengths = [5, 1, 9, 9, 3, 7]
    batches = length_batches(lengths, 4)
    assert batches == [[2, 3, 5, 0], [4, 1]]
    assert length_batches([], 4) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "num_beams": 2},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"max_new_tokens": 0},
        {"min_new_tokens": 65},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict) -> None:
    with pytest.raises(InputError, match="Decoding"):
        Decoding(**settings)
