"""Imports go only downward, from room to room; the rooms are the folders of blsp/."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import chain
from pathlib import Path

import blsp

FOLDER = Path(blsp.__file__).parent
FLOORS = (("base",), ("data",), ("model",), ("training", "evaluation", "qa"), ("bin",))
MODULES = [path for path in sorted(FOLDER.glob("*/*.py")) if path.stem != "__init__"]


def imported(path: Path) -> set[tuple[str, str]]:
    """(room, module) of what a file imports of blsp, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = [name.split(".") for name in names if name.startswith("blsp.")]
    assert all(len(name) > 2 for name in found), f"{path}: imports the package's face, not a room"
    return {(room, module) for _, room, module, *_ in found}


def test_every_module_stands_in_a_room_and_every_room_says_what_it_is() -> None:
    assert [path.name for path in FOLDER.glob("*.py")] == ["__init__.py"]
    rooms = {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(chain(*FLOORS))
    for room in rooms:
        assert ast.get_docstring(ast.parse((FOLDER / room / "__init__.py").read_text())), f"{room} does not say what it is"


def test_imports_go_only_downward() -> None:
    """From a room to itself and to rooms of lower floors; what stands on one floor does not know its neighbours."""
    floor = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
    for path in MODULES:
        room = path.parent.name
        for other, module in imported(path):
            assert other == room or floor[other] < floor[room], f"blsp/{room}/{path.name} imports {other}.{module}"


def test_programs_never_import_one_another() -> None:
    for path in FOLDER.glob("bin/*.py"):
        assert not [module for room, module in imported(path) if room == "bin"], path


def test_within_a_room_there_is_no_circle() -> None:
    for room in chain(*FLOORS):
        left = {p.stem: {m for r, m in imported(p) if r == room} for p in MODULES if p.parent.name == room}
        while left:
            free = {module for module, others in left.items() if not others & left.keys()}
            assert free, f"blsp/{room}: a circle among {', '.join(sorted(left))}"
            left = {module: others for module, others in left.items() if module not in free}


def test_the_face_of_the_package_costs_no_torch() -> None:
    code = "import sys, blsp; assert 'torch' not in sys.modules; from blsp import BLSP; assert BLSP.__name__ == 'BLSP'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_library_knows_no_corpus_and_nothing_outside_itself() -> None:
    corpora = {path.name for path in (FOLDER.parent / "recipes").iterdir() if path.is_dir()} - {"must-c"}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        names = {n.id.lower() for n in ast.walk(tree) if isinstance(n, ast.Name)}
        names |= {n.name.lower() for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        assert not names & corpora, path


def test_no_module_is_a_bag() -> None:
    assert not [path for path in MODULES if path.stem in ("utils", "util", "helpers", "misc", "common")]
