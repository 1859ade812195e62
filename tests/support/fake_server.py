"""A server on 127.0.0.1 that sends the replies which a test gives it.

All other tests use real servers. This one stands for servers that cannot be installed any more, and for servers that
are no Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable

import hiredis

from channel_layer_redis._packing import pack

__all__ = ("Answer", "Firewall", "fake_redis", "fake_server", "firewall", "redis_of_version", "redis_proxy")

Answer = Callable[[list[bytes]], bytes]
"""Takes the words of a command, and returns the bytes of the reply."""


@contextlib.asynccontextmanager
async def fake_redis(answer: Answer) -> AsyncGenerator[int]:
    """Run a server that answers commands; yields its port.

    Args:
        answer: returns the reply to each command.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        while data := await reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                words: list[object] = list(command)
                writer.write(answer([word for word in words if isinstance(word, bytes)]))

    async with _listen(talk) as port:
        yield port


@contextlib.asynccontextmanager
async def fake_server(*, greeting: bytes = b"", reply: bytes = b"", hang_up: bool = False) -> AsyncGenerator[int]:
    """Run a server that sends the same bytes to every client; yields its port.

    Args:
        greeting: sent to a client when it connects.
        reply: sent whenever the client has sent something.
        hang_up: whether to close the connection after the first reply.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while await reader.read(65536):
            writer.write(reply)
            if hang_up:
                return

    async with _listen(talk) as port:
        yield port


@contextlib.asynccontextmanager
async def redis_proxy(
    port: Callable[[], int], answer: Callable[[list[bytes]], Awaitable[bytes | None]]
) -> AsyncGenerator[int]:
    """Run a proxy before real servers; yields its port.

    Args:
        port: returns that of the server to which a new connection leads, on 127.0.0.1.
        answer: returns the reply to a command in place of the server; None: the server replies.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies, commands = await asyncio.open_connection("127.0.0.1", port())
        parser, silent = hiredis.Reader(), 0
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    words = [word for word in list[object](command) if isinstance(word, bytes)]
                    own = await answer(words)
                    if own is None:
                        commands.write(pack(tuple(words)))
                        silent = 2 if words == [b"CLIENT", b"REPLY", b"SKIP"] else max(0, silent - 1)
                        own = b"" if silent else await _whole_reply(replies)
                    writer.write(own)
        finally:
            commands.close()

    async with _listen(talk) as own_port:
        yield own_port


class Firewall:
    """What forgets connections, on their way to a server.

    Attributes:
        port: to be connected to.
        connections: how many there have been.
        sent: all that was sent through it.
    """

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.sent = b""
        self._forgotten = 0
        self._resets = False

    def forget(self, *, resets: bool) -> None:
        """Pass on nothing more of the connections that there are.

        Args:
            resets: answer what a client sends with a reset; else not at all.
        """
        self._forgotten, self._resets = self.connections, resets

    async def pass_on(
        self, port: Callable[[], int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass on what comes on a new connection."""
        self.connections += 1
        number = self.connections
        replies, commands = await asyncio.open_connection("127.0.0.1", port())

        async def back() -> None:
            while data := await replies.read(65536):
                if number > self._forgotten:
                    writer.write(data)

        returning = asyncio.create_task(back())
        try:
            while data := await reader.read(65536):
                if number > self._forgotten:
                    self.sent += data
                    commands.write(data)
                elif self._resets:
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    writer.transport.abort()
                    return
        finally:
            returning.cancel()
            commands.close()


@contextlib.asynccontextmanager
async def firewall(port: Callable[[], int]) -> AsyncGenerator[Firewall]:
    """Run a firewall before real servers.

    Args:
        port: returns that of the server to which a new connection leads, on 127.0.0.1.
    """
    found = Firewall()
    async with _listen(lambda reader, writer: found.pass_on(port, reader, writer)) as found.port:
        yield found


async def _whole_reply(replies: asyncio.StreamReader) -> bytes:
    parser, whole = hiredis.Reader(), b""
    while parser.gets() is False:
        data = await replies.read(65536)
        if not data:
            raise ConnectionResetError
        whole += data
        parser.feed(data)
    return whole


def redis_of_version(facts: str) -> Answer:
    """Return an answer to HELLO and INFO; other commands are unknown.

    Args:
        facts: the reply to INFO, such as ``redis_version:6.0.16``.
    """

    def answer(command: list[bytes]) -> bytes:
        match command[0].upper():
            case b"HELLO":
                return b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:7\r\n"
            case b"INFO":
                return b"$%d\r\n%b\r\n" % (len(facts), facts.encode())
            case other:
                return b"-ERR unknown command '%b'\r\n" % other

    return answer


@contextlib.asynccontextmanager
async def _listen(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncGenerator[int]:
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                await talk(reader, writer)
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(converse(reader, writer))
        conversations.add(task)
        task.add_done_callback(conversations.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await server.wait_closed()
