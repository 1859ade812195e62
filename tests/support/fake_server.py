"""A server on 127.0.0.1 that sends the replies which a test gives it.

All other tests use real servers. This one stands for servers that cannot be installed any more, and for servers that
are no Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import hiredis

__all__ = ("Answer", "fake_redis", "fake_server", "redis_of_version")

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
