"""The authors' checkpoint: what their own code made of it, the converted model makes too; there and back without a bit lost."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import official_release as release
import pytest
import torch
from conftest import ROOT, WINDOW, World, call, load_file, start, wait
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from blsp.base.files import InputError, model_fingerprint, read_jsonl
from blsp.data import mel
from blsp.model import weight_files
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP, Batch
from blsp.model.encoder import SpeechEncoder
from blsp.model.generation import Decoding, generate
from blsp.model.llm import load_llm
from blsp.model.prompts import Prompter

tool = load_file(ROOT / "tools/convert_official_checkpoint.py")
RECORDED = np.load(release.RECORDED)
CLOSE = {"atol": 1e-4, "rtol": 0}
UTTERANCES = range(len(release.N_SAMPLES))


def convert(*arguments: object) -> None:
    before = sys.argv
    sys.argv = ["convert_official_checkpoint.py", *map(str, arguments)]
    try:
        tool.main()
    finally:
        sys.argv = before


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights below a folder, by file's folder and name."""
    state = {}
    for path in folder.rglob("*.safetensors"):
        state |= {f"{path.parent.relative_to(folder)}/{name}": value for name, value in load_tensors(path).items()}
    return state


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value.view(torch.uint8), other[name].view(torch.uint8)), name


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official") / "release"
    release.write_release(folder)
    return folder


@pytest.fixture(scope="module")
def ours(official: Path) -> Path:
    convert(official, official.parent / "ours")
    return official.parent / "ours"


@pytest.fixture(scope="module")
def model(ours: Path) -> BLSP:
    return BLSP.from_pretrained(ours, "float32")


@pytest.fixture
def copied(official: Path, tmp_path: Path) -> Path:
    """The release once more, to be changed."""
    return Path(shutil.copytree(official, tmp_path / "release"))


@pytest.fixture(scope="module")
def features() -> list[torch.Tensor]:
    return [torch.from_numpy(mel.log_mel(release.audio(n), 80, release.WINDOW)) for n in release.N_SAMPLES]


def test_prompts_and_responses_have_the_authors_ids(model: BLSP) -> None:
    for i, instruction in enumerate((*release.INSTRUCTIONS, *release.MORE_INSTRUCTIONS)):
        prompt = model.prompter.prompt(instruction)
        assert list(prompt.prefix) == RECORDED[f"{i}/prefix"].tolist()
        assert list(prompt.suffix) == RECORDED["suffix"].tolist()
    assert model.prompter.response(release.RESPONSE) == RECORDED["response"].tolist()


@pytest.mark.parametrize("utterances", [*([i] for i in UTTERANCES), list(UTTERANCES)], ids=str)
def test_speech_logits_loss_and_answers_are_the_authors(
    model: BLSP, features: list[torch.Tensor], utterances: list[int]
) -> None:
    """Of single utterances, as recorded; a batch of all gives the same."""
    prompts = [model.prompter.prompt(release.INSTRUCTIONS[i]) for i in utterances]
    response = model.prompter.response(release.RESPONSE)
    batch = Batch([features[i] for i in utterances], prompts, [response] * len(prompts))
    with torch.no_grad():
        speech = model.speech_embeds(batch.features)
        logits = model.response_logits(speech, batch).split(len(response))
        loss, n_targets = model(batch)
    whole = [model.prompt_embeds(prompt, content) for prompt, content in zip(prompts, speech, strict=True)]
    decoding = Decoding(release.MAX_NEW_TOKENS, min_new_tokens=1)
    answers = generate(model.llm, model.prompter, whole, decoding, [str(i) for i in utterances])
    for i, embeds, row, answer in zip(utterances, speech, logits, answers, strict=True):
        torch.testing.assert_close(embeds, torch.from_numpy(RECORDED[f"{i}/speech_embeds"]), **CLOSE)
        torch.testing.assert_close(row, torch.from_numpy(RECORDED[f"{i}/logits"]), **CLOSE)
        greedy = RECORDED[f"{i}/greedy"].tolist()[
            1:
        ]  # that Transformers puts a beginning of sequence before what was generated
        end = model.prompter.tokenizer.eos_token_id
        assert answer.finish_reason == ("stop" if greedy[-1] == end else "length")
        ids = greedy[:-1] if greedy[-1] == end else greedy
        assert answer.n_tokens == len(ids)
        assert answer.text == model.prompter.tokenizer.decode(ids, skip_special_tokens=True).strip()
    expected = sum(float(RECORDED[f"{i}/loss"]) for i in utterances) / len(utterances)
    assert float(loss) / n_targets == pytest.approx(expected, abs=1e-4)
    assert {RECORDED[f"{i}/greedy"].tolist()[-1] == end for i in UTTERANCES} == {True, False}  # both were recorded


