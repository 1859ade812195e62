"""Type checkers accept right uses of the installed wheel, and refuse wrong ones."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import AliasPath, BaseModel, Field

from tests.packaging.support import PACKAGES, ROOT, Environment, run

_SAMPLE = ROOT / "tests" / "typing" / "downstream"
_EXAMPLE = ROOT / "docs" / "examples" / "ticker"
_SETTINGS = ROOT / "docs" / "examples" / "django_settings" / "settings.py"

_ACCEPTED = {
    "a literal": 'await layer.send("c", {"type": "t", "list": [1, 2.5, None, True, b"x", {"k": [1]}]})',
    "a model to its group": 'await Group(layer, "ticks", Tick).send(Tick(price=1))',
    "one of a union to its channel": 'await Channel(layer, "events", Event).send(News(text="x"))',
    "a message without a type": 'await Group(layer, "room").send({"type": "x", "list": [1]})',
    "an attribute of what came": "(await Channel(layer, 'ticks', Tick).receive()).price.hex()",
    "what a name gives": "assert_type(layer.subscribe('a', 'b'), Subscription[Message])",
    "what a union gives": 'assert_type(Group(layer, "events", Event), Group[Tick | News])',
    "what two groups give": "assert_type(layer.subscribe(TICKS, NEWS), Subscription[Tick | News])",
    "any hosts": 'RedisChannelLayer(hosts=["redis://h", ("h", 6379), {"host": "h", "port": 6379}])',
}
_REFUSED = {
    "a name that is no text": 'await layer.send(b"c", {})',
    "a message that is no dict": 'await layer.send("c", "text")',
    "a key that is no text": 'await layer.send("c", {1: "one"})',
    "a group message that is no dict": 'await layer.group_send("g", ["text"])',
    "a name that is not there": "await layer.receive()",
    "an attribute that is not there": "await layer.publish()",
    "a capacity that is text": 'RedisChannelLayer(capacity="100")',
    "an option that does not exist": "RedisChannelLayer(capactiy=100)",
    "an option by position": 'RedisChannelLayer("redis://h")',
    "a pattern without a number": 'MemoryChannelLayer(channel_capacity=["http.*"])',
    "a store that is a Redis option": 'MemoryChannelLayer(hosts=["redis://h"])',
    "a change of a setting": "layer.capacity = 10",
    "a message of another type": 'await Group(layer, "ticks", Tick).send(News(text="x"))',
    "a message of no type of the union": 'await Group(layer, "events", Event).send(Order(id=1))',
    "a dict for a model": 'await Channel(layer, "ticks", Tick).send({"price": 1})',
    "a value for a message without a type": 'await Group(layer, "room").send(Tick(price=1))',
    "a wrong attribute of what came": "(await Channel(layer, 'ticks', Tick).receive()).prize",
    "a wrong attribute of what a group was sent": "(await anext(layer.subscribe(TICKS))).text",
    "an attribute of one of two": "(await anext(layer.subscribe(TICKS, NEWS))).price",
    "a wrong key of a dataclass": "(await Channel(layer, 'orders', Order).receive())['id']",
    "a channel of another type": 'await TICKS.add(Channel(layer, "news", News))',
    "a type that is none": 'Group(layer, "ticks", 42)',
    "a choice that does not exist": 'Group(layer, "ticks", Tick, invalid="ignore")',
    "a choice without a type": 'Group(layer, "ticks", invalid="raise")',
    "a group that is no name": "layer.subscribe(42)",
    "no group at all": "layer.subscribe()",
    "an outcome that does not exist": 'StoreError("x", retryable=True, outcome="maybe")',
}
_BACKENDS = {
    "REDIS": "channel_layer_redis.RedisChannelLayer",
    "MEMORY": "channel_layer_memory.MemoryChannelLayer",
}
"""Abbreviations in the settings below, and the value that replaces each."""

_SETTINGS_ACCEPTED = {
    "no CONFIG": '{"BACKEND": REDIS}',
    "all forms of hosts": '{"BACKEND": REDIS, "CONFIG": {"hosts": '
    '["redis://h", ("h", 6379), ["h", 6379], {"host": "h", "ssl": True}, {"address": "redis://h", "db": 1}]}}',
    "dicts only": '{"BACKEND": REDIS, "CONFIG": {"hosts": [{"host": "h"}]}}',
    "the old pair": '{"BACKEND": REDIS, "CONFIG": {"hosts": ["localhost", 6379]}}',
    "a list from elsewhere": '{"BACKEND": REDIS, "CONFIG": {"hosts": "a b".split()}}',
    "a tuple of URLs": '{"BACKEND": REDIS, "CONFIG": {"hosts": ("redis://h",)}}',
    "None where it is the default": '{"BACKEND": REDIS, "CONFIG": {"hosts": None, '
    '"host": None, "port": None, "db": None, "channel_capacity": None, "group_expiry": None, "faults": None}}',
    "keys": '{"BACKEND": MEMORY, "CONFIG": {"symmetric_encryption_keys": ["k", b"k"], '
    '"encryption": "fernet", "blind_names": b"k"}}',
    "patterns": '{"BACKEND": MEMORY, "CONFIG": {"channel_capacity": {"http.*": 5, re.compile("x"): 6}}}',
    "options for tests": '{"BACKEND": MEMORY, "TEST_CONFIG": {"capacity": 5}}',
}
_SETTINGS_REFUSED = {
    "a wrong key in CONFIG": '{"BACKEND": REDIS, "CONFIG": {"capcity": 5}}',
    "a str for hosts": '{"BACKEND": REDIS, "CONFIG": {"hosts": "redis://h"}}',
    "an option beside CONFIG": '{"BACKEND": REDIS, "capacity": 5}',
    "a wrong key of a host": '{"BACKEND": REDIS, "CONFIG": {"hosts": [{"hots": "h"}]}}',
    "an address and a port": '{"BACKEND": REDIS, "CONFIG": {"hosts": [{"address": "redis://h", "port": 1}]}}',
    "a word for ssl_cert_reqs": '{"BACKEND": REDIS, "CONFIG": '
    '{"hosts": [{"address": "rediss://h", "ssl_cert_reqs": "no"}]}}',
    "a capacity as text": '{"BACKEND": REDIS, "CONFIG": {"capacity": "5"}}',
    "one key for a list": '{"BACKEND": REDIS, "CONFIG": {"symmetric_encryption_keys": "key"}}',
    "one key as bytes": '{"BACKEND": REDIS, "CONFIG": {"symmetric_encryption_keys": b"key"}}',
    "no seconds": '{"BACKEND": REDIS, "CONFIG": {"expiry": None}}',
    "hosts of the memory layer": '{"BACKEND": MEMORY, "CONFIG": {"hosts": ["redis://h"]}}',
    "a slip in the BACKEND": '{"BACKEND": "channel_layer_redis.RedisChanelLayer"}',
    "no BACKEND": '{"CONFIG": {"capacity": 5}}',
}
_LINES = [*_ACCEPTED.values(), *_REFUSED.values()]
_PREAMBLE = """\
from dataclasses import dataclass
from typing import Annotated, Literal, assert_type

