"""Turn a language model in a GGUF file (llama.cpp's form) into a Hugging Face folder.

Reads FILE; writes FOLDER: config.json, generation_config.json, the tokenizer with its chat template, model.safetensors
(bfloat16, quantized weights multiplied out). Needs the package gguf. Nothing of FILE is executed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from blsp.base import command
from blsp.base.files import InputError, atomic_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="the .gguf")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what is made; must not be there yet")
    args = parser.parse_args(argv)
    try:
        convert(args.file, args.folder)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{args.folder}: cannot be written ({e})") from None


def convert(file: Path, folder: Path) -> None:
    """Write `folder` from `file`. Raises InputError where the file is cut off, damaged, or holds more or less than a model."""
    tensors, pre_tokenizer = inspect(file)
    model = load(file, tensors)
    tokenizer = load_tokenizer(file, pre_tokenizer)
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(f"{file}: {len(tokenizer)} tokens, but embeddings of {model.config.vocab_size}")
    with atomic_folder(folder) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    print(f"{folder}: {model.num_parameters() / 1e6:.1f} M parameters, {len(tokenizer)} tokens", flush=True)


def inspect(file: Path) -> tuple[set[str], str]:
    """(names of the tensors, name of the pre-tokenizer); the file ends where its last tensor does. Raises InputError."""
    try:
        with open(file, "rb") as f:
            magic = f.read(4)
    except OSError as e:
        raise InputError(f"{file}: cannot be read ({e.strerror})") from None
    if magic != b"GGUF":
        raise InputError(f"{file}: is not GGUF: it begins with {magic!r}")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (
        ValueError,
        IndexError,
        KeyError,
        OverflowError,
        MemoryError,
    ) as e:  # whatever its arithmetic on damaged bytes gives
        raise InputError(f"{file}: is cut off or damaged ({type(e).__name__}: {e}); get the file again") from None
    ends = [int(t.data_offset) + int(t.n_bytes) for t in reader.tensors]
    size, end = file.stat().st_size, max(ends, default=0)
    if not end or not end <= size < end + reader.alignment:
        raise InputError(f"{file}: {size} bytes, but its tensors end at byte {end}; get the file again")
    field = reader.get_field("tokenizer.ggml.pre")
    return {t.name for t in reader.tensors}, field.contents() if field else ""


def load(file: Path, tensors: set[str]) -> PreTrainedModel:
    """The model, every tensor of the file in it and every weight of it from the file. Raises InputError."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    try:
        loaded, info = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
        )
    except (ValueError, KeyError, IndexError, RuntimeError, OSError) as e:
        raise InputError(f"{file}: is no causal language model that transformers knows ({' '.join(str(e).split())})") from None
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])})
    # Transformers passes over tensors that it has no place for; a model that lacks some of its file is another model.
    left = sorted(tensors - get_gguf_hf_weights_map(loaded, TensorProcessor()).keys())
    if wrong or left:
        raise InputError(f"{file}: weights and model do not match: {', '.join((wrong + left)[:3])}")
    # A model from GGUF refuses to be saved; a fresh one of its configuration does not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    try:
        model.load_state_dict(loaded.state_dict())
    except RuntimeError as e:  # transformers kept it quantized
        raise InputError(f"{file}: cannot be multiplied out ({' '.join(str(e).split())})") from None
    model.generation_config = loaded.generation_config
    return model.eval()


def load_tokenizer(file: Path, pre_tokenizer: str) -> PreTrainedTokenizerBase:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, IndexError, TypeError, OSError) as e:
        raise InputError(f"{file}: has no tokenizer that transformers knows ({' '.join(str(e).split())})") from None
    if pre_tokenizer == "smollm":
        # Transformers reads this as GPT-2's; SmolLM takes digits one by one before that.
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return tokenizer


if __name__ == "__main__":
    command.run(main)
