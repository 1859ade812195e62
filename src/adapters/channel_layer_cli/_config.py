"""The commands `check`, `schema` and `genkey`.

`channel_layer_django.audit` finds the problems of a configuration, for Django's checks too; this module prints them. Of
the values of a configuration it prints only plain numbers, so that no secret reaches the terminal.
"""

from __future__ import annotations

import base64
import importlib
import json
import re
import secrets
import sys
import tomllib
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeGuard

from channel_layer import ConfigError
from channel_layer.config import json_schema
from channel_layer.discovery import ADAPTERS, load_layer
from channel_layer_django import Finding, audit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import EntryPoint

    from channel_layer.config import CommonConfig

__all__ = ("CommandError", "check", "genkey", "layer_schema", "schema", "settings_schema")

_WRONG: Final = 1
"""Exit code: there are errors in the configuration."""

_SETTING: Final = "CHANNEL_LAYERS"
_FILES: Final = (".toml", ".json")
_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_KEY_BYTES: Final = 32
"""256 bits, what AES-256 takes."""


class CommandError(Exception):
    """A command cannot use its arguments; the message says why."""


# -- checking ------------------------------------------------------------------------------------------------


def check(source: str, layer: str | None, *, deploy: bool) -> int:
    """Check a configuration, print the findings, and return the exit code.

    Args:
        source: the dotted path of a Django settings module, or the path of a TOML or JSON file.
        layer: the name of the entry point of the layer whose CONFIG the file is; None: it holds CHANNEL_LAYERS.
        deploy: whether to warn also of what matters only in production.

    Raises:
        CommandError: the configuration cannot be read, or the layer does not exist.
    """
    path = Path(source)
    if path.suffix in _FILES:
        found = _read(path)
        if layer is not None:
            found = {_SETTING: {"default": {"BACKEND": _backend(layer), "CONFIG": found}}}
    elif layer is not None:
        raise CommandError("--layer is for a file: a settings module names the layers itself; remove the option")
    elif _DOTTED.fullmatch(source) and not path.is_file():
        found = _load(source)
    else:
        raise CommandError(f"{source} is neither a .toml or .json file nor the dotted path of a settings module")
    if _SETTING not in found:
        hint = "" if path.suffix not in _FILES else "; for the CONFIG of one layer, say --layer redis"
        findings = [Finding("error", "channel_layer.E001", _SETTING, f"is not there: nothing is configured{hint}")]
    else:
        findings = audit(found[_SETTING], deploy=deploy)
    return _report(findings, one_layer=layer is not None)


