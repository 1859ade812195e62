"""CHANNEL_LAYERS as a whole: what the audit, Django's checks and the command find in it, and how they say so."""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's names
from django.test import override_settings
from pydantic import TypeAdapter

from channel_layer.config import CommonConfig, json_schema, parse
from channel_layer_cli._config import layer_schema, settings_schema
from channel_layer_django import Finding, audit
from channel_layer_django.checks import check_deployment, check_settings
from channel_layer_memory.config import MemoryConfig
from channel_layer_redis.config import RedisConfig
from tests.support import command
from tests.support.mistakes import KEY, MISTAKES

REDIS = "channel_layer_redis.RedisChannelLayer"
MEMORY = "channel_layer_memory.MemoryChannelLayer"

BACKENDS = f"there are {MEMORY}, {REDIS}"

_AS_LIST = 'hosts=["redis://localhost:6379/0"]'

_HERE = 'CHANNEL_LAYERS["default"]'

SETTINGS: Mapping[str, tuple[object, str, str, str]] = {
    # the shape
    "no dict": ([], "E001", "CHANNEL_LAYERS", "must be a dict of layers, as in"),
    "None": (None, "E001", "CHANNEL_LAYERS", "must be a dict of layers, as in"),
    "an alias that is no text": (
        {1: {"BACKEND": MEMORY}},
        "E001",
        "CHANNEL_LAYERS[1]",
        "an alias must be a str, not 1",
    ),
    "the layer in the place of its dict": (
        {"default": REDIS},
        "E001",
        _HERE,
        'as in {"BACKEND": ..., "CONFIG": {...}}',
    ),
    "no backend": (
        {"default": {"CONFIG": {}}},
        "E001",
        f'{_HERE}["BACKEND"]',
        "is missing: the dotted path of a class",
    ),
    "a class for its path": (
        {"default": {"BACKEND": CommonConfig}},
        "E001",
        f'{_HERE}["BACKEND"]',
        "must be the dotted path of a class, not a ModelMetaclass; there are",
    ),
    "an option beside CONFIG": (
        {"default": {"BACKEND": REDIS, "capacity": 5}},
        "E001",
        f'{_HERE}["capacity"]',
        "is an option of the layer: move it into CONFIG",
    ),
    "another case": (
        {"default": {"BACKEND": REDIS, "Config": {}}},
        "E001",
        f'{_HERE}["Config"]',
        "unknown key, did you mean 'CONFIG'? the keys are BACKEND, CONFIG, TEST_CONFIG",
    ),
    "a key of Channels 1": (
        {"default": {"BACKEND": REDIS, "ROUTING": ""}},
        "E001",
        f'{_HERE}["ROUTING"]',
        "Channels 1",
    ),
    "a key that is no text": (
        {"default": {"BACKEND": REDIS, 5: 5}},
        "E001",
        f"{_HERE}[5]",
        "a key must be a str, not 5",
    ),
    "a list for CONFIG": (
        {"default": {"BACKEND": REDIS, "CONFIG": ["redis://:hidden@a"]}},
        "E001",
        f'{_HERE}["CONFIG"]',
        'must be a dict of options, as in {"capacity": 200}, not a list',
    ),
    "None for CONFIG": ({"default": {"BACKEND": REDIS, "CONFIG": None}}, "E001", f'{_HERE}["CONFIG"]', "not None"),
    # the backend
    "a slip in the class": (
        {"default": {"BACKEND": "channel_layer_redis.RedisChanelLayer"}},
        "E002",
        f'{_HERE}["BACKEND"]',
        f"there is no such class, did you mean {REDIS!r}?",
    ),
    "a slip in the module": (
        {"default": {"BACKEND": "channel_layer_redis.layers.RedisChannelLayer"}},
        "E002",
        f'{_HERE}["BACKEND"]',
        f"there is no such module, did you mean {REDIS!r}?",
    ),
    "a slip in the package": (
        {"default": {"BACKEND": "channel_layers_redis.RedisChannelLayer"}},
        "E002",
        f'{_HERE}["BACKEND"]',
        f"there is no such class, did you mean {REDIS!r}?",
    ),
    "another slip in the package": (
        {"default": {"BACKEND": "chanel_layer_redis.RedisChannelLayer"}},
        "E002",
        f'{_HERE}["BACKEND"]',
        f"there is no such class, did you mean {REDIS!r}?",
    ),
    "the package of the core": (
        {"default": {"BACKEND": "channel_layer.MemoryChannelLayer"}},
        "E002",
        f'{_HERE}["BACKEND"]',
        f"there is no such class, did you mean {MEMORY!r}?",
    ),
    "something that is no layer": (
        {"default": {"BACKEND": "channel_layer_memory.MemoryBackend"}},
        "E002",
        f'{_HERE}["BACKEND"]',
        f"is not a channel layer, did you mean {MEMORY!r}?",
    ),
    # the options
    "a wrong option": (
        {"default": {"BACKEND": REDIS, "CONFIG": {"capacity": "5"}}},
        "E003",
        f'{_HERE}["CONFIG"]["capacity"]',
        "must be a whole number, 1 or more, not a str",
    ),
    "an option inside of another": (
        {"second": {"BACKEND": REDIS, "CONFIG": {"hosts": ["redis://a", ("b", "hidden")]}}},
        "E003",
        'CHANNEL_LAYERS["second"]["CONFIG"]["hosts"][1].port',
        "must be a whole number from 1 to 65535, not a str",
    ),
    "a wrong pattern": (
        {"default": {"BACKEND": MEMORY, "CONFIG": {"channel_capacity": {"a.[": 5}}}},
        "E003",
        f'{_HERE}["CONFIG"]["channel_capacity"]["a.["]',
        "never closed",
    ),
    "an option for tests": (
        {"default": {"BACKEND": REDIS, "TEST_CONFIG": {"capcity": 5}}},
        "E003",
        f'{_HERE}["TEST_CONFIG"]["capcity"]',
        "unknown option, did you mean 'capacity'?",
    ),
    "an option that is no text": (
        {"default": {"BACKEND": REDIS, "CONFIG": {5: 5}}},
        "E003",
        f'{_HERE}["CONFIG"]',
        "the name of an option must be a str, not 5",
    ),
    # what is unwise
    "a capacity of few": (
        {"default": {"BACKEND": MEMORY, "CONFIG": {"capacity": 9}}},
        "W001",
        f'{_HERE}["CONFIG"]["capacity"]',
        "a burst of 10 messages already raises ChannelFull",
    ),
    "a short key": (
        {"default": {"BACKEND": MEMORY, "CONFIG": {"symmetric_encryption_keys": ["hidden"]}}},
        "W002",
        f'{_HERE}["CONFIG"]["symmetric_encryption_keys"][0]',
        "make one with: channel-layer genkey",
    ),
    "keys without TLS": (
        {"default": {"BACKEND": REDIS, "CONFIG": {"symmetric_encryption_keys": [KEY], "hosts": ["redis://:hidden@a"]}}},
        "W003",
        f'{_HERE}["CONFIG"]["hosts"][0]',
        "the connection to a:6379/0 is not: its password",
    ),
    "keys without TLS, in short": (
        {"default": {"BACKEND": REDIS, "CONFIG": {"symmetric_encryption_keys": [KEY], "host": "a"}}},
        "W003",
        f'{_HERE}["CONFIG"]["host"]',
        "the connection to a:6379/0 is not",
    ),
    "an option of channels_redis": (
        {"default": {"BACKEND": REDIS, "CONFIG": {"random_prefix_length": 12}}},
        "W005",
        f'{_HERE}["CONFIG"]["random_prefix_length"]',
        "is not needed: equal messages are told apart without",
    ),
    "an option of redis-py": (
        {"default": {"BACKEND": REDIS, "CONFIG": {"hosts": [{"host": "a", "max_connections": 5}]}}},
        "W005",
        f'{_HERE}["CONFIG"]["hosts"][0].max_connections',
        "is not needed: an event loop has one connection",
    ),
    "an option of redis-py in a URL": (
        {"default": {"BACKEND": REDIS, "CONFIG": {"hosts": ["redis://a?retry_on_timeout=true"]}}},
        "W005",
        f'{_HERE}["CONFIG"]["hosts"][0]',
        "the retry_on_timeout in the URL is not needed: the layer reconnects by itself",
    ),
}

