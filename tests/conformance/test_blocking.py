"""The blocking stores and the blocking facade through the extension kit: both machines, and the suite for stores."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from channel_layer.ports import Backend
from channel_layer.stores.simple import SimpleBackend
from channel_layer.testing import MakeStore, blocking_layers, blocking_stores, run_layer_conformance_test
from channel_layer.testing.store_conformance import run_async_conformance_test
from channel_layer.testing.suites import StoreSuite
from tests.conformance.test_kit_stores import within
from tests.conformance.test_suites import plain_stores
from tests.support.servers import Deployment
from tests.support.stores import IPCWorlds, blind_stores, halves, memory_stores, redis_stores

pytestmark = pytest.mark.usefixtures("tidied")


def few(divisor: int) -> settings:
    """Return fewer examples than the profile has: what is judged is the way there, not the whole again."""
    most = max(15, settings().max_examples // divisor)
    return settings(max_examples=most, stateful_step_count=30, deadline=None)


@pytest.fixture
def worlds(tmp_path: Path) -> Generator[IPCWorlds]:
    """A directory of this test's own, and stores in it."""
    found = IPCWorlds(tmp_path / "worlds")
    yield found
    found.close()


# -- stores ------------------------------------------------------------------------------------------------------


def test_memory_is_right_from_threads() -> None:
    """The memory store answers a thread as the contract says."""
    run_async_conformance_test(blocking_stores(memory_stores()))


def test_redis_is_right_from_threads(deployment: Deployment, prefix: str) -> None:
    """So does the Redis store, on one host and on three."""
    run_async_conformance_test(blocking_stores(within(prefix, redis_stores(deployment))))


def test_ipc_is_right_from_threads(worlds: IPCWorlds) -> None:
    """So does the IPC store."""
    run_async_conformance_test(blocking_stores(worlds))


def test_a_simple_store_is_right_from_threads() -> None:
    """So does one that a simple store was completed to."""
    run_async_conformance_test(blocking_stores(plain_stores()), capabilities=SimpleBackend.capabilities)


def test_tokens_for_names_are_right_from_threads(one_host: Deployment, prefix: str) -> None:
    """So does a store that gets to see tokens for names."""
    run_async_conformance_test(blocking_stores(blind_stores(memory_stores())))
    run_async_conformance_test(blocking_stores(within(prefix, blind_stores(redis_stores(one_host)))))


class TestBlockingMemory(StoreSuite):
    """Wake-ups, cancellation at every step and threads, by the blocking memory store."""

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Stores inside this process."""
        return blocking_stores(memory_stores())


class TestBlockingRedis(StoreSuite):
    """The same by the blocking Redis store."""

    reconnects = True

    @pytest.fixture
    def make_store(self, deployment: Deployment, prefix: str) -> MakeStore:
        """Stores on servers."""
        self.deployment = deployment
        return blocking_stores(within(prefix, redis_stores(deployment)))

    def disconnect(self, backend: Backend) -> None:
        """Let the servers close every connection but the one that asks for it."""
        for server in self.deployment.servers:
            if any(f":{server.port}/" in identity for identity in backend.identities):
                server.host().command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class TestBlockingIPC(StoreSuite):
    """The same by the blocking IPC store."""

    @pytest.fixture
    def make_store(self, worlds: IPCWorlds) -> MakeStore:
        """Stores in a directory of this test's own."""
        return blocking_stores(worlds)


class TestBlockingSimple(StoreSuite):
    """The same by a simple store, completed for threads."""

    capabilities = SimpleBackend.capabilities

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Stores that lack what can be lacked."""
        return blocking_stores(plain_stores())


# -- layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixed", [False, True], ids=["blocking", "mixed"])
def test_the_facade_keeps_every_promise_in_memory(*, mixed: bool) -> None:
    """Layers whose calls are made by their blocking facades do what the specification says; so do mixed ones."""
    run_layer_conformance_test(blocking_layers(memory_stores(), mixed=mixed), settings=few(3))


@pytest.mark.parametrize("mixed", [False, True], ids=["blocking", "mixed"])
def test_the_facade_keeps_every_promise_on_servers(deployment: Deployment, prefix: str, *, mixed: bool) -> None:
    """The same over servers."""
    run_layer_conformance_test(blocking_layers(within(prefix, redis_stores(deployment)), mixed=mixed), settings=few(5))


@pytest.mark.parametrize("mixed", [False, True], ids=["blocking", "mixed"])
def test_the_facade_keeps_every_promise_between_processes(worlds: IPCWorlds, *, mixed: bool) -> None:
    """The same over the IPC store."""
    run_layer_conformance_test(blocking_layers(worlds, mixed=mixed), settings=few(5))


def test_the_facade_keeps_every_promise_over_two_halves(worlds: IPCWorlds) -> None:
    """The same over a store of this machine and one that all machines see, whose waits are one."""
    both = halves(worlds, memory_stores())
    run_async_conformance_test(blocking_stores(both), settings=few(3))
    run_layer_conformance_test(blocking_layers(both), settings=few(5))
