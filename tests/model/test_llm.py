"""LLMs by architecture, tiny and random: what we make of each is what its own forward makes of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from chat_templates import CHATML, ENDS, byte_tokenizer
from conftest import SENTENCES, World, plain_llm
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OpenAIGPTConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
    SmolLM3Config,
)

from blsp.base.files import InputError
from blsp.data import mel
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP, Batch
from blsp.model.encoder import SpeechEncoder
from blsp.model.generation import Decoding, generate
from blsp.model.llm import LLM, load_llm, target_logits
from blsp.model.prompts import Prompter

N_WORDS = len(byte_tokenizer())
WIDTH = 32
LAYERS = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON = LAYERS | {"intermediate_size": 48}
GROUPED = COMMON | {"num_key_value_heads": 2}
SLIDING = {"head_dim": 8, "sliding_window": 6}
HYBRID = GROUPED | {"num_hidden_layers": 4}
MAMBA = {"head_dim": 8, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
# architecture: its configuration, its family's template, what it multiplies word embeddings by before it reads them
ARCHITECTURES: dict[str, tuple[PretrainedConfig, str, float]] = {
    "llama": (LlamaConfig(**GROUPED), "llama3", 1),
    "qwen2": (Qwen2Config(**GROUPED), "chatml", 1),
    "qwen3": (Qwen3Config(**GROUPED, head_dim=8), "thinking", 1),
    "gemma2": (Gemma2Config(**GROUPED, **SLIDING, final_logit_softcapping=5.0), "gemma", math.sqrt(WIDTH)),
    "gemma3": (Gemma3TextConfig(**GROUPED, **SLIDING, sliding_window_pattern=2), "gemma", math.sqrt(WIDTH)),
    "phi3": (Phi3Config(**GROUPED, pad_token_id=0), "phi3", 1),
    "mistral": (MistralConfig(**GROUPED, sliding_window=6), "mistral", 1),
    "granite": (GraniteConfig(**GROUPED, embedding_multiplier=3.0, logits_scaling=4.0), "chatml", 1),  # multiplies ours too
    "cohere": (CohereConfig(**GROUPED, logit_scale=0.25), "chatml", 1),
    "falcon": (FalconConfig(**LAYERS, alibi=True), "plain", 1),
    "gpt_neox": (GPTNeoXConfig(**COMMON), "plain", 1),
    "smollm3": (SmolLM3Config(**GROUPED, tie_word_embeddings=True, pad_token_id=0), "always_thinking", 1),
    "opt": (OPTConfig(**LAYERS, ffn_dim=48, word_embed_proj_dim=16), "plain", 1),
    "falcon_h1": (FalconH1Config(**GROUPED, **MAMBA, embedding_multiplier=3.0, lm_head_multiplier=0.5), "chatml", 3),
    "qwen3_next": (Qwen3NextConfig(**HYBRID, head_dim=8, **LINEAR, **EXPERTS), "chatml", 1),
    "mamba": (MambaConfig(hidden_size=WIDTH, num_hidden_layers=2, state_size=8), "zephyr", 1),
}  # fmt: skip
REPEAT, CONTINUE = "Please repeat the following words.", "Continue the following text in a coherent style."
LENGTHS = (13, 64, 65, 200)  # feature frames


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LLM's folder: random weights that are large enough for the likeliest word to be clear, a tokenizer, a template."""
    return write_llm(tmp_path_factory.mktemp("llm") / request.param, request.param)


def write_llm(folder: Path, architecture: str) -> Path:
    config, template, _ = ARCHITECTURES[architecture]
    tokenizer = byte_tokenizer(ENDS[template][0])
    config.vocab_size, config.bos_token_id, config.eos_token_id = N_WORDS, tokenizer.bos_token_id, tokenizer.eos_token_id
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, 0.2)
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, 25], repetition_penalty=3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path, world: World) -> BLSP:
    llm = load_llm(str(folder))
    torch.manual_seed(5)
    encoder = SpeechEncoder.from_pretrained(str(world.whisper))
    adapter = Adapter(16, llm.embed([0]).shape[1], 8, llm.word_size())
    return BLSP(encoder, adapter, llm, Prompter(llm.tokenizer, "chat"))


