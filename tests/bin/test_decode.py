"""Decoding: every utterance answered in order, the same file however the work is shared, from speech, text and Whisper."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SENTENCES, WINDOW, World, call, mtimes, plain_llm, run_program, speak

from blsp.base.files import InputError, read_json, read_jsonl
from blsp.bin import features
from blsp.data import mel
from blsp.data.data_dir import Utterance, read_table, write_data_dir, write_table
from blsp.model.blsp import BLSP
from blsp.model.generation import Decoding
from blsp.model.prompts import Prompter

ASR, COLOR = "decode/test_clean.asr/hyp.jsonl", "decode/test_clean.color/hyp.jsonl"


def common(world: World, exp_dir: Path, *overrides: str) -> tuple:
    return ("--config", world.config, "--data-dir", world.data, "--exp-dir", exp_dir, "--", *overrides)


@pytest.fixture(scope="module")
def model(untrained: Path) -> Path:
    return untrained


@pytest.fixture(scope="module")
def decoded(prepared: World, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp_dir = tmp_path_factory.mktemp("exp")
    call("decode", "--model", model, *common(prepared, exp_dir))
    return exp_dir


def files(exp_dir: Path) -> dict[str, bytes]:
    return {str(p.relative_to(exp_dir)): p.read_bytes() for p in sorted(exp_dir.rglob("hyp.jsonl*"))}


def test_every_utterance_has_its_hypothesis_and_reference_in_order(prepared: World, decoded: Path) -> None:
    text = read_table(prepared.data / "test_clean/text")
    for name, task, instruction in (
        (ASR, "asr", "Please repeat the following words."),
        (COLOR, "color", "Which color is named?"),
    ):
        rows = read_jsonl(decoded / name)
        assert [r["utt_id"] for r in rows] == list(text)
        assert [r["reference"] for r in rows] == list(text.values())
        assert {(r["task"], r["instruction"]) for r in rows} == {(task, instruction)}
        assert {r["finish_reason"] for r in rows} <= {"stop", "length"}
    assert [r["hypothesis"] for r in read_jsonl(decoded / ASR)] != [r["hypothesis"] for r in read_jsonl(decoded / COLOR)]


def test_seven_shards_write_what_one_process_writes(prepared: World, model: Path, decoded: Path, tmp_path: Path) -> None:
    for shard in (2, 7, 1, 3, 6, 5, 4):
        call("decode", "--model", model, "--shard", f"{shard}/7", *common(prepared, tmp_path))
    assert files(tmp_path) == files(decoded)


def test_killed_and_resumed_is_never_killed(prepared: World, model: Path, decoded: Path, tmp_path: Path) -> None:
    def patch() -> None:
        from blsp.base.journal import Journal

        append = Journal.append

        def dying(self, rows):
            append(self, rows)
            os.kill(os.getpid(), signal.SIGKILL)

        Journal.append = dying

    arguments = ("--model", model, *common(prepared, tmp_path / "exp"))
    assert run_program("decode", *arguments, log=tmp_path / "log", patch=patch) == -signal.SIGKILL
    assert not (tmp_path / "exp" / ASR).exists()
    assert run_program("decode", *arguments, log=tmp_path / "log") == 0
    assert files(tmp_path / "exp") == files(decoded)


def test_only_what_a_setting_concerns_is_decoded_again(prepared: World, model: Path, decoded: Path, tmp_path: Path) -> None:
    shutil.copytree(decoded, tmp_path / "exp")
    before = mtimes(tmp_path / "exp")
    call("decode", "--model", model, *common(prepared, tmp_path / "exp", "--lr=1", "--scoring_normalizer=lower"))
    assert mtimes(tmp_path / "exp") == before
    call("decode", "--model", model, *common(prepared, tmp_path / "exp", "--tasks.color.instruction=Name a color."))
    changed = {name for name, time in mtimes(tmp_path / "exp").items() if time != before.get(name)}
    assert {str(Path(name).parent) for name in changed} == {"decode/test_clean.color"}


def test_a_language_that_the_recognizer_does_not_know(prepared: World, tmp_path: Path) -> None:
    encoder = ROOT / "egs" / "mini" / "models" / "whisper-mini"
    overrides = ("--input=whisper", f"--encoder={encoder}", "--source_language=zh")
    with pytest.raises(InputError, match="does not know the source_language 'zh'; it is one of de, en, or auto"):
        call("decode", *common(prepared, tmp_path, *overrides))


def test_the_cascades_read_text_and_whispers_words(prepared: World, tmp_path: Path) -> None:
    for source in ("text", "whisper"):
        call("decode", *common(prepared, tmp_path / source, f"--input={source}"))
    text = read_table(prepared.data / "test_clean/text")
    transcripts = read_jsonl(tmp_path / "whisper/decode/test_clean.transcript/hyp.jsonl")
    assert [r["utt_id"] for r in transcripts] == list(text)
    assert [r["reference"] for r in transcripts] == list(text.values())
    from_text, from_whisper = (read_jsonl(tmp_path / s / ASR) for s in ("text", "whisper"))
    assert [r["utt_id"] for r in from_text] == [r["utt_id"] for r in from_whisper] == list(text)
    n_cut_off = sum(r["finish_reason"] == "length" for r in transcripts)  # a random Whisper does not come to an end
    assert n_cut_off > 0
    call("score", *common(prepared, tmp_path / "whisper", "--input=whisper"))
    assert read_json(tmp_path / "whisper/decode/test_clean.transcript/score.json")["cut_off"] == n_cut_off
    assert not (tmp_path / "text/decode/test_clean.transcript").exists()


def test_the_text_cascade_answers_as_the_llm_does(prepared: World, tmp_path: Path) -> None:
    call("decode", *common(prepared, tmp_path, "--input=text"))
    llm, tokenizer = plain_llm(str(prepared.llm))
    for row in read_jsonl(tmp_path / COLOR)[:3]:
        words = row["reference"].lower().replace("neighbour", "neighbor")
        ids = torch.tensor([Prompter(tokenizer).text_prompt("Which color is named?", words)])
        out = llm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=2)
        assert row["hypothesis"] == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_the_model_answers_as_it_is_decoded(prepared: World, model: Path, decoded: Path) -> None:
    """Stage 4 and BLSP.generate() on the same utterances, by their features and by their audio."""
    loaded = BLSP.from_pretrained(model)
    rows = read_jsonl(decoded / ASR)
    feats, wavs = (read_table(prepared.data / "test_clean" / name) for name in ("feats.scp", "wav.scp"))
    for sounds in ({u: mel.read_features(place) for u, place in feats.items()}, wavs):
        says = [{"type": "text", "text": "Please repeat the following words."}]
        conversations = [
            [{"role": "user", "content": [*says, {"type": "audio", "audio": sounds[row["utt_id"]]}]}] for row in rows
        ]
        answers = loaded.generate(conversations, Decoding(max_new_tokens=10))
        assert [(a.text, a.finish_reason) for a in answers] == [(row["hypothesis"], row["finish_reason"]) for row in rows]


def test_utterances_longer_than_the_window_are_decoded(prepared: World, model: Path, tmp_path: Path) -> None:
    seconds = 2.5 * WINDOW
    speak(tmp_path / "long.wav", SENTENCES[0], seconds)
    utterances = [Utterance("s-long", "s", tmp_path / "long.wav", None, None, seconds, "WORDS")]
    write_data_dir(tmp_path / "data/test_clean", utterances)
    features.extract(tmp_path / "data/test_clean", 80, 6, False, 1)
    world = replace(prepared, data=tmp_path / "data")
    call("decode", "--model", model, *common(world, tmp_path / "speech"))
    call("decode", *common(world, tmp_path / "whisper", "--input=whisper"))
    assert len(read_jsonl(tmp_path / "speech" / ASR)) == 1
    (row,) = read_jsonl(tmp_path / "whisper/decode/test_clean.transcript/hyp.jsonl")
    assert row["utt_id"] == "s-long"


def test_a_task_without_references_is_passed_over_and_one_with_gaps_refused(
    prepared: World, model: Path, copy_of, tmp_path: Path
) -> None:
    world = copy_of(prepared)
    folder = world.data / "test_clean"
    call("decode", "--model", model, *common(world, tmp_path / "exp", "--tasks.color.reference=intent"))
    assert (tmp_path / "exp/decode/test_clean.asr").exists() and not (tmp_path / "exp/decode/test_clean.color").exists()
    call("score", *common(world, tmp_path / "exp", "--tasks.color.reference=intent"))
    text = read_table(folder / "text")
    write_table(folder / "intent", dict(list(text.items())[1:]))
    with pytest.raises(InputError, match=f"'{next(iter(text))}' has no reference"):
        call("decode", "--model", model, *common(world, tmp_path / "exp", "--tasks.color.reference=intent"))


def test_what_is_missing_is_named_in_one_line(prepared: World, tmp_path: Path) -> None:
    cases = (
        ((), "config.json"),
        (("--input=sound",), "input 'sound' is not one of speech, text, whisper"),
        (("--input=text", f"--llm={tmp_path}/absent"), "llm: "),
        (("--input=whisper", f"--encoder={prepared.llm}"), "encoder: "),
    )
    for overrides, pattern in cases:
        with pytest.raises(InputError, match=pattern) as e:
            call("decode", *common(prepared, tmp_path / "exp", *overrides))
        assert "\n" not in str(e.value)
