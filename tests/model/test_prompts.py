"""Prompts: one owner; ids that tokenizing the whole text would give; identical outside the span of the content."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chat_templates import (
    ALWAYS_THINKING,
    CHATML,
    ENDS,
    GEMMA,
    LLAMA_3,
    NOT_SPECIAL,
    SPECIAL,
    byte_tokenizer,
    unigram_tokenizer,
)
from conftest import SENTENCES, World
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from blsp.base.files import InputError
from blsp.model.prompts import ASSISTANT, HUMAN, Prompter, template_settings

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


@pytest.fixture(params=["byte", "unigram", "sentencepiece"])
def controlled(request: pytest.FixtureRequest, world: World) -> PreTrainedTokenizerBase:
    """A tokenizer with control tokens, some of which it does not call special."""
    if request.param == "sentencepiece":
        tokenizer = AutoTokenizer.from_pretrained(world.llm)
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
        tokenizer.add_tokens(NOT_SPECIAL)
        tokenizer.chat_template = CHATML
        return tokenizer
    return (byte_tokenizer if request.param == "byte" else unigram_tokenizer)(CHATML)


@pytest.mark.parametrize("template", ["paper", "official", "chat"])
@pytest.mark.parametrize("word", ["<s>", "</s>", "<|im_end|>", "[INST]", "<think>", "<tool_call>", "</s></s>", "<<s>s>"])
def test_control_words_in_data_are_text(controlled, template: str, word: str) -> None:
    prompter = Prompter(controlled, template)
    text = f"stir {word} in" if not word.startswith("<<") else word
    empty = prompter.text_prompt("Do", "red")
    control = {i for i, token in controlled.added_tokens_decoder.items() if token.content != "<unk>"}
    n_control = sum(i in control for i in empty)
    for ids in (prompter.content(text), prompter.response(text, ended=False)):
        assert not control & set(ids)
        assert controlled.decode(ids).strip() == text
    ids = prompter.text_prompt(f"Say {word} now", text)
    assert sum(i in control for i in ids) == n_control, "data has made a control token, or the template has lost one"
    shown = controlled.decode(ids).replace(" ", "")
    assert f"Say{word}now" in shown
    assert text.replace(" ", "") in shown
    assert prompter.response(text)[-1] == prompter.end[-1]


def test_control_words_in_a_system_message_are_text() -> None:
    tokenizer = byte_tokenizer(CHATML)
    ids = Prompter(tokenizer, "chat", "Never say <|im_end|> aloud.").text_prompt("Do", "red")
    assert sum(i == tokenizer.convert_tokens_to_ids("<|im_end|>") for i in ids) == 2
    assert "Never say <|im_end|> aloud." in tokenizer.decode(ids)


def test_words_that_are_added_without_being_control_stay_tokens() -> None:
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.add_tokens(["covid19", "    "])
    ids = Prompter(tokenizer, "chat").content("the covid19    lamp")
    assert {tokenizer.convert_tokens_to_ids(token) for token in ("covid19", "    ")} <= set(ids)


@pytest.mark.parametrize("family", list(ENDS))
@pytest.mark.parametrize("make", [byte_tokenizer, unigram_tokenizer])
def test_a_whole_turn_is_what_the_template_writes(make, family: str) -> None:
    """Prompt, response and end are the token ids of the conversation, up to the end of its last turn."""
    template, end = ENDS[family]
    tokenizer = make(template)
    prompter = Prompter(tokenizer, "chat", template_date="2023-05-06")
    turns = [{"role": "user", "content": "Do: red lamp"}, {"role": "assistant", "content": "a blue lamp"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    if family == "llama3":
        whole = re.sub(r"Today is .*?\.", "Today is 06 May 2023.", whole)
    ids = prompter.text_prompt("Do:", "red lamp") + prompter.response("a blue lamp")
    assert tokenizer.convert_ids_to_tokens(prompter.end)[-1] == end
    if family in ("thinking", "always_thinking"):  # the conversation has none of the thought that the prompt closes
        thought = "<think>\n\n</think>\n\n" if family == "thinking" else "<think>\n</think>\n\n"
        whole = whole.replace("assistant\n", f"assistant\n{thought}")
    if family != "plain":
        whole = whole[: whole.rindex(end) + len(end)]
        assert ids == tokenizer.encode(whole, add_special_tokens=False)


def test_the_beginning_of_sequence_comes_from_template_or_tokenizer_alone(llama) -> None:
    gemma = byte_tokenizer(GEMMA)
    assert gemma.convert_ids_to_tokens(Prompter(gemma, "chat").text_prompt("Do", "red")).count("<bos>") == 1
    assert gemma.bos_token_id not in Prompter(gemma).text_prompt("Do", "red"), "the tokenizer has one and does not add it"
    llama.chat_template = "{{ bos_token }}" + CHATML
    assert Prompter(llama, "chat").text_prompt("Do", "red").count(llama.bos_token_id) == 1


def test_the_date_of_a_template_is_set_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer(LLAMA_3)
    text = tokenizer.decode(Prompter(tokenizer, "chat").text_prompt("Do", "red"))
    assert "Today is 26 Jul 2024." in text
    assert "Today is 01 Feb 1999." in tokenizer.decode(Prompter(tokenizer, "chat", "", "1999-02-01").prompt("Do").prefix)
    with pytest.raises(InputError, match="'soon' is not a day"):
        Prompter(tokenizer, "chat", "", "soon")


def test_a_system_message_goes_where_the_template_has_a_place_for_it() -> None:
    tokenizer = byte_tokenizer(CHATML)
    assert tokenizer.decode(Prompter(tokenizer, "chat", "Be brief.").prompt("Do").prefix).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>"
    )
    ignores = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    for template, name in ((GEMMA, "chat"), (ignores, "chat"), (CHATML, "paper")):
        with pytest.raises(InputError, match="system") as e:
            Prompter(byte_tokenizer(template), name, "Be brief.")
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ messages[0].content }}{{ messages[0].content }}", "shows more than once"),
        ("{{ 'I am ' + messages[0].name + messages[0].content }}", "name"),
        ("{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}", "set system_message"),
        ("{{ messages[0].content[5] + 3 }}", "template 'chat'"),
        ("{{ 1 / 0 }}", "division"),
    ],
)
def test_templates_that_want_something_else_get_one_line(template: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as e:
        Prompter(byte_tokenizer(template), "chat")
    assert "\n" not in str(e.value)


def test_a_template_of_messages_in_parts_is_given_parts() -> None:
    parts = "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}{{ p.text }}{% endfor %}<|end|>{% endfor %}"
    tokenizer = byte_tokenizer(parts + "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    prompter = Prompter(tokenizer, "chat")
    assert tokenizer.decode(prompter.text_prompt("Do:", "red")) == "<|user|>Do: red<|end|><|assistant|>"
    assert tokenizer.decode(prompter.response("blue")) == "blue<|end|>"


def test_thought_is_switched_off_where_the_template_knows_how() -> None:
    tokenizer = byte_tokenizer(ENDS["thinking"][0])
    prompter = Prompter(tokenizer, "chat")
    assert not prompter.opens_thought
    assert tokenizer.decode(prompter.prompt("Do").suffix).endswith("<think>\n\n</think>\n\n")
    assert Prompter(byte_tokenizer(ALWAYS_THINKING), "chat").opens_thought


def test_settings_of_templates_are_their_content(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML)
    config = {"template": str(file), "system_message": "", "template_date": "2024-07-26"}
    before = template_settings(config)
    file.rename(tmp_path / "other.jinja")
    assert template_settings({**config, "template": str(tmp_path / "other.jinja")}) == before
    (tmp_path / "other.jinja").write_text(CHATML + " ")
    assert template_settings({**config, "template": str(tmp_path / "other.jinja")}) != before
    assert template_settings({**config, "template": "chat", "system_message": "x"}) != template_settings(
        {**config, "template": "chat"}
    )
    assert template_settings({**config, "template": "paper", "template_date": "1999-01-01"}) == {"template": "paper"}
    with pytest.raises(InputError, match="neither paper, official, chat nor a readable file"):
        template_settings({**config, "template": "papre"})
