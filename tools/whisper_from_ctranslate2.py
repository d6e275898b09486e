"""Turn a Whisper in CTranslate2's form (faster-whisper's) into a Hugging Face folder.

Reads FOLDER/{model.bin,config.json,tokenizer.json}; writes OUT: config.json, generation_config.json,
preprocessor_config.json, the tokenizer's files, model.safetensors (float32). Nothing that is read is executed.

model.bin is little-endian, version 6 of the format, and nothing follows it:

    uint32 version, string specification, uint32 revision
    uint32 count of variables; of each: string name, uint8 rank, uint32 x rank shape, uint8 type, uint32 bytes, data
    uint32 count of aliases; of each: string alias, string name of a variable
    string = uint16 length with the final zero, bytes
"""

from __future__ import annotations

import argparse
import math
import mmap
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from blsp.base import command
from blsp.base.files import InputError, atomic_folder, read_json

if TYPE_CHECKING:
    from transformers import GenerationConfig, WhisperConfig, WhisperTokenizer

VERSION, SPECIFICATION, REVISION = 6, "WhisperSpec", 3
TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}  # 5 is bfloat16, which numpy lacks
# Switches of CTranslate2's Transformer, as every Whisper has them; with others the same weights are another network.
SWITCHES = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
# Where attention weights are read from on request; says nothing about the network.
PASSED_OVER = ("decoder/alignment_heads", "decoder/alignment_layer")
TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 0.02 s
N_VOCAB_ENGLISH = 51864  # tokens of the models that know English only, though they have tokens for languages too


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with model.bin, config.json, tokenizer.json")
    parser.add_argument("out", type=Path, metavar="OUT", help="what is made; must not be there yet")
    args = parser.parse_args(argv)
    try:
        convert(args.folder, args.out)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{args.out}: cannot be written ({e})") from None