from pydantic import BaseModel, Field

from channel_layer import Channel, ChannelLayer, Group, Message, StoreError, Subscription
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer

class Tick(BaseModel):
    type: Literal["tick"] = "tick"
    price: float

class News(BaseModel):
    type: Literal["news"] = "news"
    text: str

@dataclass
class Order:
    id: int

Event = Annotated[Tick | News, Field(discriminator="type")]
LAYER = MemoryChannelLayer()
TICKS = Group(LAYER, "ticks", Tick)
NEWS = Group(LAYER, "news", News)

async def use(layer: ChannelLayer) -> None:
"""
_SETTINGS_PREAMBLE = """\
import re
from channel_layer_django import ChannelLayersSetting

"""


class _MypyFinding(BaseModel):
    """One line of mypy's JSON output."""

    severity: str
    line: int


class _PyrightFinding(BaseModel):
    """One diagnostic of pyright; its lines count from 0."""

    severity: str
    line: int = Field(validation_alias=AliasPath("range", "start", "line"))


class _PyrightReport(BaseModel):
    """The JSON output of pyright."""

    findings: list[_PyrightFinding] = Field(validation_alias="generalDiagnostics")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A copy of the downstream application, outside of this project and its configuration."""
    shutil.copytree(_SAMPLE, tmp_path / "downstream")
    return tmp_path


def _mypy(environment: Environment, folder: Path, *options: str) -> list[str]:
    """Return the command that checks the folder's code strictly against *environment*."""
    python = ["--python-executable", str(environment.python)]
    return [sys.executable, "-m", "mypy", "--strict", "--config-file=", *python, *options, str(folder)]


