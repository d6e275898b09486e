"""Prompts: one owner; ids that tokenizing the whole text would give; identical outside the span of the content."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SENTENCES, World
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from blsp.base.files import InputError
from blsp.model.prompts import ASSISTANT, HUMAN, Prompter

INSTRUCTIONS = ["Continue the following text.", "Please repeat the following words.", "Übersetze ins Deutsche:", "Who?"]
TRANSCRIPTS = [*SENTENCES[::97], "x", "the farmer's 3rd lamp, at home.", "你好", "ends with [a] bracket]"]
JINJA = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def llama(world: World) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(world.llm)


@pytest.fixture(scope="module")
def gpt() -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer without a beginning of sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


@pytest.fixture(params=["llama", "gpt"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return request.getfixturevalue(request.param)


def joint(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_text_prompts_are_what_tokenizing_the_whole_text_gives(tokenizer, instruction: str) -> None:
    prompter = Prompter(tokenizer)
    for transcript in TRANSCRIPTS:
        whole = joint(tokenizer, f"{HUMAN}{instruction} {transcript}{ASSISTANT}")
        assert prompter.text_prompt(instruction, transcript) == whole
        response = "the old captain hides it"
        expected = joint(tokenizer, f"{HUMAN}{instruction} {transcript}{ASSISTANT} {response}")
        assert whole + prompter.response(response, ended=False) == expected


@pytest.mark.parametrize("template", ["paper", "official", "chat", "file"])
def test_prompts_are_identical_outside_the_content(llama, template: str, tmp_path: Path) -> None:
    llama.chat_template = JINJA
    if template == "file":
        (tmp_path / "template.jinja").write_text(JINJA)
        template = str(tmp_path / "template.jinja")
    prompter = Prompter(llama, template)
    for instruction in INSTRUCTIONS:
        prompt = prompter.prompt(instruction)
        for transcript in TRANSCRIPTS:
            ids = prompter.text_prompt(instruction, transcript)
            content = prompter.content(transcript)
            assert ids[: len(prompt.prefix)] == list(prompt.prefix)
            assert ids[-len(prompt.suffix) :] == list(prompt.suffix)
            assert ids[len(prompt.prefix) : -len(prompt.suffix)] == content
            assert llama.decode(content).strip() == transcript


def test_the_suffix_has_no_space_marker_but_under_official(llama) -> None:
    paper, official = (Prompter(llama, t).prompt("Who?") for t in ("paper", "official"))
    assert paper.prefix == official.prefix
    assert llama.convert_ids_to_tokens(list(paper.suffix))[:3] == ["<0x0A>"] * 3
    assert official.suffix == (llama.convert_tokens_to_ids("▁"), *paper.suffix)


def test_an_empty_transcript_adds_nothing(tokenizer) -> None:
    assert Prompter(tokenizer).content("") == []


def test_only_a_response_that_ended_has_an_end_of_sequence(tokenizer) -> None:
    prompter = Prompter(tokenizer)
    cut, ended = prompter.response("a red lamp", ended=False), prompter.response("a red lamp", ended=True)
    assert ended == [*cut, tokenizer.eos_token_id]
    assert tokenizer.eos_token_id not in cut


def test_a_beginning_of_sequence_stands_once_where_the_tokenizer_has_one(llama, gpt) -> None:
    ids = Prompter(llama).text_prompt("Who?", "the farmer")
    assert ids[0] == llama.bos_token_id
    assert ids.count(llama.bos_token_id) == 1
    assert gpt.decode(Prompter(gpt).text_prompt("Who?", "the farmer")).startswith(HUMAN)


@pytest.mark.parametrize("by", ["tokenizer", "file"])
def test_chat_templates_give_what_applying_them_to_the_whole_gives(tokenizer, by: str, tmp_path: Path) -> None:
    tokenizer.chat_template = JINJA if by == "tokenizer" else None
    (tmp_path / "chat.jinja").write_text(JINJA)
    prompter = Prompter(tokenizer, "chat" if by == "tokenizer" else str(tmp_path / "chat.jinja"))
    for transcript in TRANSCRIPTS:
        message = [{"role": "user", "content": f"Repeat this: {transcript}"}]
        text = tokenizer.apply_chat_template(message, chat_template=JINJA, tokenize=False, add_generation_prompt=True)
        expected = tokenizer.encode(text, add_special_tokens=False)
        assert prompter.text_prompt("Repeat this:", transcript) == expected


def test_templates_that_cannot_be_used_are_refused_in_one_line(llama, tmp_path: Path) -> None:
    llama.chat_template = None
    with pytest.raises(InputError, match="has no chat template; set template to paper"):
        Prompter(llama, "chat")
    with pytest.raises(InputError, match="'papre' is neither paper, official, chat nor a readable file"):
        Prompter(llama, "papre")
    (tmp_path / "mute.jinja").write_text("hello")
    with pytest.raises(InputError, match="does not show the user's content"):
        Prompter(llama, str(tmp_path / "mute.jinja")).prompt("Who?")
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}")
    with pytest.raises(InputError, match=r"broken\.jinja"):
        Prompter(llama, str(tmp_path / "broken.jinja")).prompt("Who?")


def test_a_tokenizer_without_an_end_of_sequence_is_refused(gpt) -> None:
    mute = PreTrainedTokenizerFast(tokenizer_object=gpt.backend_tokenizer)
    with pytest.raises(InputError, match="no end-of-sequence token"):
        Prompter(mute)
