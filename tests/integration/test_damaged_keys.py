"""Keys under our prefix that hold what another program has put there: only their own queue or group is affected."""

# pyright: reportPrivateUsage=false
# Planting keys needs the name of the owner's inbox.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, TypeAlias

import pytest

from channel_layer import ChannelLayer, ChannelLayerError, DamagedRecord
from channel_layer.domain.names import ChannelName
from channel_layer.testing.suites.tools import receive_or_none
from tests.support.scenarios_delivery import BOUND, eventually
from tests.support.servers import Deployment, ServerPool, connect
from tests.support.systems import System

Words: TypeAlias = "tuple[str | bytes, ...]"
"""A command without its key, which comes second."""

TYPES: Final[Mapping[str, tuple[Words, ...]]] = {
    "string": (("SET", "hello"),),
    "list": (("RPUSH", "hello", ""),),
    "set": (("SADD", "hello"),),
    "zset": (("ZADD", "1", "hello", "-inf", b"\xff\xfe!x", "inf", "x"),),
    "hash": (("HSET", "hello", "world"),),
    "stream": (("XADD", "*", "hello", "world"),),
}
"""Every type of key, by its name."""

_NUMBERS: Final = (b"nan", b"-inf", b"1e400", b"-7", b"\xff\xfe", b"", b"9" * 5000, b"9223372036854775807")


def _hashes(*fields: bytes) -> Iterable[tuple[Words, ...]]:
    for number in _NUMBERS:
        yield (("HSET", *(part for field in fields for part in (field, number))),)


RUBBISH: Final[Mapping[str, tuple[tuple[Words, ...], ...]]] = {
    "c": ((("SET", b"\xff\xfe"),), (("SET", ""),)),
    "e": tuple((("SET", text),) for text in (b"a", b"a b", *(b"a " + number for number in _NUMBERS), b"\xff \xff")),
    "g": ((("ZADD", "1", b"\xff!\xfe", "2", "no inbox", "3", "a!" + "b" * 5000),),),
    "i": (
        (("HSET", b"\xff\xfe!", "1:1", "no inbox", "1:1", "a" * 5000 + "!", "x", "a!", "x"),),
        *_hashes(b"", b"calm!", b"victim!"),
    ),
    "l": (
        (("HSET", "g", "g"),),
        *_hashes(b"g", b"b", b"f", b"ndaemon!x", b"n"),
    ),
    "n": tuple(_hashes(b"m", b"f", *(b"%b%d" % (letter, n) for letter in (b"s", b"m", b"f") for n in range(13)))),
    "o": ((("ZADD", "1", b"\xff!\xfe", "inf", "no name!", "-inf", "a?b?c", "9e99", "b" * 5000),),),
    "q": ((("RPUSH", "", b"\xff" * 8, b"\x7f\xf0" + b"\0" * 6, b"\x7f\xf8" + b"\0" * 6, b"hello, world"),),),
    "r": tuple(_hashes(b"reader", b"reader/0")),
    "s": (
        (("XADD", "18446744073709551615-18446744073709551615", "hello", "world"),),
        (("XADD", "9999999999999-0", "hello", "world", b"\xff", b"\xfe"),),
        (("XADD", "1-1", "9" * 400, "m"),),
    ),
    "t": ((("RPUSH", *("x" * 9)),),),
    "u": tuple(_hashes(b"jobs", b"reply?x", b"daemon!x")),
    "x": ((("ZADD", "inf", b"\xff!\xfe", "-inf", "no name!"),),),
}
"""What a key of the right type may hold that this library does not put there."""

OWN: Final[Mapping[str, str]] = {
    **dict.fromkeys("ce", "string"),
    **dict.fromkeys("gox", "zset"),
    **dict.fromkeys("iln", "hash"),
    **dict.fromkeys("qt", "list"),
    "s": "stream",
    **dict.fromkeys("ru", "hash"),
}
"""The type of each kind of key."""


def _plants(kind: str, plant: str) -> list[tuple[Words, ...]]:
    """Return what to plant, one after the other."""
    if plant == "rubbish":
        return [TYPES[OWN[kind]], *RUBBISH[kind]] if OWN[kind] != "string" else [*RUBBISH[kind]]
    return [TYPES[plant]]


CASES: Final = [
    (kind, plant)
    for kind in sorted(OWN)
    for plant in (*TYPES, "rubbish")
    if plant != OWN[kind] or OWN[kind] == "string"
]

QUEUES: Final = ("jobs", "reply?x", "daemon!x")
CALM: Final = ("calm", "calm?x", "calm!x")