def shard(folder: Path, state: dict[str, torch.Tensor], n_files: int, suffix: str, index: bool = True) -> None:
    """Write the weights of a release in several files."""
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    stem, names = {".bin": "pytorch_model", ".safetensors": "model"}[suffix], sorted(state)
    where = {}
    for i in range(n_files):
        file = f"{stem}-{i + 1:05}-of-{n_files:05}{suffix}"
        part = {name: state[name] for name in names[i::n_files]}
        torch.save(part, folder / file) if suffix == ".bin" else save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    if index:
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    torch.save({"lr": 5e-5}, folder / "training_args.bin")  # what their Trainer leaves beside


def weights_of(official: Path) -> dict[str, torch.Tensor]:
    return torch.load(official / "pytorch_model.bin", weights_only=True)


@pytest.mark.parametrize(
    ("suffix", "index"), [(".bin", True), (".bin", False), (".safetensors", True), (".safetensors", False)]
)
def test_official_to_ours_to_official_keeps_every_bit(copied: Path, suffix: str, index: bool, monkeypatch) -> None:
    """Of float16 and bfloat16 weights too, over files of another size."""
    monkeypatch.setattr(weight_files, "PIECE", 20_000)
    state = weights_of(copied)
    for name, dtype in (("llama", torch.float16), ("subsampler", torch.bfloat16), ("adapter", torch.bfloat16)):
        state |= {key: value.to(dtype) for key, value in state.items() if key.startswith(name)}
    shard(copied, state, 3, suffix, index)
    ours, back = copied.parent / "ours", copied.parent / "back"
    convert(copied, ours)
    convert("--reverse", ours, back)
    assert len(list((ours / "llm").glob("*.safetensors"))) > 2
    expected = {f"./{key}": value for key, value in state.items() if "inv_freq" not in key}
    assert_same_bits(state_of(back), expected)
    first, last = (json.loads((folder / "config.json").read_text()) for folder in (copied, back))
    assert {key: first[key] for key in last} == last
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"):
        assert (back / name).read_bytes() == (copied / name).read_bytes()
    assert sorted(p.name for p in copied.parent.iterdir()) == ["back", "ours", "release"]
    half = BLSP.from_pretrained(ours, "float32")
    assert torch.equal(half.adapter.down.weight, state["adapter.fc1.weight"].float())
    assert torch.equal(half.llm.model.lm_head.weight, state["llama_model.lm_head.weight"].float())


def test_ours_to_official_to_ours_keeps_every_bit(world: World, tmp_path: Path, capsys) -> None:
    """Of a model that was trained here: a whole Whisper's encoder, an LLM as Transformers writes it today."""
    torch.manual_seed(5)
    llm = load_llm(str(world.llm))
    model = BLSP(SpeechEncoder.from_pretrained(str(world.whisper)), Adapter(16, 32, 8), llm, Prompter(llm.tokenizer))
    model.save_pretrained(tmp_path / "trained", str(world.whisper), str(world.llm), {})
    convert("--reverse", tmp_path / "trained", tmp_path / "release")
    assert "template is paper here" in capsys.readouterr().out
    convert(tmp_path / "release", tmp_path / "ours")
    whole = {n: v for n, v in load_tensors(world.whisper / "model.safetensors").items() if n.startswith("model.encoder.")}
    assert_same_bits(load_tensors(tmp_path / "ours/encoder/model.safetensors"), whole)
    assert_same_bits(load_tensors(tmp_path / "ours/llm/model.safetensors"), load_tensors(world.llm / "model.safetensors"))
    assert_same_bits(load_tensors(tmp_path / "ours/model.safetensors"), load_tensors(tmp_path / "trained/model.safetensors"))
    again = BLSP.from_pretrained(tmp_path / "ours", "float32").eval()
    features = [torch.from_numpy(mel.log_mel(release.audio(20000), 80, WINDOW))]
    assert torch.equal(again.speech_embeds(features)[0], model.eval().speech_embeds(features)[0])
    nested = json.loads((tmp_path / "release/config.json").read_text())["llama_config"]
    assert nested["rope_theta"] == 10000.0 and nested["torch_dtype"] == "float32"  # names of older Transformers


