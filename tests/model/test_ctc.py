"""CTC+LLM: searches against brute force, loss and transcripts whatever the batch, what is left out, stages 3 to 5."""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES, World, call, run_program
from safetensors.torch import load_file

from blsp.base.config import load_config
from blsp.base.files import InputError, read_json, read_jsonl
from blsp.bin.train import _settings
from blsp.data.data_dir import read_table
from blsp.data.mel import ECHO, read_features
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP, Batch
from blsp.model.ctc import BLANK, Vocabulary, greedy_search, prefix_beam_search, train_vocabulary
from blsp.model.encoder import SpeechEncoder
from blsp.model.recognizer import Recognizer
from blsp.training.dataset import UNFIT, AlignmentData

LENGTHS = (64, 200, 65, 130)  # valid feature frames; 4, 13, 5 and 9 adapter states
TEXTS = ("the farmer", "a doctor finds the broken clock", "at home", "the the a")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(train_vocabulary(SENTENCES, 500))


def build(world: World, vocabulary: Vocabulary, padding: str = "window") -> Recognizer:
    torch.manual_seed(5)
    return Recognizer(SpeechEncoder.from_pretrained(str(world.whisper), padding), Adapter(16, 32, 8), vocabulary).eval()


def make_batch(vocabulary: Vocabulary) -> Batch:
    random = torch.Generator().manual_seed(1)
    features = [torch.rand(n + ECHO, 80, generator=random) * 2 - 1 for n in LENGTHS]
    prompts = [vocabulary.prompt("")] * len(LENGTHS)
    return Batch(features, prompts, [vocabulary.response(text) for text in TEXTS])


