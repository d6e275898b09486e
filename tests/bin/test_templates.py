"""A template is an input: what it concerns is done again when it has changed, and a model's folder keeps its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import World, call, plain_llm, run_program

from blsp.base.files import InputError, model_fingerprint, read_json, read_jsonl, write_jsonl
from blsp.model.blsp import BLSP
from blsp.training.dataset import recorded_precision

ONE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
OTHER = ONE.replace("<assistant>{% endif", "<answer>{% endif")
OPENS = ONE.replace("<assistant>{% endif", "<think>{% endif")


@pytest.fixture
def chat(prepared: World, copy_of, tmp_path: Path) -> World:
    """The prepared world, whose LLM's folder has a chat template, without responses."""
    world = replace(copy_of(prepared), llm=tmp_path / "chat_llm")
    shutil.copytree(prepared.llm, world.llm)
    (world.llm / "chat_template.jinja").write_text(ONE)
    for path in world.data.glob("*/responses.*"):
        path.unlink()
    return world


def options(world: World, exp_dir: Path | None = None, template: str | Path = "chat", *more: str) -> tuple:
    place = () if exp_dir is None else ("--exp-dir", exp_dir)
    overrides = (f"--llm={world.llm}", f"--template={template}", "--generation.max_new_tokens=3", *more)
    return ("--config", world.config, "--data-dir", world.data, *place, "--", *overrides)


def times(folder: Path, pattern: str) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob(pattern)}


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "file"])
def test_an_edited_template_redoes_what_it_concerns(chat: World, tmp_path: Path, place: str) -> None:
    file = tmp_path / "mine.jinja"
    template = file if place == "file" else "chat"

    def write(text: str) -> None:
        if place == "tokenizer_config.json":
            (chat.llm / "chat_template.jinja").unlink(missing_ok=True)
            settings = json.loads((chat.llm / place).read_text())
            (chat.llm / place).write_text(json.dumps({**settings, "chat_template": text}))
        else:
            (file if place == "file" else chat.llm / place).write_text(text)

    def run() -> dict[str, int]:
        call("continuation", *options(chat, None, template))
        call("decode", *options(chat, exp, template, "--system=text_llm", "--input=text", "--decoding.max_new_tokens=3"))
        return times(chat.data, "*/responses.*") | times(exp, "decode/*/hyp.jsonl")

    exp = tmp_path / "exp"
    write(ONE)
    first = run()
    assert run() == first
    write(OTHER)
    second = run()
    assert {name for name in first if first[name] != second[name]} == {n for n in first if "repetition" not in n}
    assert run() == second


def test_a_model_keeps_its_template_and_training_follows_an_edited_one(chat: World, tmp_path: Path) -> None:
    file, exp = tmp_path / "mine.jinja", tmp_path / "exp"
    file.write_text(ONE)
    few = ("--epochs=1", "--examples=1", "--system_message=")

    def train() -> str:
        log = tmp_path / "log"
        call("continuation", *options(chat, None, file))
        assert run_program("train", *options(chat, exp, file, *few), log=log) == 0, log.read_text()
        return log.read_text()

    train()
    assert (exp / "model/template.jinja").read_text() == ONE
    config = read_json(exp / "model/config.json")
    assert config["template"] == "template.jinja"
    assert config["template_date"] == "2024-07-26"
    assert config["precision"] == "float32"
    call("decode", *options(chat, exp, "paper", "--decoding.max_new_tokens=3"))
    decoded = times(exp, "decode/*/hyp.jsonl")
    assert "training" not in train().rpartition("model: is there")[2]
    call("decode", *options(chat, exp, "paper", "--decoding.max_new_tokens=3"))
    assert times(exp, "decode/*/hyp.jsonl") == decoded, "a model decodes with its own template"
    file.write_text(OTHER)
    train()
    file.unlink()
    model = BLSP.from_pretrained(exp / "model")
    assert model.prompter.file == OTHER
    call("decode", *options(chat, exp, "paper", "--decoding.max_new_tokens=3"))
    assert times(exp, "decode/*/hyp.jsonl") != decoded