class Scene:
    """Channels and groups that are damaged, and others that have to work as if nothing were."""

    def __init__(self, system: System, kind: str, plants: tuple[Words, ...]) -> None:
        assert system.deployment is not None
        self._hosts = system.deployment.hosts
        self._prefix = system.prefix
        self._kind = kind
        self._plants = plants
        self.owner: ChannelLayer = system.layer(timeout=2)
        self.sender: ChannelLayer = system.layer(timeout=2)
        self.victims = list[str](QUEUES)
        self.calm = list[str](CALM)
        self.refused = list[ChannelLayerError]()
        self._number = 0

    async def enter(self) -> None:
        """Make the owned channels, and the groups."""
        self.victims.append(await self.owner.new_channel("victim"))
        self.calm.append(await self.owner.new_channel("calm"))
        for member in self.calm:
            await self.owner.group_add("calm", member)
            await self.owner.group_add("mixed", member)
        for member in self.victims:
            await self.attempt(self.owner.group_add("mixed", member))
            await self.attempt(self.owner.group_add("victim", member))

    async def plant(self) -> None:
        """Replace the keys of the victims, on all servers."""
        names = [ChannelName.parse(victim).queue.name for victim in self.victims]
        if self._kind in "goix":
            names = ["victim"]
        elif self._kind == "e":
            names = [""]
        elif self._kind == "n":
            names += ["", "reply?"]

        def do() -> None:
            for host in self._hosts:
                with connect(host.url) as client:
                    for name in names:
                        key = f"{self._prefix}{self._kind}:{{{name}}}"
                        client.execute_command("DEL", key)
                        for verb, *rest in self._plants:
                            client.execute_command(verb, key, *rest)

        await asyncio.to_thread(do)

    async def attempt(self, call: Awaitable[object]) -> object:
        """Await what may fail for a victim, with an error of ours."""
        try:
            return await asyncio.wait_for(call, BOUND)
        except ChannelLayerError as exc:
            self.refused.append(exc)
            return None

    def _next(self) -> dict[str, object]:
        self._number += 1
        return {"n": self._number}

    async def use_victims(self) -> None:
        """Do everything with the victims: nothing but an error of ours comes of it."""
        layer, thread = self.sender, self.sender.blocking
        for victim in self.victims:
            await self.attempt(layer.send(victim, self._next()))
            await self.attempt(asyncio.to_thread(thread.send, victim, self._next()))
            await self.attempt(layer.statistics(victim))
            await self.attempt(asyncio.to_thread(thread.channel_statistics, victim))
            for group in ("mixed", "victim"):
                await self.attempt(layer.group_add(group, victim))
        await self.attempt(layer.group_send("victim", self._next()))
        await self.attempt(layer.group_channels("victim"))
        await self.attempt(asyncio.to_thread(thread.group_channels, "victim"))
        for victim in self.victims:
            await self.attempt(layer.group_discard("victim", victim))
            await self.attempt(asyncio.to_thread(thread.group_add, "victim", victim))
            await self.attempt(receive_or_none(self.owner, victim, 0.01))
        await self.attempt(asyncio.to_thread(thread.receive, ["jobs", "reply?x"], False))
        await self.attempt(asyncio.to_thread(thread.group_send, "victim", self._next()))

    async def judge_the_calm(self) -> None:
        """What is not damaged works, in event loops and in threads, and loses nothing."""
        layer, thread = self.sender, self.sender.blocking

        async def by(sends: Callable[[str, Mapping[str, object]], Awaitable[object]]) -> None:
            for channel in self.calm:
                message = self._next()
                await sends(channel, message)
                assert await asyncio.wait_for(self.owner.receive(channel), BOUND) == message, channel

        async def to_all(sends: Callable[[str, Mapping[str, object]], Awaitable[object]]) -> None:
            for group in ("calm", "mixed"):
                message = self._next()
                await sends(group, message)
                for channel in self.calm:
                    assert await asyncio.wait_for(self.owner.receive(channel), BOUND) == message, (group, channel)

        await by(layer.send)
        await by(lambda channel, message: asyncio.to_thread(thread.send, channel, message))
        await to_all(layer.group_send)
        await to_all(lambda group, message: asyncio.to_thread(thread.group_send, group, message))
        assert await layer.group_channels("calm") == sorted(self.calm)
        assert await asyncio.to_thread(thread.group_channels, "calm") == sorted(self.calm)
        assert set(self.calm) <= set(await layer.group_channels("mixed"))
        message = self._next()
        await layer.send("calm", message)
        for statistics in (await layer.statistics("calm"), await layer.statistics()):
            assert statistics.messages_pending
            assert statistics.messages_pending >= 1
            assert statistics.messages_max_age is not None
            assert 0 <= statistics.messages_max_age <= 60
        assert (await asyncio.to_thread(thread.global_statistics))["messages_pending"] >= 1
        got = await asyncio.to_thread(thread.receive, ["calm"], True, block_timeout=BOUND)
        assert got == ("calm", message)

    async def recover(self) -> None:
        """The owner has its inbox back with the next renewal."""
        await self.owner.run_maintenance()
        channel = self.victims[-1]
        while await receive_or_none(self.owner, channel, 0.05) is not None:
            pass
        message = self._next()
        await self.sender.send(channel, message)
        assert await asyncio.wait_for(self.owner.receive(channel), BOUND) == message


