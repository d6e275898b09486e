"""A model's folder: model.safetensors has what was trained, config.json names the frozen parts with their fingerprints.

The parts are anywhere, by path or hub name, or inside the folder, by a path below it: then it is whole.
Nothing in a folder is executed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from blsp.base.files import PARTS, InputError, model_fingerprint, read_json, write_json
from blsp.base.pretrained import part_of
from blsp.model.prompts import OPTIONS, TEMPLATE, Prompter, saved_template

HUB = frozenset({"revision", "cache_dir", "token", "local_files_only", "force_download"})
AUTO = frozenset({"trust_remote_code", "adapter_kwargs", "_from_auto"})  # options that Transformers' Auto classes add
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # OWNER/NAME


def local_folder(name: str | Path, **options: Any) -> Path:
    """A model's folder as it is, or a hub name's on this machine, downloaded where it is not there yet.

    options: HUB, which huggingface_hub's snapshot_download() takes, and AUTO, which say nothing here.
    Raises InputError for other options, and where the hub does not give the model.
    """
    if unknown := options.keys() - HUB - AUTO:
        raise InputError(f"{name}: {', '.join(sorted(unknown))}: no such option; there are {', '.join(sorted(HUB))}")
    if Path(name).exists() or not HUB_NAME.fullmatch(str(name)):
        return Path(name)
    hub = {key: value for key, value in options.items() if key in HUB}
    files = [f"*{suffix}" for suffix in sorted(PARTS - {".bin"})]
    try:
        return Path(snapshot_download(str(name), allow_patterns=files, **hub))
    except Exception as e:  # of the network, the hub or its cache
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(f"{name}: is no folder, and the hub does not give it ({reason})") from None


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a model that training changes, by name."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: value.detach() for name, value in model.state_dict().items() if name in names}


def load_trained(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Restore trained(); a state that does not fit this model raises InputError."""
    expected = trained(model)
    if expected.keys() != state.keys() or any(expected[k].shape != state[k].shape for k in state):
        raise InputError("the saved weights do not fit the model; was it trained with another encoder or LLM?")
    model.load_state_dict(state, strict=False)


def save_folder(
    folder: str | Path,
    model: nn.Module,
    model_type: str,
    parts: dict[str, str],
    settings: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Write a model's folder: model.safetensors has what was trained, config.json names the frozen `parts` by path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / ".model.safetensors.part"
    save_file({k: v.cpu().contiguous() for k, v in trained(model).items()}, beside)
    os.replace(beside, folder / "model.safetensors")
    config: dict[str, Any] = {"model_type": model_type}
    for part, name in parts.items():
        config |= {part: _portable(name, folder), f"{part}_fingerprint": model_fingerprint(name)}
    adapter = {
        "d_encoder": model.encoder.d_model,
        "d_llm": model.adapter.norm.normalized_shape[0],
        "d_bottleneck": model.adapter.down.out_features,
    }
    config |= {"encoder_padding": model.encoder.padding, **settings, "adapter": adapter, "provenance": provenance}
    write_json(folder / "config.json", config)


def named_parts(folder: Path, model_type: str, *parts: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The config.json of a model's folder, and where the frozen parts that it names are.

    Raises InputError where it is of another type of model, or a part is not the one that it was trained with.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != model_type:
        kind = {"blsp": "a BLSP model", "blsp-ctc": "a CTC recognizer (objective: ctc)"}[model_type]
        raise InputError(f"{folder}/config.json: is not of {kind}; give the folder exp/NAME/model")
    names = {}
    for part in parts:
        name, known = config.get(part), config.get(f"{part}_fingerprint")
        if not (isinstance(name, str) and isinstance(known, str) and isinstance(config.get("adapter"), dict)):
            raise InputError(f"{folder}/config.json: should have {part}, {part}_fingerprint and adapter; it is not whole")
        names[part] = part_of(folder, name)
        if model_fingerprint(names[part]) != known:
            raise InputError(f"{names[part]}: is missing or not the {part} that {folder} was trained with")
    return config, names


def prompter_of(folder: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Prompter:
    """The prompts that a model was trained with."""
    template = config.get("template")
    if template not in ("paper", "official", "chat", TEMPLATE):
        raise InputError(f"{folder}/config.json: template '{template}' is neither paper, official, chat nor {TEMPLATE}")
    options = {key: config.get(key, default) for key, default in OPTIONS.items()}
    return Prompter(tokenizer, saved_template(folder, config), **options)


def load_weights(model: nn.Module, folder: Path) -> None:
    """What save_folder() wrote to model.safetensors."""
    try:
        load_trained(model, load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError) as e:
        raise InputError(f"{folder}/model.safetensors: cannot be read ({e})") from None


def _portable(name: str, folder: Path) -> str:
    """A local folder relative to the model's, so that both can move together; a hub name as it is."""
    return os.path.join(".", os.path.relpath(name, folder)) if os.path.isdir(name) else name
