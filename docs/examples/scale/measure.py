"""Measures what a fleet costs one server: its memory, and its processor time for each kind of call.

    pip install "channel-layer[redis,testing]"
    python measure.py --inboxes 200 --members 100000

Each layer object stands for one process: it has an inbox, connections and a lease of its own. All are in this process,
whose own time is not what is measured.
"""

# pyright: reportUnknownMemberType=false
# redis-py does not say all its types.

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import redis.asyncio

from channel_layer.testing.servers import RedisServer
from channel_layer_redis import RedisChannelLayer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_CALLS = 2000
_AT_ONCE = 100
_REPORTED = 2.0
"""Seconds after which all processes have told what they received; each tells it once a second."""


class Meter:
    """The counters of a server."""

    def __init__(self, url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(url)

    async def read(self, name: str, *more: str) -> float:
        """Return the sum of some fields of INFO."""
        info: dict[str, object] = await self._client.info("all")
        found = [info[each] for each in (name, *more)]
        return sum(value for value in found if isinstance(value, int | float))

    async def processor(self) -> float:
        """Return the seconds of processor time that the server has used."""
        return await self.read("used_cpu_user", "used_cpu_sys")

    async def cost(self, call: Callable[[int], Awaitable[object]], count: int) -> float:
        """Make calls, some at once; return the microseconds that each costs the server."""
        before = await self.processor()
        for first in range(0, count, _AT_ONCE):
            await asyncio.gather(*(call(number) for number in range(first, min(count, first + _AT_ONCE))))
        return (await self.processor() - before) / count * 1e6

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()


async def measure(url: str, inboxes: int, members: int, idle: float) -> dict[str, float]:
    """Return what a fleet of so many processes costs, whose channels are members of one group."""
    async with AsyncExitStack() as stack:
        meter = Meter(url)
        stack.push_async_callback(meter.aclose)
        bare, sockets = await meter.read("used_memory"), await meter.read("connected_clients")
        layers: list[RedisChannelLayer] = []
        for _ in range(inboxes):
            layer = RedisChannelLayer(hosts=[url], prefix="fleet:", expiry=60, capacity=10_000, inbox_capacity=100_000)
            layers.append(await stack.enter_async_context(layer))
        first = layers[0]
        owned = [await layer.new_channel() for layer in layers]
        await asyncio.sleep(2)  # the loop has connections of its own after a second
        results: dict[str, float] = {}
        results["connections of a process"] = (await meter.read("connected_clients") - sockets) / inboxes
        empty = await meter.read("used_memory")
        results["memory of a process, bytes"] = (empty - bare) / inboxes
        names: list[tuple[RedisChannelLayer, str]] = []
        for number in range(members):
            layer = layers[number % inboxes]
            names.append((layer, await layer.new_channel()))
        results["group_add, us"] = await meter.cost(lambda n: names[n][0].group_add("room", names[n][1]), members)
        results["memory of a member, bytes"] = (await meter.read("used_memory") - empty) / members

        began, processor = time.monotonic(), await meter.processor()
        commands = await meter.read("total_commands_processed")
        await asyncio.sleep(idle)
        seconds = time.monotonic() - began
        spent = await meter.processor() - processor
        commands = await meter.read("total_commands_processed") - commands
        results["idle process, commands/s"] = commands / seconds / inboxes
        results["idle process, us of server time a second"] = spent / seconds / inboxes * 1e6

        await first.group_send("room", {"n": 0})
        results["group_send to all, us"] = await meter.cost(lambda n: first.group_send("room", {"n": n}), 20)
        results["group_send to all, us for each process"] = results["group_send to all, us"] / inboxes
        processor = await meter.processor()
        await asyncio.sleep(_REPORTED)
        reports = await meter.processor() - processor - _REPORTED * spent / seconds
        results["report of a process, us"] = max(0.0, reports) / inboxes * 1e6

        async def pass_one(number: int) -> None:
            await first.send(owned[number % inboxes], {"n": number})
            await layers[number % inboxes].receive(owned[number % inboxes])

        async def do_job(number: int) -> None:
            await first.send("jobs", {"n": number})
            await layers[number % inboxes].receive("jobs")

        results["send and receive, us"] = await meter.cost(pass_one, _CALLS)
        results["job sent and taken, us"] = await meter.cost(do_job, _CALLS)
        return results


def main() -> None:
    """Start a server, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--inboxes", type=int, default=200, help="processes that are simulated")
    parser.add_argument("--members", type=int, default=20_000, help="channels in the group, over all processes")
    parser.add_argument("--idle", type=float, default=10, help="seconds for which they do nothing")
    options = parser.parse_args()
    with RedisServer() as server:
        found = asyncio.run(measure(server.url, options.inboxes, options.members, options.idle))
        for name, value in found.items():
            print(f"{name:45} {value:12.1f}")


if __name__ == "__main__":
    main()