def test_a_head_that_is_tied_to_the_words_is_one_matrix(copied: Path) -> None:
    """With and without a copy of it in the release; one that differs is refused."""
    config = json.loads((copied / "config.json").read_text())
    config["llama_config"]["tie_word_embeddings"] = True
    (copied / "config.json").write_text(json.dumps(config))
    state = weights_of(copied)
    with pytest.raises(InputError, match=r"lm_head.weight differs from llama_model.model.embed_tokens.weight"):
        convert(copied, copied.parent / "ours")
    state["llama_model.lm_head.weight"] = state["llama_model.model.embed_tokens.weight"]
    torch.save(state, copied / "pytorch_model.bin")
    convert(copied, copied.parent / "with")
    del state["llama_model.lm_head.weight"]
    torch.save(state, copied / "pytorch_model.bin")
    convert(copied, copied.parent / "without")
    assert_same_bits(state_of(copied.parent / "with"), state_of(copied.parent / "without"))
    convert("--reverse", copied.parent / "with", copied.parent / "back")
    back = state_of(copied.parent / "back")
    assert torch.equal(back["./llama_model.lm_head.weight"], back["./llama_model.model.embed_tokens.weight"])


def edit(name: str, **values: object):
    """Change keys of a JSON file of the release, those of nested mappings too; None takes the key away."""

    def change(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        for key, value in values.items():
            *outer, last = key.split("__")
            inner = content
            for step in outer:
                inner = inner[step]
            inner.pop(last, None)
            if value is not None:
                inner[last] = value
        path.write_text(json.dumps(content))

    return change


def weigh(**values: object):
    """Change weights of the release, with __ for points; None takes one away."""

    def change(folder: Path) -> None:
        state = weights_of(folder)
        for key, value in values.items():
            state.pop(key.replace("__", "."), None)
            if value is not None:
                state[key.replace("__", ".")] = value
        torch.save(state, folder / "pytorch_model.bin")

    return change


def written(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def cut_off(folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-5000])


def without_a_file(folder: Path) -> None:
    shard(folder, weights_of(folder), 3, ".safetensors")
    (folder / "model-00002-of-00003.safetensors").unlink()


def outside(folder: Path) -> None:
    shard(folder, weights_of(folder), 2, ".bin")
    edit("pytorch_model.bin.index.json", weight_map={"speech_ln.bias": "../secret.bin"})(folder)


def twice(folder: Path) -> None:
    shard(folder, weights_of(folder), 2, ".bin", index=False)
    torch.save({"speech_ln.bias": torch.zeros(32)}, folder / "pytorch_model-00003-of-00003.bin")


FAULTS = {
    "unknown": (weigh(speech_ln__gain=torch.ones(32)), r"pytorch_model.bin: speech_ln.gain is unknown"),
    "unknown part": (weigh(lora__a=torch.ones(2)), r"pytorch_model.bin: lora.a is unknown; names begin with whisper_model."),
    "unknown layer": (weigh(subsampler__conv_layers__3__bias=torch.ones(2)), r"subsampler.conv_layers.3.bias is unknown"),
    "missing": (weigh(adapter__fc2__weight=None), r"release: adapter.fc2.weight is missing"),
    "missing in the encoder": (weigh(whisper_model__conv1__bias=None), r"release: whisper_model.conv1.bias is missing"),
    "shape": (weigh(speech_ln__bias=torch.ones(31)), r"speech_ln.bias is \(31,\), but by config.json \(32,\)"),
    "quantized": (weigh(speech_ln__bias=torch.ones(32).to(torch.int8)), r"speech_ln.bias is torch.int8; weights should"),
    "no tensor": (weigh(speech_ln__bias=[1.0]), r"pytorch_model.bin: speech_ln.bias is not a tensor"),
    "kernels": (edit("config.json", conv_kernel_sizes="3,3,3"), r"config.json: conv_kernel_sizes is '3,3,3', but .* '5,5,5'"),
    "bottleneck": (edit("config.json", adapter_inner_dim=16), r"adapter.fc1.weight is \(12, 32\), but by .* \(16, 32\)"),
    "bottleneck's kind": (edit("config.json", adapter_inner_dim="12"), r"config.json: adapter_inner_dim is '12'"),
    "no llama_config": (edit("config.json", llama_config=None), r"config.json: should have whisper_config and llama_config"),
    "other LLM": (edit("config.json", llama_config__model_type="gpt2"), r"llama_config: model_type is 'gpt2'"),
    "heads": (edit("config.json", llama_config__num_attention_heads=5), r"llama_config: makes no model"),
    "activation": (edit("config.json", whisper_config__activation_function="sine"), r"whisper_config: makes no model"),
    "features": (edit("preprocessor_config.json", hop_length=80), r"preprocessor_config.json: hop_length is 80, .* 160"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), r"release: has no tokenizer.model"),
    "broken tokenizer": (written("tokenizer.model", b"nothing"), r"release: the tokenizer cannot be loaded"),
    "list": (written("preprocessor_config.json", b"[]"), r"preprocessor_config.json: should be a JSON object"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config.json: cannot be read"),
    "no weights": (lambda folder: (folder / "pytorch_model.bin").unlink(), r"release: has no weights"),
    "cut off": (cut_off, r"pytorch_model.bin: is not a file of weights, or is broken"),
    "pointer": (written("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n" * 3), r"is not a file of"),
    "file missing": (without_a_file, r"-00002-of-00003.safetensors: is missing; model.safetensors.index.json says"),
    "file outside": (outside, r"pytorch_model.bin.index.json: should have a weight_map of names of files beside it"),
    "twice": (twice, r"pytorch_model-00003-of-00003.bin: speech_ln.bias is in .*-of-00002.bin as well"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_one_line_that_names_it(copied: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    change(copied)
    with pytest.raises(InputError, match=message) as raised:
        convert(copied, copied.parent / "ours")
    assert "\n" not in str(raised.value)
    assert not (copied.parent / "ours").exists()


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "code"])
def test_nothing_in_a_checkpoint_is_executed(copied: Path, file: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    if file == "code":
        (copied / "evil.py").write_text("import os\nos.mkdir('executed')\nclass Evil: pass\n")
        auto_map = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None], "AutoModelForCausalLM": "evil.Evil"}
        edit("config.json", auto_map=auto_map, llama_config__auto_map=auto_map, whisper_config__auto_map=auto_map)(copied)
        edit("tokenizer_config.json", auto_map=auto_map)(copied)
        convert(copied, "ours")
        BLSP.from_pretrained("ours", "float32")
        assert not list(Path("ours").rglob("*.py"))
    else:
        with open(copied / file, "wb") as f:
            pickle.dump({"speech_ln.bias": Harmful()}, f, protocol=2)
        with pytest.raises(InputError, match="is not a file of weights"):
            convert(copied, "ours")
    assert not Path("executed").exists()


def test_without_tokenizer_settings_the_tokenizer_is_llamas(copied: Path) -> None:
    """The authors' programs name it; Transformers would otherwise guess another, with other ids."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (copied / name).unlink()
    convert(copied, copied.parent / "ours")
    prompter = BLSP.from_pretrained(copied.parent / "ours", "float32").prompter
    for i, instruction in enumerate(release.INSTRUCTIONS):
        assert list(prompter.prompt(instruction).prefix) == RECORDED[f"{i}/prefix"].tolist()
    assert list(prompter.prompt("").suffix) == RECORDED["suffix"].tolist()


@pytest.mark.parametrize("reverse", [False, True])
def test_killed_and_run_again_is_as_if_never_killed(
    official: Path, ours: Path, tmp_path: Path, reverse: bool, monkeypatch
) -> None:
    monkeypatch.setattr(weight_files, "PIECE", 20_000)
    arguments = ["--reverse", ours] if reverse else [official]
    written = []

    def killed() -> None:
        def write(path: Path, *rest: object) -> None:
            if len(written) == 3:
                rest[-1].write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(path)
            whole(path, *rest)

        whole, weight_files.write_piece = weight_files.write_piece, write
        convert(*arguments, tmp_path / "made")

    assert wait(start(killed, tmp_path / "log")) == -signal.SIGKILL
    assert not (tmp_path / "made").exists()
    (made,) = tmp_path.glob(".made.*/made")
    before = {p.name: p.stat().st_mtime_ns for p in made.rglob("*-of-*.safetensors")}
    assert len(before) == 3
    convert(*arguments, tmp_path / "made")
    assert {name: p.stat().st_mtime_ns for p in (tmp_path / "made").rglob("*") if (name := p.name) in before} == before
    convert(*arguments, tmp_path / "other")
    assert_same_bits(state_of(tmp_path / "made"), state_of(tmp_path / "other"))
    assert files_of(tmp_path / "made") == files_of(tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "made", "other"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_an_interrupted_run_left_of_another_checkpoint_is_not_taken(copied: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(weight_files, "PIECE", 20_000)
    whole, n_written = weight_files.write_piece, iter(range(100))

    def write(*arguments: object) -> None:
        if next(n_written) == 3:
            raise KeyboardInterrupt
        whole(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(weight_files, "write_piece", write)
        convert(copied, tmp_path / "ours")
    weigh(whisper_model__conv1__bias=torch.full((16,), 3.0))(copied)
    convert(copied, tmp_path / "ours")
    encoder = {name.removeprefix("encoder/"): value for name, value in state_of(tmp_path / "ours").items()}
    assert encoder["model.encoder.conv1.bias"].tolist() == [3.0] * 16


def test_a_folder_that_is_there_is_refused(official: Path, ours: Path, tmp_path: Path) -> None:
    for reverse in ([], ["--reverse"]):
        with pytest.raises(InputError, match="is there already; remove it or choose another name"):
            convert(*reverse, official, ours)
    with pytest.raises(InputError, match="nowhere: is not a folder"):
        convert(tmp_path / "nowhere", tmp_path / "made")


def test_two_processes_do_not_make_one_folder(official: Path, tmp_path: Path) -> None:
    (tmp_path / ".made.converting").mkdir()
    with open(tmp_path / ".made.converting/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="made: another process is making it"):
            convert(official, tmp_path / "made")


def test_only_models_that_the_authors_code_has_go_back(official: Path, ours: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(ours, tmp_path / "other"))
    with pytest.raises(InputError, match="config.json: is not of a BLSP model"):
        convert("--reverse", official, tmp_path / "made")
    edit("llm/config.json", model_type="mistral")(other)
    edit("config.json", llm_fingerprint=model_fingerprint(other / "llm"))(other)
    with pytest.raises(InputError, match="llm/config.json: model_type is 'mistral'"):
        convert("--reverse", other, tmp_path / "made")
    state = load_tensors(other / "model.safetensors")
    del state["adapter.up.weight"]
    save_file(state, other / "model.safetensors")
    edit("llm/config.json", model_type="llama")(other)
    edit("config.json", llm_fingerprint=model_fingerprint(other / "llm"))(other)
    with pytest.raises(InputError, match=r"other: adapter.up.weight is missing"):
        convert("--reverse", other, tmp_path / "made")


def test_recipes_decode_with_it(ours: Path, prepared: World, tmp_path: Path) -> None:
    settings = "--decoding={max_new_tokens: 6, min_new_tokens: 1}"
    where = ("--config", prepared.config, "--data-dir", prepared.data, "--exp-dir", tmp_path)
    call("decode", "--model", ours, *where, settings)
    rows = read_jsonl(tmp_path / "decode/test_clean.asr/hyp.jsonl")
    assert len(rows) == 7 and any(row["hypothesis"] for row in rows)
