"""Kept encoder states: the same losses and answers as without, made anew for another encoder, finished after kills."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES, WINDOW, World, call, mtimes, run_program, speak
from safetensors.torch import load_file, save_file

from blsp.base.files import read_json, read_jsonl
from blsp.bin import features
from blsp.data.data_dir import Utterance, read_table, write_data_dir
from blsp.data.states import speech_reader
from blsp.model import encoding
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP
from blsp.model.encoder import SpeechEncoder
from blsp.model.llm import load_llm
from blsp.model.prompts import Prompter
from blsp.training.dataset import AlignmentData

SETS = ("train_clean_100", "dev_clean", "test_clean")
ON = "--cache_encoder=true"
ASR, COLOR = "decode/test_clean.asr/hyp.jsonl", "decode/test_clean.color/hyp.jsonl"


def arguments(world: World, *overrides: str) -> tuple:
    return ("--config", world.config, "--data-dir", world.data, "--", ON, *overrides)


@pytest.fixture(scope="module")
def encoded(prepared: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The prepared world with encoder states."""
    world = replace(prepared, data=tmp_path_factory.mktemp("encoded") / "data")
    shutil.copytree(prepared.data, world.data)
    call("encode", *arguments(world))
    return world


@pytest.fixture(scope="module")
def blsp(prepared: World) -> BLSP:
    torch.manual_seed(3)
    llm = load_llm(str(prepared.llm))
    encoder = SpeechEncoder.from_pretrained(str(prepared.whisper))
    return BLSP(encoder, Adapter(16, 32, 8, 0.3), llm, Prompter(llm.tokenizer))


@pytest.fixture(scope="module")
def model(prepared: World, blsp: BLSP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model's folder."""
    folder = tmp_path_factory.mktemp("model")
    blsp.save_pretrained(folder, str(prepared.whisper), str(prepared.llm), {})
    return folder


def states(data: Path) -> dict[str, np.ndarray]:
    """By set and utterance."""
    read = {}
    for name in SETS:
        of = speech_reader(data / name, True)
        read |= {f"{name} {u}": np.concatenate([p.numpy() for p in of(u)]) for u in read_table(data / name / "text")}
    return read


def test_states_are_the_encoders_in_float16(encoded: World, blsp: BLSP) -> None:
    for name in SETS:
        kept, computed = speech_reader(encoded.data / name, True), speech_reader(encoded.data / name, False)
        for utt_id in read_table(encoded.data / name / "text"):
            ((expected,),) = blsp.encoder.encode([computed(utt_id)])
            (found,) = kept(utt_id)
            assert found.dtype == torch.float16
            torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=2**-10)