def convert(folder: Path, out: Path) -> None:
    """Write `out` from `folder`. Raises InputError where a file is cut off, damaged, or not a Whisper's."""
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    settings = read_json(folder / "config.json")
    weights = Weights(folder / "model.bin", read(folder / "model.bin"))
    config, state = weights.config(), weights.state()
    tokenizer = load_tokenizer(folder / "tokenizer.json", config.vocab_size)
    generation = generation_config(folder / "config.json", settings, tokenizer, config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        setattr(config, name, getattr(generation, name))
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as e:
        raise InputError(f"{folder}/model.bin: is not a whole Whisper ({' '.join(str(e).split())})") from None
    model.tie_weights()
    model.generation_config = generation
    with atomic_folder(out) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(beside)
    print(f"{out}: {model.num_parameters() / 1e6:.1f} M parameters, {len(tokenizer)} tokens", flush=True)


@dataclass(frozen=True)
class Model:
    """What a model.bin holds. Arrays are views of the file."""

    specification: str
    revision: int
    variables: dict[str, np.ndarray]
    aliases: dict[str, str]


def read(path: str | Path) -> Model:
    """The variables of a CTranslate2 model. Raises InputError for a file that is cut off, too long, or contradicts itself."""
    path = Path(path)
    try:
        with open(path, "rb") as f:
            content = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as e:  # ValueError: an empty file
        raise InputError(f"{path}: cannot be read ({e})") from None
    reader = _Reader(path, content)
    version = reader.number("I", "the version")
    if version != VERSION:
        raise InputError(f"{path}: version {version} of CTranslate2's format, not {VERSION}; convert the model anew")
    specification, revision = reader.string("the specification"), reader.number("I", "the revision")
    variables: dict[str, np.ndarray] = {}
    for n in range(reader.number("I", "the number of variables")):
        name = reader.string(f"variable {n}'s name")
        if name in variables:
            raise InputError(f"{path}: variable {name!r} is there twice")
        variables[name] = reader.array(name)
    aliases: dict[str, str] = {}
    for n in range(reader.number("I", "the number of aliases")):
        alias, name = reader.string(f"alias {n}"), reader.string(f"alias {n}'s variable")
        if name not in variables or alias in variables or alias in aliases:
            raise InputError(f"{path}: alias {alias!r} of {name!r} names no variable, or one that is there already")
        aliases[alias] = name
    if reader.at != len(content):
        raise InputError(f"{path}: {len(content) - reader.at} bytes follow the end of the model")
    return Model(specification, revision, variables, aliases)


class _Reader:
    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content, self.at = path, content, 0

    def take(self, n_bytes: int, what: str) -> int:
        """Where the next `n_bytes` begin; they are passed over."""
        begin = self.at
        if begin + n_bytes > len(self.content):
            raise InputError(f"{self.path}: is cut off at byte {len(self.content)}, in {what}; get the file again")
        self.at += n_bytes
        return begin

    def number(self, form: str, what: str) -> int:
        return struct.unpack_from(f"<{form}", self.content, self.take(struct.calcsize(form), what))[0]

    def string(self, what: str) -> str:
        length = self.number("H", what)
        begin = self.take(length, what)
        value = self.content[begin : self.at]
        if not value.endswith(b"\0") or b"\0" in value[:-1] or not value.isascii():
            raise InputError(f"{self.path}: byte {begin}: {what} is not text; this is no CTranslate2 model")
        return value[:-1].decode()

    def array(self, name: str) -> np.ndarray:
        rank = self.number("B", name)
        shape = tuple(self.number("I", name) for _ in range(rank))
        kind, n_bytes = self.number("B", name), self.number("I", name)
        if kind not in TYPES:
            raise InputError(f"{self.path}: variable {name!r} has type {kind}; known are {', '.join(map(str, TYPES))}")
        kind = np.dtype(TYPES[kind])
        count = math.prod(shape)
        if count * kind.itemsize != n_bytes:
            raise InputError(f"{self.path}: variable {name!r}: {n_bytes} bytes for shape {list(shape)} of {kind.name}")
        return np.frombuffer(self.content, kind, count, self.take(n_bytes, name)).reshape(shape)


class Weights:
    """Takes a model's variables one by one and gives them the names of Hugging Face's Whisper."""

    def __init__(self, path: Path, model: Model) -> None:
        if (model.specification, model.revision) != (SPECIFICATION, REVISION):
            found = f"{model.specification} {model.revision}"
            raise InputError(f"{path}: is a {found}, not a {SPECIFICATION} {REVISION}; convert the model anew")
        if model.aliases != {"decoder/projection/weight": "decoder/embeddings/weight"}:
            raise InputError(f"{path}: its output layer is not its word embeddings, as in every Whisper")
        if quantized := [name for name in model.variables if name.endswith("weight_scale")]:
            raise InputError(f"{path}: {quantized[0]!r}: is quantized to integers; take the float16 model")
        self.path, self.left = path, dict(model.variables)
        shapes = {name: value.shape for name, value in model.variables.items()}
        numbers = (re.match(r"(encoder|decoder)/layer_(\d+)/", name) for name in shapes)
        layers = {(m[1], int(m[2])) for m in numbers if m}
        self.layers = {side: sum(side == s for s, _ in layers) for side in ("encoder", "decoder")}
        try:
            self.n_mels = shapes["encoder/conv1/weight"][1]
            self.window, self.d_model = shapes["encoder/position_encodings/encodings"]
            self.context = shapes["decoder/position_encodings/encodings"][0]
            self.vocab = shapes["decoder/embeddings/weight"][0]
            self.widths = [shapes[f"{side}/layer_0/ffn/linear_0/weight"][0] for side in self.layers]
            self.heads = [int(self.left.pop(f"{side}/num_heads")) for side in self.layers]
        except (KeyError, IndexError, ValueError, TypeError) as e:
            raise InputError(f"{path}: is not a whole Whisper ({e})") from None
        for side in self.layers:
            for name, expected in SWITCHES.items():
                found = self.left.pop(f"{side}/{name}", expected)
                if found != expected:
                    raise InputError(f"{path}: {side}/{name} is {found}, and {expected} in a Whisper")
        for name in PASSED_OVER:
            self.left.pop(name, None)

    def config(self) -> WhisperConfig:
        """The configuration that the shapes tell."""
        from transformers import WhisperConfig

        return WhisperConfig(
            vocab_size=self.vocab,
            num_mel_bins=self.n_mels,
            d_model=self.d_model,
            encoder_layers=self.layers["encoder"],
            decoder_layers=self.layers["decoder"],
            encoder_ffn_dim=self.widths[0],
            decoder_ffn_dim=self.widths[1],
            encoder_attention_heads=self.heads[0],
            decoder_attention_heads=self.heads[1],
            max_source_positions=self.window,
            max_target_positions=self.context,
            begin_suppress_tokens=None,  # generation_config.json has them
            pad_token_id=0,  # this and the next three: until the tokenizer tells
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
            architectures=["WhisperForConditionalGeneration"],
        )

    def state(self) -> dict[str, Any]:
        """Name -> float32 tensor. Raises InputError where a variable is missing, or one is left over."""
        self.tensors: dict[str, Any] = {}
        for conv in ("conv1", "conv2"):
            self._linear(f"encoder/{conv}", f"model.encoder.{conv}")
        self._put("decoder/embeddings/weight", "model.decoder.embed_tokens.weight")
        self.tensors["proj_out.weight"] = self.tensors["model.decoder.embed_tokens.weight"]
        for side, n_layers in self.layers.items():
            self._put(f"{side}/position_encodings/encodings", f"model.{side}.embed_positions.weight")
            self._norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
            for n in range(n_layers):
                self._layer(side, f"{side}/layer_{n}", f"model.{side}.layers.{n}")
        if self.left:
            raise InputError(f"{self.path}: a Whisper has no {', '.join(sorted(self.left)[:3])}")
        return self.tensors

    def _layer(self, side: str, source: str, target: str) -> None:
        self._attention(f"{source}/self_attention", f"{target}.self_attn", ("qkv", "o"))
        if side == "decoder":
            self._attention(f"{source}/attention", f"{target}.encoder_attn", ("q", "kv", "o"))
        self._norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
        self._linear(f"{source}/ffn/linear_0", f"{target}.fc1")
        self._linear(f"{source}/ffn/linear_1", f"{target}.fc2")

    def _attention(self, source: str, target: str, stacks: tuple[str, ...]) -> None:
        """The projections q, k, v, o, which CTranslate2 stacks on one another as `stacks` says."""
        self._norm(f"{source}/layer_norm", f"{target}_layer_norm")
        for n, stack in enumerate(stacks):
            weight, bias = (self._take(f"{source}/linear_{n}/{kind}") for kind in ("weight", "bias"))
            if len(weight) != len(stack) * self.d_model or len(bias) != len(weight):
                raise InputError(f"{self.path}: {source}/linear_{n} has {len(weight)} rows, not {len(stack)} x {self.d_model}")
            for part, w, b in zip(stack, weight.split(self.d_model), bias.split(self.d_model), strict=True):
                name = f"{target}.{'out' if part == 'o' else part}_proj"
                self.tensors[f"{name}.weight"] = w.clone()
                if part != "k":
                    self.tensors[f"{name}.bias"] = b.clone()
                elif b.any():
                    raise InputError(f"{self.path}: {source}/linear_{n}: a bias on the keys, which no Whisper has")

    def _norm(self, source: str, target: str) -> None:
        self._put(f"{source}/gamma", f"{target}.weight")
        self._put(f"{source}/beta", f"{target}.bias")

    def _linear(self, source: str, target: str) -> None:
        self._put(f"{source}/weight", f"{target}.weight")
        self._put(f"{source}/bias", f"{target}.bias")

    def _put(self, source: str, target: str) -> None:
        self.tensors[target] = self._take(source)

    def _take(self, name: str) -> Any:
        import torch

        value = self.left.pop(name, None)
        if value is None or value.dtype.kind != "f" or not value.ndim:
            raise InputError(f"{self.path}: lacks {name}, or it is not of floating point")
        return torch.from_numpy(value.astype(np.float32))


def load_tokenizer(path: Path, vocab_size: int) -> WhisperTokenizer:
    """Whisper's tokenizer with all its special tokens and timestamps: as many tokens as the model has. Raises InputError."""
    from tokenizers import AddedToken
    from transformers import WhisperTokenizer

    content = read_json(path)
    try:
        vocab, merges = dict(content["model"]["vocab"]), content["model"]["merges"]
        special = {token["content"]: int(token["id"]) for token in content["added_tokens"] if token["special"]}
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
        names = sorted(special, key=special.__getitem__)
        tokenizer = WhisperTokenizer(vocab | special, merges, extra_special_tokens=names)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InputError(f"{path}: is not a tokenizer of Whisper ({type(e).__name__}: {e})") from None
    times = [AddedToken(f"<|{n * 0.02:.2f}|>", normalized=False) for n in range(TIMESTAMPS)]
    tokenizer.add_tokens(times)
    if tokenizer.convert_tokens_to_ids(names) != [special[name] for name in names] or len(tokenizer) != vocab_size:
        raise InputError(f"{path}: gives {len(tokenizer)} tokens, the model has {vocab_size}; they belong to two models")
    return tokenizer


def generation_config(
    path: Path, settings: dict[str, Any], tokenizer: WhisperTokenizer, config: WhisperConfig
) -> GenerationConfig:
    """How Whisper writes: what OpenAI's own decoding starts with, and what it never says. Raises InputError."""
    from transformers import GenerationConfig
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    ids = tokenizer.get_vocab()
    try:
        values: dict[str, Any] = {
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "decoder_start_token_id": ids["<|startoftranscript|>"],
            "no_timestamps_token_id": ids["<|notimestamps|>"],
            "prev_sot_token_id": ids["<|startofprev|>"],
            "suppress_tokens": settings["suppress_ids"],
            "begin_suppress_tokens": settings["suppress_ids_begin"],
            "alignment_heads": settings["alignment_heads"],
        }
        if config.vocab_size != N_VOCAB_ENGLISH:
            values["lang_to_id"] = {f"<|{name}|>": ids[f"<|{name}|>"] for name in LANGUAGES if f"<|{name}|>" in ids}
            values["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
            if sorted(values["lang_to_id"].values()) != sorted(settings["lang_ids"]):
                raise InputError(f"{path}: its lang_ids are not the tokenizer's languages; the files belong to two models")
    except (KeyError, TypeError) as e:
        raise InputError(f"{path}: {e} is missing here or among the tokens; this is not a Whisper's") from None
    return GenerationConfig(
        is_multilingual="lang_to_id" in values,
        max_length=config.max_target_positions,
        max_initial_timestamp_index=50,  # 1 s: OpenAI's own limit on where the first word may begin
        return_timestamps=False,
        **values,
    )


if __name__ == "__main__":
    command.run(main)