def make_batch(model: BLSP, instructions: list[str]) -> Batch:
    random = torch.Generator().manual_seed(1)
    features = [torch.rand(n + mel.ECHO, 80, generator=random) * 2 - 1 for n in LENGTHS]
    prompts = [model.prompter.prompt(instructions[i % len(instructions)]) for i in range(len(LENGTHS))]
    responses = [model.prompter.response(SENTENCES[7 * i][: 9 + 5 * i], ended=i % 2 == 0) for i in range(len(LENGTHS))]
    return Batch(features, prompts, responses)


def singles(batch: Batch) -> list[Batch]:
    return [Batch([f], [p], [r]) for f, p, r in zip(batch.features, batch.prompts, batch.responses, strict=True)]


@pytest.mark.parametrize("instructions", [[REPEAT], [REPEAT, CONTINUE]])
@torch.no_grad()
def test_the_text_only_loss_is_that_of_the_llms_own_forward(folder: Path, model: BLSP, instructions: list[str]) -> None:
    llm, _ = plain_llm(folder)
    batch = make_batch(model, instructions)
    transcripts = SENTENCES[: 5 * len(LENGTHS) : 5]
    expected = 0.0
    for i, (transcript, response) in enumerate(zip(transcripts, batch.responses, strict=True)):
        prompt = model.prompter.text_prompt(instructions[i % len(instructions)], transcript)
        ids = torch.tensor([[*prompt, *response]])
        labels = torch.tensor([[-100] * len(prompt) + response])
        expected += llm(input_ids=ids, labels=labels).loss.item() * len(response)
    contents = [model.llm.embed(model.prompter.content(t)) for t in transcripts]
    for _ in range(2):  # the second time a constant prefix may be kept
        loss, n_targets = model.response_loss(contents, batch)
        assert n_targets == sum(map(len, batch.responses))
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_gives_what_single_utterances_give(model: BLSP) -> None:
    model.train()
    batch = make_batch(model, [REPEAT, CONTINUE])
    loss, _ = model(batch)
    loss.backward()
    together = {name: p.grad.clone() for name, p in model.adapter.named_parameters()}
    model.zero_grad()
    alone = 0.0
    for single in singles(batch):
        one, _ = model(single)
        one.backward()
        alone += one.item()
    assert loss.item() == pytest.approx(alone, rel=1e-5)
    for name, p in model.adapter.named_parameters():
        torch.testing.assert_close(p.grad, together[name], atol=1e-3 * float(together[name].abs().max()), rtol=1e-3)
    model.zero_grad()


def test_generated_words_are_the_greedy_ones_of_single_prompts(folder: Path, model: BLSP) -> None:
    """Stepped by hand through the LLM's own forward: no setting of its generation_config, and every end that it names."""
    llm, _ = plain_llm(folder)
    texts = ["the farmer", "a doctor hides two green apples near the river", "x"]
    asked = [model.prompter.text_prompt(CONTINUE, text) for text in texts]
    ends = {25, *model.prompter.end[-1:], model.prompter.tokenizer.eos_token_id}
    with torch.no_grad():
        prompts = [model.llm.embed(ids) for ids in asked]
    together = generate(model.llm, model.prompter, prompts, Decoding(6), texts)
    for ids, prompt, text, written in zip(asked, prompts, texts, together, strict=True):
        assert generate(model.llm, model.prompter, [prompt], Decoding(6), [text]) == [written]
        begin, expected = len(ids), [*ids]
        while len(expected) < begin + 6 and not ends & set(expected[begin:]):
            with torch.no_grad():
                expected.append(int(llm(input_ids=torch.tensor([expected])).logits[0, -1].argmax()))
        stopped = expected[-1] in ends
        assert written.n_tokens == len(expected) - begin - stopped
        if written.finish_reason != "thinking":
            assert written.finish_reason == ("stop" if stopped else "length")


def test_speech_begins_at_the_size_of_words(folder: Path, model: BLSP) -> None:
    llm, _ = plain_llm(folder)
    factor = ARCHITECTURES[folder.name][2]
    words = factor * llm.get_input_embeddings().weight.detach().square().mean().sqrt().item()
    assert model.llm.word_size() == pytest.approx(words, rel=1e-4)
    batch = make_batch(model, [REPEAT])
    with torch.no_grad():
        speech = torch.cat(model.speech_embeds(batch.features))
    assert speech.square().mean().sqrt().item() == pytest.approx(words, rel=0.02)


