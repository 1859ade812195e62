"""Fixtures, profiles and guards for all tests.

The servers are real and shared by the whole run; the keys are a test's own, through the prefix it is given.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Final, TypeVar

import pytest
from asgiref.sync import SyncToAsync

from channel_layer.testing.profiles import load_profile
from tests.support import reaper
from tests.support.leaks import Resources
from tests.support.servers import (
    Deployment,
    NoSuchServer,
    Server,
    ServerKind,
    ServerPool,
    StartServer,
    describe,
    fresh_prefix,
    preferred_kind,
)
from tests.support.systems import System

load_profile()

_T = TypeVar("_T")

_SERVER_FIXTURES: Final = frozenset(
    {"server", "one_host", "three_hosts", "deployment", "every_server", "tls_server", "start_server", "redis_system"}
)

_FAILED: Final = pytest.StashKey[bool]()


def pytest_report_header() -> str:
    """Say on which servers this run can test."""
    return f"servers: {describe()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that asks for a server with `redis`, so that `-m "not redis"` runs without any."""
    for item in items:
        if isinstance(item, pytest.Function) and not _SERVER_FIXTURES.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.redis)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure, for the guard."""
    report = yield
    if not report.passed:
        item.stash[_FAILED] = True
    return report


# --- guards -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, server_pool: ServerPool) -> Generator[None]:
    """Fail a test that leaves a thread, a child process or an open socket.

    One that fails anyway is let off: its traceback still holds what it had open.
    """
    before = Resources.now()
    yield
    if not request.node.stash.get(_FAILED, default=False):
        left = before.left_since(allowed_processes=server_pool.pids())
        if left:
            pytest.fail("the test left behind: " + ", ".join(left), pytrace=False)


@pytest.fixture
def nothing_else_is_said(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Fail a test in which asyncio complains, or background work has failed."""
    yield
    said = [record.getMessage() for record in caplog.get_records("call") if _is_complaint(record)]
    assert not said


def _is_complaint(record: logging.LogRecord) -> bool:
    return (record.name == "asyncio" and record.levelno >= logging.ERROR) or "please report" in record.getMessage()


@pytest.fixture
def tidied() -> Generator[None]:
    """Collect at once what a test leaves that made something fail on purpose.

    asyncio complains of tasks that failed unseen when they are collected, with a traceback; and that in the middle of
    compiling something else ends in a SystemError of Python 3.11 (gh-106905).
    """
    gc.collect()
    yield
    gc.collect()


# --- time ---------------------------------------------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every loop have connections of its own at once: requests pass through the test's loop, where gates stand."""
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)


# --- servers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server_pool() -> Generator[ServerPool]:
    """The servers that all tests share; ask for one of the fixtures below instead."""
    # Both live as long as the run. Started here, no test is suspected of having left them.
    reaper.start()
    SyncToAsync.single_thread_executor.submit(int).result()
    pool = ServerPool()
    yield pool
    pool.stop()


@pytest.fixture
def prefix(server_pool: ServerPool) -> Generator[str]:
    """A key prefix of this test's own; what has it is deleted from the shared servers afterwards."""
    name = fresh_prefix()
    yield name
    server_pool.remove(name)


@pytest.fixture
def server(server_pool: ServerPool) -> Server:
    """The shared server of the preferred kind. Not to be killed or paused: `start_server` gives such."""
    return _demand(server_pool.get)


@pytest.fixture
def one_host(server_pool: ServerPool) -> Deployment:
    """One host."""
    return _demand(lambda: _deployment(server_pool, "one-host"))


@pytest.fixture(params=["three-databases", "three-servers"])
def three_hosts(server_pool: ServerPool, request: pytest.FixtureRequest) -> Deployment:
    """Three hosts: once three databases of one server, once three servers."""
    return _demand(lambda: _deployment(server_pool, request.param))


@pytest.fixture(params=["one-host", "three-servers"])
def deployment(server_pool: ServerPool, request: pytest.FixtureRequest) -> Deployment:
    """One host and three servers in turn; three databases of one server are for who asks for them."""
    return _demand(lambda: _deployment(server_pool, request.param))


@pytest.fixture(params=ServerKind, ids=lambda kind: kind.value)
def every_server(server_pool: ServerPool, request: pytest.FixtureRequest) -> Server:
    """The shared server of every kind in turn, for what has to work from the oldest to the newest."""
    kind: ServerKind = request.param
    return _demand(lambda: server_pool.get(kind), kind)


@pytest.fixture
def start_server() -> Generator[StartServer]:
    """A function that starts a server for this test alone, to be killed, paused or configured as it likes."""
    with ExitStack() as stack:

        def start(
            kind: ServerKind | None = None,
            *,
            tls: bool = False,
            password: str | None = None,
            arguments: tuple[str, ...] = (),
        ) -> Server:
            server = _demand(lambda: Server(kind, tls=tls, password=password, arguments=arguments), kind)
            return stack.enter_context(server)

        yield start


@pytest.fixture
def tls_server(start_server: StartServer) -> Server:
    """A server for this test alone that listens with TLS too (`server.tls`)."""
    return start_server(ServerKind.REDIS, tls=True)


@pytest.fixture(params=["memory", "one-host", "three-servers"])
def system(server_pool: ServerPool, prefix: str, request: pytest.FixtureRequest) -> System:
    """Every kind of store in turn, to make any number of layers over it."""
    name: str = request.param
    return System(None if name == "memory" else _demand(lambda: _deployment(server_pool, name)), prefix)


@pytest.fixture(params=["one-host", "three-servers"])
def redis_system(server_pool: ServerPool, prefix: str, request: pytest.FixtureRequest) -> System:
    """One host and three servers in turn, to make any number of layers over them."""
    name: str = request.param
    return System(_demand(lambda: _deployment(server_pool, name)), prefix)


@pytest.fixture(params=["settled", "young"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Event loops get connections of their own at once ("settled"), or go through the I/O thread ("young")."""
    kind: str = request.param
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0 if kind == "settled" else 3600.0)
    return kind


def _deployment(pool: ServerPool, name: str) -> Deployment:
    if name == "three-servers":
        return Deployment(tuple(pool.get(number=number).host() for number in range(3)))
    return Deployment(tuple(pool.get().host(db) for db in range(1 if name == "one-host" else 3)))


def _demand(get: Callable[[], _T], kind: ServerKind | None = None) -> _T:
    """Do `get`; without the server it needs, skip the test, or fail it where servers must be."""
    try:
        return get()
    except NoSuchServer as error:
        missing = str(error)
    # Valkey comes with the development dependencies: without it nothing would be tested at all.
    required = os.environ.get("CHANNEL_LAYER_REQUIRE_SERVERS") == "1"
    if required or (kind or preferred_kind()) is ServerKind.VALKEY:
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)
