"""A process of the benchmark: it makes one layer and runs the roles that the coordinator starts.

It ends with its parent and closes no layer: not every layer can be closed, and what is left on a server expires there.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import marshal
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from channel_layer_bench.context import Context, Failed, Instruction, Report, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from channel_layer_bench.context import Settings

__all__ = ("main",)


class _Child:
    """The process.

    Args:
        connection: to the coordinator.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._settings: Settings = connection.recv()
        self._instruct: dict[int, Callable[[object], object]] = {}
        self._blocking: queue.SimpleQueue[tuple[int, Generator[object, object, None]]] = queue.SimpleQueue()
        self._roles: list[str] = []
        self._profiles: list[cProfile.Profile] = []

    def run(self) -> None:
        """Run roles until the coordinator closes the connection, which ends the process."""
        try:
            context = Context(self._settings, self._fail)
            if not self._settings.blocking:
                self._run_loop(context)
            # Code without an event loop has the main thread. Other roles, if they have to be in the same process, run
            # in a loop in another thread.
            threading.Thread(target=self._run_loop, args=(context,), daemon=True).start()
            self._run_blocking()
        except BaseException as exc:  # noqa: BLE001 - any error is reported to the coordinator
            self._fail(exc)
            os._exit(1)

    def _run_loop(self, context: Context) -> None:
        with asyncio.Runner(loop_factory=_loop_factory(self._settings.plan.loop)) as runner:
            runner.run(self._serve(context))

    async def _serve(self, context: Context) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read_orders, args=(context, loop), daemon=True).start()
        self._profile()
        await loop.create_future()

    def _run_blocking(self) -> None:
        self._profile()
        number, role = self._blocking.get()
        instructions: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._instruct[number] = instructions.put
        report = next(role)
        while True:
            self._send(Report(number, report))
            report = role.send(instructions.get())

    async def _run(self, number: int, role: AsyncGenerator[object, object]) -> None:
        instructions: asyncio.Queue[object] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._instruct[number] = lambda value: loop.call_soon_threadsafe(instructions.put_nowait, value)
        report = await anext(role)
        while True:
            self._send(Report(number, report))
            report = await role.asend(await instructions.get())

    def _send(self, report: Report | Failed) -> None:
        with self._sending:
            self._connection.send(report)

    def _fail(self, error: BaseException) -> None:
        with contextlib.suppress(OSError):  # the coordinator has ended
            self._send(Failed("".join(traceback.format_exception(error))))

    # -- in the thread that reads the orders

    def _read_orders(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        # A thread of its own: the reply with the processor time does not wait for a busy loop.
        try:
            while True:
                order: Start | Instruction = self._connection.recv()
                if isinstance(order, Start):
                    self._roles.append(order.role.__name__)
                    role = order.role(context, *order.arguments, **order.named)
                    if isinstance(role, AsyncGenerator):
                        loop.call_soon_threadsafe(context.start, self._run(order.number, role))
                    else:
                        self._blocking.put((order.number, role))
                elif order.number:
                    self._instruct[order.number](order.value)
                else:
                    self._send(Report(0, time.process_time()))
        except EOFError:
            self._write_profiles()
        except BaseException as exc:  # noqa: BLE001 - as above
            self._fail(exc)
        os._exit(0)

    # -- profiles

    def _profile(self) -> None:
        """Profile this thread, if profiles are wanted."""
        if self._settings.profile:
            self._profiles.append(profile := cProfile.Profile())
            profile.enable()

    def _write_profiles(self) -> None:
        for number, profile in enumerate(self._profiles):
            profile.snapshot_stats()  # not dump_stats, which would have to be called in the thread that is profiled
            name = f"{self._settings.profile}-{'-'.join(self._roles)}-{os.getpid()}-{number}.prof"
            with Path(name).open("wb") as file:
                marshal.dump(profile.stats, file)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "uvloop":
        import uvloop  # noqa: PLC0415 - optional, and only used on request

        return uvloop.new_event_loop
    return None


def main() -> None:
    """Run one process of the benchmark; its argument is the file descriptor of the connection to the coordinator."""
    _Child(Connection(int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
