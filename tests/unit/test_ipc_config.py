"""The CONFIG of the IPC layer: its own options, each wrong in every way that a person might write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from channel_layer.config import parse
from channel_layer.errors import ConfigError
from channel_layer_ipc import IPCChannelLayer, _keys
from channel_layer_ipc.config import IPCConfig

MISTAKES: dict[str, tuple[dict[str, object], str, str]] = {
    "a directory of another type": ({"directory": 5}, "directory", "must be None or the absolute path of a directory"),
    "a directory as bytes": ({"directory": b"/run"}, "directory", "a str or a Path, not a bytes"),
    "a directory that depends on where one stands": (
        {"directory": "run/messages"},
        "directory",
        "processes that are started elsewhere have to find it, too",
    ),
    "a directory that cannot be one": ({"directory": "/run/\0"}, "directory", "must be None or the absolute path"),
    "memory of nothing": ({"memory": 0}, "memory", "4194304 (4 MiB) or more, not 0"),
    "memory with a unit": ({"memory": "100MB"}, "memory", "must be a whole number of bytes"),
    "memory of a fraction": ({"memory": 5e6}, "memory", "must be a whole number of bytes"),
    "memory below the least": ({"memory": (4 << 20) - 1}, "memory", "4194304 (4 MiB) or more, not 4194303"),
    "messages for which there is never room": (
        {"memory": 8 << 20, "max_message_size": 4 << 20},
        "max_message_size",
        "must be at most a quarter of memory, 2097152 bytes: lower it, or raise memory",
    ),
    "messages that the default does not fit": (
        {"memory": 8 << 20},
        "max_message_size",
        "must be at most a quarter of memory, 2097152 bytes",
    ),
    "a cipher without keys, beside its own options": (
        {"memory": 64 << 20, "encryption": "fernet"},
        "encryption",
        "there are no symmetric_encryption_keys",
    ),
    "servers": ({"hosts": ["redis://localhost"]}, "hosts", "unknown option; the options are prefix, expiry,"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_error_that_names_its_field_and_what_to_do(mistake: str) -> None:
    """Whatever is wrong is told once, with the option, what it takes, and what to do."""
    options, field, problem = MISTAKES[mistake]
    with pytest.raises(ConfigError) as caught:
        parse(IPCConfig, options)
    (error,) = caught.value.errors
    assert error.field == field
    assert problem in error.problem


@pytest.mark.parametrize("written", ["~/messages", Path("~/messages")])
def test_a_home_is_found(written: str | Path) -> None:
    """A tilde stands for the user's home, as in a shell."""
    assert parse(IPCConfig, {"directory": written}).directory == Path.home() / "messages"


def test_making_a_layer_touches_no_file(tmp_path: Path) -> None:
    """A constructor does no I/O: the directory comes with the first message."""
    IPCChannelLayer(directory=tmp_path / "worlds")
    assert not list(tmp_path.iterdir())


def test_no_two_kinds_of_records_share_a_letter() -> None:
    """A letter says what a record is: each kind has one of its own."""
    letters = [value for value in vars(_keys).values() if isinstance(value, bytes) and len(value) == 1]
    assert letters
    assert len(letters) == len(set(letters))