def test_targets_end_with_what_the_template_ends_a_turn_with(folder: Path, model: BLSP) -> None:
    end = ENDS[ARCHITECTURES[folder.name][1]][1]
    assert model.prompter.tokenizer.convert_ids_to_tokens(model.prompter.response("a red lamp"))[-1] == end
    assert end not in model.prompter.tokenizer.convert_ids_to_tokens(model.prompter.response("a red lamp", ended=False))


@torch.no_grad()
def test_the_output_layer_sees_the_positions_of_targets_only(model: BLSP) -> None:
    batch = make_batch(model, [REPEAT])
    seen = []
    head = model.llm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, args, out: seen.append(out.shape[:-1].numel()))
    model(batch)  # keeps the prefix
    seen.clear()
    model(batch)
    hook.remove()
    assert seen == [sum(map(len, batch.responses))]


@torch.no_grad()
def test_an_output_layer_that_is_gone_around_gives_the_same_logits(tmp_path: Path) -> None:
    model, _ = plain_llm(write_llm(tmp_path / "gemma2", "gemma2"))
    ids, where = torch.arange(12).reshape(2, 6), torch.tensor([[0, 0, 1, 1, 0, 1], [1, 0, 0, 0, 0, 1]])
    expected = target_logits(model, where, input_ids=ids)
    assert len(expected) == 5
    model.get_output_embeddings = lambda: None
    torch.testing.assert_close(target_logits(model, where, input_ids=ids), expected)


def test_an_llm_that_reads_token_ids_only_is_refused_in_one_line() -> None:
    config = OpenAIGPTConfig(vocab_size=N_WORDS, n_embd=WIDTH, n_layer=1, n_head=2)
    with pytest.raises(InputError, match="OpenAIGPTLMHeadModel.* cannot be given speech") as e:
        LLM(AutoModelForCausalLM.from_config(config), byte_tokenizer(CHATML))
    assert "\n" not in str(e.value)


def test_penalties_are_decoding_settings_and_off_by_default(tmp_path: Path) -> None:
    """The folder's generation_config has a repetition_penalty of 3, which nobody has asked for."""
    llm = load_llm(str(write_llm(tmp_path / "llama", "llama")))
    prompter = Prompter(llm.tokenizer, "chat")
    prompts = [llm.embed(prompter.text_prompt(CONTINUE, text)) for text in SENTENCES[:4]]

    def written(**settings: float) -> list[str]:
        return [g.text for g in generate(llm, prompter, prompts, Decoding(24, **settings), SENTENCES[:4])]

    plain = written()
    assert plain == written(repetition_penalty=1.0, no_repeat_ngram_size=0)
    assert plain != written(repetition_penalty=3.0)
    ids = [llm.tokenizer.encode(text, add_special_tokens=False) for text in written(no_repeat_ngram_size=2)]
    assert plain != written(no_repeat_ngram_size=2)
    assert all(ids)
    with pytest.raises(InputError, match="repetition_penalty"):
        Decoding(repetition_penalty=0.0)


@pytest.mark.slow
def test_a_real_llm_passes_the_same_checks(request: pytest.FixtureRequest) -> None:
    """SmolLM2-135M-Instruct, where it has been put into models/."""
    folder = request.config.rootpath / "models/smollm2-135m"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"{folder} is not there")
    llm, _ = plain_llm(folder)
    ours = load_llm(str(folder))
    prompter = Prompter(ours.tokenizer, "chat")
    rows, expected = [], []
    for transcript in SENTENCES[:3]:
        prompt, response = prompter.text_prompt(REPEAT, transcript), prompter.response(transcript)
        rows.append((ours.embed([*prompt, *response[:-1]]), len(response)))
        with torch.no_grad():
            expected.append(llm(input_ids=torch.tensor([[*prompt, *response[:-1]]])).logits[0, -len(response) :])
    torch.testing.assert_close(ours.logits(*zip(*rows, strict=True)), torch.cat(expected), atol=1e-3, rtol=1e-3)
    prompts = [ours.embed(prompter.text_prompt(REPEAT, transcript)) for transcript in SENTENCES[:3]]
    together = generate(ours, prompter, prompts, Decoding(16), SENTENCES[:3])
    alone = [generate(ours, prompter, [p], Decoding(16), [k])[0] for p, k in zip(prompts, SENTENCES[:3], strict=True)]
    assert together == alone