FINE: Mapping[str, object] = {
    "nothing": {},
    "the defaults": {"default": {"BACKEND": REDIS}},
    "ten": {"default": {"BACKEND": MEMORY, "CONFIG": {"capacity": 10}}},
    "few in tests": {"default": {"BACKEND": MEMORY, "TEST_CONFIG": {"capacity": 1}}},
    "the module of a class": {"default": {"BACKEND": "channel_layer_redis.layer.RedisChannelLayer"}},
    "keys with TLS": {
        "default": {"BACKEND": REDIS, "CONFIG": {"symmetric_encryption_keys": [KEY], "hosts": ["rediss://a"]}}
    },
    "keys on this machine": {
        "default": {
            "BACKEND": REDIS,
            "CONFIG": {
                "symmetric_encryption_keys": [KEY],
                "hosts": [
                    "redis://localhost",
                    "redis://127.0.0.1",
                    "redis://[::1]",
                    "unix:///r",
                    "redis://x.localhost",
                ],
            },
        }
    },
    "no TLS without keys": {"default": {"BACKEND": REDIS, "CONFIG": {"hosts": ["redis://a"]}}},
}

OTHERS = (
    "channels_redis.core.RedisChannelLayer",
    "channels_redis.pubsub.RedisPubSubChannelLayer",
    "channels.layers.InMemoryChannelLayer",
    "not_installed.layers.RedisChannelLayer",
    "RedisChannelLayer",
)


