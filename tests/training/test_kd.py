"""BLSP-KD: the divergence from the LLM that reads the transcript, by hand and whatever the batch; off, it changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SENTENCES, World, run_program
from transformers import AutoTokenizer

from blsp.base.files import InputError, read_jsonl
from blsp.data.mel import ECHO
from blsp.data.normalization import normalizer
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP, Batch, divergence
from blsp.model.encoder import SpeechEncoder
from blsp.model.llm import load_llm
from blsp.model.prompts import Prompter
from blsp.training.dataset import AlignmentData

LENGTHS = (13, 64, 65, 200)  # valid feature frames
ONE, TWO = ["Please repeat the following words."], ["Please repeat the following words.", "Continue the following text."]


def build(world: World, weight: float, temperature: float = 2.0) -> BLSP:
    torch.manual_seed(5)
    llm = load_llm(str(world.llm))
    scale = llm.word_size()
    encoder = SpeechEncoder.from_pretrained(str(world.whisper))
    return BLSP(encoder, Adapter(16, 32, 8, scale), llm, Prompter(llm.tokenizer), weight, temperature)


def make_batch(model: BLSP, instructions: list[str]) -> Batch:
    random = torch.Generator().manual_seed(1)
    features = [torch.rand(n + ECHO, 80, generator=random) * 2 - 1 for n in LENGTHS]
    prompts = [model.prompter.prompt(instructions[i % len(instructions)]) for i in range(len(LENGTHS))]
    responses = [model.prompter.response(SENTENCES[7 * i][: 9 + 5 * i], ended=i % 2 == 0) for i in range(len(LENGTHS))]
    transcripts = [model.prompter.content(SENTENCES[11 * i][: 30 - 5 * i]) for i in range(len(LENGTHS))]
    return Batch(features, prompts, responses, transcripts)


def by_hand(model: BLSP, batch: Batch, temperature: float) -> tuple[float, float]:
    """Cross-entropy and divergence, each utterance by itself, in whole sequences without a cache."""
    cross_entropy = kl = 0.0
    speech = model.speech_embeds(batch.features)
    for content, prompt, response, words in zip(speech, batch.prompts, batch.responses, batch.transcripts, strict=True):
        rows = []
        for middle in (content, model.llm.embed(words)):
            embeds = torch.cat([model.llm.embed(prompt.prefix), middle, model.llm.embed([*prompt.suffix, *response])])
            logits = model.llm.model(inputs_embeds=embeds[None]).logits[0]
            rows.append(logits[-len(response) - 1 : -1])
        student, teacher = rows
        for i, token in enumerate(response):
            cross_entropy -= student[i].softmax(-1)[token].log().item()
            p, q = (teacher[i] / temperature).softmax(-1), (student[i] / temperature).softmax(-1)
            kl += sum(float(a) * (float(a.log()) - float(b.log())) for a, b in zip(p, q, strict=True))
    return cross_entropy, kl


@pytest.mark.parametrize("instructions", [ONE, TWO])
@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 2.0), (1.0, 1.0)])
def test_the_loss_is_the_sum_worked_out_by_hand(
    world: World, instructions: list[str], weight: float, temperature: float
) -> None:
    model = build(world, weight, temperature).train()
    batch = make_batch(model, instructions)
    loss, n_targets = model(batch)
    with torch.no_grad():
        cross_entropy, kl = by_hand(model, batch, temperature)
    assert n_targets == sum(map(len, batch.responses))
    assert kl > 1
    assert model.reported["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert model.reported["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-4)
    assert loss.item() == pytest.approx((1 - weight) * cross_entropy + weight * temperature**2 * kl, rel=1e-4)


@pytest.mark.parametrize("instructions", [ONE, TWO])
def test_speech_that_is_the_transcript_has_no_divergence(
    world: World, instructions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(world, 0.4).train()
    batch = make_batch(model, instructions)
    monkeypatch.setattr(model, "speech_embeds", lambda *_: [model.llm.embed(ids) for ids in batch.transcripts])
    loss, _ = model(batch)
    assert model.reported["kl"].item() == 0.0
    assert loss.item() == pytest.approx(0.6 * model.reported["cross_entropy"].item())


def test_gradients_reach_the_adapter_alone(world: World) -> None:
    model = build(world, 1.0).train()
    batch = make_batch(model, TWO)
    model(batch)[0].backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert got == {name for name, _ in model.named_parameters() if name.startswith("adapter.")}


def test_weight_zero_computes_nothing_and_changes_nothing(world: World) -> None:
    off, on = build(world, 0.0).train(), build(world, 0.5)
    batch = make_batch(off, ONE)
    loss, n_targets = off(Batch(batch.features, batch.prompts, batch.responses))  # no transcripts at all
    expected, n = off.response_loss(off.speech_embeds(batch.features), batch)
    assert torch.equal(loss, expected)
    assert n == n_targets
    assert off.reported == {}
    assert torch.equal(on.eval()(batch)[0], loss), "a dev loss is the cross-entropy, that of BLSP"
    assert torch.equal(on.train()(batch)[0], loss) is False


def test_divergence_of_two_coins() -> None:
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert divergence(teacher, student, 1.0).item() == pytest.approx(0.75 * 0.405465 - 0.25 * 0.693147, abs=1e-5)
    # At temperature 2 the teacher's odds of 3 become their root: 0.633975 against 0.366025.
    assert divergence(teacher, student, 2.0).item() == pytest.approx(0.036336, abs=1e-5)


@pytest.mark.parametrize(("weight", "temperature"), [(-0.1, 2.0), (1.5, 2.0), (0.5, 0.0)])
def test_values_without_a_meaning_are_refused(world: World, weight: float, temperature: float) -> None:
    with pytest.raises(InputError, match="kd_weight"):
        build(world, weight, temperature)


def test_the_teacher_reads_the_transcript_as_stage_2_did(prepared: World) -> None:
    prompter = Prompter(AutoTokenizer.from_pretrained(prepared.llm))
    normalize = normalizer("whisper_english")
    sets, mix = ["train_clean_100"], {"repetition": 1}
    rows = read_jsonl(prepared.data / "train_clean_100/responses.repetition.jsonl")
    batch = AlignmentData(prepared.data, sets, mix, prompter, normalize)[(3, 9)]
    assert batch.transcripts == [prompter.content(normalize(rows[i]["transcript"])) for i in (3, 9)]
    assert AlignmentData(prepared.data, sets, mix, prompter)[(3, 9)].transcripts == []


def test_training_reports_the_divergence(prepared: World, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for weight in (0.0, 0.5):
        exp_dir = tmp_path / f"kd{weight}"
        arguments = ("--config", prepared.config, "--data-dir", prepared.data, "--exp-dir", exp_dir, "--")
        status = run_program("train", *arguments, "--epochs=1", f"--kd_weight={weight}", log=exp_dir.with_suffix(".log"))
        assert status == 0, exp_dir.with_suffix(".log").read_text()
        events = EventAccumulator(str(exp_dir / "tensorboard"))
        events.Reload()
        scalars = set(events.Tags()["scalars"])
        assert ("train/kl" in scalars) == ("train/cross_entropy" in scalars) == bool(weight)
        if weight:
            last = {name: events.Scalars(f"train/{name}")[-1].value for name in ("loss", "cross_entropy", "kl")}
            assert last["kl"] > 0
            assert last["loss"] == pytest.approx(0.5 * last["cross_entropy"] + 0.5 * 4 * last["kl"], rel=1e-4)
