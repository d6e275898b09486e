"""The systems of the paper are configurations of one program: the same keys, and the values that make each what it is."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT, World
from transformers import AutoTokenizer

from blsp.base.config import load_config, plain
from blsp.model.prompts import Prompter
from blsp.training.dataset import AlignmentData, StepSampler

SYSTEMS = ("blsp", "blsp_rp", "blsp_kd", "asr_pretrain", "ctc_llm")
FOLDERS = ("recipes/librispeech/conf", "egs/mini/conf", "egs/paper/conf")


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_is_a_configuration_with_the_keys_of_blsp(folder: str, system: str) -> None:
    path = ROOT / folder / f"{system}.yaml"
    config, blsp = load_config(path), load_config(ROOT / "recipes/librispeech/conf/blsp.yaml")
    assert list(config) == list(blsp)
    assert config["system"] == system
    assert len(path.read_text().splitlines()) <= 82
    assert set(config["mix"]) <= set(config["behaviours"])
    assert (config["objective"], config["input"]) == (("ctc", "ctc") if system == "ctc_llm" else ("alignment", "speech"))
    assert (config["kd_weight"] > 0) == (system == "blsp_kd")


def test_the_small_setting_is_blsp_with_other_models_and_less_data() -> None:
    small, blsp = (load_config(ROOT / f"recipes/librispeech/conf/{name}.yaml") for name in ("small", "blsp"))
    assert list(small) == list(blsp)
    changed = {"system", "llm", "template", "train_sets", "generation_batch", "epochs", "batch_size", "max_tokens", "lr",
               "warmup_steps", "decoding_batch"}  # fmt: skip
    assert {key for key in blsp if plain(small)[key] != plain(blsp)[key]} == changed
    assert set(small["train_sets"]) < set(blsp["train_sets"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_asr_pretraining_has_a_hundred_instructions_and_is_scored_under_two(folder: str) -> None:
    config = load_config(ROOT / folder / "asr_pretrain.yaml")
    (behaviour,) = (config["behaviours"][name] for name in config["mix"])
    lines = (ROOT / "recipes/librispeech" / behaviour["instructions"]).read_text().splitlines()
    instructions = [line for line in lines if line and not line.startswith("#")]
    assert len(set(instructions)) == len(instructions) == 100
    assert behaviour["response"] == "transcript"
    assert config["tasks"]["asr"]["instruction"] == "Please repeat the following words."
    assert config["tasks"]["asr_transcribe"]["instruction"] in instructions


def test_blsp_rp_draws_nine_to_one(prepared: World) -> None:
    mix = load_config(ROOT / "recipes/librispeech/conf/blsp_rp.yaml")["mix"]
    prompter = Prompter(AutoTokenizer.from_pretrained(prepared.llm))
    data = AlignmentData(prepared.data, ["train_clean_100"], mix, prompter)
    share = []
    for epoch in range(1, 21):
        sampler = StepSampler(data, mix, 9, 1000, seed=1)
        sampler.set_epoch(epoch)
        numbers = [number for step in sampler for micro_batch in step for number in micro_batch]
        share += [data.behaviours[data.behaviour[number]] == "repetition" for number in numbers]
    assert sampler.drawn == [24, round(24 / 9)]
    assert np.mean(share) == pytest.approx(0.1, abs=0.02)