def _wrong(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "skipped"]


# -- the audit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "ident", "path", "fragment"), SETTINGS.values(), ids=SETTINGS)
def test_each_mistake_is_one_finding_with_its_path(setting: object, ident: str, path: str, fragment: str) -> None:
    """A wrong or unwise setting is one finding, where it stands, with an id, a mend and no secret."""
    (finding,) = _wrong(audit(setting))
    assert (finding.id, finding.path) == (f"channel_layer.{ident}", path)
    assert finding.level == ("error" if ident.startswith("E") else "warning")
    assert fragment in finding.problem
    assert "hidden" not in str(finding)


@pytest.mark.parametrize("setting", FINE.values(), ids=FINE)
def test_what_is_well_is_not_remarked_on(setting: object) -> None:
    """A setting that works and is no worse than it needs to be gives no finding."""
    assert audit(setting) == []


@pytest.mark.parametrize(("options", "field", "fragment"), MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_in_a_config_is_found_where_it_stands(
    options: Mapping[str, object], field: str, fragment: str
) -> None:
    """Whatever a layer refuses is found, once, under the path of the setting."""
    (finding,) = audit({"default": {"BACKEND": REDIS, "CONFIG": options}})
    name = re.split(r"[.\[]", field, maxsplit=1)[0]
    rest = field.removeprefix(name)
    assert finding.path == f'{_HERE}["CONFIG"]["{name}"]{rest}'
    assert fragment in finding.problem


@pytest.mark.parametrize("backend", OTHERS)
def test_layers_of_others_are_left_alone(backend: str) -> None:
    """A BACKEND that is nobody's slip for one of ours is not checked, and not imported for that."""
    before = set(sys.modules)
    (finding,) = audit({"default": {"BACKEND": backend, "CONFIG": 5, "more": 5}}, deploy=True)
    assert (finding.level, finding.path) == ("skipped", f'{_HERE}["BACKEND"]')
    assert {name.partition(".")[0] for name in set(sys.modules) - before} & {"channels_redis", "channels"} == set()


def test_a_memory_layer_is_remarked_on_in_a_deployment_only() -> None:
    """That processes do not hear each other matters in production; a layer with a store has no such problem."""
    third: dict[str, object] = {"BACKEND": MEMORY, "CONFIG": {}}
    setting = {"default": {"BACKEND": MEMORY}, "second": {"BACKEND": REDIS}, "third": third}
    assert audit(setting) == []
    found = audit(setting, deploy=True)
    assert [(each.level, each.id, each.path) for each in found] == [
        ("warning", "channel_layer.W004", 'CHANNEL_LAYERS["default"]'),
        ("warning", "channel_layer.W004", 'CHANNEL_LAYERS["third"]'),
    ]


def test_all_mistakes_come_at_once() -> None:
    """Every layer and every option is told of, in the order of the setting."""
    setting = {
        "a": {"BACKEND": REDIS, "CONFIG": {"timeout": 0, "capacity": 0}, "more": 1},
        "b": {"BACKEND": "channel_layer_redis.Nothing"},
        "c": 5,
    }
    assert [finding.path for finding in audit(setting)] == [
        'CHANNEL_LAYERS["a"]["more"]',
        'CHANNEL_LAYERS["a"]["CONFIG"]["capacity"]',
        'CHANNEL_LAYERS["a"]["CONFIG"]["timeout"]',
        'CHANNEL_LAYERS["b"]["BACKEND"]',
        'CHANNEL_LAYERS["c"]',
    ]


@pytest.mark.parametrize(
    ("module", "setting", "path"),
    [
        ("hiredis", {"default": {"BACKEND": REDIS}}, f'{_HERE}["BACKEND"]'),
        (
            "cryptography",
            {"default": {"BACKEND": MEMORY, "CONFIG": {"symmetric_encryption_keys": [KEY]}}},
            f'{_HERE}["CONFIG"]["symmetric_encryption_keys"]',
        ),
    ],
)
def test_a_missing_extra_is_found(module: str, setting: object, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a layer or its encryption cannot be imported is an error that says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith(("channel_layer_redis", "channel_layer_crypto"))]:
        monkeypatch.delitem(sys.modules, name)
    (finding,) = audit(setting)
    assert (finding.id, finding.path) == ("channel_layer.E004", path)
    assert 'pip install "channel-layer[' in finding.problem


def test_nothing_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check opens no socket."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a check opened a socket")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    for setting in [*FINE.values(), *(setting for setting, *_ in SETTINGS.values())]:
        audit(setting, deploy=True)


