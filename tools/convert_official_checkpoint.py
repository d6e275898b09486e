#!/usr/bin/env python3
"""Make a model folder of this toolkit from a checkpoint in the layout of the authors' release, or with --reverse the way back.

SRC, the authors' layout: config.json with whisper_config and llama_config; weights of all parts together, as .safetensors or
.bin, in one file or several, with an index or not; the files of Llama's tokenizer. DST, ours: config.json and
model.safetensors, the adapter, as stage 3 writes them; encoder/ and llm/, folders as Hugging Face has them.

Weights are copied bit by bit and keep their precision; the rotary tables (inv_freq) of some files follow from the
configuration and are left out. Files are mapped and written piece by piece, so that 3 GB of memory do for a 7B checkpoint. DST
appears when it is whole; until then it is .DST.converting, and after an interruption the same command goes on there. No code in
a checkpoint is run.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.base import command
from blsp.base.files import InputError, atomic_write, ends_fingerprint, fingerprint, read_json, write_json
from blsp.data import mel
from blsp.data.audio import SAMPLE_RATE
from blsp.model import adapter, weight_files
from blsp.model.encoder import SpeechEncoder
from blsp.model.folder import named_parts, save_folder
from blsp.model.prompts import Prompter
from blsp.model.weight_files import Weight, list_weights, read, write_weights

# The authors' names of weights and, in BLSP's state, ours.
AUTHORS = {
    "whisper_model.": "encoder.encoder.",
    "llama_model.": "llm.",
    "subsampler.conv_layers.": "adapter.convolutions.",
    "adapter.fc1.": "adapter.down.",
    "adapter.fc2.": "adapter.up.",
    "speech_ln.": "adapter.norm.",
}
# Names in the folder of a Whisper, of an LLM, and in our model.safetensors.
PARTS = {
    "encoder": {"model.encoder.": "encoder.encoder.", "encoder.": "encoder.encoder."},
    "llm": {"": "llm."},
    "adapter": {"adapter.": "adapter."},
}
ROTARY = re.compile(r"(llama_model\.)?model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq$")
NOT_NEEDED = {"encoder": re.compile(r"(model\.)?decoder\.|proj_out\.")}
HEAD, WORDS = "llm.lm_head.weight", "llm.model.embed_tokens.weight"  # one matrix where the configuration ties them
TOKENIZER = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
             "chat_template.jinja")  # fmt: skip
# What makes Transformers read tokenizer.model as Llama's; the authors' code always does.
LLAMA_TOKENIZER = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": True,
                   "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # fmt: skip
PREPROCESSOR = "preprocessor_config.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("src", type=Path, metavar="SRC", help="the checkpoint's folder")
    parser.add_argument("dst", type=Path, metavar="DST", help="the folder to make; it must not be there yet")
    parser.add_argument("--reverse", action="store_true", help="SRC is a model folder of ours, DST gets the authors' layout")
    args = parser.parse_args()
    if args.dst.exists():
        raise InputError(f"{args.dst}: is there already; remove it or choose another name")
    if not args.src.is_dir():
        raise InputError(f"{args.src}: is not a folder")
    try:
        (to_authors if args.reverse else to_ours)(args.src, args.dst)
    except OSError as e:
        raise InputError(f"{e.filename or args.dst}: cannot be read or written ({e.strerror or e})") from None


def to_ours(src: Path, dst: Path) -> None:
    """From the authors' layout. Raises InputError with the key that is missing, unknown or of another shape."""
    origin = src / "config.json"
    config = read_mapping(origin)
    if not all(isinstance(config.get(key), dict) for key in ("whisper_config", "llama_config")):
        raise InputError(f"{origin}: should have whisper_config and llama_config, as the authors' release has")
    kernels = ",".join([str(adapter.KERNEL)] * adapter.N_LAYERS)
    if str(config.get("conv_kernel_sizes", kernels)).replace(" ", "") != kernels:
        raise InputError(
            f"{origin}: conv_kernel_sizes is {config['conv_kernel_sizes']!r}, but the adapter here has '{kernels}'"
        )
    d_bottleneck = config.get("adapter_inner_dim", 512)
    encoder = {"model_type": "whisper"} | config["whisper_config"]
    llm = {"model_type": "llama"} | config["llama_config"]
    encoder_part, llm_part = skeletons(encoder, llm, f"{origin}: whisper_config", f"{origin}: llama_config")
    adapter_part = adapter_skeleton(encoder_part.d_model, llm_part.config.hidden_size, d_bottleneck, origin)
    check_preprocessor(src / PREPROCESSOR, encoder_part)
    if not any((src / name).exists() for name in TOKENIZER[:2]):
        raise InputError(f"{src}: has no tokenizer.model; put Llama 2's there, which the release was made of")
    found = renamed(list_weights(src, ROTARY), AUTHORS)
    parts = {"encoder": encoder_part, "llm": llm_part, "adapter": adapter_part}
    check(found, parts, llm, src, {ours: theirs for theirs, ours in AUTHORS.items()})
    if llm_part.config.tie_word_embeddings:
        found.pop(HEAD, None)
    files = {"encoder": {f"model.{n.removeprefix('encoder.')}": w for n, w in found.items() if n.startswith("encoder.")},
             "llm": {n.removeprefix("llm."): w for n, w in found.items() if n.startswith("llm.")}}  # fmt: skip
    with folder_being_made(dst, [str(src.resolve()), config], found.values()) as made:
        write_json(made / "encoder/config.json", encoder)
        copy(src, made / "encoder", [PREPROCESSOR])
        write_json(made / "llm/config.json", llm)
        copy(src, made / "llm", TOKENIZER)
        settings = read_mapping(src / "tokenizer_config.json") if (src / "tokenizer_config.json").exists() else {}
        if "tokenizer_class" not in settings:
            write_json(made / "llm/tokenizer_config.json", LLAMA_TOKENIZER | settings)
        # Generation in the authors' code takes nothing else from the checkpoint.
        ids = tokenizer_ids(made / "llm", src)
        write_json(made / "llm/generation_config.json", {key: value for key, value in ids.items() if value is not None})
        write_weights(made, files, made.with_name("piece"))
        # Weights of the adapter keep their precision: the tensors themselves are put in.
        trained = {n.removeprefix("adapter."): read(w) for n, w in found.items() if n.startswith("adapter.")}
        adapter_part.load_state_dict(trained, assign=True)
        model = nn.ModuleDict({"encoder": encoder_part.requires_grad_(False), "adapter": adapter_part})
        folders = {part: str(made / part) for part in ("encoder", "llm")}
        provenance = {"converted_from": str(src.resolve()), "layout": "the authors' release", "commit": command.commit()}
        save_folder(made, model, "blsp", folders, {"template": "official"}, provenance)
    print(f"{dst}: {len(found)} weights of {src}; decode with it as with any model: --model {dst}")


