"""What the user of a Redis layer may do: the rights on the page are enough, each is needed, and each is named."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import time
from collections.abc import Awaitable, Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from channel_layer import ChannelFull, ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.config import parse
from channel_layer.domain.names import ChannelName, GroupName, Queue
from channel_layer.domain.rules import Rules
from channel_layer.ports import Backend, Clock
from channel_layer.testing import MakeLayer, MakeStore, VirtualClock, layers_over, make_rules
from channel_layer.testing.suites import LayerSuite, StoreSuite
from channel_layer.testing.suites.tools import receive_or_none
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis._scripts import load
from channel_layer_redis._store import RedisBackend
from channel_layer_redis.config import RedisConfig
from tests.integration.test_server_restart import until
from tests.support.fake_server import redis_proxy
from tests.support.scenarios_everything import use_everything
from tests.support.servers import Server, ServerKind, ServerPool, StartServer

_PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "restrict-a-redis-user.md"

_PATIENCE: Final = 20.0


def _rules() -> tuple[list[str], list[str]]:
    """Return the words after ``ACL SETUSER channel-layer`` on the page: the fewest rights, and those that are added."""
    commands = re.findall(
        r"^redis-cli ACL SETUSER channel-layer (.*?[^\\])$", _PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    least, more = (shlex.split(command.replace("\\\n", "")) for command in commands)
    return least, more


LEAST, MORE = _rules()
RIGHTS: Final = [word for word in LEAST if word.startswith("+")]


def _restrict(server: Server, prefix: str, *, without: str = "", more: bool = False) -> str:
    """Make the user of the page; return the URL of the server for it."""
    rules = [word.replace("asgi:", prefix) for word in LEAST if word != without]
    server.host().command("ACL", "SETUSER", "channel-layer", *rules, *(MORE if more else []))
    return f"redis://channel-layer:change-me@127.0.0.1:{server.port}/0"


# -- the suites ----------------------------------------------------------------------------------------------


@pytest.fixture
def restricted(server_pool: ServerPool, server: Server) -> Generator[MakeStore]:
    """A factory of stores whose user has the fewest rights, and no right to what other tests keep."""
    prefixes: set[str] = set()

    def make_store(rules: Rules, clock: Clock) -> Backend:
        if rules.prefix not in prefixes:
            prefixes.add(rules.prefix)
            patterns = ["~" + re.sub(r"[^\w:]", "?", prefix) + "*" for prefix in prefixes]
            words = [word for word in LEAST if not word.startswith("~")]
            server.host().command("ACL", "SETUSER", "channel-layer", *words, *patterns)
        url = f"redis://channel-layer:change-me@127.0.0.1:{server.port}/0"
        return RedisBackend(parse(RedisConfig, {"hosts": [url]}).servers, rules, clock)

    yield make_store
    server.host().command("ACL", "DELUSER", "channel-layer")
    for prefix in prefixes:
        server_pool.remove(prefix)


class TestRestrictedStore(StoreSuite):
    """The store of a user with the fewest rights."""

    counts_remains = True

    @pytest.fixture
    def make_store(self, restricted: MakeStore, server: Server) -> MakeStore:
        """Stores on one server."""
        self.server = server
        return restricted

    def remains(self, prefix: str) -> int:
        """Count keys."""
        return len(self.server.keys(prefix))


class TestRestrictedLayer(LayerSuite):
    """The layer of a user with the fewest rights."""

    @pytest.fixture
    def make_layer(self, restricted: MakeStore, monkeypatch: pytest.MonkeyPatch) -> MakeLayer:
        """Layers on one server."""
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)
        return layers_over(restricted)


# -- each right ----------------------------------------------------------------------------------------------


async def _nothing(_: str) -> None:
    pass


def _calls(one: ChannelLayer, two: ChannelLayer, name: str) -> Iterator[Awaitable[object]]:
    """Yield calls that need every right, one after the other."""
    thread = two.blocking
    for channel in ("jobs", "reply?x", "daemon!x", name):
        for _ in range(3):
            yield two.send(channel, {"n": 1})
        for member_of in ("group", "others"):
            yield two.group_add(member_of, channel)
            yield one.group_add(member_of, channel)
        yield two.statistics(channel)
    yield one.group_add("own", name)
    for group in ("group", "own"):
        yield two.group_send(group, {"n": 2})
        yield two.group_channels(group)
    for channel in ("jobs", "reply?x", "daemon!x", name):
        yield receive_or_none(one, channel, 1)
        yield two.group_discard("group", channel)
    yield receive_or_none(one, "waits", 0.01)
    yield receive_or_none(one, name, 0.01)
    yield one.run_maintenance()
    yield asyncio.to_thread(thread.receive, ["never", "ever"], True, block_timeout=0.05)
    yield asyncio.to_thread(thread.group_send, "others", {"n": 3})
    yield two.statistics()
    yield asyncio.wait_for(two.flush(), 1)  # the owner may not be able to confirm it


def _do_what_is_rare(url: str, prefix: str) -> None:
    """Return a message; lease an inbox of a server that came back older; send to a group whose owner is dead."""
    backend = RedisBackend(parse(RedisConfig, {"hosts": [url]}).servers, make_rules(prefix=prefix), VirtualClock())
    with contextlib.closing(backend.open_blocking()) as store:
        store.execute(c.PutBack(0, Queue.named("jobs"), (c.Entry(time.time(), b""),)))
        older, later = Queue.named("older!"), f"{time.time() * 1000 + 60_000:.0f}"
        for position in ("", f"{later}-0"):
            store.execute(c.AcquireLease(0, older, "g", position, ()))
        store.execute(c.RenewLease(0, older, f"{later}-1", 0, ()))
        group, gone = GroupName("gone"), ChannelName.parse("gone!x")
        store.execute(c.Join(0, group, gone, owned=True, age=0.0, restore=False, mark=False))
        store.execute(c.Publish(0, group, b"", at_once=True))


async def _problems(url: str, prefix: str) -> list[StoreError]:
    """Return the errors that come of using everything."""
    problems: list[StoreError] = []
    async with (
        RedisChannelLayer(hosts=[url], prefix=prefix, capacity=2, timeout=2) as one,
        RedisChannelLayer(hosts=[url], prefix=prefix, capacity=2, timeout=2) as two,
    ):
        name = "own!x"
        try:
            name = await one.new_channel()
        except StoreError as exc:
            problems.append(exc)
        for call in (*_calls(one, two, name), asyncio.to_thread(_do_what_is_rare, url, prefix)):
            with contextlib.suppress(ChannelFull, TimeoutError):
                try:
                    await asyncio.wait_for(call, _PATIENCE)
                except StoreError as exc:
                    problems.append(exc)
    return problems


@pytest.mark.parametrize("more", [False, True], ids=["fewest", "all of the page"])
async def test_the_rights_of_the_page_are_enough(every_server: Server, prefix: str, *, more: bool) -> None:
    """With the fewest rights, and with all that the page names, every call works on every kind of server."""
    url = _restrict(every_server, prefix, more=more)
    async with (
        RedisChannelLayer(hosts=[url], prefix=prefix, capacity=3) as owner,
        RedisChannelLayer(hosts=[url], prefix=prefix, capacity=3) as other,
    ):
        waiting = await use_everything(owner, other, _nothing)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert not await _problems(url, f"{prefix}more:")


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("right", RIGHTS)
async def test_each_right_is_needed_and_named(server: Server, prefix: str, right: str) -> None:
    """Without one right of the page a call fails for good, with an error that says which right to give."""
    server.host().command("SCRIPT", "FLUSH")
    problems = await _problems(_restrict(server, prefix, without=right), prefix)
    command = right.partition("|")[0]
    named = [problem for problem in problems if f"give the user {command}" in str(problem)]
    assert named, problems
    assert not any(problem.retryable for problem in named)


@pytest.mark.parametrize("right", ["+eval", "+blpop", "+rpush", "+hget", "+zadd"])
async def test_every_server_s_refusals_name_the_right(every_server: Server, prefix: str, right: str) -> None:
    """Servers say in different ways which right is missing, and some not at all if a script has called the command."""
    every_server.host().command("SCRIPT", "FLUSH")
    problems = await _problems(_restrict(every_server, prefix, without=right), prefix)
    assert any(f"give the user {right} " in str(problem) for problem in problems), problems


async def test_missing_keys_are_named(every_server: Server, prefix: str) -> None:
    """A user who may not reach the keys of the prefix is told which pattern to give."""
    url = _restrict(every_server, "another:")
    for problem in await _problems(url, prefix):
        assert f"give the user ~{prefix}*" in str(problem)
        assert not problem.retryable


async def test_a_database_that_the_user_may_not_select_is_not_left_for_another(
    every_server: Server, prefix: str
) -> None:
    """Without the right to SELECT nothing is written into database 0 instead."""
    url = _restrict(every_server, prefix).removesuffix("0") + "3"
    async with RedisChannelLayer(hosts=[url], prefix=prefix) as layer:
        for send in (layer.send("jobs", {}), asyncio.to_thread(layer.blocking.send, "jobs", {})):
            with pytest.raises(StoreError, match=r"give the user \+select") as caught:
                await send
            assert not caught.value.retryable
    assert not every_server.keys(prefix)


# -- commands that are not needed ----------------------------------------------------------------------------


@pytest.fixture(params=ServerKind, ids=lambda kind: kind.value)
def renaming(start_server: StartServer, request: pytest.FixtureRequest) -> Server:
    """A server of each kind that has renamed the commands which a provider may rename."""
    words = [
        word
        for name in ("INFO", "CLIENT", "SCRIPT", "CONFIG")
        for word in ("--rename-command", name, f"renamed-{name}")
    ]
    return start_server(request.param, arguments=tuple(words))


@pytest.mark.usefixtures("loops")
async def test_renamed_commands_are_no_obstacle(renaming: Server, prefix: str) -> None:
    """Without INFO, CLIENT, SCRIPT and CONFIG every call works, and a wait that is ended loses no message."""
    url = renaming.url
    async with (
        RedisChannelLayer(hosts=[url], prefix=prefix, capacity=3) as owner,
        RedisChannelLayer(hosts=[url], prefix=prefix, capacity=3) as other,
    ):
        waiting = await use_everything(owner, other, _nothing)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        names = ("push_queue", "push_inbox", "publish", "deliver", "join", "leave")
        assert renaming.host().command("renamed-SCRIPT", "EXISTS", *(load(name).sha for name in names)) == [1] * len(
            names
        )


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_a_signal_that_comes_when_a_wait_cannot_be_ended_is_passed_on(
    server: Server, prefix: str, *, blocks: bool
) -> None:
    """A message comes at the moment when a receiver that leaves may not use CLIENT UNBLOCK: another one gets it."""
    both_wait, sent = asyncio.Event(), asyncio.Event()

    async def answer(command: list[bytes]) -> bytes | None:
        if command[:2] != [b"CLIENT", b"UNBLOCK"] or not both_wait.is_set():
            return None
        if not sent.is_set():
            sent.set()
            await sender.send("jobs", {"n": 1})  # it calls the one that has waited for longest, which leaves
        return b"-NOPERM this user has no permissions to run the 'client|unblock' command\r\n"

    async with (
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as sender,
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as staying,
        redis_proxy(lambda: server.port, answer) as port,
        RedisChannelLayer(hosts=[f"redis://127.0.0.1:{port}/0"], prefix=prefix, timeout=120) as leaving,
    ):
        own = await leaving.new_channel()
        both = [own.partition("!")[0] + "!", "jobs"]  # the first is looked at first

        async def leave() -> object:
            if blocks:
                return await asyncio.to_thread(leaving.blocking.receive, both, True, block_timeout=120)
            return await leaving.receive("jobs")

        leaves = asyncio.create_task(leave())
        await until(lambda: waiting(server, 1), _PATIENCE)
        stays = asyncio.create_task(staying.receive("jobs"))
        await until(lambda: waiting(server, 2), _PATIENCE)
        both_wait.set()
        if blocks:
            await sender.send(own, {"n": 2})
            assert await asyncio.wait_for(leaves, _PATIENCE) == (own, {"n": 2})
        else:
            leaves.cancel()
        assert await asyncio.wait_for(stays, _PATIENCE / 2) == {"n": 1}  # without a signal it looks after 20 s
        assert sent.is_set()


async def waiting(server: Server, count: int) -> bool:
    """Whether so many connections wait for a queue."""
    clients = await asyncio.to_thread(server.host().clients)
    return sum(client["cmd"] == "blpop" and "b" in client["flags"] for client in clients) == count