# -- Django --------------------------------------------------------------------------------------------------


@pytest.fixture
def django() -> None:
    """Django's settings, as empty as they can be."""
    if not settings.configured:
        settings.configure()


def _checked(setting: object) -> list[CheckMessage]:
    with override_settings(CHANNEL_LAYERS=setting):
        return check_settings(None)


@pytest.mark.usefixtures("django")
def test_django_shows_the_path_the_id_and_the_mend() -> None:
    """``manage.py check`` prints one message for each finding, errors as errors and warnings as warnings."""
    wrong, unwise = _checked(
        {
            "default": {"BACKEND": REDIS, "CONFIG": {"capacity": 0}},
            "second": {"BACKEND": MEMORY, "CONFIG": {"capacity": 1}},
        }
    )
    assert (type(wrong), type(unwise)) == (Error, Warning)
    assert str(wrong) == f'{_HERE}["CONFIG"]["capacity"]: (channel_layer.E003) must be a whole number, 1 or more, not 0'
    assert unwise.id == "channel_layer.W001"


@pytest.mark.usefixtures("django")
def test_django_is_not_told_of_the_layers_of_others() -> None:
    """Nothing is said of a BACKEND that is not ours, and nothing where there is no CHANNEL_LAYERS."""
    assert _checked({"default": {"BACKEND": OTHERS[0], "CONFIG": {"capacity": 0}}}) == []
    assert check_settings(None) == []


@pytest.mark.usefixtures("django")
def test_a_deployment_is_checked_for_more_and_nothing_is_said_twice() -> None:
    """``--deploy`` adds what matters in production only to what is always told."""
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": MEMORY, "CONFIG": {"capacity": 1}}}):
        assert [message.id for message in check_settings(None)] == ["channel_layer.W001"]
        assert [message.id for message in check_deployment(None)] == ["channel_layer.W004"]


def test_manage_check_tells_it(folder: Path) -> None:
    """With the application in INSTALLED_APPS, ``manage.py check`` fails on an error, and --deploy tells more."""
    text = "INSTALLED_APPS = ['channel_layer_django']\nSECRET_KEY = 'x'\n"
    module = _settings(folder, f"{text}CHANNEL_LAYERS = {{'default': {{'BACKEND': {MEMORY!r}}}}}")

    def check(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "django", "check", "--settings", module, *options]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)

    assert check().returncode == 0
    assert 'CHANNEL_LAYERS["default"]: (channel_layer.W004) each process' in check("--deploy").stderr
    _settings(folder, f"{text}CHANNEL_LAYERS = {{'default': {{'BACKEND': {REDIS!r}, 'CONFIG': {{'capcity': 1}}}}}}")
    failed = check("--tag", "channel_layer")
    assert failed.returncode == 1
    assert f'{_HERE}["CONFIG"]["capcity"]: (channel_layer.E003) unknown option, did you mean' in failed.stderr