def _pyright(environment: Environment, folder: Path, *options: str) -> list[str]:
    """Return the command that checks the folder's code strictly against *environment*."""
    config = {
        "typeCheckingMode": "strict",
        "venvPath": str(environment.path.parent),
        "venv": environment.path.name,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    return [sys.executable, "-m", "pyright", "--project", str(folder), *options]


def test_sample_uses_every_public_name() -> None:
    """The application in tests/typing uses each public name of each package, so the checkers see all of them."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in _SAMPLE.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    public = {name for package in PACKAGES for name in importlib.import_module(package).__all__}
    assert public <= used


def test_sample_has_no_ignore() -> None:
    """No line of the application ignores an error of a type checker."""
    for file in _SAMPLE.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("type: ignore", "pyright:", "cast(", "Any") if word in text], file.name


def test_sample_passes_mypy(full: Environment, sample: Path) -> None:
    """mypy, strict, finds nothing in an application that uses every public name."""
    run(*_mypy(full, sample), cwd=sample)


def test_sample_passes_pyright(full: Environment, sample: Path) -> None:
    """pyright, strict, finds nothing in an application that uses every public name."""
    run(*_pyright(full, sample), cwd=sample)


def test_sample_runs(full: Environment) -> None:
    """The application runs on the installed wheel, and its assertions hold."""
    full.execute(f"import runpy, sys; sys.path.insert(0, {str(_SAMPLE.parent)!r}); runpy.run_module('downstream')")


def test_the_typed_example_passes_mypy(full: Environment, tmp_path: Path) -> None:
    """mypy, strict, finds nothing in the example of a web application with typed messages."""
    run(*_mypy(full, _example(tmp_path)), cwd=tmp_path)


def test_the_typed_example_passes_pyright(full: Environment, tmp_path: Path) -> None:
    """pyright, strict, finds nothing in the example of a web application with typed messages."""
    run(*_pyright(full, _example(tmp_path)), cwd=tmp_path)


def _example(folder: Path) -> Path:
    """Return a copy of the example, outside of this project and its configuration."""
    return Path(shutil.copytree(_EXAMPLE, folder / "ticker", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_type_is_known(full: Environment, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyright reports a complete type for each public symbol."""
    # --verifytypes finds the package through the `python` on PATH, and ignores a configuration file.
    monkeypatch.setenv("PATH", str(full.python.parent), prepend=os.pathsep)
    monkeypatch.setenv("VIRTUAL_ENV", str(full.path))
    output = run(sys.executable, "-m", "pyright", "--ignoreexternal", "--verifytypes", package, cwd=full.path)
    assert "Type completeness score: 100%" in output


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A module with right and wrong calls, one on each line, outside of this project and its configuration."""
    body = "".join(f"    {line}\n" for line in _LINES)
    (tmp_path / "calls.py").write_text(_PREAMBLE + body, encoding="utf-8")
    return tmp_path


def _lines(numbers: set[int]) -> set[str]:
    """Return the calls in the lines *numbers*, counted from 1."""
    return {_LINES[number - _PREAMBLE.count("\n") - 1] for number in numbers}


def _mypy_errors(environment: Environment, folder: Path) -> set[int]:
    """Return the lines, counted from 1, in which mypy finds an error."""
    command = _mypy(environment, folder, "--output=json")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    findings = [_MypyFinding.model_validate_json(line) for line in done.stdout.splitlines()]
    return {finding.line for finding in findings if finding.severity == "error"}


def _pyright_errors(environment: Environment, folder: Path) -> set[int]:
    """Return the lines, counted from 1, in which pyright finds an error."""
    command = _pyright(environment, folder, "--outputjson")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    findings = _PyrightReport.model_validate_json(done.stdout).findings
    return {finding.line + 1 for finding in findings if finding.severity == "error"}


def test_mypy_refuses_exactly_the_wrong_calls(full: Environment, calls: Path) -> None:
    """Each wrong call is an error before it runs, and no right one is."""
    assert _lines(_mypy_errors(full, calls)) == set(_REFUSED.values())


def test_pyright_refuses_exactly_the_wrong_calls(full: Environment, calls: Path) -> None:
    """Each wrong call is an error before it runs, and no right one is."""
    assert _lines(_pyright_errors(full, calls)) == set(_REFUSED.values())


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings module with a right or wrong CHANNEL_LAYERS on each line."""
    made = enumerate([*_SETTINGS_ACCEPTED.values(), *_SETTINGS_REFUSED.values()])
    body = "".join(f'A{n}: ChannelLayersSetting = {{"default": {layer}}}\n' for n, layer in made)
    for name, backend in _BACKENDS.items():
        body = body.replace(f'"BACKEND": {name}', f'"BACKEND": "{backend}"')
    (tmp_path / "settings.py").write_text(_SETTINGS_PREAMBLE + body, encoding="utf-8")
    return tmp_path


def _named(errors: set[int]) -> set[str]:
    """Return the names of the settings that have errors, given their lines; "the preamble" for a line before them."""
    first = _SETTINGS_PREAMBLE.count("\n") + 1
    names = ["the preamble"] * first + [*_SETTINGS_ACCEPTED, *_SETTINGS_REFUSED]
    return {names[number] for number in errors}


def test_mypy_refuses_exactly_the_wrong_settings(full: Environment, settings: Path) -> None:
    """Each wrong CHANNEL_LAYERS is an error before the settings are loaded, and no right one is."""
    assert _named(_mypy_errors(full, settings)) == set(_SETTINGS_REFUSED)


def test_pyright_refuses_exactly_the_wrong_settings(full: Environment, settings: Path) -> None:
    """Each wrong CHANNEL_LAYERS is an error before the settings are loaded, and no right one is."""
    assert _named(_pyright_errors(full, settings)) == set(_SETTINGS_REFUSED)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the settings of docs/examples, outside of the working tree."""
    shutil.copy(_SETTINGS, tmp_path)
    return tmp_path


def test_the_settings_of_the_example_pass_both_checkers(full: Environment, example: Path) -> None:
    """mypy and pyright, both strict, find nothing in a settings module that uses every form."""
    run(*_mypy(full, example), cwd=example)
    run(*_pyright(full, example), cwd=example)


def test_the_settings_of_the_example_pass_the_checks(full: Environment, example: Path) -> None:
    """The installed command and Django's own check find no error in them."""
    assert "\n0 errors, " in "\n" + run(full.path / "bin" / "channel-layer", "check", "settings", cwd=example)
    run(full.python, "-m", "django", "check", "--settings", "settings", cwd=example)
