"""The model: its loss and embeddings whatever the batch, what is trained and what is frozen, saving and loading."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES, World

from blsp.base.files import InputError, read_json, write_json
from blsp.data import mel
from blsp.model import llm as llm_module
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP, Batch
from blsp.model.encoder import SpeechEncoder, cut
from blsp.model.generation import Decoding, generate
from blsp.model.llm import choose_dtype, load_llm
from blsp.model.prompts import Prompter

LENGTHS = (13, 64, 65, 200)  # feature frames
REPEAT, CONTINUE = "Please repeat the following words.", "Continue the following text."


def build(world: World, padding: str = "window", noise: float = 0.0) -> BLSP:
    torch.manual_seed(5)
    llm = load_llm(str(world.llm))
    scale = llm.word_size()
    encoder = SpeechEncoder.from_pretrained(str(world.whisper), padding)
    return BLSP(encoder, Adapter(16, 32, 8, scale, noise), llm, Prompter(llm.tokenizer)).eval()


@pytest.fixture(params=["window", "batch"])
def model(request: pytest.FixtureRequest, world: World) -> BLSP:
    return build(world, request.param)


def make_batch(model: BLSP, instructions: list[str], lengths: tuple[int, ...] = LENGTHS) -> Batch:
    random = torch.Generator().manual_seed(1)
    features = [torch.rand(n + mel.ECHO, 80, generator=random) * 2 - 1 for n in lengths]
    prompts = [model.prompter.prompt(instructions[i % len(instructions)]) for i in range(len(lengths))]
    responses = [model.prompter.response(SENTENCES[7 * i][: 9 + 5 * i], ended=i % 2 == 0) for i in range(len(lengths))]
    return Batch(features, prompts, responses)


def singles(batch: Batch) -> list[Batch]:
    return [Batch([f], [p], [r]) for f, p, r in zip(batch.features, batch.prompts, batch.responses, strict=True)]


def joint_loss(model: BLSP, instruction: str, transcript: str, response: list[int]) -> float:
    """The text-only loss, by the LLM's own forward over the joint ids with labels on the response only."""
    prompt = model.prompter.text_prompt(instruction, transcript)
    ids = torch.tensor([[*prompt, *response]])
    labels = torch.tensor([[-100] * len(prompt) + response])
    with torch.no_grad():
        return model.llm.model(input_ids=ids, labels=labels).loss.item() * len(response)


