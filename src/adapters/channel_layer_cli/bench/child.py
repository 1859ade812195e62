"""A process of the benchmark: it makes one layer and plays the parts that it is told to play.

Orders come in and facts go out as lines of JSON, over standard input and output. It ends with its parent, and ends
hard: not every layer can be closed, and what it leaves behind is the server's to forget.
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

from channel_layer_cli.bench.inputs import Said
from channel_layer_cli.bench.parts import Part, PlainPart, make_layer
from channel_layer_cli.bench.roles import PLAIN_ROLES, ROLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer_cli.bench.parts import Layer

__all__ = ("main",)


class _Child:
    """The process.

    Args:
        out: where facts go.
        hello: what it has been told first: its layer, its event loop.
    """

    def __init__(self, out: int, hello: Said) -> None:
        self._out = out
        self._writing = threading.Lock()
        self._hello = hello
        backend = hello.text("backend")
        self._layer: Layer | None = make_layer(backend, hello.said("config").facts) if backend else None
        self._parts: dict[int, Part | PlainPart] = {}
        self._plain: queue.SimpleQueue[tuple[int, str, PlainPart]] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._roles: list[str] = []
        self._profiles: list[cProfile.Profile] = []

    def run(self) -> None:
        """Play until told to end."""
        if not self._hello.flag("plain"):
            self._run_loop()
        # A plain script has its main thread to itself. Other parts, if they have to be in the same process, live in
        # a loop in another thread, as they would beside such a script.
        threading.Thread(target=self._run_loop, daemon=True).start()
        self._profile()
        while True:
            number, role, part = self._plain.get()
            try:
                PLAIN_ROLES[role](part)
            except BaseException:  # noqa: BLE001 - whatever it is, the benchmark has to hear of it
                self._say(number, Said({"failed": traceback.format_exc()}))

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory(self._hello.text("loop"))) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, daemon=True).start()
        self._profile()
        await self._loop.create_future()

    def _profile(self) -> None:
        """Profile this thread, if that is wanted."""
        if self._hello.text("profile"):
            self._profiles.append(profile := cProfile.Profile())
            profile.enable()

    def _write_profiles(self) -> None:
        for number, profile in enumerate(self._profiles):
            profile.snapshot_stats()  # not dump_stats, which would have to be called in the thread that is profiled
            name = f"{self._hello.text('profile')}-{'-'.join(self._roles)}-{os.getpid()}-{number}.prof"
            with Path(name).open("wb") as file:
                marshal.dump(profile.stats, file)

    def _say(self, number: int, said: Said) -> None:
        line = Said({"part": number, "said": said.facts}).line()
        with self._writing:
            while line:
                line = line[os.write(self._out, line) :]

    # -- in the thread that listens

    def _listen(self) -> None:
        # A thread of its own, which sleeps while nothing is said: the answer to "cpu" does not wait for a busy loop.
        try:
            for line in sys.stdin.buffer:
                self._obey(Said.parse(line))
        except BaseException:  # noqa: BLE001 - as above
            self._say(0, Said({"failed": traceback.format_exc()}))
        self._write_profiles()
        sys.stderr.flush()
        os._exit(0)

    def _obey(self, order: Said) -> None:
        match order.text("do"):
            case "cpu":
                self._say(0, Said({"cpu": time.process_time()}))
            case "cast":
                self._cast(order)
            case _:
                self._hand(order.integer("part"), order.said("word"))

    def _cast(self, order: Said) -> None:
        number, role, params = order.integer("part"), order.text("role"), order.said("params")
        warmup = self._hello.real("warmup")
        self._roles.append(role)

        def tell(said: Said) -> None:
            self._say(number, said)

        if role in PLAIN_ROLES:
            plain = PlainPart(self._layer, params, warmup=warmup, tell=tell)
            self._parts[number] = plain
            self._plain.put((number, role, plain))
            return
        part = Part(
            self._layer,
            params,
            shared=self._hello.flag("shared"),
            warmup=warmup,
            patience=self._hello.real("patience"),
            tell=tell,
        )
        self._parts[number] = part
        self._in_loop(self._start, number, role, part)

    def _hand(self, number: int, word: Said) -> None:
        part = self._parts[number]
        if isinstance(part, PlainPart):
            part.deliver(word)
        else:
            self._in_loop(part.deliver, word)

    def _in_loop(self, function: Callable[..., object], *arguments: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function, *arguments)

    # -- in the event loop

    def _start(self, number: int, role: str, part: Part) -> None:
        task = asyncio.get_running_loop().create_task(self._play(number, role, part))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, number: int, role: str, part: Part) -> None:
        try:
            await ROLES[role](part)
        except BaseException:  # noqa: BLE001 - as above
            self._say(number, Said({"failed": traceback.format_exc()}))


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "uvloop":
        import uvloop  # noqa: PLC0415 - optional, and only used on request

        return uvloop.new_event_loop
    return None


def main() -> None:
    """Live the life of one process of the benchmark."""
    out = os.dup(1)
    os.dup2(2, 1)  # what a layer prints must not get among the facts
    try:
        child = _Child(out, Said.parse(sys.stdin.buffer.readline()))
    except BaseException:  # noqa: BLE001 - whatever it is, the benchmark has to hear of it
        os.write(out, Said({"part": 0, "said": {"failed": traceback.format_exc()}}).line())
        os._exit(1)
    child.run()


if __name__ == "__main__":
    main()
