"""Fixtures, profiles and guards for all tests.

The servers are real and shared by the whole run; the keys are a test's own, through the prefix it is given.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any, Final, TypeVar

import pytest
from asgiref.sync import SyncToAsync

from channel_layer.testing.profiles import load_profile
from channel_layer.testing.suites.tools import CheckingEventLoop
from tests.support import reaper
from tests.support.clusters import Cluster, StartCluster
from tests.support.leaks import Resources
from tests.support.sentinels import Service
from tests.support.servers import (
    Deployment,
    NoSuchServer,
    Server,
    ServerKind,
    ServerPool,
    SharedServers,
    StartServer,
    describe,
    fresh_prefix,
    preferred_kind,
)
from tests.support.systems import System

load_profile()

_T = TypeVar("_T")
_Servers = TypeVar("_Servers", bound=SharedServers)

_SERVER_FIXTURES: Final = frozenset(
    {"server", "one_host", "three_hosts", "deployment", "every_server", "tls_server", "start_server", "redis_system"}
    | {"cluster", "get_cluster", "start_cluster", "shared_service", "get_service"}
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


def pytest_collection_finish() -> None:
    """Exempt what is there before the first test from garbage collections: thousands of tests, and all modules.

    Only in a process of several: with the lowest releases, whose Hypothesis does not find its own objects then, there
    are few tests.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        gc.collect()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure, for `leaves_nothing`."""
    report = yield
    if not report.passed:
        item.stash[_FAILED] = True
    return report


# --- async tests --------------------------------------------------------------------------------------------


class _LoggingEventLoop(CheckingEventLoop):
    """An event loop that logs every error reported to it, as loops do by default.

    The pytest plugin of anyio installs an exception handler that raises the errors reported before the test returns
    and drops the later ones: those of tasks that fail while the loop closes, or that are collected afterwards.
    """

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.default_exception_handler(context)
        super().call_exception_handler(context)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run each async test in an event loop of its own, which closes before any fixture is torn down."""
    return "asyncio", {"loop_factory": _LoggingEventLoop}


# --- guards -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, server_pool: ServerPool) -> Generator[None]:
    """Fail a test that leaves a thread, a child process or an open socket.

    A test that fails anyway is exempt: its traceback still holds what it had open.
    """
    before = Resources.now()
    yield
    if not request.node.stash.get(_FAILED, default=False):
        left = before.left_since(allowed_processes=server_pool.pids())
        if left:
            pytest.fail("the test left behind: " + ", ".join(left), pytrace=False)


@pytest.fixture
def nothing_else_is_said(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Fail a test in which asyncio logs an error, or the layer logs a failure of its background work."""
    yield
    said = [record.getMessage() for record in caplog.get_records("call") if _is_complaint(record)]
    assert not said


def _is_complaint(record: logging.LogRecord) -> bool:
    return (record.name == "asyncio" and record.levelno >= logging.ERROR) or "please report" in record.getMessage()


@pytest.fixture
def tidied() -> Generator[None]:
    """Collect garbage before and after a test that makes tasks fail on purpose.

    asyncio logs the unretrieved errors of tasks when they are collected, with a traceback. In the middle of compiling
    other code that ends in a SystemError of Python 3.11 (gh-106905).
    """
    gc.collect()
    yield
    gc.collect()


# --- time ---------------------------------------------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every event loop connections of its own at once, so that requests pass through the loop of the test."""
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)


# --- servers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server_pool() -> Generator[ServerPool]:
    """The servers that all tests share; ask for one of the fixtures below instead."""
    # Both live as long as the run: started here, they are not taken for a leak of the first test that uses them.
    reaper.start()
    SyncToAsync.single_thread_executor.submit(int).result()
    pool = ServerPool()
    yield pool
    pool.stop()


@pytest.fixture
def prefix(server_pool: ServerPool) -> Generator[str]:
    """A key prefix of this test's own; its keys are deleted from the shared servers afterwards."""
    name = fresh_prefix()
    yield name
    server_pool.remove(name)


