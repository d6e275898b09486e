"""Real models by name: from a package index and a hub on this machine, and the two forms that packages carry models in."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
import yaml
from conftest import start, wait
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from blsp.base import command
from blsp.base.files import InputError

TOOLS = Path(__file__).resolve().parents[2] / "tools"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
SPECIAL += ["<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"]
FILES = ("model.bin", "config.json", "tokenizer.json")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


get_models, whisper, gguf_tool = (load(n) for n in ("get_models", "whisper_from_ctranslate2", "llm_from_gguf"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# CTranslate2


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def model_bin(variables: dict[str, np.ndarray], version: int = 6, revision: int = 3, alias: str = "projection") -> bytes:
    """A model.bin as CTranslate2 writes it."""
    types = {"f4": 0, "i1": 1, "i2": 2, "i4": 3, "f2": 4}
    parts = [struct.pack("<I", version), string("WhisperSpec"), struct.pack("<II", revision, len(variables))]
    for name, value in variables.items():
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        parts += [string(name), shape, struct.pack("<BI", types[value.dtype.str[1:]], value.nbytes), value.tobytes()]
    parts += [struct.pack("<I", 1), string(f"decoder/{alias}/weight"), string("decoder/embeddings/weight")]
    return b"".join(parts)


def to_ctranslate2(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The variables of CTranslate2's Whisper, in float16."""
    state = {name.removeprefix("model."): value.half().numpy() for name, value in model.state_dict().items()}
    variables: dict[str, np.ndarray] = {"decoder/embeddings/weight": state["decoder.embed_tokens.weight"]}

    def linear(target: str, *sources: str) -> None:
        variables[f"{target}/weight"] = np.concatenate([state[f"{s}.weight"] for s in sources])
        none = np.zeros(model.config.d_model, np.float16)  # of the keys
        variables[f"{target}/bias"] = np.concatenate([state.get(f"{s}.bias", none) for s in sources])

    def norm(target: str, source: str) -> None:
        variables[f"{target}/gamma"], variables[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    for conv in ("conv1", "conv2"):
        linear(f"encoder/{conv}", f"encoder.{conv}")
    for side in ("encoder", "decoder"):
        variables[f"{side}/num_heads"] = np.array(2, np.int16)
        variables[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for n in range(2):
            new, old = f"{side}/layer_{n}", f"{side}.layers.{n}"
            linear(f"{new}/self_attention/linear_0", *(f"{old}.self_attn.{p}_proj" for p in "qkv"))
            linear(f"{new}/self_attention/linear_1", f"{old}.self_attn.out_proj")
            norm(f"{new}/self_attention/layer_norm", f"{old}.self_attn_layer_norm")
            if side == "decoder":
                linear(f"{new}/attention/linear_0", f"{old}.encoder_attn.q_proj")
                linear(f"{new}/attention/linear_1", *(f"{old}.encoder_attn.{p}_proj" for p in "kv"))
                linear(f"{new}/attention/linear_2", f"{old}.encoder_attn.out_proj")
                norm(f"{new}/attention/layer_norm", f"{old}.encoder_attn_layer_norm")
            linear(f"{new}/ffn/linear_0", f"{old}.fc1")
            linear(f"{new}/ffn/linear_1", f"{old}.fc2")
            norm(f"{new}/ffn/layer_norm", f"{old}.final_layer_norm")
    switches = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
    return variables | {f"decoder/{name}": np.array(value, np.int8) for name, value in switches.items()}


@pytest.fixture(scope="module")
def tiny() -> WhisperForConditionalGeneration:
    """A tiny Whisper of random weights that float16 holds exactly."""
    torch.manual_seed(3)
    sizes = {"d_model": 16, "num_mel_bins": 80, "max_source_positions": 1500, "max_target_positions": 64}
    sizes |= {"vocab_size": len(ALPHABET) + len(SPECIAL) + 1501, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    for side, width in (("encoder", 24), ("decoder", 40)):
        sizes |= {f"{side}_layers": 2, f"{side}_attention_heads": 2, f"{side}_ffn_dim": width}
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, decoder_start_token_id=1, begin_suppress_tokens=None))
    for parameter in model.parameters():
        parameter.data = (parameter + 0.1 * torch.randn_like(parameter)).half().float()
    return model.eval()


@pytest.fixture(scope="module")
def original(tiny, tmp_path_factory) -> dict[str, bytes]:
    """The three files of CTranslate2's form."""
    tokenizer = Tokenizer(models.BPE({c: n for n, c in enumerate(ALPHABET)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    ids = {token: len(ALPHABET) + n for n, token in enumerate(SPECIAL)}
    config = {"lang_ids": [ids["<|en|>"], ids["<|de|>"]], "suppress_ids": [1, 2, ids["<|startoflm|>"]]}
    config |= {"suppress_ids_begin": [3, ids["<|endoftext|>"]], "alignment_heads": [[1, 0]]}
    contents = (model_bin(to_ctranslate2(tiny)), json.dumps(config).encode(), tokenizer.to_str().encode())
    return dict(zip(FILES, contents, strict=True))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_whisper_of_ctranslate2_is_the_same_network(tiny, original, tmp_path):
    whisper.main([str(write(tmp_path / "in", original)), str(tmp_path / "out")])
    made = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    assert made.dtype == torch.float32
    expected, found = tiny.state_dict(), made.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    processor = WhisperProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(np.sin(np.arange(8000) / 9), sampling_rate=16000, return_tensors="pt").input_features
    with torch.inference_mode():
        pair = [m(inputs, decoder_input_ids=torch.tensor([[257, 258, 5]])).logits for m in (tiny, made)]
        ids = made.generate(inputs, language="de", task="translate", max_new_tokens=3)
    assert torch.equal(*pair) and len(processor.batch_decode(ids)) == 1


def test_whisper_folder_says_how_it_writes(original, tmp_path):
    whisper.convert(write(tmp_path / "in", original), tmp_path / "out")
    tokenizer = WhisperProcessor.from_pretrained(tmp_path / "out").tokenizer
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    assert config["is_multilingual"] and config["max_length"] == 64
    assert config["lang_to_id"] == {token: ids[token] for token in ("<|en|>", "<|de|>")}
    assert config["task_to_id"] == {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    assert config["no_timestamps_token_id"] == ids["<|notimestamps|>"] == ids["<|endoftext|>"] + len(SPECIAL) - 1
    assert config["decoder_start_token_id"] == ids["<|startoftranscript|>"]
    assert config["suppress_tokens"] == [1, 2, ids["<|startoflm|>"]] and config["begin_suppress_tokens"] == [3, 256]
    tokenizer.set_prefix_tokens(language="german", task="transcribe")
    assert tokenizer.decode(tokenizer("häh? 42").input_ids, skip_special_tokens=True) == "häh? 42"
    times = tokenizer.timestamp_ids()
    assert times == list(range(times[0], times[0] + 1501)) and times[0] == ids["<|notimestamps|>"] + 1


def changed(original: dict[str, bytes], tiny: WhisperForConditionalGeneration, **variables: np.ndarray | None) -> dict:
    kept = to_ctranslate2(tiny) | {name.replace("__", "/"): value for name, value in variables.items()}
    return original | {"model.bin": model_bin({name: value for name, value in kept.items() if value is not None})}


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.bin", lambda b: b[:-9], r"is cut off at byte \d+, in alias 0's variable; get the file again"),
        ("model.bin", lambda b: b[: len(b) // 2], r"is cut off at byte \d+, in \w+coder/"),
        ("model.bin", lambda b: b + b"x", "1 bytes follow the end"),
        ("model.bin", lambda b: b"", "cannot be read"),
        ("model.bin", lambda b: b"PK\3\4" + bytes(99), "version 67324752 of CTranslate2's format, not 6"),
        ("model.bin", lambda b: b[:4] + bytes(range(256)) * 9, "the specification is not text|is cut off"),
        ("config.json", lambda b: b[:-1], "config.json: is not JSON"),
        ("config.json", lambda b: b.replace(b"suppress_ids_begin", b"x"), "'suppress_ids_begin' is missing"),
        ("config.json", lambda b: b.replace(b"[257", b"[259").replace(b"[258", b"[11"), "are not the tokenizer's languages"),
        ("tokenizer.json", lambda b: b"{}", "is not a tokenizer of Whisper"),
        ("tokenizer.json", lambda b: b.replace(b"<|nocaptions|>", b"<|en|>"), "tokens, the model has"),
    ],
)
def test_damaged_files_of_ctranslate2(original, tmp_path, name, damage, message):
    folder = write(tmp_path / "in", original | {name: damage(original[name])})
    with pytest.raises(InputError, match=message) as error:
        whisper.convert(folder, tmp_path / "out")
    assert "\n" not in str(error.value) and sorted(os.listdir(tmp_path)) == ["in"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"decoder__layer_1__extra": np.zeros(2, np.float16)}, "a Whisper has no decoder/layer_1/extra"),
        ({"encoder__layer_norm__beta": None}, "lacks encoder/layer_norm/beta"),
        ({"encoder__conv2__bias": np.zeros(16, np.int8)}, "lacks encoder/conv2/bias, or it is not of floating point"),
        ({"encoder__conv2__bias": np.zeros(15, np.float16)}, "is not a whole Whisper .*size mismatch"),
        ({"decoder__activation": np.array(0, np.int8)}, "decoder/activation is 0, and 3 in a Whisper"),
        ({"encoder__conv1__weight_scale": np.ones(1, np.float32)}, "is quantized to integers"),
        ({"encoder__num_heads": None}, "is not a whole Whisper"),
        ({"encoder__layer_0__self_attention__linear_0__bias": np.ones(48, np.float16)}, "a bias on the keys"),
        ({"encoder__layer_0__self_attention__linear_0__bias": np.ones(47, np.float16)}, "has 48 rows, not 3 x 16"),
    ],
)
def test_whispers_that_are_not(original, tiny, tmp_path, variables, message):
    with pytest.raises(InputError, match=message):
        whisper.convert(write(tmp_path, changed(original, tiny, **variables)), tmp_path / "out")


def test_sizes_names_and_revisions_are_checked(original, tiny, tmp_path):
    variables = to_ctranslate2(tiny)
    bias = string("encoder/conv1/bias") + struct.pack("<BIBI", 1, 16, 4, 32)
    cases = {
        "32 bytes for shape .17. of float16": original["model.bin"].replace(bias, bias.replace(b"\x10", b"\x11")),
        "has type 5; known are": original["model.bin"].replace(bias, bias.replace(b"\x04\x20", b"\x05\x20")),
        "'encoder/conv1/bias' is there twice": original["model.bin"].replace(b"encoder/conv2/bias", b"encoder/conv1/bias"),
        "is a WhisperSpec 2, not a": model_bin(variables, revision=2),
        "output layer is not its word embeddings": model_bin(variables, alias="other"),
    }
    for message, content in cases.items():
        with pytest.raises(InputError, match=message):
            whisper.convert(write(tmp_path, original | {"model.bin": content}), tmp_path / "out")


def test_a_full_disk_leaves_nothing(original, tmp_path):
    """Files may have 20 kB here; the weights need more."""
    folder = write(tmp_path / "in", original)

    def action() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        command.run(lambda: whisper.main([str(folder), str(tmp_path / "out")]))

    assert wait(start(action, tmp_path / "log")) == 1
    assert re.search(r"/out: cannot be written \(.*too large.*\)\n$", (tmp_path / "log").read_text())
    assert sorted(os.listdir(tmp_path)) == ["in", "log"]


# GGUF


@pytest.fixture(scope="module")
def llm() -> LlamaForCausalLM:
    torch.manual_seed(4)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 260, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=258, eos_token_id=259)).eval()
    for parameter in model.parameters():
        parameter.data = (parameter + 0.1 * torch.randn_like(parameter)).bfloat16().float()
    return model