def test_the_loss_is_the_same_to_the_rounding_of_float16(encoded: World, blsp: BLSP) -> None:
    losses = []
    for cached in (False, True):
        data = AlignmentData(
            encoded.data, ["train_clean_100"], {"continuation": 1, "repetition": 1}, blsp.prompter, cached=cached
        )
        batches = [data[tuple(range(i, i + 8))] for i in range(0, len(data) - 8, 8)]
        assert isinstance(batches[0].features[0], list) == cached
        with torch.no_grad():
            losses.append(torch.stack([blsp(batch.to("cpu"))[0] for batch in batches]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)
    assert not torch.equal(losses[1], losses[0])  # it was the kept states that were read


@pytest.mark.parametrize("objective", ["alignment", "ctc"])
def test_training_reads_them_and_is_not_repeated_for_them(encoded: World, tmp_path: Path, objective: str) -> None:
    config = tmp_path / "tiny.yaml"
    text = encoded.config.read_text().replace("mix: {continuation: 1, repetition: 1}", "mix: {repetition: 1}")
    config.write_text(text)

    def train(world: World, name: str, *options: str) -> str:
        log = tmp_path / f"{name}.log"
        common = ("--config", config, "--data-dir", world.data, "--exp-dir", tmp_path / name, "--")
        fixed = (f"--objective={objective}", "--epochs=1")
        assert run_program("train", *common, *fixed, *options, log=log) == 0, log.read_text()
        return log.read_text()

    def losses(log: str) -> list[float]:
        return [float(x) for x in re.findall(r"loss (\d+\.\d+)", log)]

    computed = losses(train(encoded, "computed", "--cache_encoder=false"))
    read = losses(train(without_features(encoded, tmp_path / "data"), "read", ON))
    assert len(read) > 1 and read == pytest.approx(computed, rel=2e-3)
    assert "model: is there" in train(encoded, "computed", ON)
    if objective == "ctc":
        transcripts = []
        for world, name, option in (
            (encoded, "a", "--cache_encoder=false"),
            (without_features(encoded, tmp_path / "d"), "b", ON),
        ):
            common = ("--config", config, "--data-dir", world.data, "--exp-dir", tmp_path / name)
            call("decode", *common, "--model", tmp_path / "computed/model", "--", "--input=ctc", option)
            transcripts.append(read_jsonl(tmp_path / name / "decode/test_clean.transcript/hyp.jsonl"))
        assert transcripts[0] == transcripts[1]


def without_features(world: World, data: Path) -> World:
    """A copy whose features' archives are gone, so that nothing can be encoded again."""
    shutil.copytree(world.data, data)
    for scp in data.glob("*/feats.scp"):
        scp.write_text("".join(f"{u} nowhere:0\n" for u in read_table(scp)))
    return replace(world, data=data)


def test_answers_are_the_same_and_encode_nothing(encoded: World, model: Path, tmp_path: Path) -> None:
    answers = []
    for world, cached in ((encoded, "--cache_encoder=false"), (without_features(encoded, tmp_path / "data"), ON)):
        exp = tmp_path / f"exp{len(answers)}"
        call("decode", "--config", world.config, "--data-dir", world.data, "--exp-dir", exp, "--model", model, "--", cached)
        answers.append([read_jsonl(exp / name) for name in (ASR, COLOR)])
    assert answers[0] == answers[1]


def test_each_utterance_is_encoded_once_whatever_the_number_of_tasks(
    prepared: World, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = SpeechEncoder.forward
    monkeypatch.setattr(SpeechEncoder, "forward", lambda self, pieces: seen.append(len(pieces)) or forward(self, pieces))
    common = ("--config", prepared.config, "--data-dir", prepared.data, "--model", model)
    call("decode", *common, "--exp-dir", tmp_path / "both")
    assert sum(seen) == len(read_table(prepared.data / "test_clean/text"))
    # A task that comes later gets the answers that it would have had together with the first.
    shutil.copytree(tmp_path / "both", tmp_path / "one")
    shutil.rmtree(tmp_path / "one/decode/test_clean.color")
    call("decode", *common, "--exp-dir", tmp_path / "one")
    assert (tmp_path / "one" / COLOR).read_bytes() == (tmp_path / "both" / COLOR).read_bytes()


def test_utterances_longer_than_the_window_keep_their_pieces(prepared: World, model: Path, tmp_path: Path) -> None:
    utterances = []
    for i, seconds in enumerate((2.5 * WINDOW, 1.0, 1.2 * WINDOW)):
        speak(tmp_path / f"{i}.wav", SENTENCES[i], seconds)
        utterances.append(Utterance(f"s-{i}", "s", tmp_path / f"{i}.wav", None, None, seconds, "WORDS"))
    data = tmp_path / "data"
    write_data_dir(data / "test_clean", utterances)
    features.extract(data / "test_clean", 80, 6, False, 1)
    world = replace(prepared, data=data)
    call("encode", *arguments(world, "--train_sets=[]", "--dev_sets=[]"))
    pieces = {u: n.split() for u, n in read_table(data / "test_clean/utt2num_states").items()}
    assert len(pieces["s-0"]) >= 3 and len(pieces["s-1"]) == 1 and len(pieces["s-2"]) == 2
    answers = []
    for cached in ("--cache_encoder=false", ON):
        exp = tmp_path / f"exp{len(answers)}"
        call("decode", "--config", world.config, "--data-dir", data, "--exp-dir", exp, "--model", model, "--", cached)
        answers.append(read_jsonl(exp / ASR))
    assert answers[0] == answers[1]


def test_they_are_made_anew_only_for_another_encoder_padding_or_features(encoded: World, copy_of, tmp_path: Path) -> None:
    world = copy_of(encoded)

    def made(*overrides: str) -> str:
        call("encode", *arguments(world, *overrides))
        return read_json(world.data / "test_clean/states.json")["fingerprint"]

    before = mtimes(world.data)
    first = made()
    made("--lr=1", "--decoding_batch=2", "--llm=other")
    assert mtimes(world.data) == before
    other = tmp_path / "other"
    shutil.copytree(encoded.whisper, other)
    weights = load_file(other / "model.safetensors")
    weights["model.encoder.layer_norm.bias"] += 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    seen = {first}
    for override in (f"--encoder={other}", "--encoder_padding=batch", "--precision=bf16"):
        now = made(override)
        assert now not in seen
        assert {p.name.split(".")[0] for p in (world.data / "test_clean/states").iterdir()} == {now}
        seen.add(now)
    assert made() == first
    call("features", "--config", world.config, "--data-dir", world.data, "--nj", 1, "--", "--compress_features=true")
    assert made() not in seen


def refusal(log: Path, program: str, *arguments: object) -> str:
    """What a program says that ends with status 1: one line, its last."""
    log.unlink(missing_ok=True)
    assert run_program(program, *arguments, log=log) == 1
    assert "Traceback" not in log.read_text()
    return log.read_text().splitlines()[-1]


def test_states_that_are_missing_or_anothers_are_refused_in_one_line(
    prepared: World, encoded: World, model: Path, copy_of, tmp_path: Path
) -> None:
    world = copy_of(encoded)
    common = ("--config", world.config, "--data-dir", world.data, "--exp-dir", tmp_path / "exp", "--model", model)
    train = ("--config", world.config, "--data-dir", world.data, "--exp-dir", tmp_path / "exp", "--", ON)
    for change in (lambda: None, lambda: (world.data / "test_clean/states.json").unlink()):
        change()
        said = refusal(tmp_path / "log", "decode", *common, "--", ON, "--precision=bf16")
        assert "test_clean/states.json: is missing or of another encoder" in said and "run stage 1" in said
    assert "train_clean_100/states.json: is missing" in refusal(tmp_path / "log", "train", *train, "--encoder_padding=batch")
    call("features", "--config", world.config, "--data-dir", world.data, "--nj", 1, "--", "--compress_features=true")
    assert "states.json: is missing or of another" in refusal(tmp_path / "log", "train", *train)  # of features that are no more
    shutil.rmtree(world.data / "dev_clean")
    shutil.copytree(prepared.data / "dev_clean", world.data / "dev_clean")
    (world.data / "dev_clean/feats.json").unlink()
    assert "feats.json: cannot be read" in refusal(tmp_path / "log", "encode", *arguments(world))


def tables(data: Path) -> dict[str, bytes]:
    return {f"{n}/{file}": (data / n / file).read_bytes() for n in SETS for file in ("utt2num_states", "states.json")}


def test_a_killed_run_goes_on_and_shares_make_the_same(
    encoded: World, prepared: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BLOCK", 5)

    def fresh(name: str) -> World:
        shutil.copytree(prepared.data, tmp_path / name)
        return replace(prepared, data=tmp_path / name)

    expected = states(encoded.data)
    killed = fresh("killed")
    count: list[int] = []

    def dying() -> None:
        from blsp.data.archives import Archives

        write = Archives.write

        def write_and_die(self, *args, **how) -> None:
            if len(count) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            count.append(1)
            write(self, *args, **how)

        Archives.write = write_and_die

    assert run_program("encode", *arguments(killed), log=tmp_path / "log", patch=dying) == -signal.SIGKILL
    first = killed.data / "train_clean_100/states"
    kept = mtimes(first)
    assert len([name for name in kept if name.endswith(".ark")]) == 2
    assert not (killed.data / "train_clean_100/states.scp").exists()
    assert run_program("encode", *arguments(killed), log=tmp_path / "log") == 0
    assert kept.items() <= mtimes(first).items()
    shared = fresh("shared")
    for shard in (3, 1, 2):
        assert not (shared.data / "test_clean/states.json").exists()
        config = ("--config", shared.config, "--data-dir", shared.data, "--shard", f"{shard}/3")
        call("encode", *config, "--", ON)
    for world in (killed, shared):
        found = states(world.data)
        assert found.keys() == expected.keys()
        assert all(np.allclose(found[u], expected[u], rtol=2**-9, atol=1e-5) for u in expected)
        assert tables(world.data) == tables(encoded.data)


def test_off_it_does_nothing(prepared: World) -> None:
    before = mtimes(prepared.data)
    call("encode", "--config", prepared.config, "--data-dir", prepared.data)
    assert mtimes(prepared.data) == before


def test_the_program_itself_loads_no_torch() -> None:
    code = (
        "import sys, blsp.bin.encode, blsp.bin.decode, blsp.bin.train; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
