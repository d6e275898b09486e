"""States are those of a plain forward, alone or in a batch; means of cosines equal values computed by hand; a picture shows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES, World, untrained_model
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

from blsp.base.files import InputError
from blsp.evaluation import representations
from blsp.evaluation.representations import draw, prompt_states, similarities, tsne
from blsp.model.blsp import BLSP
from blsp.model.llm import LLM, load_tokenizer

INSTRUCTIONS = {"CW": "Please continue the following sentence.", "SR": "Please transcribe the following audio."}


@pytest.fixture(scope="module")
def model(world: World) -> BLSP:
    return untrained_model(world)


def words(model: BLSP, sentence: str) -> torch.Tensor:
    return model.llm.embed(model.prompter.content(sentence))


def features(model: BLSP, n_frames: int) -> torch.Tensor:
    from blsp.data.mel import ECHO

    return torch.randn(n_frames + ECHO, 80, generator=torch.Generator().manual_seed(n_frames))


@torch.inference_mode()
def test_states_are_the_last_of_a_plain_forward(model: BLSP) -> None:
    """output_hidden_states' last layer over the joint token ids, at the last of them."""
    sentence = SENTENCES[3]
    states = prompt_states(model, [words(model, sentence)], INSTRUCTIONS)
    assert list(states) == list(INSTRUCTIONS)
    for name, instruction in INSTRUCTIONS.items():
        ids = torch.tensor([model.prompter.text_prompt(instruction, sentence)])
        expected = model.llm.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, -1]
        torch.testing.assert_close(torch.from_numpy(states[name]), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(states["CW"], states["SR"], atol=0.1)


@torch.inference_mode()
def test_a_batch_gives_what_singles_give(model: BLSP) -> None:
    speech = [features(model, n) for n in (31, 180, 77)]
    contents = [*model.speech_embeds(speech), words(model, SENTENCES[0]), words(model, "")]
    together = prompt_states(model, contents, INSTRUCTIONS)
    alone = [*(model.speech_embeds([s])[0] for s in speech), *contents[3:]]
    for i, content in enumerate(alone):
        for name, state in prompt_states(model, [content], INSTRUCTIONS).items():
            np.testing.assert_allclose(together[name][i], state[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_speech_that_is_the_transcript_has_its_states(model: BLSP) -> None:
    texts = [words(model, sentence) for sentence in SENTENCES[:40:7]]
    text = prompt_states(model, texts, INSTRUCTIONS)
    speech = prompt_states(model, [text.clone() for text in texts], INSTRUCTIONS)
    values = similarities(speech, text)
    for name in INSTRUCTIONS:
        assert values["paired"][name] == pytest.approx(1, abs=1e-6)
        assert values["unpaired"][name] < 1 - 1e-4
    assert values["speech"] == values["text"]


def test_means_by_hand() -> None:
    speech = {"A": np.array([[1.0, 0], [0, 2], [3, 4]]), "B": np.array([[0.0, 1], [0, -1], [6, 8]])}
    text = {"A": np.array([[5.0, 0], [1, 1], [4, 3]]), "B": np.array([[0.0, 2], [3, 0], [-3, -4]])}
    half = 0.5**0.5
    values = similarities(speech, text)
    assert values["paired"] == pytest.approx({"A": (1 + half + 0.96) / 3, "B": (1 + 0 - 1) / 3})
    others = [half, 0.8, 0, 0.6, 0.6, 1.4 * half]  # each speech under A with the two other texts
    assert values["unpaired"]["A"] == pytest.approx(sum(others) / 6)
    across = (0 - 1 + 1) / 3
    assert values["speech"]["A"] == pytest.approx({"A": 1, "B": across})
    assert values["speech"]["B"] == pytest.approx({"A": across, "B": 1})
    assert values["text"]["A"]["B"] == pytest.approx((0 + half - 1 * 0.96) / 3)
    alone = similarities({"A": speech["A"][:1]}, {"A": text["A"][:1]})
    assert (alone["paired"], alone["unpaired"]) == ({"A": pytest.approx(1)}, {"A": None})


def clusters(n: int) -> tuple[representations.States, representations.States]:
    """Speech beside its text under A and B, in clusters that are far from one another."""
    random = np.random.default_rng(0)
    text = {name: random.normal(size=(n, 8)) + 40 * i for i, name in enumerate("AB")}
    return {name: rows + 0.01 * random.normal(size=rows.shape) for name, rows in text.items()}, text


def test_neighbours_are_neighbours_in_the_plane() -> None:
    speech, text = clusters(20)
    spoken, written = tsne(speech, text, seed=1, perplexity=5)
    assert {name: rows.shape for name, rows in spoken.items()} == {"A": (20, 2), "B": (20, 2)}
    for name in "AB":
        pairs = np.linalg.norm(spoken[name] - written[name], axis=1)
        other = np.linalg.norm(spoken[name] - written["B" if name == "A" else "A"], axis=1)
        assert np.median(pairs) < 0.2 * np.median(other)
    again, _ = tsne(speech, text, seed=1, perplexity=5)
    np.testing.assert_array_equal(again["A"], spoken["A"])


def test_few_points_are_enough() -> None:
    spoken, written = tsne(*clusters(1), seed=0, perplexity=30)
    assert np.isfinite([*spoken.values(), *written.values()]).all()


def picture(shown: list[int], joined: int) -> np.ndarray:
    speech = {"A": np.array([[0.0, 0], [1, 1], [9, 9]]), "B": np.array([[3.0, 0], [2, 1], [-9, 9]])}
    text = {name: rows + [0.3, 1] for name, rows in speech.items()}
    file = io.BytesIO()
    draw(speech, text, shown, joined, "a title", file)
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def test_the_picture_shows_colors_shapes_and_pairs() -> None:
    plain, joined = picture([0, 1], 0), picture([0, 1], 1)
    for color in ((255, 127, 14), (214, 39, 40)):  # of the first two instructions
        assert (np.abs(plain - color).sum(-1) < 30).sum() > 50
    black = [(image.sum(-1) < 150).sum() for image in (plain, joined)]
    assert black[1] > black[0] + 100
    assert not np.array_equal(picture([0, 2], 0), plain)


def test_broken_states_are_named(tmp_path: Path) -> None:
    (tmp_path / "speech.safetensors").write_bytes(b"torn")
    assert not representations.done_with(tmp_path / "speech.safetensors", "a")
    with pytest.raises(InputError, match=r"speech.safetensors: cannot be read .*run again"):
        representations.load_states(tmp_path / "speech.safetensors", INSTRUCTIONS)


LAYERS = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
KINDS = {  # what stands around the layers differs: learned positions, scaled embeddings, another width within, recurrent states
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4},
    "gemma2": {**LAYERS, "num_key_value_heads": 2, "head_dim": 8},
    "opt": {**LAYERS, "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "mamba": {"num_hidden_layers": 2, "hidden_size": 32, "state_size": 4},
}


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_other_llms_have_their_final_states(world: World, kind: str) -> None:
    torch.manual_seed(0)
    tokenizer = load_tokenizer(world.llm)
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **KINDS[kind]
    )
    llm = LLM(AutoModelForCausalLM.from_config(config), tokenizer)
    rows = [torch.arange(3, 3 + n) for n in (5, 12, 9)]
    states = llm.last_states([llm.embed(ids) for ids in rows])
    for ids, state in zip(rows, states, strict=True):
        expected = llm.model(input_ids=ids[None], output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
