"""The trainers and gates of egs/mini's models, on a handful of utterances and a few steps."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import ROOT
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

LOCAL = ROOT / "egs" / "mini" / "local"
sys.path.insert(0, str(LOCAL))

import speak  # noqa: E402
import train_whisper  # noqa: E402
import whisper_data  # noqa: E402

LLM = ROOT / "egs" / "mini" / "models" / "llama-mini"
SMALL = {"steps": 4, "batch": 4, "warmup": 1, "d_model": 16, "encoder_layers": 1, "accept_wer": 1e9, "threads": 1, "lr": 1e-3}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both languages, as run.sh --from-scratch has them spoken."""
    out = tmp_path_factory.mktemp("spoken")
    sizes = ["--train", "8", "--dev", "2", "--test", "2", "--instructions", "1"]
    for program, more in (("speak.py", sizes), ("speak_layouts.py", ["--recipes", "commonvoice-de", "--limit", "2"])):
        command = [sys.executable, LOCAL / program, "--out", out, "--nj", "1", *more]
        subprocess.run([str(part) for part in command], check=True, cwd=ROOT, capture_output=True)
    return out


def settings(spoken: Path, out: Path, **changed: object) -> argparse.Namespace:
    """What the command line gives, with a model and steps that take a second."""
    corpora = {"corpus": spoken / "LibriSpeech", "german": spoken / "commonvoice-de"}
    return argparse.Namespace(**corpora, out=out, cache=None, seed=1, heads=2, dropout=0.0, **{**SMALL, **changed})


def train(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    torch.manual_seed(args.seed)
    train_whisper.train(args)
    return WhisperForConditionalGeneration.from_pretrained(args.out).state_dict()


def test_utterances_begin_and_end_in_silence(spoken: Path) -> None:
    clips = [soundfile.read(path)[0] for path in sorted(spoken.glob("LibriSpeech/train-clean-100/**/*.flac"))]
    before = [int(clip.nonzero()[0][0]) for clip in clips]
    behind = [len(clip) - 1 - int(clip.nonzero()[0][-1]) for clip in clips]
    assert len(set(before)) == len(set(behind)) == len(clips) == 8
    assert max(before) > 0.05 * speak.SAMPLE_RATE and max(behind) > 0.2 * speak.SAMPLE_RATE
    assert all(len(clip) <= speak.MAX_SECONDS * speak.SAMPLE_RATE for clip in clips)


def test_speech_is_spoken_anew_where_it_would_be_said_otherwise(spoken: Path) -> None:
    chapter = speak.plan_split(speak.SPLITS[1], 2, seed=2)[0]
    root = spoken / "LibriSpeech"
    assert speak.is_spoken(root, chapter)
    (utterance,) = chapter.utterances
    otherwise = replace(chapter, utterances=(replace(utterance, pitch=utterance.pitch + 1),))
    assert otherwise.transcripts == chapter.transcripts and not speak.is_spoken(root, otherwise)


def test_recordings_of_both_languages(spoken: Path) -> None:
    german = whisper_data.read_clips(spoken / "commonvoice-de" / "train.tsv", "de")
    assert len(german) == 2 and all(r.language == "de" and r.text == r.text.lower() and "." not in r.text for r in german)
    features = whisper_data.extract_features(german)  # of clips of 48 kHz
    assert features.shape == (2, 80, 400)
    tokenizer = whisper_data.train_tokenizer([r.text for r in german])
    rows = whisper_data.token_targets(tokenizer, german)
    head = ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert tokenizer.convert_ids_to_tokens(rows[0, :4].tolist()) == head
    assert tokenizer.decode(rows[0, 4:][rows[0, 4:] >= 0], skip_special_tokens=True).strip() == german[0].text


def test_whisper_that_was_killed_goes_on_to_the_same_weights(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_whisper, "CHECK_EVERY", 2)
    whole = train(settings(spoken, tmp_path / "whole"))

    step, done = train_whisper.Trainer.step, []

    def dies(trainer: train_whisper.Trainer, *given: object) -> float:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(step(trainer, *given))
        return done[-1]

    monkeypatch.setattr(train_whisper.Trainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(settings(spoken, tmp_path / "resumed"))
    monkeypatch.setattr(train_whisper.Trainer, "step", step)
    resumed = train(settings(spoken, tmp_path / "resumed"))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())

    capsys.readouterr()
    train(settings(spoken, tmp_path / "resumed"))
    assert "is there" in capsys.readouterr().out


def test_whisper_knows_its_languages_and_passes_no_worse_one(spoken: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dev-other is above 0\.0; train longer"):
        train(settings(spoken, tmp_path, accept_wer=0.0))
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = WhisperTokenizer.from_pretrained(tmp_path)
    assert model.generation_config.lang_to_id == {t: tokenizer.convert_tokens_to_ids(t) for t in ("<|en|>", "<|de|>")}
    clip = whisper_data.extract_features(whisper_data.read_clips(spoken / "commonvoice-de" / "dev.tsv", "de")[:1]).float()
    told = model.generate(input_features=clip, task="transcribe", language="de", max_new_tokens=2, return_dict_in_generate=True)
    assert told.sequences.shape[0] == 1


@pytest.mark.parametrize(("accept", "status"), [("101", 1), ("95", 0)])
def test_llm_is_accepted_by_its_scores(tmp_path: Path, accept: str, status: int) -> None:
    command = [sys.executable, LOCAL / "llm_scores.py", LLM, "--out", tmp_path / "out", "--n", "1", "--accept", accept]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == status, done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists() == (status == 0)
    if status:
        assert "answers are 100.0 % on dev, below 101.0" in done.stderr
    else:
        assert "| continue_de exact |" in (tmp_path / "out" / "README.md").read_text()
