"""Finds everything that is wrong or unwise in a ``CHANNEL_LAYERS`` setting, each with its location and how to fix it.

It only parses the options: it makes no layer and connects to no server. Django's system checks and
``channel-layer check`` both report these findings, so that they never differ.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, Literal, TypeGuard

from channel_layer import ChannelLayer, ConfigError
from channel_layer.config import parse
from channel_layer.discovery import backends, load_cipher
from channel_layer.options import describe_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from channel_layer.config import CommonConfig

__all__ = ("Finding", "audit")

_SHAPE: Final = "channel_layer.E001"
_BACKEND: Final = "channel_layer.E002"
_OPTION: Final = "channel_layer.E003"
_MISSING: Final = "channel_layer.E004"

_KEYS: Final = ("BACKEND", "CONFIG", "TEST_CONFIG")
"""The keys of each layer that Channels 4 reads."""

_OURS: Final = "channel_layer"
"""How the names of our packages begin, and most misspelt ones."""

_ALIKE: Final = 0.9
"""Dotted paths with this similarity or more count as a misspelling; those of channels_redis and ours have 0.85."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check.

    Attributes:
        level: ``"error"``: the layer cannot be made; ``"warning"``: it can be made, but the setting is unwise;
            ``"skipped"``: the layer is a third party's and was not checked.
        id: the id by which Django silences it: ``channel_layer.E001`` and so on.
        path: its location, as a Python expression: ``CHANNEL_LAYERS["default"]["CONFIG"]["capacity"]``.
        problem: what is wrong and how to fix it. Never holds a secret.
    """

    level: Literal["error", "warning", "skipped"]
    id: str
    path: str
    problem: str


def audit(setting: object, *, deploy: bool = False) -> list[Finding]:
    """Check a ``CHANNEL_LAYERS`` setting.

    Args:
        setting: the value of the setting, of any type.
        deploy: also find what matters only in production, as ``manage.py check --deploy`` does.

    Returns:
        The findings, in the order of the setting.
    """
    if not _is_mapping(setting):
        problem = f'must be a dict of layers, as in {{"default": {{"BACKEND": ...}}}}, not {describe_value(setting)}'
        return [Finding("error", _SHAPE, "CHANNEL_LAYERS", problem)]
    return [
        finding
        for alias, layer in setting.items()
        for finding in _layer(layer, f"CHANNEL_LAYERS[{_quoted(alias)}]", alias, deploy=deploy)
    ]


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _quoted(key: object) -> str:
    return json.dumps(key, ensure_ascii=False) if isinstance(key, str) else describe_value(key)


def _layer(layer: object, path: str, alias: object, *, deploy: bool) -> Iterator[Finding]:
    if not isinstance(alias, str):
        yield Finding("error", _SHAPE, path, f"an alias must be a str, not {describe_value(alias)}")
    if not _is_mapping(layer):
        problem = f'must be a dict, as in {{"BACKEND": ..., "CONFIG": {{...}}}}, not {describe_value(layer)}'
        yield Finding("error", _SHAPE, path, problem)
        return
    backend = layer.get("BACKEND")
    if not isinstance(backend, str):
        known = ", ".join(sorted(backends()))
        if "BACKEND" in layer:
            problem = f"must be the dotted path of a class, not {describe_value(backend)}; there are {known}"
        else:
            problem = f"is missing: the dotted path of a class; there are {known}"
        yield Finding("error", _SHAPE, f'{path}["BACKEND"]', problem)
        return
    try:
        found = _find(backend)
    except (_WrongBackend, ImportError) as exc:
        kind = _BACKEND if isinstance(exc, _WrongBackend) else _MISSING  # our ImportError names the missing extra
        yield Finding("error", kind, f'{path}["BACKEND"]', str(exc))
        return
    if found is None or found.config is None:
        yield Finding("skipped", "", f'{path}["BACKEND"]', f"{backend} is not one of ours: its CONFIG is not checked")
        return
    for key in layer:
        if key not in _KEYS:
            yield Finding("error", _SHAPE, f"{path}[{_quoted(key)}]", _misplaced(key, found.config))
    for key in ("CONFIG", "TEST_CONFIG"):
        if key in layer:
            yield from _config(found.config, layer[key], f'{path}["{key}"]', deploy=deploy, testing=key != "CONFIG")
    if "CONFIG" not in layer:
        yield from _config(found.config, {}, path, deploy=deploy, testing=False)


def _misplaced(key: object, model: type[CommonConfig]) -> str:
    if not isinstance(key, str):
        return f"a key must be a str, not {describe_value(key)}"
    if key in model.model_fields:
        return "is an option of the layer: move it into CONFIG"
    if key == "ROUTING":
        return "belongs to Channels 1: remove it"
    close = get_close_matches(key.upper(), _KEYS, n=1)
    guess = f", did you mean {close[0]!r}?" if close else ";"
    return f"unknown key{guess} the keys are {', '.join(_KEYS)}"


def _config(model: type[CommonConfig], config: object, path: str, *, deploy: bool, testing: bool) -> Iterator[Finding]:
    if not _is_mapping(config):
        problem = f'must be a dict of options, as in {{"capacity": 200}}, not {describe_value(config)}'
        yield Finding("error", _SHAPE, path, problem)
        return
    options: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(name, str):
            options[name] = value
        else:
            yield Finding("error", _OPTION, path, f"the name of an option must be a str, not {describe_value(name)}")
    try:
        checked = parse(model, options)
    except ConfigError as exc:
        for error in exc.errors:
            yield Finding("error", _OPTION, _at(path, error.field), error.problem)
        return
    if checked.symmetric_encryption_keys:
        try:
            load_cipher(checked.encryption)
        except ImportError as exc:
            yield Finding("error", _MISSING, _at(path, "symmetric_encryption_keys"), str(exc))
    for concern in () if testing else checked.concerns():  # layers for tests may be small
        if deploy or not concern.deploy:
            yield Finding("warning", concern.id, _at(path, concern.field), concern.problem)


def _at(path: str, field: str) -> str:
    """Return the path of a field, given as a `ConfigError` writes it: ``hosts[1].port``."""
    if not field:
        return path.removesuffix('["CONFIG"]')
    name = re.split(r"[.\[]", field, maxsplit=1)[0]
    return f"{path}[{_quoted(name)}]{field.removeprefix(name)}"


# -- the classes ---------------------------------------------------------------------------------------------


class _WrongBackend(Exception):
    """A BACKEND does not exist and looks like a misspelling of one of ours; the text says what to write."""


def _find(backend: str) -> type[ChannelLayer] | None:
    """Return the installed layer that a dotted path names; None: it is a third party's without an entry point.

    A package without an entry point for a layer is not imported.

    Raises:
        _WrongBackend: the path does not exist, and is similar to one of ours.
        ImportError: an extra is missing; the error says which.
    """
    known = backends()
    module, _, name = backend.rpartition(".")
    package = module.partition(".")[0]
    if package not in {point.module.partition(".")[0] for point in known.values()}:
        close = package.lower().startswith(_OURS) or get_close_matches(backend, known, cutoff=_ALIKE)
        if close and (package == _OURS or not package.isidentifier() or importlib.util.find_spec(package) is None):
            raise _WrongBackend(f"there is no such class{_guess(backend)}")
        return None
    try:
        found: object = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module == exc.name or module.startswith(f"{exc.name}.")):
            raise _WrongBackend(f"there is no such module{_guess(backend)}") from None
        raise
    if found is None:
        raise _WrongBackend(f"there is no such class{_guess(backend)}")
    if isinstance(found, type) and issubclass(found, ChannelLayer):
        return found
    raise _WrongBackend(f"is not a channel layer{_guess(backend)}")


def _guess(backend: str) -> str:
    known = sorted(backends())
    close = get_close_matches(backend, known, n=1)
    return f", did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