def test_without_django_the_application_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the application without Django is an ImportError that names the extra."""
    monkeypatch.setitem(sys.modules, "django.apps", None)
    monkeypatch.delitem(sys.modules, "channel_layer_django.apps", raising=False)
    with pytest.raises(ImportError, match=re.escape('pip install "channel-layer[django]"')):
        __import__("channel_layer_django.apps")


# -- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run the command in, out of which nothing stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("some_project", "some_project.settings"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "some_project").mkdir()
    (tmp_path / "some_project" / "__init__.py").touch()
    return tmp_path


def _settings(folder: Path, text: str) -> str:
    (folder / "some_project" / "settings.py").write_text(text, encoding="utf-8")
    return "some_project.settings"


def test_settings_are_checked_by_their_dotted_path(folder: Path) -> None:
    """Each error is a line with path, mend and id; the exit code is 1, and 0 when there is none."""
    text = f"CHANNEL_LAYERS = {{'default': {{'BACKEND': {REDIS!r}, 'CONFIG': {{'capacity': 0, 'hosts': 'hidden'}}}}}}"
    result = command.run("check", _settings(folder, text))
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f'{_HERE}["CONFIG"]["capacity"]: error: must be a whole number, 1 or more, not 0 [channel_layer.E003]',
        f'{_HERE}["CONFIG"]["hosts"]: error: must be a list, even for one server: {_AS_LIST} [channel_layer.E003]',
        "2 errors, 0 warnings",
    ]


def test_warnings_are_no_errors(folder: Path) -> None:
    """What is unwise is told, and the exit code is 0; --deploy tells more of it."""
    module = _settings(
        folder, f"CHANNEL_LAYERS = {{'default': {{'BACKEND': {MEMORY!r}, 'CONFIG': {{'capacity': 1}}}}}}"
    )
    usual, deployed = command.run("check", module), command.run("check", "--deploy", module)
    assert (usual.exit_code, deployed.exit_code) == (0, 0)
    assert usual.output.endswith("\n0 errors, 1 warning\n")
    assert deployed.output.endswith("\n0 errors, 2 warnings\n")


def test_layers_of_others_are_named(folder: Path) -> None:
    """That a layer was not checked is said, so that nobody takes silence for praise."""
    result = command.run("check", _settings(folder, f"CHANNEL_LAYERS = {{'default': {{'BACKEND': {OTHERS[0]!r}}}}}"))
    assert result.exit_code == 0
    assert f'{_HERE}["BACKEND"]: skipped: {OTHERS[0]} is not one of ours' in result.output


TOML = """
[CHANNEL_LAYERS.default]
BACKEND = "channel_layer_redis.RedisChannelLayer"
[CHANNEL_LAYERS.default.CONFIG]
capacity = 0
"""


@pytest.mark.parametrize(
    ("name", "text", "options", "line"),
    [
        ("a.toml", TOML, (), f'{_HERE}["CONFIG"]["capacity"]: error: must be a whole number, 1 or more, not 0'),
        (
            "a.json",
            json.dumps({"CHANNEL_LAYERS": {"default": {"BACKEND": REDIS, "CONFIG": {"hosts": [["a", "redis"]]}}}}),
            (),
            f'{_HERE}["CONFIG"]["hosts"][0].port: error: must be a whole number from 1 to 65535, not a str',
        ),
        ("a.toml", "capacity = 0", ("--layer", "memory"), "capacity: error: must be a whole number, 1 or more, not 0"),
        ("a.json", '{"hosts": [["a", 0]]}', ("--layer", "redis"), "hosts[0].port: error: must be a whole number"),
        ("a.toml", "capacity = 0", (), "CHANNEL_LAYERS: error: is not there: nothing is configured; for the CONFIG of"),
    ],
)
def test_files_are_checked(folder: Path, name: str, text: str, options: tuple[str, ...], line: str) -> None:
    """A TOML or JSON file holds CHANNEL_LAYERS or, with --layer, the CONFIG of one layer."""
    (folder / name).write_text(text, encoding="utf-8")
    result = command.run("check", name, *options)
    assert result.exit_code == 1
    assert result.output.startswith(line)
    assert result.output.endswith("\n1 error, 0 warnings\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing.toml"], "nothing.toml cannot be read: No such file"),
        (["bad.toml"], "bad.toml is no TOML"),
        (["bad.json"], "bad.json is no JSON"),
        (["list.json"], 'list.json must hold an object, as in {"CHANNEL_LAYERS": ...}'),
        (["twice.json"], "the key 'capacity' is given twice in one object: remove one"),
        (["bytes.json"], "bytes.json cannot be read: it is not UTF-8"),
        (["settings.py"], "is neither a .toml or .json file nor the dotted path of a settings module"),
        (["some/path"], "is neither a .toml or .json file nor the dotted path of a settings module"),
        (
            ["no_such_project.settings"],
            "no_such_project.settings cannot be imported: No module named 'no_such_project'",
        ),
        (["some_project", "--layer", "redis"], "--layer is for a file"),
        (["good.json", "--layer", "rediss"], "'rediss' is none of ipc, memory, redis"),
        ([], "the following arguments are required: SETTINGS|FILE"),
    ],
)
def test_what_cannot_be_read_ends_with_code_2(folder: Path, arguments: list[str], complaint: str) -> None:
    """Wrong use and files that cannot be read are told apart from errors in a configuration."""
    files = {"bad.toml": "a = ", "bad.json": "{", "list.json": "[]", "twice.json": '{"capacity": 1, "capacity": 2}'}
    for name, text in {**files, "settings.py": "", "good.json": "{}"}.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "bytes.json").write_bytes(b"\xff")
    result = command.run("check", *arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("int('hidden')", "ValueError at"),
        ("import os\nos.environ['NO_SUCH_VARIABLE']", "KeyError 'NO_SUCH_VARIABLE' at"),
        (
            "from channel_layer import from_url\nfrom_url('redis://:hidden@a?capacity=0')",
            "capacity: must be a whole number, 1 or more, not 0",
        ),
    ],
)
def test_a_settings_module_that_fails_is_told_without_its_values(folder: Path, text: str, complaint: str) -> None:
    """The kind of the error and its place are shown, and its text only where it can hold no secret."""
    result = command.run("check", _settings(folder, text))
    assert result.exit_code == 2
    assert complaint in result.output
    assert "hidden" not in result.output


def test_a_fresh_key_is_good_enough() -> None:
    """`genkey` prints 32 random bytes as URL-safe base64, another each time, that a layer takes without a warning."""
    first, second = (command.run("genkey").output.strip() for _ in range(2))
    assert first != second
    assert len(base64.urlsafe_b64decode(first)) == 32
    assert not list(parse(CommonConfig, {"symmetric_encryption_keys": [first, second]}).advice())


# -- the schema ----------------------------------------------------------------------------------------------


class _Validator(Protocol):
    """What is used of jsonschema, whose annotations are not known in full."""

    META_SCHEMA: Mapping[str, object]

    def check_schema(self, schema: object) -> None: ...
    def is_valid(self, instance: object) -> bool: ...


def _validator(schema: object) -> _Validator:
    draft = "Draft202012Validator"
    make: Callable[[object], _Validator] = getattr(importlib.import_module("jsonschema"), draft)
    return make(schema)


def _taken(schema: object, value: object) -> bool:
    return _validator(schema).is_valid(value)


def _plain(value: object) -> bool:
    """Whether a file can say it."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


