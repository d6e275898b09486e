"""An experiment's YAML: plain values, references and deferred names (HyperPyYAML), and overrides of them."""

from __future__ import annotations

import argparse
import copy
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tag import Tag

from blsp.base.files import InputError, atomic_write, read_json, write_json

ALLOWED_TAGS = re.compile(r"!ref|!name:torch\.[\w.]+|tag:yaml\.org,2002:(str|int|float|bool|null|seq|map)")


def program_arguments(program: str, description: str, *options: str) -> argparse.ArgumentParser:
    """The arguments that programs share: all get a configuration and data; `options` of exp_dir, nj, ngpu come on top."""
    parser = argparse.ArgumentParser(prog=program, description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", required=True, metavar="YAML", help="the experiment's configuration")
    parser.add_argument("overrides", nargs="*", metavar="--KEY=VALUE", help="after `--`: values that replace the YAML's")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="parent of the sets' data directories (%(default)s)"
    )
    if "exp_dir" in options:
        parser.add_argument("--exp-dir", type=Path, required=True, help="where the experiment's files go")
    if "nj" in options:
        parser.add_argument("--nj", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    if "ngpu" in options:
        parser.add_argument("--ngpu", type=int, default=0, help="processes to share the work, one per GPU (%(default)s)")
        parser.add_argument("--shard", metavar="I/N", help="do only part I of N here; the last to finish joins the parts")
    return parser


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a YAML with `overrides` in place ("--lr=1e-4", "--generation.top_p=0.9").

    Parsing builds and runs nothing: of HyperPyYAML's tags only !ref and !name:torch. (deferred) are allowed.
    Raises InputError for a missing file, broken YAML, another tag, or an override of a key that the YAML lacks.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from None
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is not UTF-8 ({e.reason})") from None
    try:
        for event in YAML().parse(io.StringIO(text)):
            tag = str(getattr(event, "tag", None) or "")
            # Python's own tags count as well: the loader behind HyperPyYAML runs !!python/object/apply.
            if tag and not ALLOWED_TAGS.fullmatch(tag):
                raise InputError(f"{path}:{event.start_mark.line + 1}: the tag {tag} is not allowed; use a plain value")
        keys = YAML(typ="rt").load(text)
        if not isinstance(keys, dict):
            raise InputError(f"{path}: is not a mapping of keys to values")
        return load_hyperpyyaml(text, _parse(overrides, keys, path))
    except YAMLError as e:
        raise InputError(f"{path}: is not valid YAML ({' '.join(str(e).split())})") from None
    except (ValueError, KeyError, ImportError, AttributeError, TypeError) as e:
        raise InputError(f"{path}: {' '.join(str(e).split())}") from None


def _parse(overrides: Sequence[str], keys: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Nested mapping of the overrides; every key must be one of the YAML's."""
    parsed: dict[str, Any] = {}
    for override in overrides:
        name, sign, value = override.partition("=")
        if not sign or not name.startswith("--"):
            raise InputError(f"'{override}': an override is written --KEY=VALUE")
        into, known = parsed, keys
        *outer, last = [name[2:].replace("-", "_")] if name[2:].replace("-", "_") in keys else name[2:].split(".")
        for part in outer:
            known = known.get(part) if isinstance(known, dict) else None
            into = into.setdefault(part, {})
        if not isinstance(known, dict) or last not in known:
            raise InputError(f"'{override}': {path} has no such key; it has {', '.join(str(k) for k in keys)}")
        try:
            into[last] = YAML(typ="safe").load(value)
        except YAMLError as e:
            raise InputError(f"'{override}': the value is not plain YAML ({' '.join(str(e).split())})") from None
    return parsed


def require(config: dict[str, Any], *keys: str, example: str = "recipes/librispeech/conf/blsp.yaml") -> None:
    """Raise InputError if one of `keys` is not in the configuration; `example` has them all."""
    for key in keys:
        if key not in config:
            raise InputError(f"the configuration has no '{key}'; see {example} for all keys")


def dump(config: dict[str, Any], file: IO[str]) -> None:
    """Write a configuration so that load_config reads it back, deferred names included."""

    def tagged(value: Any) -> Any:
        if isinstance(value, dict):
            return CommentedMap((key, tagged(v)) for key, v in value.items())
        if not callable(value):
            return list(value) if isinstance(value, tuple) else value
        target = getattr(value, "func", value)  # hyperpyyaml wraps the object in a partial
        arguments = CommentedMap(getattr(value, "keywords", {}))
        arguments.yaml_set_ctag(Tag(suffix=f"!name:{_public_name(target)}"))
        return arguments

    YAML().dump(tagged(config), file)


def _public_name(target: Any) -> str:
    """The shortest dotted path that leads to an object: torch.optim.AdamW, not torch.optim.adamw.AdamW."""
    parts = target.__module__.split(".")
    for n in range(1, len(parts)):
        package = ".".join(parts[:n])
        if getattr(sys.modules.get(package), target.__qualname__, None) is target:
            return f"{package}.{target.__qualname__}"
    return f"{target.__module__}.{target.__qualname__}"


def begin_experiment(exp_dir: Path, config: dict[str, Any], settings: str) -> None:
    """Keep the checkpoints of the same settings (a fingerprint), drop those of others, write the resolved configuration."""
    marker = exp_dir / "checkpoints" / "settings.json"
    if not marker.exists() or read_json(marker) != settings:
        for name in ("checkpoints", "tensorboard", "model"):
            shutil.rmtree(exp_dir / name, ignore_errors=True)
        write_json(marker, settings)
    with atomic_write(exp_dir / "config.yaml") as f:
        dump(config, f)


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """A copy that JSON and YAML can hold: deferred names become their dotted path."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): convert(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [convert(v) for v in value]
        if callable(value):
            target = getattr(value, "func", value)  # hyperpyyaml wraps the object in a partial
            return {"!name": _public_name(target), **convert(getattr(value, "keywords", {}))}
        return copy.copy(value)

    return convert(dict(config))
