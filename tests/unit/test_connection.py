"""One connection, without a server: which requests are written together, and when a waiting task resumes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer import StoreError
from channel_layer_redis._connection import Connection
from channel_layer_redis._logins import Login
from channel_layer_redis._packing import MergeableCommand, pack, pack_argument
from channel_layer_redis.addresses import TCPAddress

if TYPE_CHECKING:
    from channel_layer.runtime.wakeups import InlineFuture


class _RecordingTransport(asyncio.Transport):
    """A transport that records what is written."""

    def __init__(self) -> None:
        super().__init__()
        self._commands = hiredis.Reader()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Record it."""
        self._commands.feed(bytes(data))

    def commands(self) -> list[list[bytes]]:
        """Return the commands that were written since this was last asked."""
        found = list[list[bytes]]()
        while (command := self._commands.gets()) is not False:
            found.append(list(command))
        return found

    def abort(self) -> None:
        """Nothing to do."""


def _connection(transport: _RecordingTransport | None = None) -> Connection:
    connection = Connection(TCPAddress("nowhere"), 5.0, lambda _: None)
    connection.connection_made(transport or _RecordingTransport())
    return connection


async def test_requests_of_one_kind_share_a_command() -> None:
    """Requests of one kind made while a reply is awaited share a command, and each task gets its part of the reply."""
    transport = _RecordingTransport()
    connection, push, pull = (
        _connection(transport),
        MergeableCommand("PUSH", 1, each=1),
        MergeableCommand("PULL", each=1),
    )
    first = connection.send_merged(push, pack_argument(10))
    assert transport.commands() == [[b"PUSH", b"1", b"10"]]  # no other request is pending
    asked = [connection.send_merged(push, pack_argument(number)) for number in range(3)]
    asked.append(connection.send_merged(pull, pack_argument(3)))
    alone = connection.call("OTHER")
    asked += [connection.send_merged(pull, pack_argument(number)) for number in (4, 5)]
    asked[1].cancel()
    await asyncio.sleep(0)
    assert transport.commands() == [
        [b"PUSH", b"1", b"0", b"1", b"2"],
        [b"PULL", b"3"],
        [b"OTHER"],
        [b"PULL", b"4", b"5"],
    ]
    connection.data_received(b":10\r\n*3\r\n:0\r\n:1\r\n$-1\r\n:3\r\n+OK\r\n*2\r\n:4\r\n:5\r\n")
    with pytest.raises(asyncio.CancelledError):
        asked[1].result()
    assert [await each for each in (first, asked[0], *asked[2:])] == [10, 0, None, 3, 4, 5]
    assert await alone == b"OK"
    assert connection.usable
    connection.connection_lost(None)


@given(sizes=st.lists(st.sampled_from([1, 100, 30_000, 65_000, 100_000]), min_size=1, max_size=200))
async def test_a_shared_command_is_never_large(sizes: list[int]) -> None:
    """It holds at most 64 requests and 64 KiB, unless one request alone is larger; all are written in their order."""
    transport = _RecordingTransport()
    connection, push = _connection(transport), MergeableCommand("PUSH", each=1)
    before = connection.call("BEFORE")
    asked = [connection.send_merged(push, pack((b"x" * size,))[4:]) for size in sizes]
    await asyncio.sleep(0)
    _, *commands = transport.commands()
    assert [len(arg) for command in commands for arg in command[1:]] == sizes
    assert all(len(command) <= 65 for command in commands)
    assert all(len(command) == 2 or sum(map(len, command)) <= 65536 for command in commands)
    before.cancel()
    for each in asked:
        each.cancel()
    connection.connection_lost(None)


@pytest.mark.parametrize("reply", [b":1\r\n", b"*1\r\n:1\r\n", b"*3\r\n:1\r\n:1\r\n:1\r\n", b"-ERR no\r\n"])
async def test_a_reply_that_is_none_for_all_is_an_error_to_each(reply: bytes) -> None:
    """Each of the waiting tasks gets an error if the shared reply is malformed."""
    connection, push = _connection(), MergeableCommand("PUSH", each=1)
    before = connection.call("BEFORE")
    asked = [connection.send_merged(push, pack_argument(number)) for number in range(2)]
    await asyncio.sleep(0)
    connection.data_received(b"+OK\r\n" + reply)
    assert await before == b"OK"
    for each in asked:
        with pytest.raises(StoreError):
            await each
    connection.connection_lost(None)