def random_log_probs(n_states: int, n_pieces: int, seed: int) -> torch.Tensor:
    return (2 * torch.randn(n_states, n_pieces, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def sums_of_paths(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Probability of every sequence of pieces: all paths, one by one."""
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        pieces = tuple(piece for piece, _ in itertools.groupby(path) if piece != BLANK)
        sums[pieces] += math.exp(sum(float(row[piece]) for row, piece in zip(log_probs, path, strict=True)))
    return sums


def test_the_sum_of_paths_beats_the_best_path() -> None:
    """Two states with 0.6 for the blank: "" has 0.36, "a" by its three paths 0.64."""
    log_probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy_search(log_probs) == []
    ids, score = prefix_beam_search(log_probs, 4)
    assert ids == [1]
    assert math.exp(score) == pytest.approx(0.64)


def test_greedy_search_drops_repetitions_then_blanks() -> None:
    path = [0, 1, 1, 0, 1, 2, 2, 0]
    assert greedy_search(torch.eye(3)[path].log()) == [1, 1, 2]
    assert prefix_beam_search(torch.eye(3)[path].log().clamp(min=-50), 8)[0] == [1, 1, 2]


@pytest.mark.parametrize(("n_states", "n_pieces"), [(1, 2), (3, 3), (5, 3), (4, 4)])
def test_a_wide_beam_equals_brute_force_over_all_paths(n_states: int, n_pieces: int) -> None:
    for seed in range(6):
        log_probs = random_log_probs(n_states, n_pieces, seed)
        sums = sums_of_paths(log_probs)
        assert sum(sums.values()) == pytest.approx(1)
        best = max(sums, key=sums.__getitem__)
        ids, score = prefix_beam_search(log_probs, 10_000)
        assert tuple(ids) == best
        assert math.exp(score) == pytest.approx(sums[best])
        narrow, score = prefix_beam_search(log_probs, 2)
        assert math.exp(score) <= sums[tuple(narrow)] + 1e-9


def test_a_piece_twice_needs_a_blank_between(vocabulary: Vocabulary) -> None:
    assert len(vocabulary.response("the a the")) == 3
    assert vocabulary.fits("the a the", 3)
    assert not vocabulary.fits("the a the", 2)
    assert not vocabulary.fits("the the a", 3)
    assert vocabulary.fits("the the a", 4)


def test_a_vocabulary_is_the_same_for_the_same_transcripts(vocabulary: Vocabulary) -> None:
    again = train_vocabulary(SENTENCES, 500)
    assert again == vocabulary.model
    assert len(Vocabulary(train_vocabulary(SENTENCES, 50))) == 50
    assert all(vocabulary.text(vocabulary.response(s)) == s for s in SENTENCES[::9])
    assert not any(BLANK in vocabulary.response(s) for s in SENTENCES)
    with pytest.raises(InputError, match="ctc_vocabulary: 5 pieces cannot"):
        train_vocabulary(SENTENCES, 5)


@pytest.mark.parametrize("padding", ["window", "batch"])
def test_the_loss_of_a_batch_is_torchs_loss_of_single_utterances(world: World, vocabulary: Vocabulary, padding: str) -> None:
    model, batch = build(world, vocabulary, padding), make_batch(vocabulary)
    loss, n_targets = model(batch)
    expected = torch.zeros(())
    for utterance, target in zip(batch.features, batch.responses, strict=True):
        log_probs, n_states = model.log_probs([utterance])
        assert log_probs.shape[1] == int(n_states)
        expected = expected + torch.nn.functional.ctc_loss(
            log_probs[0], torch.tensor(target), n_states[0], torch.tensor(len(target)), reduction="sum"
        )
    assert n_targets == sum(map(len, batch.responses))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("beam", [1, 3])
def test_transcripts_do_not_depend_on_the_batch(world: World, vocabulary: Vocabulary, beam: int) -> None:
    model, batch = build(world, vocabulary), make_batch(vocabulary)
    features = batch.features
    together = model.transcribe(features, beam)
    assert together == [model.transcribe([f], beam)[0] for f in features]
    assert any(together)


def test_adapter_and_projector_learn_and_the_encoder_stays(world: World, vocabulary: Vocabulary) -> None:
    model, batch = build(world, vocabulary).train(), make_batch(vocabulary)
    assert not model.encoder.training
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    found: list[list[str]] = []
    for _ in range(100):  # six initializations took 3 to 9
        for _ in range(5):
            loss, n_targets = model.train()(batch)
            (loss / n_targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        found = [model.eval().transcribe(batch.features, beam) for beam in (1, 4)]
        if found == [list(TEXTS)] * 2:
            break
    assert found == [list(TEXTS)] * 2
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("encoder."), name


@pytest.fixture(scope="module")
def config(prepared: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny configuration as a recognizer's."""
    text = prepared.config.read_text()
    for key, value in {"objective": "ctc", "mix": "{repetition: 1}", "input": "ctc", "system": "ctc_llm"}.items():
        text, found = re.subn(rf"(?m)^{key}: .*$", f"{key}: {value}", text)
        assert found == 1, key
    path = tmp_path_factory.mktemp("config") / "ctc_llm.yaml"
    path.write_text(text)
    return path


def train(config: Path, world: World, exp_dir: Path, *overrides: str, **how) -> int:
    arguments = ("--config", config, "--data-dir", world.data, "--exp-dir", exp_dir, "--", *overrides)
    return run_program("train", *arguments, log=exp_dir.with_suffix(".log"), **how)


@pytest.fixture(scope="module")
def trained(config: Path, prepared: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp_dir = tmp_path_factory.mktemp("ctc") / "exp"
    assert train(config, prepared, exp_dir) == 0, exp_dir.with_suffix(".log").read_text()
    return exp_dir


def test_transcripts_that_do_not_fit_are_counted_and_left_out(trained: Path, prepared: World) -> None:
    model = Recognizer.from_pretrained(trained / "model")
    data = AlignmentData(prepared.data, ["train_clean_100"], {"repetition": 1}, model.vocabulary)
    rows = read_jsonl(prepared.data / "train_clean_100/responses.repetition.jsonl")
    n_frames = read_table(prepared.data / "train_clean_100/utt2num_frames")
    fit = 0
    for row in rows:
        n_states = (int(n_frames[row["utt_id"]]) + 1) // 2
        for _ in range(3):
            n_states = (n_states - 1) // 2 + 1
        pieces = model.vocabulary.response(row["response"])
        target = torch.tensor([pieces])
        log_probs = torch.zeros(n_states, 1, len(model.vocabulary)).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(log_probs, target, torch.tensor([n_states]), torch.tensor([len(pieces)]))
        fit += bool(torch.isfinite(loss))  # torch's own word on whether there is a path
    assert 0 < fit < len(rows)
    assert len(data) == fit
    assert data.pairs[0].left_out == {UNFIT: len(rows) - fit}
    log = (trained / "train.log").read_text()
    assert f"train_clean_100/responses.repetition.jsonl: left out {len(rows) - fit} of {len(rows)}: {UNFIT}" in log
    assert f"{fit} pairs" in log


def test_killed_and_resumed_is_never_killed(trained: Path, config: Path, prepared: World, tmp_path: Path) -> None:
    def patch() -> None:
        from blsp.training.trainer import AlignmentBrain

        fit_batch = AlignmentBrain.fit_batch

        def dying(self, batch):
            if self.optimizer_step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return fit_batch(self, batch)

        AlignmentBrain.fit_batch = dying

    exp_dir = tmp_path / "exp"
    steps = ("--batch_size=4", "--checkpoint_interval=1")
    assert train(config, prepared, tmp_path / "whole", *steps) == 0
    assert train(config, prepared, exp_dir, *steps, patch=patch) == -signal.SIGKILL
    assert train(config, prepared, exp_dir, *steps) == 0
    assert "continues after step 3 of 6" in (exp_dir / "train.log").read_text()
    expected = load_file(tmp_path / "whole/model/model.safetensors")
    got = load_file(exp_dir / "model/model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in got.items())
    names = {name.partition(".")[0] for name in got}
    assert names == {"adapter", "projector"}
    assert (exp_dir / "model/tokenizer.model").read_bytes() == (trained / "model/tokenizer.model").read_bytes()


def test_the_llm_reads_what_the_recognizer_writes(trained: Path, config: Path, prepared: World, tmp_path: Path) -> None:
    common = ("--config", config, "--data-dir", prepared.data, "--exp-dir", tmp_path)
    call("decode", *common, "--model", trained / "model")
    call("score", *common)
    rows = read_jsonl(tmp_path / "decode/test_clean.transcript/hyp.jsonl")
    model = Recognizer.from_pretrained(trained / "model")
    places = read_table(prepared.data / "test_clean/feats.scp")
    beam = load_config(config)["ctc_beam"]
    assert [r["hypothesis"] for r in rows] == [model.transcribe([read_features(places[r["utt_id"]])], beam)[0] for r in rows]
    assert [r["reference"] for r in rows] == list(read_table(prepared.data / "test_clean/text").values())
    assert {"test_clean.transcript", "test_clean.asr", "test_clean.color"} == {p.name for p in (tmp_path / "decode").iterdir()}
    assert read_json(tmp_path / "decode/test_clean.transcript/score.json")["system"] == "ctc_llm"
    assert re.search(r"\| transcript \| test_clean \| WER \|", (tmp_path / "RESULTS.md").read_text())


def test_models_of_the_other_kind_are_refused(trained: Path, other_llm: Path) -> None:
    with pytest.raises(InputError, match="is not of a BLSP model"):
        BLSP.from_pretrained(trained / "model")
    with pytest.raises(InputError, match="is not of a CTC recognizer"):
        Recognizer.from_pretrained(other_llm)


def test_responses_that_are_no_transcripts_are_refused(config: Path, prepared: World, tmp_path: Path) -> None:
    assert train(prepared.config, prepared, tmp_path / "exp", "--objective=ctc") == 1
    assert "take 'continuation' out of mix" in (tmp_path / "exp.log").read_text()
    assert train(config, prepared, tmp_path / "exp", "--objective=both") == 1
    assert "objective 'both' is neither alignment nor ctc" in (tmp_path / "exp.log").read_text()


def test_only_what_concerns_the_objective_trains_anew(config: Path, prepared: World) -> None:
    def settings(*overrides: str, path: Path = prepared.config) -> dict:
        return _settings(load_config(path, overrides), prepared.data)

    blsp, ctc, kd = settings(), settings(path=config), settings("--kd_weight=0.5")
    assert settings("--ctc_vocabulary=9", "--kd_temperature=3", "--ctc_beam=1", "--normalizer=lower") == blsp
    assert settings("--kd_weight=0.5", "--template=chat", path=config) == ctc
    assert settings("--ctc_vocabulary=9", path=config) != ctc
    assert settings("--kd_weight=0.5", "--kd_temperature=3") != kd != blsp
