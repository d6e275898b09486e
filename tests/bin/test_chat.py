"""The chat: several turns by text and speech as the model gives them, commands, faults that do not end it, Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import RATE, SENTENCES, call, speak

from blsp.base.files import InputError
from blsp.bin import chat
from blsp.model.blsp import BLSP
from blsp.model.generation import Decoding
from blsp.model.llm import LLM

REPEAT = "Please repeat the following words."
N = 6  # tokens of an answer


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    speak(tmp_path / "a sound.wav", SENTENCES[9], 1.2)
    return tmp_path / "a sound.wav"


@pytest.fixture
def talk(untrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """A function that gives lines to the program and returns what it prints on standard output and standard error."""

    def talk(*lines: str, options: tuple = ()) -> tuple[list[str], list[str]]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        capsys.readouterr()
        call("chat", "--model", untrained, "--max-new-tokens", N, *options)
        printed = capsys.readouterr()
        faults = [line for line in printed.err.splitlines() if "Loading weights" not in line and line]
        return printed.out.split("\n")[:-1], faults

    return talk


@pytest.fixture
def answer(untrained: Path):
    """A function from what the user says, turn by turn, to the model's answers."""
    model = BLSP.from_pretrained(untrained)

    def answer(*turns: list) -> list[str]:
        history, answers = [], []
        for parts in turns:
            content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "audio", "audio": p} for p in parts]
            history.append({"role": "user", "content": content})
            answers.append(model.generate([history], Decoding(N))[0].text)
            history.append({"role": "assistant", "content": answers[-1]})
        return answers

    return answer


def shown(answers: list[str]) -> list[str]:
    return "\n".join(answers).split("\n")


def test_turns_of_text_and_speech_are_answered_as_the_model_does(talk, answer, wav: Path) -> None:
    lines = (
        "Who hides it?",
        f"/audio {wav}",
        f"/instruction {REPEAT}",
        f"/audio '{wav}'",
        f"/audio '{wav}' Which color?",
        "/quit",
        "x",
    )
    out, faults = talk(*lines)
    assert not faults
    assert out == shown(answer(["Who hides it?"], [wav], [REPEAT, wav], ["Which color?", wav]))
    out, _ = talk("Who hides it?", "/reset", f"/audio {wav}", options=("--instruction", REPEAT))
    assert out == shown([*answer(["Who hides it?"]), *answer([REPEAT, wav])])


def test_faults_are_a_line_and_the_conversation_goes_on_as_before(talk, answer, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    lines = [
        "Who?",
        f"/audio {tmp_path}/absent.wav",
        f"/audio {tmp_path}/text.wav",
        "/audio",
        "/audio 'x",
        "/sing",
        "x " * 300,
        "",
        "Why?",
    ]
    out, faults = talk(*lines)
    assert out == shown(answer(["Who?"], ["Why?"]))
    patterns = [
        "missing audio",
        "undecodable",
        "write /audio FILE",
        "write /audio FILE",
        "/sing: no such command",
        "context has 256",
    ]
    assert len(faults) == len(patterns)
    assert all(pattern in fault for pattern, fault in zip(patterns, faults, strict=True))


def test_a_system_message_without_a_place_is_refused_at_once(talk) -> None:
    with pytest.raises(InputError, match="template 'paper' has no system turn"):
        talk("Who?", options=("--system", "Be kind."))


def test_help_says_every_command(talk) -> None:
    out, _ = talk("/help")
    assert all(any(line.startswith(f"/{name}") for line in out) for name in ("audio", "record", "instruction", "reset", "quit"))


def test_an_interrupt_stops_the_answer_and_not_the_program(talk, answer, monkeypatch: pytest.MonkeyPatch) -> None:
    read, count = LLM.read, iter(range(100))

    def interrupted(self, embeds, cache):
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, embeds, cache)

    whole = answer(["Who?"])[0]
    monkeypatch.setattr(LLM, "read", interrupted)
    out, faults = talk("Who?", "/reset", "Who?")
    stopped = "\n".join(out).split(" [stopped]\n")
    assert len(stopped) == 2 and whole.startswith(stopped[0]) and stopped[0] != whole
    assert stopped[1] == whole and not faults


def test_recording_needs_a_package_that_it_names(talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    out, (fault,) = talk("/record")
    assert not out
    assert "/record needs the package sounddevice" in fault


def test_what_the_microphone_gives_is_what_is_answered(talk, answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the library, whose stream calls back as the real one does."""
    samples = np.random.default_rng(1).normal(scale=0.1, size=RATE).astype(np.float32)

    class InputStream:
        def __init__(self, samplerate: int, channels: int, dtype: str, callback):
            assert (samplerate, channels, dtype) == (RATE, 1, "float32")
            self.callback = callback

        def __enter__(self) -> None:
            for block in samples.reshape(-1, 800, 1):
                self.callback(block, len(block), None, None)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=InputStream, PortAudioError=OSError))
    out, faults = talk(f"/record {REPEAT}", "")
    assert not faults
    assert out == shown([chat.RECORDING + answer([REPEAT, samples])[0]])
