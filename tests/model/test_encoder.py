"""The speech encoder: Whisper's own states, whatever the batch and the length."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import World
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.base.files import InputError
from blsp.data import mel
from blsp.model.encoder import SpeechEncoder, cut, load_recognizer

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
        expected = load_recognizer(str(world.whisper)).model.encoder(mel.pad(batch, 200).transpose(1, 2)).last_hidden_state
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