@pytest.mark.parametrize(
    "schema", [settings_schema(), layer_schema("redis"), layer_schema("ipc"), layer_schema("memory")]
)
def test_a_schema_is_one(schema: dict[str, object]) -> None:
    """What is printed is a valid schema of the draft that it names."""
    _validator(schema).check_schema(schema)
    assert schema["$schema"] == _validator(schema).META_SCHEMA["$id"]


@pytest.mark.parametrize("model", [MemoryConfig, RedisConfig])
def test_the_schema_takes_its_own_defaults(model: type[CommonConfig]) -> None:
    """The default of each option is valid by the schema, and what the layer takes for it."""
    schema = json_schema(model)
    properties = TypeAdapter(dict[str, dict[str, object]]).validate_python(schema["properties"])
    defaults = {name: field["default"] for name, field in properties.items()}
    assert defaults.keys() == model.model_fields.keys()
    assert _taken(schema, defaults)
    shorthand = {"host", "port", "db"}
    assert parse(model, {name: value for name, value in defaults.items() if name not in shorthand}) == parse(model, {})


def test_the_schema_refuses_what_has_the_wrong_type_range_or_name() -> None:
    """Most mistakes that a file can hold are found by an editor already; the rest are what only the layer can tell."""
    schema = json_schema(RedisConfig)
    said = {name: options for name, (options, _, _) in MISTAKES.items() if _plain(options)}
    passed = {name for name, options in said.items() if _taken(schema, options)}
    assert len(said) - len(passed) >= 40
    for name in (
        "capacity as text",
        "capacity of nothing",
        "a slip",
        "one URL for a list",
        "an unknown key",
        "an address and a port",
    ):
        assert name in said
        assert name not in passed