def tokenizer_ids(folder: Path, src: Path) -> dict[str, int | None]:
    """The ids that begin, end and pad a text. Raises InputError for a tokenizer that does not fit the authors' prompt."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as e:  # a broken file can fail in any way, in the libraries of two formats
        raise InputError(
            f"{src}: the tokenizer cannot be loaded ({next(iter(str(e).splitlines()), type(e).__name__)})"
        ) from None
    Prompter(tokenizer, "official")
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def to_authors(src: Path, dst: Path) -> None:
    """Into the authors' layout, for their code. Raises InputError where that code has no such encoder, LLM or adapter."""
    config, names = named_parts(src, "blsp", "encoder", "llm")
    folders = {part: local_folder(name) for part, name in names.items()} | {"adapter": src}
    encoder, llm = (older_names(read_mapping(folders[part] / "config.json")) for part in ("encoder", "llm"))
    origins = [str(folders[part] / "config.json") for part in ("encoder", "llm")]
    encoder_part, llm_part = skeletons(encoder, llm, *origins)
    parts = {
        "encoder": encoder_part,
        "llm": llm_part,
        "adapter": adapter_skeleton(**config["adapter"], origin=src / "config.json"),
    }
    found: dict[str, Weight] = {}
    for part, folder in folders.items():
        of_part = renamed(list_weights(folder, NOT_NEEDED.get(part, ROTARY)), PARTS[part])
        if part == "llm" and llm_part.config.tie_word_embeddings and WORDS in of_part:
            of_part.setdefault(HEAD, of_part[WORDS])
        back = {ours: theirs for theirs, ours in reversed(PARTS[part].items())}
        check(of_part, {part: parts[part]}, llm, folder, back)
        found |= of_part
    files = {"": {rename(name, {ours: theirs for theirs, ours in AUTHORS.items()}): w for name, w in found.items()}}
    with folder_being_made(dst, [str(src.resolve()), config, encoder, llm], found.values()) as made:
        write_weights(made, files, made.with_name("piece"))
        copy(folders["llm"], made, TOKENIZER)
        copy(folders["encoder"], made, [PREPROCESSOR])
        if not (made / PREPROCESSOR).exists():
            write_json(made / PREPROCESSOR, {"feature_extractor_type": "WhisperFeatureExtractor"} | preprocessor(encoder_part))
        settings = {"conv_kernel_sizes": ",".join([str(adapter.KERNEL)] * adapter.N_LAYERS),
                    "adapter_inner_dim": config["adapter"]["d_bottleneck"]}  # fmt: skip
        nested = {"whisper_config": encoder, "llama_config": llm}
        write_json(made / "config.json", {"architectures": ["BlspModel"], **settings, **nested})
    print(f"{dst}: {len(found)} weights of {src}")
    for key, theirs in (("template", "official"), ("encoder_padding", "window")):
        if config[key] != theirs:
            print(
                f"  {key} is {config[key]} here, but the authors' code does what is called {theirs}: it will answer otherwise"
            )
    if llm.get("rope_theta", 10000.0) != 10000.0 or llm.get("rope_scaling"):
        print("  rope_theta and rope_scaling of the LLM need a newer Transformers than the authors' 4.31")
    if not (dst / "tokenizer.model").exists():
        print("  the authors' code also needs tokenizer.model, which the LLM's folder does not have")


