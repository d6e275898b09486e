"""The configuration: overrides, and what is refused in one line."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from conftest import ROOT, World

from blsp.base.config import load_config, plain, require
from blsp.base.files import InputError

TEXT = """\
lr: 5.0e-5
steps: 10
half: !ref <steps> / 2
generation: {temperature: 0.0, top_p: 1.0}
sets: [a, b]
optimizer: !name:torch.optim.AdamW
  weight_decay: 0.05
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(TEXT)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as e:
        load_config(path, overrides)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_values_references_and_deferred_names(config: Path) -> None:
    values = load_config(config)
    assert values["lr"] == 5e-5
    assert values["half"] == 5
    assert values["sets"] == ["a", "b"]
    optimizer = values["optimizer"]([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["weight_decay"] == 0.05


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("--lr=1e-4", "lr", 1e-4),
        ("--lr=0.25", "lr", 0.25),
        ("--steps=20", "steps", 20),
        ("--sets=[c]", "sets", ["c"]),
        ("--sets=[]", "sets", []),
        ("--generation.top_p=0.9", "generation", {"temperature": 0.0, "top_p": 0.9}),
    ],
)
def test_overrides_replace_values(config: Path, override: str, key: str, value: object) -> None:
    assert load_config(config, [override])[key] == value


def test_overrides_reach_references(config: Path) -> None:
    assert load_config(config, ["--steps=40"])["half"] == 20


def test_an_override_of_a_deferred_names_argument(config: Path) -> None:
    optimizer = load_config(config, ["--optimizer.weight_decay=0.5"])["optimizer"]
    assert isinstance(optimizer, functools.partial) or callable(optimizer)
    assert optimizer([torch.nn.Parameter(torch.zeros(1))], lr=0.1).defaults["weight_decay"] == 0.5


def test_hyphen_and_underscore_are_the_same_in_overrides(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("batch_size: 1\n")
    assert load_config(tmp_path / "a.yaml", ["--batch-size=2"])["batch_size"] == 2


@pytest.mark.parametrize("override", ["--nothing=1", "--generation.nothing=1", "--lr.x=1", "--half-life=3"])
def test_unknown_override_keys_are_refused_with_the_list(config: Path, override: str) -> None:
    message = refusal(config, override)
    assert override in message
    assert "no such key" in message
    assert "lr, steps, half" in message


@pytest.mark.parametrize("override", ["lr=1", "--lr", "-lr=1"])
def test_overrides_of_another_form_are_refused(config: Path, override: str) -> None:
    assert "--KEY=VALUE" in refusal(config, override)


@pytest.mark.parametrize("value", ["[1", "{a: ", "!new:os.system", "!apply:os.system [true]", "'"])
def test_a_broken_value_of_an_override_is_refused_by_its_name(config: Path, value: str) -> None:
    assert f"--lr={value}" in refusal(config, f"--lr={value}")


@pytest.mark.parametrize(
    "line",
    [
        "model: !new:torch.nn.Linear [1, 1]",
        "model: !apply:os.system [touch {trace}]",
        "model: {{inner: [!apply:os.system [touch {trace}]]}}",
        "model: !name:os.system [touch {trace}]",
        "model: !module:os",
        "model: !include:other.yaml",
        "model: !!python/object/apply:os.system [touch {trace}]",
        "model: !<tag:yaml.org,2002:python/object/apply:os.system> [touch {trace}]",
        "%TAG !e! tag:yaml.org,2002:python/object/apply:\n---\nmodel: !e!os.system [touch {trace}]",
        "%TAG !e! !app\n---\nmodel: !e!ly:os.system [touch {trace}]",
        "!apply:os.system [touch {trace}]: 1",
    ],
)
def test_parsing_builds_and_runs_nothing(tmp_path: Path, line: str) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "a.yaml"
    path.write_text(line.format(trace=trace) + "\n")
    message = refusal(path)
    assert str(path) in message
    assert not trace.exists(), "a command of the file was run"


@pytest.mark.parametrize(
    "text", ["a: [1", "a: 1\n b: 2\n", "a: b: c", "\ta: 1", "a: 1\na: 2\n", "a: !ref <b>", "- 1\n- 2", "", "a"]
)
def test_broken_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert str(path) in refusal(path)


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "absent.yaml")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: ü".encode("latin-1"))
    assert "latin.yaml" in refusal(tmp_path / "latin.yaml")


def test_a_missing_key_is_named(config: Path) -> None:
    with pytest.raises(InputError, match="no 'seed'"):
        require(load_config(config), "lr", "seed")


def test_plain_values_can_be_written_and_do_not_depend_on_the_order_of_keys(config: Path, tmp_path: Path) -> None:
    import json

    values = plain(load_config(config))
    assert json.loads(json.dumps(values)) == values
    assert values["optimizer"] == {"!name": "torch.optim.AdamW", "weight_decay": 0.05}
    blocks = [b for b in TEXT.split("\n") if b]
    shuffled = [*blocks[-2:], *blocks[:-2][::-1]]
    (tmp_path / "b.yaml").write_text("\n".join(shuffled) + "\n")
    assert plain(load_config(tmp_path / "b.yaml")) == values


def test_the_tiny_configuration_has_the_keys_of_the_recipe(world: World) -> None:
    recipe = ROOT / "recipes/librispeech/conf/blsp.yaml"
    assert load_config(world.config).keys() == load_config(recipe).keys()


def test_every_configuration_of_the_recipes_loads_and_is_short() -> None:
    paths = sorted(ROOT.glob("recipes/*/conf/*.yaml"))
    assert paths
    for path in paths:
        assert load_config(path), path
        assert path.read_text().count("\n") <= 85, path
