"""Every public name is in ``__all__``, and every name in ``__all__`` exists."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests.packaging.support import PACKAGES

_PUBLIC = {
    "channel_layer": {
        "BlockingChannelLayer",
        "Channel",
        "ChannelFull",
        "ChannelLayer",
        "ChannelLayerError",
        "ConfigError",
        "ConfigWarning",
        "Counts",
        "DamagedRecord",
        "FieldError",
        "Group",
        "InvalidFields",
        "InvalidMessage",
        "InvalidName",
        "Message",
        "MessageTooLarge",
        "NoLocalReader",
        "PatchedThreadsError",
        "Statistics",
        "StoreError",
        "Subscription",
        "SubscriptionError",
        "Value",
        "__version__",
        "config_from_url",
        "from_url",
    },
    "channel_layer_bench": set[str](),
    "channel_layer_cli": {"main"},
    "channel_layer_crypto": {"AesSealer", "FernetSealer", "SivBlinder"},
    "channel_layer_django": {
        "ChannelLayersSetting",
        "Finding",
        "IPCLayerSetting",
        "MemoryLayerSetting",
        "RedisLayerSetting",
        "RedisLocalLayerSetting",
        "audit",
    },
    "channel_layer_ipc": {"IPCBackend", "IPCChannelLayer", "IPCConfigDict", "reset"},
    "channel_layer_memory": {"MemoryBackend", "MemoryChannelLayer", "MemoryConfigDict"},
    "channel_layer_redis": {
        "HostOption",
        "LocalDict",
        "RedisChannelLayer",
        "RedisConfigDict",
        "RedisLocalChannelLayer",
        "RedisLocalConfigDict",
    },
}


def _modules() -> dict[str, Path]:
    """Return the public modules, name -> file: no part of the name has a leading underscore."""
    found = {
        ".".join([name, *file.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): file
        for name, folder in PACKAGES.items()
        for file in sorted(folder.rglob("*.py"))
    }
    return {name: file for name, file in found.items() if not any(part.startswith("_") for part in name.split("."))}


def _defined(module: str, file: Path) -> set[str]:
    """Return the public names that *module* defines, or that a package imports from its own modules."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec" | "TypeVarTuple"))):
                pass  # type variables are needed only in annotations of this module
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(module=str(source), names=aliases) if file.name == "__init__.py":
                if source.startswith(f"{module}."):
                    names.update(alias.asname or alias.name for alias in aliases)
            case _:
                pass
    return {name for name in names if not name.startswith("_")}


def _listed(module: str) -> tuple[str, ...]:
    """Return the ``__all__`` of *module*, which must be a tuple of strings and no other sequence."""
    return TypeAdapter(tuple[str, ...]).validate_python(importlib.import_module(module).__all__, strict=True)


@pytest.mark.parametrize("name", _modules())
def test_all_is_complete(name: str) -> None:
    """``__all__`` is a tuple with each public name that the module defines, and each name in it exists."""
    listed = _listed(name)
    assert len(set(listed)) == len(listed)
    assert _defined(name, _modules()[name]) - set(listed) == set()
    assert [each for each in listed if not hasattr(importlib.import_module(name), each)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_surface_is_the_documented_one(package: str) -> None:
    """The public names of a package are those listed in this module: to remove one breaks its users."""
    assert set(_listed(package)) == _PUBLIC[package]