@pytest.mark.parametrize(
    "config",
    [
        {
            "hosts": [
                "redis://a",
                ["b", 1],
                {"host": "c", "ssl": True, "ssl_cert_reqs": "none"},
                {"address": "unix:///r"},
            ]
        },
        {"hosts": ["localhost", 6379]},
        {"hosts": ["REDISS://a"], "group_expiry": None, "channel_capacity": {"re:^x": 5}},
        {"hosts": None, "host": "a", "db": 3},
        {"symmetric_encryption_keys": [KEY], "encryption": "fernet", "blind_names": True},
        {"faults": {"refuse": 0.1, "seed": 3}},
    ],
)
def test_the_schema_takes_what_the_layer_takes(config: dict[str, object]) -> None:
    """No editor marks a configuration that works."""
    parse(RedisConfig, config)
    assert _taken(json_schema(RedisConfig), config)
    assert _taken(settings_schema(), {"CHANNEL_LAYERS": {"default": {"BACKEND": REDIS, "CONFIG": config}}})


def test_the_schema_of_a_file_ties_each_backend_to_its_options() -> None:
    """An option of one layer is wrong for another, and a layer of others may be configured in any way."""
    schema = settings_schema()

    def taken(**layer: object) -> bool:
        return _taken(schema, {"CHANNEL_LAYERS": {"default": layer}})

    assert taken(BACKEND=MEMORY, CONFIG={"capacity": 5})
    assert not taken(BACKEND=MEMORY, CONFIG={"hosts": ["redis://a"]})
    assert not taken(BACKEND=REDIS, capacity=5)
    assert not taken(CONFIG={})
    assert taken(BACKEND=OTHERS[0], CONFIG={"anything": 5}, more=5)


def test_the_command_prints_the_schemas() -> None:
    """`schema` prints that of a file, with --layer that of a CONFIG; a name that is none ends with code 2."""
    assert json.loads(command.run("schema").output) == settings_schema()
    assert json.loads(command.run("schema", "--layer", "redis").output) == json_schema(RedisConfig)
    result = command.run("schema", "--layer", "nothing")
    assert result.exit_code == 2
    assert "'nothing' is none of ipc, memory, redis" in result.output


# -- how a command ends early --------------------------------------------------------------------------------


def test_a_command_is_needed() -> None:
    """Without a command, and with one that does not exist, the code is 2 and the commands are named."""
    for arguments in ([], ["nothing"]):
        result = command.run(*arguments)
        assert result.exit_code == 2
        assert "COMMAND" in result.output


def test_a_reader_that_goes_away_is_no_error() -> None:
    """Output that is cut off, as by `head`, ends the command with code 1 and without a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "channel_layer_cli", "schema"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_is_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is interrupted ends with code 1 and without a traceback."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("channel_layer_cli._main.genkey", interrupted)
    assert command.run("genkey") == command.Result(1, "Aborted!\n")