@pytest.mark.parametrize("instructions", [[REPEAT], [REPEAT, CONTINUE]])
@torch.no_grad()
def test_word_embeddings_in_place_of_speech_give_the_text_only_loss(world: World, instructions: list[str]) -> None:
    """With one instruction its prefix comes out of the cache; with two it is computed in the batch."""
    model = build(world)
    batch = make_batch(model, instructions)
    transcripts = SENTENCES[: 5 * len(LENGTHS) : 5]
    contents = [model.llm.embed(model.prompter.content(t)) for t in transcripts]
    expected = sum(
        joint_loss(model, instructions[i % len(instructions)], t, r)
        for i, (t, r) in enumerate(zip(transcripts, batch.responses, strict=True))
    )
    for _ in range(2):  # the second time the cache is there already
        loss, n_targets = model.response_loss(contents, batch)
        assert n_targets == sum(map(len, batch.responses))
        assert loss.item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_speech_embeddings_do_not_depend_on_the_batch(model: BLSP) -> None:
    batch = make_batch(model, [REPEAT])
    together = model.speech_embeds(batch.features)
    for row, single in zip(together, singles(batch), strict=True):
        (alone,) = model.speech_embeds(single.features)
        assert row.shape == alone.shape
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_longer_than_the_window_is_embedded_piece_by_piece(model: BLSP) -> None:
    batch = make_batch(model, [REPEAT], lengths=(250, 57, 200, 471))
    together = model.speech_embeds(batch.features)
    for row, utterance in zip(together, batch.features, strict=True):
        pieces = cut(utterance, 200)
        assert len(pieces) > 1 or mel.valid_frames(utterance) <= 200
        alone = [model.speech_embeds([piece])[0] for piece in pieces]
        torch.testing.assert_close(row, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("instructions", [[REPEAT], [REPEAT, CONTINUE]])
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_sum_of_single_losses(model: BLSP, instructions: list[str]) -> None:
    batch = make_batch(model, instructions)
    loss, n_targets = model(batch)
    alone = [model(single) for single in singles(batch)]
    assert n_targets == sum(n for _, n in alone)
    assert loss.item() == pytest.approx(sum(x.item() for x, _ in alone), rel=1e-5)


def test_gradients_do_not_depend_on_the_batch(world: World) -> None:
    model = build(world).train()
    batch = make_batch(model, [REPEAT, CONTINUE])
    model(batch)[0].backward()
    together = {name: p.grad.clone() for name, p in model.adapter.named_parameters()}
    model.zero_grad()
    for single in singles(batch):
        model(single)[0].backward()
    for name, p in model.adapter.named_parameters():
        torch.testing.assert_close(p.grad, together[name], atol=1e-4, rtol=1e-3)


def test_generated_ids_do_not_depend_on_the_batch(model: BLSP) -> None:
    batch = make_batch(model, [REPEAT, CONTINUE])
    with torch.no_grad():
        speech = model.speech_embeds(batch.features)
        prompts = [model.prompt_embeds(p, s) for p, s in zip(batch.prompts, speech, strict=True)]
    keys = ["a", "b", "c", "d"]
    for decoding in (Decoding(12), Decoding(12, temperature=1.0, top_p=0.9), Decoding(8, num_beams=3)):
        together = generate(model.llm, model.prompter, prompts, decoding, keys)
        alone = [generate(model.llm, model.prompter, [p], decoding, [k])[0] for p, k in zip(prompts, keys, strict=True)]
        assert together == alone


def test_only_the_adapter_is_trained_and_frozen_weights_stay_as_they_are(world: World) -> None:
    model = build(world, noise=0.3).train()
    assert not model.llm.training
    assert not model.encoder.training
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = make_batch(model, [REPEAT])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        model(batch)[0].backward()
        got = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert got == {name for name in before if name.startswith("adapter.")}
        optimizer.step()
        optimizer.zero_grad()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (not name.startswith("adapter.")), name


def test_a_prefix_that_was_first_seen_in_inference_can_be_trained_on(world: World) -> None:
    model = build(world)
    batch = make_batch(model, [REPEAT])
    with torch.inference_mode():
        expected = model(batch)[0].item()
    loss, _ = model.train()(batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_four_utterances_can_be_overfit(world: World) -> None:
    model = build(world).train()
    with torch.no_grad():
        model.llm.model.lm_head.weight.mul_(4)  # a random LLM is never sure of a word otherwise
    batch = make_batch(model, [REPEAT], (40, 90, 140, 200))
    batch.responses = [model.prompter.response(word) for word in ("the", "a", "in", "at")]
    optimizer = torch.optim.Adam(model.adapter.parameters(), lr=3e-3)  # at 1e-2 some initializations take 1200 steps and more
    losses = [10.0]
    while losses[-1] > 0.1 and len(losses) < 1000:  # six initializations took 87 to 122
        loss, n_targets = model(batch)
        (loss / n_targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / n_targets)
    assert losses[1] > 2
    assert losses[-1] < 0.1


def test_bf16_trains_and_generates(world: World) -> None:
    try:
        choose_dtype("bf16", "cpu")
    except InputError as e:
        pytest.skip(str(e))
    model = build(world)
    model.encoder.to(torch.bfloat16)
    model.llm.to(torch.bfloat16)
    batch = make_batch(model, [REPEAT])
    loss, _ = model.train()(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.dtype == model.adapter.down.weight.grad.dtype == torch.float32
    with torch.no_grad():
        speech = model.speech_embeds(batch.features)
    prompts = [model.prompt_embeds(p, s) for p, s in zip(batch.prompts, speech, strict=True)]
    assert len(generate(model.llm, model.prompter, prompts, Decoding(4), list("abcd"))) == 4


def test_precision_names() -> None:
    assert choose_dtype("bf16", "cuda") == torch.bfloat16
    assert choose_dtype("float32", "cuda") == torch.float32
    with pytest.raises(InputError, match="'fp16' is not one of auto, bf16, float32"):
        choose_dtype("fp16", "cpu")


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("fault", ["", "mkldnn_bf16: not supported\nException raised from"])
def test_bf16_is_not_taken_where_the_processor_cannot(monkeypatch: pytest.MonkeyPatch, fault: str, amx: bool) -> None:
    def attention(query: torch.Tensor, *_: torch.Tensor, **__: bool) -> torch.Tensor:
        if fault:
            raise RuntimeError(fault)
        return query

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(llm_module, "_bf16_fault", llm_module._bf16_fault.__wrapped__)
    assert choose_dtype("float32", "cpu") == torch.float32
    assert choose_dtype("auto", "cpu") == (torch.bfloat16 if amx and not fault else torch.float32)
    if fault:
        with pytest.raises(InputError) as e:
            choose_dtype("bf16", "cpu")
        said = "does not work on this processor (mkldnn_bf16: not supported); take float32"
        assert str(e.value) == f"precision: bf16 {said}"
    else:
        assert choose_dtype("bf16", "cpu") == torch.bfloat16


def test_what_is_no_llm_is_refused_in_one_line(world: World, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(world.llm, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for name in (str(tmp_path / "absent"), str(tmp_path), str(broken)):
        with pytest.raises(InputError, match="llm: ") as e:
            load_llm(name)
        assert "\n" not in str(e.value)


@pytest.fixture
def saved(world: World, tmp_path: Path) -> tuple[BLSP, Path]:
    """A model saved beside copies of its encoder and LLM."""
    for name in ("whisper", "llm"):
        shutil.copytree(world.folder / name, tmp_path / "place" / name)
    model = build(world)
    for p in model.adapter.parameters():
        torch.nn.init.normal_(p, std=0.1)
    folder = tmp_path / "place" / "exp" / "model"
    model.save_pretrained(folder, str(tmp_path / "place/whisper"), str(tmp_path / "place/llm"), {"steps": 3})
    return model, folder


def test_saving_and_loading_give_the_same_model(saved: tuple[BLSP, Path]) -> None:
    model, folder = saved
    loaded = BLSP.from_pretrained(folder)
    assert loaded.trained_state().keys() == model.trained_state().keys()
    assert all(torch.equal(v, model.trained_state()[k]) for k, v in loaded.trained_state().items())
    batch = make_batch(model, [REPEAT])
    with torch.no_grad():
        assert loaded(batch)[0].item() == model(batch)[0].item()
    assert not loaded.training
    assert read_json(folder / "config.json")["provenance"] == {"steps": 3}
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    n_trained = sum(p.numel() for p in model.adapter.parameters())
    assert (folder / "model.safetensors").stat().st_size < 4 * n_trained + 4096, "frozen weights are saved"


def test_precisions_go_by_the_names_of_pytorch_too(saved: tuple[BLSP, Path]) -> None:
    for given in ({"precision": "bf16"}, {"dtype": torch.bfloat16, "device_map": "auto"}, {"dtype": "bfloat16"}):
        assert BLSP.from_pretrained(saved[1], **given).llm.dtype == torch.bfloat16
    with pytest.raises(InputError, match="'float16' is not one of auto, bf16, float32"):
        BLSP.from_pretrained(saved[1], dtype=torch.float16)


def test_a_model_can_move_together_with_its_parts(saved: tuple[BLSP, Path], tmp_path: Path) -> None:
    (tmp_path / "place").rename(tmp_path / "elsewhere")
    BLSP.from_pretrained(tmp_path / "elsewhere/exp/model")


def test_a_whole_folder_needs_nothing_else(saved: tuple[BLSP, Path], world: World, tmp_path: Path) -> None:
    model, folder = saved
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": REPEAT}, {"type": "audio", "audio": torch.rand(90, 80)}]}
    ]
    expected = model.generate([conversation])
    BLSP.from_pretrained(folder).save_pretrained(tmp_path / "whole", whole=True)
    shutil.rmtree(tmp_path / "place")
    (tmp_path / "whole").rename(tmp_path / "elsewhere")
    loaded = BLSP.from_pretrained(tmp_path / "elsewhere")
    assert loaded.generate([conversation]) == expected
    assert loaded.llm.ends == model.llm.ends
    files = [path.name for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert files.count("model.safetensors") == 3 and not [name for name in files if name.endswith((".bin", ".pt", ".py"))]
    config = read_json(tmp_path / "elsewhere" / "config.json")
    assert (config["encoder"], config["llm"], config["provenance"]) == ("./encoder", "./llm", {"steps": 3})
    loaded.save_pretrained(tmp_path / "light")
    assert {path.name for path in (tmp_path / "light").iterdir()} == {"config.json", "model.safetensors"}
    assert BLSP.from_pretrained(tmp_path / "light").generate([conversation]) == expected
    shutil.copy(world.folder / "llm/tokenizer_config.json", tmp_path / "elsewhere/llm/tokenizer_config.json")
    with pytest.raises(InputError, match="is missing or not the llm that"):
        BLSP.from_pretrained(tmp_path / "elsewhere")


AUTO = """
import sys
import blsp
assert "torch" not in sys.modules
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
for auto in (AutoModel, AutoModelForMultimodalLM):
    model = auto.from_pretrained(folder, dtype="float32")
    assert type(model) is blsp.BLSP and type(model.config) is type(config) is blsp.BLSP.config_class
inputs = processor.apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=True, return_dict=True)
print(processor.batch_decode(model.generate(**inputs, max_new_tokens=5), skip_special_tokens=True)[0].strip())
"""


def test_the_auto_classes_find_a_folder_without_its_code(saved: tuple[BLSP, Path]) -> None:
    """Code in the folder, and its name in config.json, is left alone."""
    model, folder = saved
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}})
    (folder / "evil.py").write_text("raise SystemExit('run')")
    done = subprocess.run([sys.executable, "-c", AUTO, folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (expected,) = model.generate([[{"role": "user", "content": "Who?"}]], Decoding(5))
    assert done.stdout.strip() == expected.text


def test_the_auto_classes_are_told_also_where_they_were_there_first() -> None:
    code = "from transformers import AutoConfig; import blsp; assert AutoConfig.for_model('blsp').model_type == 'blsp'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_hub_name_is_fetched_once_and_otherwise_refused_in_one_line(
    saved: tuple[BLSP, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: a snapshot that is in the cache already is used, another name is refused."""
    cache = tmp_path / "cache" / "models--someone--blsp-tiny"
    BLSP.from_pretrained(saved[1]).save_pretrained(cache / "snapshots" / "abc", whole=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    hub = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    assert BLSP.from_pretrained("someone/blsp-tiny", **hub).trained_state().keys() == saved[0].trained_state().keys()
    with pytest.raises(InputError, match="quantize: no such option"):
        BLSP.from_pretrained("someone/blsp-tiny", quantize=True)
    with pytest.raises(InputError, match="someone/else: is no folder, and the hub does not give it") as e:
        BLSP.from_pretrained("someone/else", **hub)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("part", ["whisper", "llm"])
def test_another_encoder_or_llm_is_refused(saved: tuple[BLSP, Path], other_llm: Path, part: str) -> None:
    _, folder = saved
    place = folder.parents[1] / part
    if part == "llm":
        shutil.copy(other_llm / "model.safetensors", place / "model.safetensors")
    else:
        shutil.rmtree(place)
    with pytest.raises(InputError, match="is missing or not the (encoder|llm) that"):
        BLSP.from_pretrained(folder)


def test_broken_model_folders_are_refused_in_one_line(saved: tuple[BLSP, Path], world: World, tmp_path: Path) -> None:
    _, folder = saved
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    refusals = []
    for content in (whole[:500], b""):
        weights.write_bytes(content)
        with pytest.raises(InputError, match=r"model\.safetensors") as e:
            BLSP.from_pretrained(folder)
        refusals.append(str(e.value))
    weights.unlink()
    for wrong, pattern in (
        (folder, r"model\.safetensors"),
        (world.llm, "is not of a BLSP model"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(InputError, match=pattern) as e:
            BLSP.from_pretrained(wrong)
        refusals.append(str(e.value))
    assert not [r for r in refusals if "\n" in r]
    weights.write_bytes(whole)
    config = read_json(folder / "config.json")
    for key, value in (("llm", None), ("adapter", []), ("template", "/etc/passwd")):
        write_json(folder / "config.json", {**config, key: value})
        with pytest.raises(InputError, match=r"config\.json: ") as e:
            BLSP.from_pretrained(folder)
        assert "\n" not in str(e.value)
    config["adapter"]["d_bottleneck"] = 4
    write_json(folder / "config.json", config)
    with pytest.raises(InputError, match="do not fit the model"):
        BLSP.from_pretrained(folder)