async def _check(system: System, kind: str, plant: str, *, before: bool) -> None:
    for plants in _plants(kind, plant):
        scene = Scene(system, kind, plants)
        async with scene.owner, scene.sender:
            if before:
                await scene.plant()
            await scene.enter()
            if not before:
                await scene.plant()
            await scene.use_victims()
            await scene.judge_the_calm()
            await scene.recover()
            await scene.judge_the_calm()
            await scene.sender.flush()
            for error in scene.refused:
                assert isinstance(error, DamagedRecord), error
                assert f"{system.prefix}{kind}:{{" in str(error)


@pytest.mark.parametrize(("kind", "plant"), CASES)
@pytest.mark.parametrize("before", [False, True], ids=["while it lives", "before it starts"])
async def test_only_the_queue_or_group_of_a_damaged_key_is_affected(
    one_host: Deployment, prefix: str, kind: str, plant: str, *, before: bool
) -> None:
    """Everything else works; errors name the damaged key; the owner has its inbox back with the next renewal."""
    await _check(System(one_host, prefix), kind, plant, before=before)


@pytest.mark.parametrize(("kind", "plant"), [case for case in CASES if case[1] in ("rubbish", "set")])
async def test_with_several_servers_no_other_queue_or_group_is_affected(
    server_pool: ServerPool, prefix: str, kind: str, plant: str
) -> None:
    """The same, with groups and inboxes on different servers."""
    servers = Deployment(tuple(server_pool.get(number=number).host() for number in range(3)))
    await _check(System(servers, prefix), kind, plant, before=False)


@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_a_receiver_of_a_damaged_queue_gets_what_comes_to_others(
    redis_system: System, caplog: pytest.LogCaptureFixture, *, blocks: bool
) -> None:
    """Receivers of both wait: the healthy one gets all; the log tells once of the other, which works again later."""
    scene = Scene(redis_system, "q", TYPES["string"])
    async with scene.owner as layer, scene.sender as sender:
        await scene.plant()

        async def of_any() -> object:
            return await asyncio.to_thread(layer.blocking.receive, ["jobs", "calm"], True, block_timeout=BOUND)

        async def of(channel: str) -> object:
            return channel, await layer.receive(channel)

        def complaints() -> list[str]:
            return [line for record in caplog.records if "cannot receive" in (line := record.getMessage())]

        async def told() -> bool:
            return bool(complaints())

        first = None if blocks else asyncio.create_task(of("jobs"))
        for n in range(3):
            receiving = asyncio.create_task(of_any() if blocks else of("calm"))
            await eventually(told, "the log tells of it")
            await sender.send("calm", {"n": n})
            assert await asyncio.wait_for(receiving, BOUND) == ("calm", {"n": n})
        assert len(complaints()) == len(set(complaints()))
        assert all("q:{jobs}" in line for line in complaints())
        receiving = first or asyncio.create_task(of_any())
        await sender.flush()
        await sender.send("jobs", {"n": 3})
        assert await asyncio.wait_for(receiving, BOUND) == ("jobs", {"n": 3})


async def test_a_group_message_to_a_damaged_member_is_counted(redis_system: System) -> None:
    """group_send does not fail for a damaged member; the message is counted as damaged for it, and for no other."""
    scene = Scene(redis_system, "q", TYPES["string"])
    async with scene.owner as layer, scene.sender as sender:
        for member in ("jobs", "calm"):
            await layer.group_add("mixed", member)
        await scene.plant()
        for n in range(3):
            await sender.group_send("mixed", {"n": n})
            assert await asyncio.wait_for(layer.receive("calm"), BOUND) == {"n": n}
        assert sender.counts().dropped == {"damaged": 3}
        assert sender.counts().expanded == 6