def older_names(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that the Transformers of the authors' code understands too, which had other names for some values."""
    rope = config.get("rope_parameters")
    older = {"torch_dtype": config["dtype"]} if "dtype" in config else {}
    if isinstance(rope, dict) and "rope_theta" in rope:
        scaling = {("type" if k == "rope_type" else k): v for k, v in rope.items() if k != "rope_theta"}
        older |= {"rope_theta": rope["rope_theta"], "rope_scaling": None if scaling.get("type") == "default" else scaling}
    return older | config


def skeletons(encoder: dict, llm: dict, encoder_origin: str, llm_origin: str) -> tuple[SpeechEncoder, LlamaForCausalLM]:
    """The frozen parts without memory for their weights: what the checkpoint should have."""
    for values, kind, origin in ((encoder, "whisper", encoder_origin), (llm, "llama", llm_origin)):
        if values.get("model_type") != kind:
            raise InputError(
                f"{origin}: model_type is {values.get('model_type')!r}, but the authors' code has only '{kind}' there"
            )
    origin = encoder_origin
    try:
        with torch.device("meta"):
            encoder_part = SpeechEncoder(WhisperEncoder(WhisperConfig(**encoder)))
            origin = llm_origin
            return encoder_part, LlamaForCausalLM(LlamaConfig(**llm))
    except Exception as e:  # of all kinds, as values of all kinds stand in such files
        raise InputError(f"{origin}: makes no model ({type(e).__name__}: {' '.join(str(e).split())})") from None


def adapter_skeleton(d_encoder: int, d_llm: int, d_bottleneck: int, origin: Path) -> adapter.Adapter:
    if not isinstance(d_bottleneck, int) or d_bottleneck < 1:
        raise InputError(f"{origin}: adapter_inner_dim is {d_bottleneck!r}, not a positive number")
    with torch.device("meta"):
        return adapter.Adapter(d_encoder, d_llm, d_bottleneck)


def preprocessor(encoder: SpeechEncoder) -> dict[str, Any]:
    """The settings of Whisper's feature extractor that this toolkit's features equal."""
    samples = encoder.window * mel.HOP_LENGTH
    return {"sampling_rate": SAMPLE_RATE, "feature_size": encoder.n_mels, "hop_length": mel.HOP_LENGTH, "n_fft": mel.N_FFT,
            "chunk_length": samples // SAMPLE_RATE, "n_samples": samples, "nb_max_frames": encoder.window, "padding_value": 0.0,
            "padding_side": "right"}  # fmt: skip


def check_preprocessor(path: Path, encoder: SpeechEncoder) -> None:
    if path.exists():
        given = read_mapping(path)
        for key, value in preprocessor(encoder).items():
            if given.get(key, value) != value:
                raise InputError(f"{path}: {key} is {given[key]}, but for this encoder the features here have {value}")


def read_mapping(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: should be a JSON object")
    return value


def local_folder(name: str) -> Path:
    """A model's folder; of a hub name, where the hub's files are kept on this machine."""
    if os.path.isdir(name):
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", *TOKENIZER]))
    except (OSError, ValueError) as e:
        raise InputError(f"{name}: is neither a folder nor can it be had from the hub ({str(e).splitlines()[0]})") from None


def rename(name: str, prefixes: Mapping[str, str]) -> str | None:
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name[len(prefix) :]
    return None


def renamed(weights: Mapping[str, Weight], prefixes: Mapping[str, str]) -> dict[str, Weight]:
    """By BLSP's names."""
    found = {}
    for name, weight in weights.items():
        ours = rename(name, prefixes)
        if ours is None:
            raise InputError(f"{weight.file}: {name} is unknown; names begin with {', '.join(prefixes)}")
        found[ours] = weight
    return found


def check(found: dict[str, Weight], parts: Mapping[str, nn.Module], llm: dict, folder: Path, back: Mapping[str, str]) -> None:
    """Raise InputError unless `found` has the names and shapes of `parts`; `back` gives names as in the files."""
    expected = {f"{part}.{name}": value.shape for part, model in parts.items() for name, value in model.state_dict().items()}
    tied = bool(llm.get("tie_word_embeddings"))
    for name, weight in found.items():
        if name not in expected:
            raise InputError(f"{weight.file}: {weight.key} is unknown; a model of this config.json does not have it")
        if weight.shape != tuple(expected[name]):
            raise InputError(f"{weight.file}: {weight.key} is {weight.shape}, but by config.json {tuple(expected[name])}")
    for name in expected:
        if name not in found and not (tied and name == HEAD):
            raise InputError(f"{folder}: {rename(name, back)} is missing in its weights")
    if tied and HEAD in found and not torch.equal(read(found[HEAD]), read(found[WORDS])):
        raise InputError(f"{folder}: {found[HEAD].key} differs from {found[WORDS].key}, but llama_config ties them")


@contextmanager
def folder_being_made(dst: Path, source: list[Any], weights: Iterable[Weight]) -> Iterator[Path]:
    """A folder that becomes `dst` when the block ends. What an interrupted run has left of the same source is in it."""
    weights = list(weights)
    staging = dst.parent / f".{dst.name}.converting"
    made, state = staging / "made", staging / "source.json"
    staging.mkdir(parents=True, exist_ok=True)
    with open(staging / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however that ends
        except BlockingIOError:
            raise InputError(f"{dst}: another process is making it; wait for that one") from None
        files = sorted({w.file for w in weights})
        source = [fingerprint([*source, weight_files.PIECE]), *(f"{ends_fingerprint(p)} {p.stat().st_mtime_ns}" for p in files)]
        if not state.exists() or read_json(state) != source:
            shutil.rmtree(made, ignore_errors=True)
            write_json(state, source)
        made.mkdir(exist_ok=True)
        for path in made.rglob("*"):  # a kill leaves files that were being written; all but the weights are written again
            if path.is_file() and (path.suffix != ".safetensors" or path.name.startswith(".")):
                path.unlink()
        there = sum(path.stat().st_size for path in made.rglob("*.safetensors"))
        needed, free = sum(w.n_bytes for w in weights) - there, shutil.disk_usage(staging).free
        if needed > free:
            raise InputError(f"{dst}: needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there")
        yield made
        if dst.exists():
            raise InputError(f"{dst}: is there already, since this conversion began; what was made is in {made}")
        made.rename(dst)
    shutil.rmtree(staging)


def copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).exists():
            with atomic_write(target / name, "wb") as f:
                f.write((source / name).read_bytes())


if __name__ == "__main__":
    command.run(main)
