"""Imports among the modules of blsp go only downward, by the list in blsp/__init__.py."""

from __future__ import annotations

import ast
from pathlib import Path

import blsp

FOLDER = Path(blsp.__file__).parent
LAYERS = ("programs", "assembly", "parts", "base")


def listed() -> dict[str, list[str]]:
    """Layer -> modules, as the docstring of the package lists them."""
    layers: dict[str, list[str]] = {}
    layer = ""
    for line in blsp.__doc__.splitlines():
        first, *_ = [*line.split(), ""]
        if first in LAYERS:
            layer, line = first, line.partition(first)[2]
        if layer and line.startswith("  "):
            layers.setdefault(layer, []).extend(word.strip() for word in line.split(",") if word.strip())
    return layers


def imported(path: Path) -> set[str]:
    """Modules of blsp that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "blsp":
            names |= {f"blsp.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("blsp.")}


def test_every_module_is_in_the_list() -> None:
    in_list = [module for layer in listed().values() for module in layer]
    there = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    assert sorted(in_list) == there, "the docstring of blsp/__init__.py lists every module once"


def test_imports_go_only_downward() -> None:
    """A module imports modules of lower layers, and of its own those that stand before it; programs none of programs."""
    layers = listed()
    assert tuple(layers) == LAYERS
    allowed: set[str] = set()
    for layer in reversed(LAYERS):
        below = set(allowed)
        for module in layers[layer]:
            extra = imported(FOLDER / f"{module}.py") - (below if layer == "programs" else allowed)
            assert not extra, f"blsp/{module}.py ({layer}) imports {', '.join(sorted(extra))}, not below it"
            allowed.add(module)


def test_the_library_knows_no_corpus_and_nothing_outside_itself() -> None:
    corpora = {path.name for path in (FOLDER.parent / "recipes").iterdir() if path.is_dir()} - {"must-c"}
    for path in FOLDER.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {n.id.lower() for n in ast.walk(tree) if isinstance(n, ast.Name)}
        names |= {n.name.lower() for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        assert not names & corpora, path


def test_no_module_is_a_bag() -> None:
    assert not [path for path in FOLDER.glob("*.py") if path.stem in ("utils", "util", "helpers", "misc", "common")]
