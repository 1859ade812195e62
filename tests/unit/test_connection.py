"""One connection to a server, without a server: when who awaits a reply goes on."""

from __future__ import annotations

import asyncio

from channel_layer_redis._protocol import Connection
from tests.support.systems import run


class _Wire(asyncio.Transport):
    """Takes what is written, and nothing else."""

    def write(self, data: object) -> None:
        """Take it."""

    def abort(self) -> None:
        """Nothing to do."""


def _connection() -> Connection:
    connection = Connection("redis://nowhere/0", 5.0)
    connection.connection_made(_Wire())
    return connection


def test_who_asks_promptly_goes_on_while_the_bytes_are_parsed() -> None:
    """Without a turn of the event loop in between, and in the order of the replies."""

    async def body() -> None:
        connection, said = _connection(), list[object]()

        async def ask(*, prompt: bool) -> None:
            said.append(await connection.send(b"", prompt=prompt))
            said.append(asyncio.current_task())

        tasks = [asyncio.create_task(ask(prompt=prompt)) for prompt in (True, False, True)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(connection.data_received, b":1\r\n:2\r\n:3\r\n")
        await asyncio.sleep(0)
        assert said == [1, tasks[0], 3, tasks[2]]
        await asyncio.sleep(0)
        assert said == [1, tasks[0], 3, tasks[2], 2, tasks[1]]
        await asyncio.gather(*tasks)
        connection.connection_lost(None)

    run(body())


def test_who_asked_promptly_and_was_cancelled_or_has_not_come_yet() -> None:
    """A reply to nobody is dropped; one that nobody awaits yet is there for who comes."""

    async def body() -> None:
        connection = _connection()

        async def ask() -> object:
            return await connection.send(b"", prompt=True)

        gone = asyncio.create_task(ask())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        late = connection.send(b"", prompt=True)
        asyncio.get_running_loop().call_soon(connection.data_received, b":1\r\n:2\r\n")
        await asyncio.sleep(0)
        assert late.done()
        assert await late == 2
        assert gone.cancelled()
        connection.connection_lost(None)

    run(body())
