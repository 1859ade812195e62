"""Validators for the options of a CONFIG whose types do not say everything.

Each function takes a value as it was written and returns it as the model holds it; `channel_layer.config` passes them
to Pydantic. A wrong value is a `ValueError`; if it can be wrong in several places, a `ConfigError` that names them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Final, TypeGuard

from pydantic import SecretBytes, SecretStr

from channel_layer.domain.capacity import pattern_problem
from channel_layer.domain.rules import Faults
from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import Accepts, ChannelPattern, describe_unknown, describe_value

__all__ = (
    "BLIND_NAMES",
    "CAPACITIES",
    "CIPHERS",
    "COUNT",
    "ENCRYPTION",
    "FAULTS",
    "FAULTS_SCHEMA",
    "GENKEY",
    "check_prefix",
    "is_sequence",
    "read_blind_names",
    "read_channel_capacity",
    "read_cipher",
    "read_faults",
    "read_keys",
)

CIPHERS: Final = ("aes-256-gcm", "fernet")
"""The values of ``encryption`` that are always allowed, the default first; entry points of third parties add others."""

GENKEY: Final = "make one with: channel-layer genkey"

CAPACITIES: Final = Accepts('a mapping of patterns to capacities, as in {"http.*": 200}')
COUNT: Final = Accepts("a whole number, 1 or more")
FAULTS: Final = Accepts('None or a mapping of faults to how often they happen, as in {"refuse": 0.01, "delay": 0.2}')
BLIND_NAMES: Final = Accepts("True, False or a key")
ENCRYPTION: Final = Accepts('"aes-256-gcm" or "fernet"')

_FAULT_LIMITS = {"refuse": 1.0, "lose_reply": 1.0, "disconnect": 1.0, "delay": 60.0}
"""The maximum of each fault: a share of all commands, or seconds."""

FAULTS_SCHEMA: Final[dict[str, object]] = {
    "anyOf": [
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "seed": {"type": "integer"},
                **{name: {"type": "number", "minimum": 0, "maximum": most} for name, most in _FAULT_LIMITS.items()},
            },
        },
        {"type": "null"},
    ]
}


def check_prefix(value: str) -> str:
    """Return a valid ``prefix``: without braces and lone surrogates."""
    braces = [character for character in "{}" if character in value]
    if braces:
        raise ValueError(
            f"must be a str without braces, and this has {' and '.join(map(repr, braces))}: "
            "in a key, braces mark the part that Redis Cluster hashes"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must be valid Unicode, and this has a lone surrogate")
    return value


def _pattern_problem(pattern: object) -> str | None:
    """Return what is wrong with a key of ``channel_capacity``; None if it is valid."""
    if _is_regex(pattern):
        if isinstance(pattern.pattern, bytes):
            return 'this regular expression is for bytes and names are str: write re.compile(r"...")'
        return None
    if not isinstance(pattern, str):
        return f"a pattern must be a str or an re.Pattern, not {describe_value(pattern)}"
    return pattern_problem(pattern)


def read_channel_capacity(value: object) -> Mapping[ChannelPattern, int]:
    """Read ``channel_capacity``: patterns and capacities, in the order in which they were written."""
    if not _is_mapping(value):
        raise ValueError(CAPACITIES.problem(value))
    errors: list[FieldError] = []
    capacities: dict[ChannelPattern, int] = {}
    for pattern, capacity in value.items():
        shown = json.dumps(pattern, ensure_ascii=False) if isinstance(pattern, str) else f"{pattern!r:.80}"
        problems = [_pattern_problem(pattern)]
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            problems.append(COUNT.problem(capacity))
        elif isinstance(pattern, (str, re.Pattern)):
            capacities[pattern] = capacity
        errors += [FieldError(f"channel_capacity[{shown}]", problem) for problem in problems if problem]
    if errors:
        raise ConfigError(errors)
    return MappingProxyType(capacities)


def _secret(key: object) -> bytes | str:
    """Return the bytes of a key, or a str that says what is wrong with it."""
    if isinstance(key, (SecretStr, SecretBytes)):
        key = key.get_secret_value()
    if isinstance(key, str):
        try:
            key = key.encode()
        except UnicodeEncodeError:
            return "must be valid Unicode, and this has a lone surrogate"
    if not isinstance(key, bytes):
        return f"must be a str or bytes, not of type {type(key).__name__}"  # the value may be a secret
    return key or f"is empty: {GENKEY}"


def read_keys(value: object) -> tuple[SecretBytes, ...]:
    """Read ``symmetric_encryption_keys``: a list of keys. No error repeats a key."""
    if isinstance(value, (str, bytes, SecretStr, SecretBytes)):
        problem = "must be a list of keys, as in symmetric_encryption_keys=[KEY], not a single one"
        raise ValueError(problem)  # noqa: TRY004 - Pydantic reports only a ValueError
    if not is_sequence(value):
        raise ValueError(f"must be a list of keys, not of type {type(value).__name__}")
    errors: list[FieldError] = []
    keys: dict[bytes, int] = {}
    for place, each in enumerate(value):
        where = f"symmetric_encryption_keys[{place}]"
        key = _secret(each)
        if isinstance(key, str):
            errors.append(FieldError(where, key))
        elif key in keys:
            errors.append(FieldError(where, f"is the same key as symmetric_encryption_keys[{keys[key]}]: remove one"))
        else:
            keys[key] = place
    if errors:
        raise ConfigError(errors)
    return tuple(map(SecretBytes, keys))


def read_cipher(value: object) -> str:
    """Read ``encryption``: the name of a cipher that is installed."""
    if not isinstance(value, str):
        raise ValueError(ENCRYPTION.problem(value))  # noqa: TRY004 - Pydantic reports only a ValueError
    if value not in CIPHERS and value not in (names := entry_points(group="channel_layer.ciphers").names):
        raise ValueError(f"there is no such cipher; there are {', '.join(sorted({*CIPHERS, *names}))}")
    return value


def read_blind_names(value: object) -> bool | SecretBytes:
    """Read ``blind_names``: a switch, or the key that names are blinded with."""
    if isinstance(value, bool):
        return value
    key = _secret(value)
    if isinstance(key, bytes):
        return SecretBytes(key)
    if isinstance(value, (str, bytes, SecretStr, SecretBytes)):
        raise ValueError(f"this key {key}")  # noqa: TRY004 - Pydantic reports only a ValueError
    raise ValueError(f"must be {BLIND_NAMES.text}, not of type {type(value).__name__}")


def read_faults(value: object) -> Faults | None:
    """Read ``faults``: None, or how often each fault happens."""
    if value is None or isinstance(value, Faults):
        return value
    if not _is_mapping(value):
        raise ValueError(FAULTS.problem(value))
    errors: list[FieldError] = []
    found: dict[str, float] = {}
    seed = 0
    for name, amount in value.items():
        where = f"faults[{json.dumps(name) if isinstance(name, str) else f'{name!r:.80}'}]"
        number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
        if name == "seed":
            if isinstance(amount, int) and number:
                seed = amount
            else:
                errors.append(FieldError(where, Accepts("a whole number").problem(amount)))
        elif not isinstance(name, str) or name not in _FAULT_LIMITS:
            errors.append(FieldError(where, describe_unknown(str(name), (*_FAULT_LIMITS, "seed"))))
        elif isinstance(amount, (int, float)) and number and 0 <= amount <= _FAULT_LIMITS[name]:
            found[name] = float(amount)
        else:
            errors.append(FieldError(where, Accepts(f"a number from 0 to {_FAULT_LIMITS[name]:g}").problem(amount)))
    if errors:
        raise ConfigError(errors)
    refuse, lose_reply, disconnect, delay = (found.get(name, 0.0) for name in _FAULT_LIMITS)
    return Faults(refuse, lose_reply, disconnect, delay, seed)


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_regex(value: object) -> TypeGuard[re.Pattern[str] | re.Pattern[bytes]]:
    return isinstance(value, re.Pattern)


def is_sequence(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    """Whether *value* is a list or a tuple."""
    return isinstance(value, (list, tuple))
