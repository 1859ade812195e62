"""A network between processes and a server, which can be cut, and can lead to another server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Literal, Self

__all__ = ("CUTS", "Cut", "Network")

Cut = Literal["reset", "silent", "held"]
"""How a network is cut: connections are reset, and new ones, too; or what is sent is dropped, and the connections are
reset afterwards; or what is sent arrives afterwards, as TCP sends it again."""

CUTS: Final[tuple[Cut, ...]] = ("reset", "silent", "held")


class Network:
    """Passes on what comes to its port, in a thread, until the end of its block.

    Args:
        port: of the server to which it leads, on 127.0.0.1.

    Attributes:
        port: to be connected to.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._cut: Cut | None = None
        self._marker, self._losses = b"", 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """What a layer connects to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self, seconds: float, how: Cut) -> None:
        """Cut it for a while; return when it is whole again."""
        self._do(self._begin_cut(how))
        time.sleep(seconds)
        self._do(self._end_cut())

    def lose_replies(self, marker: bytes, times: int = 1) -> None:
        """Pass on the next commands that hold *marker*, and reset each connection in place of the reply."""
        self._marker, self._losses = marker, times

    def lead_to(self, port: int) -> None:
        """Reset all connections, and lead to another server from now on."""
        self._do(self._lead_to(port))

    # -- in its thread

    def _do(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result(30)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _begin_cut(self, how: Cut) -> None:
        self._cut = how
        if how == "reset":
            self._reset()
        elif how == "held":
            self._open.clear()

    async def _end_cut(self) -> None:
        if self._cut == "silent":
            self._reset()
        self._cut = None
        self._open.set()

    async def _lead_to(self, port: int) -> None:
        self._target = port
        self._reset()

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut == "reset":
            writer.transport.abort()
            return
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            replies, commands = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(commands)
            doomed = asyncio.Event()
            back = self._loop.create_task(self._pump(replies, writer, lambda _: not doomed.is_set()))
            try:
                await self._pump(reader, commands, lambda command: self._let_pass(command, doomed))
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                commands.transport.abort()
                self._writers.discard(commands)
        writer.transport.abort()
        self._writers.discard(writer)

    def _let_pass(self, command: bytes, doomed: asyncio.Event) -> bool:
        if self._losses and self._marker in command:
            self._losses -= 1
            doomed.set()
        return True

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[bytes], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while (data := await reader.read(65536)) and passes(data):
                await self._open.wait()
                if self._cut != "silent":
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