async def test_a_shared_command_that_has_not_gone_out_is_known_not_to_have() -> None:
    """If the connection is lost before the write, or was lost earlier, each task gets outcome "not_sent"."""
    connection, push = _connection(), MergeableCommand("PUSH", each=1)
    sent = connection.send_merged(push, pack_argument(0))
    asked = [connection.send_merged(push, pack_argument(number)) for number in range(2)]
    connection.connection_lost(None)
    asked.append(connection.send_merged(push, pack_argument(2)))
    for each, outcome in zip([sent, *asked], ["unknown", "not_sent", "not_sent", "not_sent"], strict=True):
        with pytest.raises(StoreError) as error:
            await each
        assert error.value.outcome == outcome


async def test_ask_resumes_its_task_while_the_bytes_are_parsed() -> None:
    """Tasks that await `ask` resume as the bytes are parsed, in the order of replies; those that await `send` later."""
    connection, said = _connection(), list[object]()

    async def ask(*, prompt: bool) -> None:
        said.append(await (connection.send_inline(b"") if prompt else connection.send(b"")))
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


async def test_ask_of_a_cancelled_task_and_of_one_that_does_not_await_yet() -> None:
    """A reply to a cancelled request is dropped; one that is not awaited yet is kept until it is."""
    connection = _connection()

    async def ask() -> object:
        return await connection.send_inline(b"")

    gone = asyncio.create_task(ask())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    late = connection.send_inline(b"")
    asyncio.get_running_loop().call_soon(connection.data_received, b":1\r\n:2\r\n")
    await asyncio.sleep(0)
    assert late.done()
    assert await late == 2
    assert gone.cancelled()
    connection.connection_lost(None)


@pytest.mark.parametrize("shared", [False, True])
async def test_requests_of_many_resumed_tasks_are_written_in_parts(*, shared: bool) -> None:
    """The first part is written while the other tasks still resume, so that the server can begin."""
    transport = _RecordingTransport()
    connection, push, seen = _connection(transport), MergeableCommand("PUSH", each=1), list[int]()

    def send(number: int) -> InlineFuture:
        if shared:
            return connection.send_merged(push, pack_argument(number))
        return connection.send_inline(pack(("PUSH", number)))

    async def ask(number: int) -> None:
        await send(number)
        seen.append(sum(len(command) - 1 for command in transport.commands()))
        await send(100 + number)

    tasks = [asyncio.create_task(ask(number)) for number in range(70)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked = [len(command) - 1 for command in transport.commands()]
    assert sum(asked) == 70
    replies = b"".join(b":0\r\n" if count == 1 else b"*%d\r\n" % count + count * b":0\r\n" for count in asked)
    asyncio.get_running_loop().call_soon(connection.data_received, replies)
    await asyncio.sleep(0)
    assert [count for count in seen if count] == [32, 32]
    rest = [arg for command in transport.commands() for arg in command[1:]]
    assert rest == [b"%d" % number for number in range(164, 170)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    connection.connection_lost(None)


async def test_a_login_behind_a_command_that_blocks_has_its_time_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that is sent while a command blocks is answered after it, does not time out, and occupies nothing."""
    now, loop = 1000.0, asyncio.get_running_loop()
    usable: list[bool] = []
    monkeypatch.setattr(loop, "time", lambda: now)
    transport = _RecordingTransport()
    connection = _connection(transport)
    reading = connection.call("XREAD", limit=30)
    login = connection.log_in(Login("alice", "wonder"))
    await asyncio.sleep(0)
    assert transport.commands() == [[b"XREAD"], [b"AUTH", b"alice", b"wonder"]]
    usable.append(connection.usable)
    now += 29
    connection.data_received(b"*-1\r\n")
    assert await reading is None
    usable.append(connection.usable)
    now += 4  # 33 seconds after the login was sent
    for _ in range(3):
        await asyncio.sleep(0)
    assert connection.open
    again = connection.call("XREAD", limit=30)
    usable.append(connection.usable)
    connection.data_received(b"+OK\r\n*-1\r\n")
    assert await login == b"OK"
    assert await again is None
    usable.append(connection.usable)
    assert usable == [False, True, False, True]
    connection.connection_lost(None)
