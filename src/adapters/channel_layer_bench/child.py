"""A process of the benchmark: it makes one layer and runs the roles that the coordinator asks for.

Orders come in and reports go out as lines of JSON, over standard input and output. It ends with its parent and closes
no layer: not every layer can be closed, and what is left on a server expires there.
"""

from __future__ import annotations

import asyncio
import cProfile
import marshal
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from channel_layer_bench.context import BlockingContext, Context, make_layer
from channel_layer_bench.inputs import Record
from channel_layer_bench.roles import BLOCKING_ROLES, ROLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer_bench.context import Layer

__all__ = ("main",)


class _Child:
    """The process.

    Args:
        out: the file descriptor to write reports to.
        settings: its layer, its event loop, and the limits of its roles.
    """

    def __init__(self, out: int, settings: Record) -> None:
        self._out = out
        self._writing = threading.Lock()
        self._settings = settings
        backend = settings.text("backend")
        self._layer: Layer | None = make_layer(backend, settings.record("config").facts) if backend else None
        self._contexts: dict[int, Context | BlockingContext] = {}
        self._blocking: queue.SimpleQueue[tuple[int, str, BlockingContext]] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._roles: list[str] = []
        self._profiles: list[cProfile.Profile] = []

    def run(self) -> None:
        """Run roles until standard input ends, which ends the process."""
        if not self._settings.flag("blocking"):
            self._run_loop()
        # Code without an event loop has the main thread. Other roles, if they have to be in the same process, run in
        # a loop in another thread.
        threading.Thread(target=self._run_loop, daemon=True).start()
        self._profile()
        while True:
            number, role, context = self._blocking.get()
            try:
                BLOCKING_ROLES[role](context)
            except BaseException:  # noqa: BLE001 - any error is reported to the coordinator
                self._report(number, Record({"failed": traceback.format_exc()}))

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory(self._settings.text("loop"))) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read_orders, daemon=True).start()
        self._profile()
        await self._loop.create_future()

    def _profile(self) -> None:
        """Profile this thread, if profiles are wanted."""
        if self._settings.text("profile"):
            self._profiles.append(profile := cProfile.Profile())
            profile.enable()

    def _write_profiles(self) -> None:
        for number, profile in enumerate(self._profiles):
            profile.snapshot_stats()  # not dump_stats, which would have to be called in the thread that is profiled
            name = f"{self._settings.text('profile')}-{'-'.join(self._roles)}-{os.getpid()}-{number}.prof"
            with Path(name).open("wb") as file:
                marshal.dump(profile.stats, file)

    def _report(self, number: int, report: Record) -> None:
        line = Record({"role": number, "report": report.facts}).line()
        with self._writing:
            while line:
                line = line[os.write(self._out, line) :]

    # -- in the thread that reads the orders

    def _read_orders(self) -> None:
        # A thread of its own: the answer to "cpu" does not wait for a busy loop.
        try:
            for line in sys.stdin.buffer:
                self._handle(Record.parse(line))
        except BaseException:  # noqa: BLE001 - as above
            self._report(0, Record({"failed": traceback.format_exc()}))
        self._write_profiles()
        sys.stderr.flush()
        os._exit(0)

    def _handle(self, order: Record) -> None:
        match order.text("do"):
            case "cpu":
                self._report(0, Record({"cpu": time.process_time()}))
            case "start":
                self._start_role(order)
            case _:
                self._deliver(order.integer("role"), order.record("instruction"))

    def _start_role(self, order: Record) -> None:
        number, role, params = order.integer("number"), order.text("role"), order.record("params")
        warmup = self._settings.real("warmup")
        self._roles.append(role)

        def send(report: Record) -> None:
            self._report(number, report)

        if role in BLOCKING_ROLES:
            blocking = BlockingContext(self._layer, params, warmup=warmup, send=send)
            self._contexts[number] = blocking
            self._blocking.put((number, role, blocking))
            return
        context = Context(
            self._layer,
            params,
            single_process=self._settings.flag("single_process"),
            warmup=warmup,
            patience=self._settings.real("patience"),
            send=send,
        )
        self._contexts[number] = context
        self._in_loop(self._start, number, role, context)

    def _deliver(self, number: int, instruction: Record) -> None:
        context = self._contexts[number]
        if isinstance(context, BlockingContext):
            context.deliver(instruction)
        else:
            self._in_loop(context.deliver, instruction)

    def _in_loop(self, function: Callable[..., object], *arguments: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function, *arguments)

    # -- in the event loop

    def _start(self, number: int, role: str, context: Context) -> None:
        task = asyncio.get_running_loop().create_task(self._run_role(number, role, context))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_role(self, number: int, role: str, context: Context) -> None:
        try:
            await ROLES[role](context)
        except BaseException:  # noqa: BLE001 - as above
            self._report(number, Record({"failed": traceback.format_exc()}))


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "uvloop":
        import uvloop  # noqa: PLC0415 - optional, and only used on request

        return uvloop.new_event_loop
    return None


def main() -> None:
    """Run one process of the benchmark."""
    out = os.dup(1)
    os.dup2(2, 1)  # what a layer prints must not get among the reports
    try:
        child = _Child(out, Record.parse(sys.stdin.buffer.readline()))
    except BaseException:  # noqa: BLE001 - any error is reported to the coordinator
        os.write(out, Record({"role": 0, "report": {"failed": traceback.format_exc()}}).line())
        os._exit(1)
    child.run()


if __name__ == "__main__":
    main()