def _report(findings: Iterable[Finding], *, one_layer: bool) -> int:
    """Print the findings, one line each, and return the exit code.

    Args:
        findings: the findings.
        one_layer: whether the file is the CONFIG of one layer, so that paths begin at its options.
    """
    count = {"error": 0, "warning": 0, "skipped": 0}
    for finding in findings:
        count[finding.level] += 1
        path = _within(finding.path) if one_layer else finding.path
        ident = f" [{finding.id}]" if finding.id else ""
        print(f"{path}: {finding.level}: {' '.join(finding.problem.splitlines())}{ident}")
    errors, warnings = count["error"], count["warning"]
    print(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    return _WRONG if errors else 0


def _within(path: str) -> str:
    """Return the path of an option as it stands in the file of one layer: ``hosts[1].port``."""
    inner = re.sub(r'^CHANNEL_LAYERS\["default"\](\["CONFIG"\])?', "", path)
    return re.sub(r'^\["([^"]*)"\]', r"\1", inner) or "CONFIG"


def _load(module: str) -> Mapping[str, object]:
    """Import a settings module, with the working directory in the import path, as manage.py does."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return vars(importlib.import_module(module))
    except ModuleNotFoundError as exc:
        raise CommandError(f"{module} cannot be imported: {exc}") from None
    except ConfigError as exc:
        text = str(exc)  # our own error, which holds no secret
        raise CommandError(f"{module} cannot be imported: {text}") from None
    except Exception as exc:  # noqa: BLE001 - a settings module may raise anything
        where = [frame for frame in traceback.extract_tb(exc.__traceback__) if not frame.filename.startswith("<")][-1]
        # The text of any other error may hold a secret, as that of int("secret") does; a KeyError holds only a name.
        name = f" {exc}" if isinstance(exc, KeyError) else ""
        location = f"{where.filename}:{where.lineno}"
        raise CommandError(f"{module} cannot be imported: {type(exc).__name__}{name} at {location}") from None


def _read(path: Path) -> Mapping[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"{path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} cannot be read: it is not UTF-8") from None
    try:
        found: object = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text, object_pairs_hook=_once)
    except tomllib.TOMLDecodeError as exc:
        raise CommandError(f"{path} is no TOML: {exc}") from None
    except json.JSONDecodeError as exc:
        raise CommandError(f"{path} is no JSON: {exc}") from None
    if not _is_object(found):
        raise CommandError(f"{path} must hold an object, as in {{{_SETTING!r}: ...}}".replace("'", '"'))
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse a key that is given twice: the JSON parser would drop the first value silently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CommandError(f"the key {twice!r} is given twice in one object: remove one")
    return found


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _backend(name: str) -> str:
    point = _adapters().get(name)
    if point is None:
        raise CommandError(f"--layer: {name!r} is none of {', '.join(sorted(_adapters()))}")
    return f"{point.module}.{point.attr}"


# -- describing ----------------------------------------------------------------------------------------------


def schema(layer: str | None) -> None:
    """Print a JSON Schema.

    Args:
        layer: the name of the entry point of the layer whose CONFIG to describe; None: a file with CHANNEL_LAYERS.

    Raises:
        CommandError: see `layer_schema`.
    """
    made = settings_schema() if layer is None else layer_schema(layer)
    print(json.dumps(made, indent=2, ensure_ascii=False))


def layer_schema(name: str) -> dict[str, object]:
    """Return the schema of the CONFIG of a layer.

    Args:
        name: of its entry point.

    Raises:
        CommandError: the layer does not exist, its extra is missing, or it does not say what options it has.
    """
    _backend(name)
    model = _model(name)
    if model is None:
        raise CommandError(f"--layer: {name!r} does not say what options it has")
    return json_schema(model)


def settings_schema() -> dict[str, object]:
    """Return the schema of a file with ``CHANNEL_LAYERS``, for all installed layers that say what options they have."""
    layers: list[object] = []
    definitions: dict[str, object] = {}
    for name in sorted(_adapters()):
        try:
            model = _model(name)
        except CommandError:
            continue  # its extra is missing
        if model is None:
            continue
        described = json_schema(model)
        described.pop("$schema")
        definitions[name] = described
        config = {"$ref": f"#/$defs/{name}"}
        layers.append(
            {
                "type": "object",
                "properties": {"BACKEND": {"const": _backend(name)}, "CONFIG": config, "TEST_CONFIG": config},
                "required": ["BACKEND"],
                "additionalProperties": False,
            }
        )
    ours = [_backend(name) for name in definitions]
    others = {
        "type": "object",
        "properties": {"BACKEND": {"type": "string", "not": {"enum": ours}}},
        "required": ["BACKEND"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": _SETTING,
        "description": "Channel layers by alias, as `channel-layer check` reads them from a file.",
        "type": "object",
        "properties": {_SETTING: {"type": "object", "additionalProperties": {"anyOf": [*layers, others]}}},
        "required": [_SETTING],
        "$defs": definitions,
    }


def _adapters() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ADAPTERS)}


def _model(name: str) -> type[CommonConfig] | None:
    try:
        layer = load_layer(_adapters()[name])
    except ImportError as exc:
        raise CommandError(str(exc)) from None
    return None if layer is None else layer.config


# -- keys ----------------------------------------------------------------------------------------------------


def genkey() -> None:
    """Print a fresh key for symmetric_encryption_keys: 32 random bytes as URL-safe base64."""
    print(base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).decode())
