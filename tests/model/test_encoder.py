"""The speech encoder: Whisper's own states, whatever the batch and the length."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import World
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.base.files import InputError
from blsp.data import mel
from blsp.model.encoder import SpeechEncoder, cut

LENGTHS = (1, 10, 57, 58, 163, 198, 199, 200)  # valid feature frames; the window has 200


def utterances(*lengths: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(sum(lengths))
    return [torch.rand(n + mel.ECHO, 80, generator=random) * 2 - 1 for n in lengths]


@torch.no_grad()
def encode(encoder: SpeechEncoder, batch: list[torch.Tensor]) -> list[torch.Tensor]:
    states, n_states = encoder(batch)
    assert states.shape[1] == max(n_states)
    return [row[:n] for row, n in zip(states, n_states.tolist(), strict=True)]


@pytest.fixture(params=["window", "batch"])
def encoder(request: pytest.FixtureRequest, world: World) -> SpeechEncoder:
    return SpeechEncoder.from_pretrained(str(world.whisper), request.param).eval()


def test_window_is_read_from_the_model(encoder: SpeechEncoder) -> None:
    assert (encoder.window, encoder.n_mels, encoder.d_model) == (200, 80, 16)


def test_a_batch_gives_what_single_utterances_give(encoder: SpeechEncoder) -> None:
    for lengths in (LENGTHS, (30, 57), (199, 10)):
        batch = utterances(*lengths)
        for together, utterance in zip(encode(encoder, batch), batch, strict=True):
            alone = encode(encoder, [utterance])[0]
            assert together.shape == (-(-mel.valid_frames(utterance) // 2), 16)
            torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_window_padding_gives_whispers_states(world: World) -> None:
    encoder = SpeechEncoder.from_pretrained(str(world.whisper), "window").eval()
    batch = utterances(*LENGTHS)
    with torch.no_grad():
        whole = WhisperForConditionalGeneration.from_pretrained(world.whisper).eval()
        expected = whole.model.encoder(mel.pad(batch, 200).transpose(1, 2)).last_hidden_state
    for states, row in zip(encode(encoder, batch), expected, strict=True):
        assert torch.equal(states, row[: len(states)])


@pytest.mark.parametrize("n_frames", [20, 110, 200])
def test_batch_padding_gives_the_states_of_a_whisper_with_that_window(world: World, n_frames: int) -> None:
    """The last state attends to no silence, so the reference is a Whisper whose window ends with the utterance."""
    encoder = SpeechEncoder.from_pretrained(str(world.whisper), "batch").eval()
    (utterance,) = utterances(n_frames)
    config = copy.copy(encoder.encoder.config)
    config.max_source_positions = n_frames // 2
    shorter = WhisperEncoder(config).eval()
    weights = encoder.encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][: n_frames // 2]
    shorter.load_state_dict(weights)
    if n_frames < 200:  # behind it the first convolution sees the echo, not the zeros that it adds itself
        shorter.conv1.register_forward_pre_hook(lambda _, args: (torch.cat([args[0], echo], dim=2),))
        shorter.conv1.register_forward_hook(lambda _, __, output: output[..., :n_frames])
        echo = utterance[n_frames : n_frames + 1].T[None]
    with torch.no_grad():
        expected = shorter(utterance[:n_frames].T[None]).last_hidden_state[0]
    torch.testing.assert_close(encode(encoder, [utterance])[0], expected, atol=1e-5, rtol=0)


def test_long_utterances_are_cut_at_the_end_of_a_pause_of_the_second_half() -> None:
    (long,) = utterances(700)
    for begin, end in ((30, 60), (120, 160), (190, 195), (310, 335)):  # too early; found; a stop; found
        long[begin:end] = -1.5
    assert [mel.valid_frames(piece) for piece in cut(long, 200)[:2]] == [156, 174]  # half of the average before the speech
    pieces = cut(long, 200)
    assert torch.equal(torch.cat([*(piece[: -mel.ECHO] for piece in pieces[:-1]), pieces[-1]]), long)
    for piece in pieces[:-1]:
        assert 100 <= mel.valid_frames(piece) <= 200 and len(piece) % 2 == 0
        assert torch.equal(piece[-mel.ECHO :], mel.silence(piece[: -mel.ECHO]).expand(mel.ECHO, 80))
    assert torch.equal(cut(long[:202], 200)[0], long[:202]) and len(cut(long[:202], 200)) == 1


def test_batch_padding_costs_no_more_than_the_longest(world: World) -> None:
    encoder = SpeechEncoder.from_pretrained(str(world.whisper), "batch")
    assert [encoder.padded_length(n) for n in (1, 10, 57, 198, 199, 200)] == [4, 12, 60, 200, 200, 200]


def test_another_padding_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="'longest' is neither window nor batch"):
        SpeechEncoder.from_pretrained(str(world.whisper), "longest")


def test_what_is_no_whisper_is_refused_in_one_line(world: World) -> None:
    for name in (str(world.llm), str(world.folder / "absent"), str(world.folder)):
        with pytest.raises(InputError, match="encoder: ") as e:
            SpeechEncoder.from_pretrained(name)
        assert "\n" not in str(e.value)


HALF = "model.encoder."
LAYOUTS = {  # names of a folder's weights, by those of a WhisperForConditionalGeneration
    "whole": lambda name: name,
    "WhisperModel": lambda name: name.removeprefix("model."),
    "encoder of a whole": lambda name: name if name.startswith(HALF) else "",
    "encoder of a WhisperModel": lambda name: name.removeprefix("model.") if name.startswith(HALF) else "",
    "WhisperEncoder": lambda name: name.removeprefix(HALF) if name.startswith(HALF) else "",
}


def folder_of(world: World, folder: Path, weights: dict[str, torch.Tensor], files: str = "one") -> Path:
    """The tiny Whisper with other weights in one safetensors file, in two, or in one of the old kind."""
    shutil.copytree(world.whisper, folder)
    (folder / "model.safetensors").unlink()
    if files == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    names = (
        ["model.safetensors"] if files == "one" else ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    )
    where = {key: names[i % len(names)] for i, key in enumerate(weights)}
    for name in names:
        save_file({key: value for key, value in weights.items() if where[key] == name}, folder / name, {"format": "pt"})
    if len(names) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


@pytest.mark.parametrize("files", ["one", "two", "bin"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_encoder_is_found_in_whatever_holds_one(world: World, tmp_path: Path, layout: str, files: str, capfd) -> None:
    weights = load_file(world.whisper / "model.safetensors")
    named = {LAYOUTS[layout](name): value for name, value in weights.items() if LAYOUTS[layout](name)}
    encoder = SpeechEncoder.from_pretrained(str(folder_of(world, tmp_path / "whisper", named, files)))
    assert "UNEXPECTED" not in capfd.readouterr().err
    expected = {name.removeprefix(HALF): value for name, value in weights.items() if name.startswith(HALF)}
    found = encoder.encoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_weights_that_are_missing_or_of_another_shape_are_not_drawn_at_random(world: World, tmp_path: Path) -> None:
    weights = load_file(world.whisper / "model.safetensors")
    decoder = {name: value for name, value in weights.items() if "decoder" in name}
    wider = weights | {HALF + "conv1.weight": torch.zeros(16, 128, 3)}
    without = {name: value for name, value in weights.items() if name != HALF + "layers.1.fc1.weight"}
    for number, (changed, pattern) in enumerate(
        (
            (decoder, "37 of the weights are not there, among them conv1.bias"),
            (without, "1 of the weights are not there, among them layers.1.fc1.weight"),
            (wider, "1 of the weights do not fit its config.json, among them conv1.weight"),
        )
    ):
        with pytest.raises(InputError, match=pattern) as e:
            SpeechEncoder.from_pretrained(str(folder_of(world, tmp_path / str(number), changed)))
        assert "\n" not in str(e.value)


def test_files_that_are_broken_are_named_in_one_line(world: World, tmp_path: Path) -> None:
    weights = load_file(world.whisper / "model.safetensors")
    for number, (file, content) in enumerate(
        (
            ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
            ("model.safetensors", b""),
            ("pytorch_model.bin", b"not a pickle"),
            ("config.json", b"{"),
            ("config.json", b'{"model_type": "whisper", "d_model": "wide"}'),
            ("config.json", b'{"model_type": "whisper"}'),
        )
    ):
        folder = folder_of(world, tmp_path / str(number), weights)
        if file.endswith("bin"):
            (folder / "model.safetensors").unlink()
        (folder / file).write_bytes(content)
        with pytest.raises(InputError, match="encoder: ") as e:
            SpeechEncoder.from_pretrained(str(folder))
        assert "\n" not in str(e.value)
