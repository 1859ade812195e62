"""Fixtures for tests of layers and stores: a real server, a prefix of the test's own, a clock that is moved.

Loaded only by who asks for it, with ``pytest_plugins = ["channel_layer.testing.plugin"]`` in the topmost
``conftest.py`` or ``-p channel_layer.testing.plugin``: installing the library changes no test run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from channel_layer.testing.factories import VirtualClock, fresh_prefix
from channel_layer.testing.servers import NoSuchServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ("layer_prefix", "redis_server", "virtual_clock")


@pytest.fixture(scope="session")
def redis_server() -> Generator[RedisServer]:
    """A server for the whole run, on a free port of 127.0.0.1; without an installed one the test fails and says so."""
    try:
        server = RedisServer()
    except NoSuchServer as error:
        pytest.fail(str(error), pytrace=False)
    with server:
        yield server


@pytest.fixture
def layer_prefix() -> str:
    """A prefix that no other test uses."""
    return fresh_prefix()


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock that the test moves."""
    return VirtualClock()