def test_hypotheses_are_not_there_once_the_llm_of_their_model_has_changed(chat: World, tmp_path: Path) -> None:
    from blsp.model.adapter import Adapter
    from blsp.model.encoder import SpeechEncoder
    from blsp.model.llm import load_llm
    from blsp.model.prompts import Prompter

    llm = load_llm(str(chat.llm))
    blsp = BLSP(SpeechEncoder.from_pretrained(str(chat.whisper)), Adapter(16, 32, 8, 0.3), llm, Prompter(llm.tokenizer, "chat"))
    blsp.save_pretrained(tmp_path / "exp/model", str(chat.whisper), str(chat.llm), {})
    call("decode", *options(chat, tmp_path / "exp", "chat", "--decoding.max_new_tokens=2"))
    assert read_json(tmp_path / "exp/decode/test_clean.asr/decode.json")["dtype"] == "float32"
    (chat.llm / "chat_template.jinja").write_text(OTHER)
    with pytest.raises(InputError, match="not the llm that"):
        call("decode", *options(chat, tmp_path / "exp", "chat", "--decoding.max_new_tokens=2"))


def test_responses_that_are_cut_off_within_thought_are_named_and_left_out(chat: World) -> None:
    (chat.llm / "chat_template.jinja").write_text(OPENS)
    call("continuation", *options(chat))
    rows = read_jsonl(chat.data / "train_clean_100/responses.continuation.jsonl")
    assert {(row["finish_reason"], row["response"]) for row in rows} == {("thinking", "")}


def test_precision_is_that_of_the_responses(chat: World, tmp_path: Path) -> None:
    call("continuation", *options(chat, None, "chat", "--precision=bf16"))
    path = chat.data / "train_clean_100/responses.continuation.jsonl"
    assert {row["precision"] for row in read_jsonl(path)} == {"bf16"}
    mix = {"continuation": 1, "repetition": 1}
    assert recorded_precision(chat.data, ["train_clean_100"], mix) == "bf16"
    assert recorded_precision(chat.data, ["train_clean_100"], {"repetition": 1}) is None
    rows = read_jsonl(chat.data / "dev_clean/responses.continuation.jsonl")
    write_jsonl(chat.data / "dev_clean/responses.continuation.jsonl", [row | {"precision": "float32"} for row in rows])
    with pytest.raises(InputError, match="different precisions"):
        recorded_precision(chat.data, ["train_clean_100", "dev_clean"], mix)


def test_fingerprints_of_models_see_their_templates(tmp_path: Path, prepared: World) -> None:
    folder = tmp_path / "llm"
    _, tokenizer = plain_llm(prepared.llm)
    shutil.copytree(prepared.llm, folder)
    before = model_fingerprint(folder)
    tokenizer.chat_template = ONE
    tokenizer.save_pretrained(folder)
    between = model_fingerprint(folder)
    assert between != before
    (folder / "chat_template.jinja").write_text(OTHER)
    assert model_fingerprint(folder) not in (before, between)


def test_a_tuned_llms_folder_names_its_end_and_has_its_template(prepared: World, tmp_path: Path) -> None:
    import torch

    from blsp.bin.llm_sft import _save
    from blsp.model.llm import load_llm
    from blsp.model.prompts import Prompter

    model, tokenizer = plain_llm(prepared.llm)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<lamp>"]})
    end = tokenizer.convert_tokens_to_ids("<lamp>")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "part/trained")
    (tmp_path / "mine.jinja").write_text(ONE.replace("</s>", "<lamp>"))
    _save(tmp_path / "part", tmp_path / "model", torch.float32, Prompter(tokenizer, str(tmp_path / "mine.jinja")), {})
    llm = load_llm(str(tmp_path / "model"))
    assert llm.ends == {tokenizer.eos_token_id, end}
    assert Prompter(llm.tokenizer, "chat").end == (end,)