@pytest.fixture
def server(server_pool: ServerPool) -> Server:
    """The shared server of the preferred kind; to kill or pause one, use `start_server`."""
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
    """One host and three servers in turn; for three databases of one server, use `three_hosts`."""
    return _demand(lambda: _deployment(server_pool, request.param))


@pytest.fixture(params=ServerKind, ids=lambda kind: kind.value)
def every_server(server_pool: ServerPool, request: pytest.FixtureRequest) -> Server:
    """The shared server of every kind in turn, for features that have to work from the oldest to the newest."""
    kind: ServerKind = request.param
    return _demand(lambda: server_pool.get(kind), kind)


@pytest.fixture
def start_server() -> Generator[StartServer]:
    """A function that starts a server for this test alone, which may kill, pause or configure it."""
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


@pytest.fixture(scope="session")
def get_cluster(server_pool: ServerPool) -> Callable[[ServerKind], Cluster]:
    """A function that returns the Cluster of a kind that all tests share; `cluster` is for those that try each kind."""
    return _shared(server_pool, lambda kind: Cluster(kind, node_timeout=600_000))


@pytest.fixture(params=[ServerKind.VALKEY, ServerKind.REDIS], ids=lambda kind: kind.value)
def cluster(get_cluster: Callable[[ServerKind], Cluster], request: pytest.FixtureRequest) -> Cluster:
    """The shared Cluster of three primaries of each kind in turn; to move its slots, use `start_cluster`."""
    return get_cluster(request.param)


@pytest.fixture(scope="session")
def get_service(server_pool: ServerPool) -> Callable[[ServerKind], Service]:
    """A function that returns the Sentinel service of a kind that all tests share, as `get_cluster` does.

    Its sentinel does not take a server that a busy machine lets wait for a dead one.
    """
    return _shared(server_pool, lambda kind: Service(ExitStack(), kind, sentinels=1, down_after=600.0))


@pytest.fixture(params=[ServerKind.VALKEY, ServerKind.REDIS], ids=lambda kind: kind.value)
def shared_service(get_service: Callable[[ServerKind], Service], request: pytest.FixtureRequest) -> Service:
    """The shared Sentinel service of each kind in turn; to fail one over, make a `Service`."""
    return get_service(request.param)


@pytest.fixture
def start_cluster() -> Generator[StartCluster]:
    """A function that starts a Cluster for this test alone, which may move its slots and kill its nodes."""
    with ExitStack() as stack:

        def start(
            kind: ServerKind | None = None,
            *,
            primaries: int = 3,
            replicas: int = 0,
            node_timeout: int = 5000,
            arguments: tuple[str, ...] = (),
            tls: bool = False,
        ) -> Cluster:
            def make() -> Cluster:
                return Cluster(
                    kind,
                    primaries=primaries,
                    replicas=replicas,
                    node_timeout=node_timeout,
                    arguments=arguments,
                    tls=tls,
                )

            return stack.enter_context(_demand(make, kind))

        yield start


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


def _shared(pool: ServerPool, start: Callable[[ServerKind], _Servers]) -> Callable[[ServerKind], _Servers]:
    """Return a function that starts the servers of a kind when they are first asked for; the pool stops them."""

    @functools.cache
    def get(kind: ServerKind) -> _Servers:
        found = _demand(lambda: start(kind), kind)
        pool.add(found)
        return found

    return get


def _demand(get: Callable[[], _T], kind: ServerKind | None = None) -> _T:
    """Return the result of `get`; without the server it needs, skip the test, or fail it where servers are required."""
    try:
        return get()
    except NoSuchServer as error:
        missing = str(error)
    # Valkey comes with the development dependencies: without it no test of a server would run.
    required = os.environ.get("CHANNEL_LAYER_REQUIRE_SERVERS") == "1"
    if required or (kind or preferred_kind()) is ServerKind.VALKEY:
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)