def write_gguf(path: Path, model: LlamaForCausalLM, **extra: np.ndarray) -> Path:
    """A GGUF as llama.cpp's converter writes it; its rotary embeddings want other rows of q and k together."""
    from gguf import GGUFWriter

    config, state = model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*ALPHABET, "Ġt", "<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["Ġ t"])
    writer.add_unk_token_id(257)
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(259)
    writer.add_pad_token_id(259)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")

    def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
        return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)

    tensors = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    for n in range(2):
        old = f"model.layers.{n}"
        tensors |= {
            f"blk.{n}.attn_q.weight": permuted(state[f"{old}.self_attn.q_proj.weight"], 4),
            f"blk.{n}.attn_k.weight": permuted(state[f"{old}.self_attn.k_proj.weight"], 2),
            f"blk.{n}.attn_v.weight": state[f"{old}.self_attn.v_proj.weight"],
            f"blk.{n}.attn_output.weight": state[f"{old}.self_attn.o_proj.weight"],
            f"blk.{n}.attn_norm.weight": state[f"{old}.input_layernorm.weight"],
            f"blk.{n}.ffn_norm.weight": state[f"{old}.post_attention_layernorm.weight"],
            **{f"blk.{n}.ffn_{p}.weight": state[f"{old}.mlp.{p}_proj.weight"] for p in ("gate", "up", "down")},
        }
    for name, value in (tensors | extra).items():
        if value is not None:
            writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_llm_of_gguf_is_the_same_network(llm, tmp_path):
    gguf_tool.main([str(write_gguf(tmp_path / "m.gguf", llm)), str(tmp_path / "out")])
    assert not list((tmp_path / "out").glob("*.gguf"))
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert made.dtype == torch.bfloat16 and made.config.eos_token_id == 259
    made = made.float()
    ids = torch.tensor([[3, 77, 258, 9]])
    with torch.inference_mode():
        assert torch.equal(made(ids).logits, llm(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer("as they  42", add_special_tokens=False).input_ids) == "as they  42"
    assert tokenizer.tokenize("a  4") == ["a", "Ġ", "Ġ", "4"] and tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "<|im_start|>x<|im_end|>"


def test_damaged_gguf(llm, tmp_path):
    content = write_gguf(tmp_path / "m.gguf", llm).read_bytes()
    cases = {
        "is not GGUF": b"PK\3\4" + content[4:],
        "is cut off or damaged|its tensors end": content[:-40],
        "is cut off or damaged": content[: len(content) // 9],
        "cut off or damaged .*; get": content[:20],
        "its tensors end at byte": content + bytes(99),
    }
    for message, damaged in cases.items():
        (tmp_path / "d.gguf").write_bytes(damaged)
        with pytest.raises(InputError, match=message) as error:
            gguf_tool.convert(tmp_path / "d.gguf", tmp_path / "out")
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        gguf_tool.convert(tmp_path / "none.gguf", tmp_path / "out")


def test_gguf_with_more_or_less_than_a_model(llm, tmp_path):
    for name, value in (("blk.0.other.weight", np.zeros((2, 2), np.float32)), ("blk.1.ffn_up.weight", None)):
        write_gguf(tmp_path / "m.gguf", llm, **{name: value})
        with pytest.raises(InputError, match="weights and model do not match: (blk.0.other|model.layers.1.mlp.up_proj)"):
            gguf_tool.convert(tmp_path / "m.gguf", tmp_path / "out")


# Sources


class Handler(BaseHTTPRequestHandler):
    """A package index (/simple, /files) and a hub (/api/models, /OWNER/NAME/resolve) with what `server` holds."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, path = self.server, unquote(urlsplit(self.path).path)
        server.requests.append(f"{self.command} {path}")
        if path.startswith("/simple/"):
            wheels = [w for w in server.wheels if w.split("-")[0].replace("_", "-") == path.split("/")[2]]
            self.answer("".join(f'<a href="/files/{w}">{w}</a>' for w in wheels).encode(), "text/html")
        elif path.startswith("/files/"):
            self.answer(server.wheels[path.removeprefix("/files/")], "application/zip")
        elif path.startswith("/api/models/o/m/tree/"):
            rows = [{"type": "file", "path": n, "size": len(b), "oid": sha256(b)[:40]} for n, b in server.hub.items()]
            self.answer(json.dumps([r | self.lfs(r["path"]) for r in rows]).encode(), "application/json")
        elif path.startswith("/api/models/o/m"):
            siblings = [{"rfilename": n, "size": len(b), "blobId": "0"} | self.lfs(n) for n, b in server.hub.items()]
            facts = {"id": "o/m", "modelId": "o/m", "sha": "c" * 40, "siblings": siblings}
            self.answer(json.dumps(facts).encode(), "application/json")
        elif path.startswith("/o/m/resolve/"):
            self.answer(server.hub[path.split("/", 5)[5]], "application/octet-stream")
        else:
            self.answer(b"{}", "application/json", 404)

    def lfs(self, name: str) -> dict[str, object]:
        content = self.server.hub[name]
        digest = self.server.published.get(name) or sha256(content)
        facts = {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 9}
        return {"lfs": facts} if name.endswith(".safetensors") else {}

    def answer(self, content: bytes, kind: str, status: int = 200) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        begin = int(wanted[1]) if wanted else 0
        end = int(wanted[2]) + 1 if wanted and wanted[2] else len(content)
        self.send_response(206 if wanted else status)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", f'"{sha256(content)}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()
        if self.command == "GET":
            stall = self.server.stall and self.path.endswith(self.server.stall)
            self.wfile.write(content[begin : begin + 1000 if stall else end])
            if stall:
                self.wfile.flush()
                self.server.stalled.set()
                self.server.go_on.wait(30)


@pytest.fixture
def server():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.wheels, http.hub, http.published, http.requests, http.stall = {}, {}, {}, [], ""
    http.stalled, http.go_on = threading.Event(), threading.Event()
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield http
    http.go_on.set()
    http.shutdown()
    http.server_close()


def wheel(path: Path, files: dict[str, bytes]) -> bytes:
    name, version = path.name.split("-")[:2]
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    kind = b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        for file, content in (files | {f"{info}/METADATA": about, f"{info}/WHEEL": kind, f"{info}/RECORD": b""}).items():
            z.writestr(file, content)
    return path.read_bytes()


@pytest.fixture
def table(server, original, tmp_path) -> Path:
    """A table with the model `m`, whose weights are cut over two packages that `server` has."""
    weights = original["model.bin"]
    halves = weights[: len(weights) // 3], weights[len(weights) // 3 :]
    names = [f"some_model_part{n}-1.0-py3-none-any.whl" for n in (1, 2)]
    small = {f"p1/{name}": original[name] for name in FILES[1:]}
    server.wheels[names[0]] = wheel(tmp_path / names[0], {"p1/model.part1": halves[0], **small})
    server.wheels[names[1]] = wheel(tmp_path / names[1], {"p2/model.part2": halves[1]})
    files = {name: {"sha256": sha256(original[name]), "parts": [f"p1/{name}"]} for name in FILES[1:]}
    files["model.bin"] = {"sha256": sha256(weights), "parts": ["p1/model.part1", "p2/model.part2"]}
    sums = {f"some-model-part{n}==1.0": sha256(server.wheels[name]) for n, name in enumerate(names, 1)}
    row = {"what": "a tiny Whisper", "licence": "none", "hub": "o/m"}
    row["index"] = {"form": "ctranslate2", "packages": sums, "files": files}
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump({"m": row}))
    return path


def start_program(server: ThreadingHTTPServer, table: Path, *options: str, hub: str = "http://127.0.0.1:9") -> subprocess.Popen:
    """The program in a process of its own, which knows no other index and hub than those here."""
    url = f"http://127.0.0.1:{server.server_address[1]}"
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "HF_"))}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{url}/simple", "no_proxy": "127.0.0.1"}
    settings |= {"HF_ENDPOINT": hub or url, "HF_HOME": str(table.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
    settings["PYTHONPATH"] = str(TOOLS.parent)
    words = [sys.executable, str(TOOLS / "get_models.py"), "m", "--table", str(table), "--out", str(table.parent / "out")]
    pipe = subprocess.PIPE
    return subprocess.Popen([*words, *options], env=settings, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    """(exit status, standard output, lines of standard error)"""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.splitlines()


def test_killed_in_a_download_and_run_again(server, table, tiny, tmp_path):
    server.stall = "part2-1.0-py3-none-any.whl"
    first = start_program(server, table, "--source", "index")
    assert server.stalled.wait(60)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".m.getting"]
    server.go_on.set()
    server.stall, server.requests = "", []
    status, out, errors = finish(start_program(server, table))
    assert (status, errors) == (0, [])
    downloads = [path for path in server.requests if "/files/" in path]
    assert downloads == ["GET /files/some_model_part2-1.0-py3-none-any.whl"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m"]
    assert "out/m, from the package index, verified; the hub does not give o/m" in out.splitlines()[-1]
    facts = yaml.safe_load((tmp_path / "out" / "m" / "SOURCE.yaml").read_text())
    assert facts["source"] == "package index" and facts["licence"] == "none"
    assert facts["weights"] == {"model.safetensors": sha256((tmp_path / "out" / "m" / "model.safetensors").read_bytes())}
    made = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out" / "m").state_dict()
    assert all(torch.equal(value, made[name]) for name, value in tiny.state_dict().items())


def test_hub_with_its_own_checksums(server, table, tmp_path):
    server.hub = {"config.json": b"{}", "model.safetensors": b"w" * 5000, "pytorch_model.bin": b"p", "onnx/config.json": b"o"}
    server.published["model.safetensors"] = "0" * 64
    status, out, errors = finish(start_program(server, table, "--source", "hub", hub=""))
    assert status == 1 and len(errors) == 1 and "model.safetensors: has sha256" in errors[0]
    assert not (tmp_path / "out" / "m").exists()
    server.published.clear()
    status, out, errors = finish(start_program(server, table, hub=""))
    assert (status, errors) == (0, []) and "from the Hugging Face hub, verified" in out
    assert sorted(p.name for p in (tmp_path / "out" / "m").iterdir()) == ["SOURCE.yaml", "config.json", "model.safetensors"]
    facts = yaml.safe_load((tmp_path / "out" / "m" / "SOURCE.yaml").read_text())
    assert facts["revision"] == "c" * 40 and facts["weights"] == {"model.safetensors": sha256(b"w" * 5000)}
    assert not [path for path in server.requests if "onnx" in path or "pytorch" in path or "/simple" in path]


def test_a_package_of_other_content_is_refused(server, table, tmp_path):
    name = "some_model_part1-1.0-py3-none-any.whl"
    server.wheels[name] = wheel(tmp_path / name, {"p1/model.part1": b"another"})
    status, _, errors = finish(start_program(server, table))
    assert status == 1 and len(errors) == 1
    assert re.fullmatch(rf"get_models: {name}: has sha256 \w{{64}}, not \w{{64}} .*; removed, nothing of it is used", errors[0])
    assert not list((tmp_path / "out").rglob("*.whl")) and not (tmp_path / "out" / "m").exists()


def test_no_source(server, table, tmp_path):
    server.wheels.clear()
    begin = time.monotonic()
    status, _, errors = finish(start_program(server, table))
    assert status == 1 and len(errors) == 1 and time.monotonic() - begin < 30
    parts = ("the hub does not give o/m", "the package index does not give some-model-part1==1.0", "put a folder of o/m")
    assert all(part in errors[0] for part in parts)


def run(*arguments: object) -> None:
    get_models._main([str(argument) for argument in arguments])


def test_what_is_there_is_left_alone(table, tmp_path, capsys):
    there = write(tmp_path / "out" / "m", {"config.json": b"{}"})
    (tmp_path / "out" / ".m.getting").mkdir()  # killed when all was done
    run("m", "--table", table, "--out", tmp_path / "out")
    assert "m: is there" in capsys.readouterr().out and os.listdir(there.parent) == ["m"]
    (there / "config.json").unlink()
    with pytest.raises(InputError, match="is in the way: it has no config.json"):
        run("m", "--table", table, "--out", tmp_path / "out")


def test_unknown_names_are_answered_with_the_known(capsys):
    with pytest.raises(SystemExit) as error:
        run("whisper-bse")
    assert error.value.code == 2
    assert re.search("no model is called 'whisper-bse'; there are .*whisper-base, .*smollm2-135m", capsys.readouterr().err)


def test_two_at_once(table, tmp_path):
    model = get_models.read_models(table)["m"]
    (tmp_path / "out" / ".m.getting").mkdir(parents=True)
    with get_models._alone(tmp_path / "out" / ".m.getting", model), pytest.raises(InputError, match="another get_models.py"):
        get_models.get(model, tmp_path / "out")


def test_a_full_disk_is_one_line(table, tmp_path, monkeypatch):
    model = get_models.read_models(table)["m"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "x"))

    monkeypatch.setattr(get_models, "_join", full)
    wheels = tmp_path / "out" / ".m.getting" / "wheels"
    wheels.mkdir(parents=True)
    for path in tmp_path.glob("*.whl"):
        path.rename(wheels / path.name)
    with pytest.raises(InputError, match="out/x: cannot be written .No space left on device."):
        get_models.get(model, tmp_path / "out", "index")


def test_the_table():
    rows = get_models.read_models(get_models.TABLE)
    assert {"whisper-base", "whisper-small", "smollm2-135m", "qwen2.5-0.5b"} <= rows.keys()
    for model in rows.values():
        assert model.what and model.licence and re.fullmatch(r"[\w.-]+/[\w.-]+", model.hub)
        if model.index:
            assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+", package) for package in model.index.packages)
            expected = FILES if model.index.form == "ctranslate2" else ("model.gguf",)
            assert sorted(model.index.files) == sorted(expected) and not any(".." in f for f in model.index.files)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m: {what: a, licence: b}", "model 'm': TypeError: .*'hub'"),
        ("m: {what: a, licence: b, hub: o/m, pin: 1}", "model 'm': TypeError: .*'pin'"),
        ("m: {what: a, licence: b, hub: o/m, index: {form: pickle, packages: {}, files: {}}}", "form should be one of"),
        ("m: {what: a, licence: b, hub: o/m, index: {form: gguf, packages: {a==1: 12}, files: {}}}", "model 'm': "),
        ("m: [", "cannot be read"),
        ("- m", "should be a table of models"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, message):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        get_models.read_models(tmp_path / "t.yaml")


@pytest.mark.slow
def test_the_real_ones(tmp_path):
    """Whisper base and SmolLM2 from the package index: what they are is told by what they do."""
    words = [sys.executable, TOOLS / "get_models.py", "whisper-base", "smollm2-135m", "--source", "index", "--out", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(TOOLS.parent)})
    if "the package index does not give" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    processor = WhisperProcessor.from_pretrained(tmp_path / "whisper-base")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "whisper-base").eval()
    assert model.generation_config.lang_to_id["<|su|>"] == 50357 and len(model.generation_config.lang_to_id) == 99
    features = processor(np.zeros(16000), sampling_rate=16000, return_tensors="pt").input_features
    assert model.generate(features, language="en", task="transcribe", max_new_tokens=5).shape[0] == 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "smollm2-135m")
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / "smollm2-135m", dtype=torch.float32).eval()
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = llm.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert (
        tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == "The capital of France is Paris."
    )
