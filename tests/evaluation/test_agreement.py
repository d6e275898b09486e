"""Agreement: how far the LLM's answers to speech are its own answers to the transcripts, by hand and through stages 4 and 5."""

from __future__ import annotations

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, World, call, mtimes, run_program

from blsp.base.files import InputError, read_json, read_jsonl
from blsp.data import mel
from blsp.data.data_dir import read_table, write_table
from blsp.data.normalization import normalizer
from blsp.data.tasks import instruction_of, reference_of
from blsp.evaluation import agreement, metrics
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP
from blsp.model.encoder import SpeechEncoder
from blsp.model.llm import load_llm
from blsp.model.prompts import Prompter

TASKS = """\
tasks:
  continue: {sets: [test_clean], instruction: Continue the following text., metric: agreement}
  color: {sets: [test_clean], instruction: "Which color is named?", metric: agreement}
"""
CONTINUE, COLOR = "decode/test_clean.continue", "decode/test_clean.color"


@pytest.fixture(scope="module")
def asked(prepared: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The prepared world with tasks that are scored by agreement."""
    folder = tmp_path_factory.mktemp("agreement")
    config = folder / "agreement.yaml"
    config.write_text(prepared.config.read_text().partition("tasks:")[0] + TASKS)
    shutil.copytree(prepared.data, folder / "data")
    return World(folder, prepared.whisper, prepared.llm, prepared.corpus, config, folder / "data")


@pytest.fixture(scope="module")
def model(asked: World) -> Path:
    """A model as it is before training."""
    torch.manual_seed(3)
    llm = load_llm(str(asked.llm))
    blsp = BLSP(SpeechEncoder.from_pretrained(str(asked.whisper)), Adapter(16, 32, 8, 0.3), llm, Prompter(llm.tokenizer))
    blsp.save_pretrained(asked.folder / "model", str(asked.whisper), str(asked.llm), {})
    return asked.folder / "model"


def common(asked: World, exp_dir: Path, *overrides: str) -> tuple:
    return ("--config", asked.config, "--data-dir", asked.data, "--exp-dir", exp_dir, "--", *overrides)


@pytest.fixture(scope="module")
def decoded(asked: World, model: Path) -> Path:
    """Stage 4 from speech, by a model of a random adapter."""
    call("decode", "--model", model, *common(asked, asked.folder / "exp"))
    return asked.folder / "exp"


@pytest.fixture
def empty(asked: World, tmp_path: Path) -> World:
    """The world before anybody has answered its transcripts."""
    shutil.copytree(asked.data, tmp_path / "data", ignore=shutil.ignore_patterns("answers"))
    return World(asked.folder, asked.whisper, asked.llm, asked.corpus, asked.config, tmp_path / "data")


def scored(asked: World, exp_dir: Path, *overrides: str) -> dict:
    call("score", *common(asked, exp_dir, *overrides))
    return read_json(exp_dir / CONTINUE / "score.json")


def files(*folders: Path) -> dict[str, bytes]:
    return {str(p.relative_to(f)): p.read_bytes() for f in folders for p in sorted(f.rglob("hyp.jsonl*"))}


def test_text_agrees_with_itself(asked: World, tmp_path: Path) -> None:
    call("decode", *common(asked, tmp_path, "--input=text"))
    score = scored(asked, tmp_path, "--input=text")
    assert (score["agreement"], score["chrf"], score["kl"], score["n"]) == (100, pytest.approx(100), 0, 7)


def test_speech_that_is_the_transcript_agrees(
    asked: World, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, normalize = asked.data / "test_clean", normalizer("whisper_english")
    words = {u: normalize(t) for u, t in read_table(folder / "text").items()}
    sounds = {mel.read_features(place).sum().item(): u for u, place in read_table(folder / "feats.scp").items()}
    assert len(sounds) == len(words)

    def read(self: BLSP, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.llm.embed(self.prompter.content(words[sounds[f.sum().item()]])) for f in features]

    monkeypatch.setattr(BLSP, "speech_embeds", read)
    call("decode", "--model", model, *common(asked, tmp_path))
    score = scored(asked, tmp_path)
    assert (score["agreement"], score["chrf"]) == (100, pytest.approx(100))
    assert score["kl"] == pytest.approx(0, abs=1e-5)  # batches are others, and sums of floats with them


def test_a_random_adapter_agrees_less_and_every_row_says_how_far(asked: World, decoded: Path) -> None:
    score = scored(asked, decoded)
    assert score["agreement"] < 100 and score["chrf"] < 100 and score["kl"] > 0.01
    rows = read_jsonl(decoded / CONTINUE / "hyp.jsonl")
    (own,) = asked.data.glob("test_clean/answers/continue.*/hyp.jsonl")
    assert [r["reference"] for r in rows] == [r["hypothesis"] for r in read_jsonl(own)]
    assert [r["utt_id"] for r in rows] == list(read_table(asked.data / "test_clean/text"))
    assert score["kl"] == pytest.approx(sum(r["kl"] for r in rows) / sum(r["n_tokens"] for r in rows))
    table = (decoded / "RESULTS.md").read_text()
    assert (
        f"| continue | test_clean | agreement | {score['agreement']:.1f} | chrF {score['chrf']:.1f}, KL {score['kl']:.4f}"
        in table
    )


def test_own_answers_are_what_the_llm_says_of_the_transcript(asked: World, decoded: Path) -> None:
    llm = load_llm(str(asked.llm))
    tokenizer = llm.tokenizer
    text = read_table(asked.data / "test_clean/text")
    for row in read_jsonl(decoded / COLOR / "hyp.jsonl")[:3]:
        words = normalizer("whisper_english")(text[row["utt_id"]])
        ids = torch.tensor([Prompter(tokenizer).text_prompt("Which color is named?", words)])
        out = llm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=2)
        assert row["reference"] == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_the_divergence_is_the_sum_worked_out_by_hand(asked: World, decoded: Path, model: Path) -> None:
    blsp, folder = BLSP.from_pretrained(model), asked.data / "test_clean"
    text, places = read_table(folder / "text"), read_table(folder / "feats.scp")
    (own,) = folder.glob("answers/continue.*/hyp.jsonl")
    ended = {row["utt_id"]: row["finish_reason"] == "stop" for row in read_jsonl(own)}
    prompt = blsp.prompter.prompt("Continue the following text.")
    for row in read_jsonl(decoded / CONTINUE / "hyp.jsonl")[:4]:
        utt_id = row["utt_id"]
        words = blsp.llm.embed(blsp.prompter.content(normalizer("whisper_english")(text[utt_id])))
        (speech,) = blsp.speech_embeds([mel.read_features(places[utt_id])])
        response = blsp.prompter.response(row["reference"], ended[utt_id])
        with torch.no_grad():
            p, q = (
                blsp.llm.model(inputs_embeds=torch.cat([blsp.prompt_embeds(prompt, c), blsp.llm.embed(response)])[None])
                .logits[0, -len(response) - 1 : -1]
                .log_softmax(-1)
                for c in (words, speech)
            )
        assert row["n_tokens"] == len(response)
        assert row["kl"] == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-4, abs=1e-5)


def test_a_batch_gives_what_single_utterances_give(
    empty: World, model: Path, decoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "MAX_LOGITS", 1)  # and one utterance's logits at a time
    call("decode", "--model", model, *common(empty, tmp_path / "exp", "--decoding_batch=1"))
    for name in (CONTINUE, COLOR):
        for one, many in zip(*(read_jsonl(d / name / "hyp.jsonl") for d in (tmp_path / "exp", decoded)), strict=True):
            assert {**one, "kl": 0} == {**many, "kl": 0}
            assert one["kl"] == pytest.approx(many["kl"], rel=1e-4, abs=1e-5)


def test_shards_write_what_one_process_writes(asked: World, empty: World, model: Path, decoded: Path, tmp_path: Path) -> None:
    """Each waits for the others where it needs their answers to the transcripts."""
    for shard in (2, 3, 1, 2, 3):
        call("decode", "--model", model, "--shard", f"{shard}/3", *common(empty, tmp_path / "exp"))
    assert files(tmp_path / "exp", empty.data) == files(decoded, asked.data)


def test_killed_and_resumed_is_never_killed(asked: World, empty: World, model: Path, decoded: Path, tmp_path: Path) -> None:
    def dies_at(batch: int) -> None:
        from blsp.base.journal import Journal

        append, count = Journal.append, [0]

        def dying(self, rows):
            append(self, rows)
            count[0] += 1
            if count[0] == batch:
                os.kill(os.getpid(), signal.SIGKILL)

        Journal.append = dying

    arguments = ("--model", model, *common(empty, tmp_path / "exp"))
    kept = []
    for batch in (2, 6):  # of six of transcripts, then of the four that are left and two of speech
        patch = partial(dies_at, batch)
        assert run_program("decode", *arguments, log=tmp_path / "log", patch=patch) == -signal.SIGKILL
        kept.append({name for name in files(tmp_path / "exp", empty.data) if "part" not in name})
    assert [len(names) for names in kept] == [0, 2]
    assert run_program("decode", *arguments, log=tmp_path / "log") == 0
    assert files(tmp_path / "exp", empty.data) == files(decoded, asked.data)


def test_systems_share_the_answers_of_one_llm_and_another_has_its_own(
    asked: World, decoded: Path, other_llm: Path, copy_of, tmp_path: Path
) -> None:
    asked = copy_of(asked)
    before = mtimes(asked.data / "test_clean/answers")
    call("decode", *common(asked, tmp_path / "whisper", "--input=whisper"))
    assert mtimes(asked.data / "test_clean/answers") == before
    rows, of_speech = (read_jsonl(d / CONTINUE / "hyp.jsonl") for d in (tmp_path / "whisper", decoded))
    assert [r["reference"] for r in rows] == [r["reference"] for r in of_speech]
    assert scored(asked, tmp_path / "whisper", "--input=whisper")["kl"] > 0
    call("decode", *common(asked, tmp_path / "other", "--input=text", f"--llm={other_llm}"))
    after = mtimes(asked.data / "test_clean/answers")
    assert before.items() <= after.items() and len(after) == 2 * len(before)


def test_what_is_there_is_not_answered_again(asked: World, model: Path, decoded: Path, copy_of, tmp_path: Path) -> None:
    asked = copy_of(asked)
    shutil.copytree(decoded, tmp_path / "exp")
    shutil.rmtree(asked.data / "test_clean/answers")  # nobody needs them any more
    before = mtimes(tmp_path / "exp")
    call("decode", "--model", model, *common(asked, tmp_path / "exp", "--lr=1"))
    assert mtimes(tmp_path / "exp") == before
    assert not (asked.data / "test_clean/answers").exists()
    text = read_table(asked.data / "test_clean/text")
    write_table(asked.data / "test_clean/text", {**text, next(iter(text)): "QUITE ANOTHER SENTENCE"})
    call("decode", "--model", model, *common(asked, tmp_path / "exp"))
    new, old = (read_jsonl(d / CONTINUE / "hyp.jsonl") for d in (tmp_path / "exp", decoded))
    assert [a["reference"] == b["reference"] for a, b in zip(new, old, strict=True)] == [False, *[True] * (len(text) - 1)]


def test_a_reference_is_neither_needed_nor_taken(asked: World, tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    for wrong, message in (
        ("metric: agreement, reference: text", "task color: has a reference; of agreement it is the LLM's own answer"),
        ("metric: wer", "task color: has no reference"),
    ):
        config.write_text(asked.config.read_text().replace('named?", metric: agreement', f'named?", {wrong}'))
        with pytest.raises(InputError, match=message):
            call("decode", "--config", config, "--data-dir", asked.data, "--exp-dir", tmp_path, "--", "--input=text")


def test_scores_by_hand() -> None:
    score = metrics.agreement(["a lamp", "yes", ""], ["a lamp", "Yes", ""], [0.0, 3.0, 1.0], [4, 2, 2])
    assert (score["agreement"], score["kl"], score["n_tokens"], score["n"]) == (pytest.approx(200 / 3), 0.5, 8, 3)
    assert 0 < score["chrf"] < 100 and score["chrf_signature"].startswith("nrefs:1|case:mixed")
    with pytest.raises(InputError, match="nothing to score"):
        metrics.agreement([], [], [], [])


def test_the_readmes_tasks_are_tasks() -> None:
    block = (ROOT / "README.md").read_text().partition("### Behaviour alignment itself")[2].partition("\n###")[0]
    lines = [line for line in block.splitlines() if line.startswith("    agree_")]
    tasks = yaml.safe_load("\n".join(lines))
    assert len(tasks) == len(lines) == 5
    for name, task in tasks.items():
        assert (task["metric"], reference_of(name, task)) == ("agreement", "text")
        instruction_of(name, task)
    assert tasks["agree_continue"]["instruction"].startswith("Continue the following text in a coherent")
