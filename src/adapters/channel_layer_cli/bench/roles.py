"""The parts of the workloads: what each process does while it is measured.

What is done for each message is kept short and the same for every layer, because it is measured along with it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from array import array
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgpack

from channel_layer_cli.bench import floor
from channel_layer_cli.bench.bell import Bell, Ringer
from channel_layer_cli.bench.faults import Book, Faults, Tally
from channel_layer_cli.bench.metrics import percentile
from channel_layer_cli.bench.parts import GRACE, Crew, HasBlockingHalf, refusals, warm_up
from channel_layer_cli.bench.plan import WINDOW_MOST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from channel_layer_cli.bench.parts import Part, PlainPart

__all__ = ("PLAIN_ROLES", "ROLES", "padding")

_TASK_BITS: Final = 40
"""A worker notes a message as one number: the sender's task above this many bits, its number below."""

_REFUSED_PAUSE: Final = 0.001
_ADD_AT_ONCE: Final = 50
_CHANNELS: Final = 10
"""That plain code sends to, so that none of them is full before the time is over."""
_RING_MASK: Final = WINDOW_MOST - 1

_SAMPLED: Final = 200
"""Members of a group, in each process, whose messages' times are noted: the noting is not free."""

_REPORT_EVERY: Final = 0.05


def padding(payload: int, **fields: object) -> str:
    """Return the text that makes a message as many bytes long, packed by msgpack, as near as it can.

    Args:
        payload: bytes.
        fields: the rest of the message.
    """
    packed = msgpack.packb({"type": "bench.message", **fields, "text": ""})
    return "x" * max(0, payload - len(packed or b"") - 1)


def _verdict(faults: Faults) -> dict[str, object]:
    return {
        "sent": faults.sent,
        "lost": faults.lost,
        "doubled": faults.doubled,
        "disordered": faults.disordered,
    }


# -- direct, worker and large: one process sends, others receive -------------------------------------------------


async def _sender(part: Part) -> None:
    tasks = part.params.integer("tasks")
    seconds = part.params.real("seconds")
    text = padding(part.params.integer("payload"), task=tasks, n=100_000)
    shared, send = part.shared, part.layer.send
    refused = 0
    await warm_up(part, tasks)
    full = refusals()

    async def work(task: int, channel: str, deadline: float) -> int:
        nonlocal refused
        for n in itertools.count():
            message: dict[str, object] = {"type": "bench.message", "task": task, "n": n, "text": text}
            while True:
                if time.monotonic() >= deadline:
                    return n
                try:
                    await send(channel, message)
                except full:
                    refused += 1
                    await asyncio.sleep(_REFUSED_PAUSE)
                else:
                    break
            if shared:
                await asyncio.sleep(0)  # a layer without a server need not give way, and receivers would starve
        return 0

    part.say(ready=True)
    channels = (await part.hear()).texts("channels")
    first = time.monotonic()
    turns = zip(range(tasks), itertools.cycle(channels), strict=False)
    counts = await asyncio.gather(*(work(task, channel, first + seconds) for task, channel in turns))
    part.say(first=first, counts=counts, refused=refused)


async def _receive_all(part: Part, channels: Sequence[str], ring: Callable[[int, int], object] | None) -> None:
    """Receive from some channels until all have got what was sent to them, and tell what went wrong."""
    receive = part.layer.receive
    book, crew = Book(len(channels)), Crew()

    async def read(index: int, channel: str) -> None:
        tally = book.tallies[index]
        while True:
            message = await receive(channel)
            if message["task"] == index:
                if book.enter(index, message["n"]):
                    crew.wake()
            else:
                book.stray(index)
            if ring is not None:
                ring(index, tally.received)

    for index, channel in enumerate(channels):
        crew.start(read(index, channel))
    part.say(channels=list(channels))
    counts = (await part.hear()).integers("counts")
    book.expect(sum(counts))
    await crew.until(lambda: book.received >= sum(counts), lambda: book.received, part.patience)
    part.say(last=book.last)
    await asyncio.sleep(GRACE)
    crew.check()
    part.say(**_verdict(book.faults(counts)))


async def _receiver(part: Part) -> None:
    await warm_up(part)
    channels = [await part.layer.new_channel() for _ in range(part.params.integer("tasks"))]
    await _receive_all(part, channels, None)


async def _large_receiver(part: Part) -> None:
    await warm_up(part)
    channels = [await part.layer.new_channel() for _ in range(part.params.integer("tasks"))]
    ringer: Ringer | None = None

    def ring(index: int, count: int) -> None:
        nonlocal ringer
        if ringer is None:
            ringer = Ringer(part.params.text("bell"))  # the sender has hung it by now
        ringer.ring(index, count)

    await _receive_all(part, channels, ring)


async def _large_sender(part: Part) -> None:
    tasks, window = part.params.integer("tasks"), part.params.integer("window")
    seconds = part.params.real("seconds")
    text = "x" * part.params.integer("payload")
    full = refusals()
    refused = 0
    await warm_up(part, tasks)

    async def work(task: int, channel: str, bell: Bell, deadline: float) -> int:
        nonlocal refused
        n = 0
        while time.monotonic() < deadline:
            if n - bell.counts[task] >= window:
                if not await bell.rung(part.patience) and n - bell.counts[task] >= window:
                    return n
                continue
            try:
                await part.layer.send(channel, {"type": "bench.message", "task": task, "n": n, "text": text})
            except full:
                refused += 1
                await asyncio.sleep(_REFUSED_PAUSE)
            else:
                n += 1
            if part.shared:
                await asyncio.sleep(0)
        return n

    with Bell(part.params.text("bell"), tasks) as bell:
        part.say(ready=True)
        channels = (await part.hear()).texts("channels")
        first = time.monotonic()
        counts = await asyncio.gather(
            *(work(task, channel, bell, first + seconds) for task, channel in enumerate(channels))
        )
        part.say(first=first, counts=counts, refused=refused)
        await part.hear()


async def _worker(part: Part) -> None:
    """Take jobs from a queue that others take from too, and note each."""
    receive, channel = part.layer.receive, part.params.text("channel")
    await warm_up(part)
    jobs, last = array("Q"), 0.0
    crew = Crew()

    async def take() -> None:
        nonlocal last
        while True:
            message = await receive(channel)
            task, n = message["task"], message["n"]
            if not (isinstance(task, int) and isinstance(n, int)):
                raise TypeError(f"a job came as {message!r}")
            jobs.append(task << _TASK_BITS | n)
            last = time.monotonic()

    async def report() -> None:
        told = 0
        while not over:
            if len(jobs) != told:
                told = len(jobs)
                part.say(count=told)
            await asyncio.sleep(_REPORT_EVERY)

    over = False
    for _ in range(part.params.integer("tasks")):
        crew.start(take())
    part.say(ready=True)
    reporting = asyncio.create_task(report())
    await part.hear()
    over = True
    await reporting
    crew.check()
    await asyncio.to_thread(Path(part.params.text("file")).write_bytes, jobs.tobytes())
    part.say(last=last)


# -- latency -----------------------------------------------------------------------------------------------------


async def _ponger(part: Part) -> None:
    layer = part.layer
    await warm_up(part)
    channel = await layer.new_channel()
    part.say(channel=channel)
    while True:
        message = await layer.receive(channel)
        await layer.send(str(message["reply"]), {"type": "bench.pong", "n": message["n"], "text": message["text"]})


async def _pinger(part: Part) -> None:
    layer, seconds = part.layer, part.params.real("seconds")
    await warm_up(part)
    channel = await layer.new_channel()
    text = padding(part.params.integer("payload"), n=100_000, reply=channel)
    tally, trips = Tally(), list[float]()
    part.say(ready=True)
    peer = (await part.hear()).text("channel")
    deadline, n = time.monotonic() + seconds, 0
    try:
        while (began := time.monotonic()) < deadline:
            await layer.send(peer, {"type": "bench.ping", "n": n, "reply": channel, "text": text})
            n += 1
            async with asyncio.timeout(part.patience):
                while tally.next < n:  # past what comes twice
                    tally.add((await layer.receive(channel))["n"])
            trips.append(time.monotonic() - began)
    except TimeoutError:
        pass  # the answer counts as lost
    part.say(p50=percentile(trips, 0.5) / 2, p99=percentile(trips, 0.99) / 2, **_verdict(tally.faults(n)))


# -- fan-out, also for sync --------------------------------------------------------------------------------------


async def _members(part: Part) -> None:
    """Be the members of a group that live in one process."""
    layer, group, who = part.layer, part.params.text("group"), part.params.integer("who")
    await warm_up(part)
    channels = [await layer.new_channel() for _ in range(part.params.integer("members"))]
    for start in range(0, len(channels), _ADD_AT_ONCE):
        await asyncio.gather(*(layer.group_add(group, name) for name in channels[start : start + _ADD_AT_ONCE]))
    readers = _Readers(part, channels, who)
    for index in range(len(channels)):
        readers.start(index)
    part.say(ready=True)
    counts = [(await part.hear()).integer("count")] * len(channels)
    await readers.crew.until(lambda: readers.received >= sum(counts), lambda: readers.received, part.patience)
    part.say(last=readers.last)
    await asyncio.sleep(GRACE)
    readers.crew.check()
    faults = sum((tally.faults(count) for tally, count in zip(readers.tallies, counts, strict=True)), start=Faults())
    part.say(delays=readers.delays, **_verdict(faults))


class _Readers:
    """A task for each member. At a million deliveries a second, what is noted has to be little."""

    def __init__(self, part: Part, channels: Sequence[str], who: int) -> None:
        self.crew = Crew()
        self.tallies = [Tally() for _ in channels]
        self.delays: list[float] = []
        self.last = 0.0
        self._part = part
        self._channels = channels
        self._who = who
        self._arrived = [0] * WINDOW_MOST
        self._every = max(1, len(channels) // _SAMPLED)
        self._ringer: Ringer | None = None

    @property
    def received(self) -> int:
        """How many different messages have come."""
        return sum(tally.received for tally in self.tallies)

    def start(self, index: int) -> None:
        """Start the task of a member."""
        sampled = index % self._every == 0
        self.crew.start(self._read(self._channels[index], self.tallies[index], sampled=sampled))

    async def _read(self, channel: str, tally: Tally, *, sampled: bool) -> None:
        receive, arrived, members = self._part.layer.receive, self._arrived, len(self._channels)
        while True:
            message = await receive(channel)
            number = message["n"]
            n = tally.next
            if number == n:
                tally.next = n + 1
            else:
                n = self._astray(tally, number)
            if sampled:
                self._sample(message)
            if n >= 0:
                place = n & _RING_MASK
                arrived[place] += 1
                if arrived[place] == members:
                    arrived[place] = 0
                    self._complete(n + 1)

    @staticmethod
    def _astray(tally: Tally, number: object) -> int:
        """Enter a message that is not the next one; return its number, or -1 if it is there already."""
        before = tally.received
        tally.add(number)
        return number if isinstance(number, int) and tally.received > before else -1

    def _sample(self, message: Mapping[str, object]) -> None:
        sent = message["t"]
        if isinstance(sent, float) and message["n"]:  # not the first one, which found everything cold
            self.delays.append(time.monotonic() - sent)

    def _complete(self, count: int) -> None:
        """Every member has a message; so has it, closed loop or not, whatever was sent before it."""
        self.last = time.monotonic()
        self.crew.wake()
        bell = self._part.params.text("bell")
        if bell:
            if self._ringer is None:
                self._ringer = Ringer(bell)
            self._ringer.ring(self._who, count)


_ALONE = 20
"""Messages to a group that are sent one at a time, each when everybody has the one before."""

_ALONE_EVERY = 0.05
"""Seconds from one to the next, whatever the size of the group: after a rest everything is slower, and a message to
thousands is a rest for who sent it."""


async def _publisher(part: Part) -> None:
    layer, group, window = part.layer, part.params.text("group"), part.params.integer("window")
    seconds = part.params.real("seconds")
    text = padding(part.params.integer("payload"), n=100_000, t=0.5)
    calls: list[float] = []
    await warm_up(part)

    async def publish(n: int, *, timed: bool = True) -> None:
        began = time.monotonic()
        await layer.group_send(group, {"type": "bench.message", "n": n, "t": began if timed else 0, "text": text})
        calls.append(time.monotonic() - began)

    with Bell(part.params.text("bell"), part.params.integer("receivers")) as bell:
        part.say(ready=True)
        await part.hear()
        await publish(0)  # nobody measures the first one: it makes the layers look up who is where
        count = 1
        stalled = not await _heard(bell, 1, part.patience)
        calls.clear()
        began = time.monotonic()
        while not stalled and (count <= _ALONE and time.monotonic() < began + seconds):
            again = time.monotonic() + _ALONE_EVERY
            await publish(count, timed=False)
            count += 1
            stalled = not await _heard(bell, count, part.patience)
            await asyncio.sleep(again - time.monotonic())
        alone = statistics.median(calls) if calls else math.inf
        calls.clear()
        before = count
        part.say(warm=True)
        await part.hear()
        first = time.monotonic()
        while not stalled and (time.monotonic() < first + seconds or count == before):
            if count - min(bell.counts) < window:
                await publish(count)
                count += 1
                if part.shared:
                    await asyncio.sleep(0)
            else:
                stalled = not await _heard(bell, count - window + 1, part.patience)
        call = statistics.median(calls) if calls else math.inf
        part.say(first=first, before=before, count=count, call=call, alone=alone)
        await part.hear()


async def _heard(bell: Bell, count: int, patience: float) -> bool:
    """Wait until every receiver has so many messages; return False if nothing moves any more."""
    while min(bell.counts) < count:
        before = list(bell.counts)
        if not await bell.rung(patience) and bell.counts == before:
            return False
    return True


def _caller(part: PlainPart) -> None:
    """Be a plain script: every call has an event loop made for it."""
    from asgiref.sync import async_to_sync  # noqa: PLC0415 - a part of the `cli` extra that only this part needs

    layer, group, seconds = part.layer, part.params.text("group"), part.params.real("seconds")
    text = padding(part.params.integer("payload"), n=100_000, t=0.5)

    async def nothing() -> None: ...

    async def group_send(n: int) -> None:
        await layer.group_send(group, {"type": "bench.message", "n": n, "t": 0.5, "text": text})

    part.say(ready=True)
    part.hear()
    async_to_sync(group_send)(0)
    time.sleep(part.warmup)
    async_to_sync(nothing)()
    part.say(warm=True)
    part.hear()
    calls, empty = _Pace(), _Pace()
    deadline = time.monotonic() + 4 / 3 * seconds
    while time.monotonic() < deadline:
        calls.keep(_SLICE, lambda n: async_to_sync(group_send)(n + 1))
        empty.keep(_SLICE / 3, lambda _: async_to_sync(nothing)())
    part.say(count=1 + calls.count, rate=calls.rate, empty_rate=empty.rate)
    part.hear()


_SLICE = 0.06
"""Seconds for which calls of one kind are made before those of the other, so that the machine is as fast for both."""


class _Pace:
    """How fast something is done that is done again and again, with pauses.

    Attributes:
        count: how often it was.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self._seconds = 0.0

    @property
    def rate(self) -> float:
        """Times per second, the pauses left out."""
        return self.count / self._seconds

    def keep(self, seconds: float, do: Callable[[int], object]) -> None:
        """Do it for so long, at least once; it is told how often it was done before."""
        began = now = time.monotonic()
        while now < began + seconds:
            do(self.count)
            self.count += 1
            now = time.monotonic()
        self._seconds += now - began


def _blocking_caller(part: PlainPart) -> None:
    """Be a plain script that calls a layer's half for it; where there is none, the way that there is."""
    layer, channel, seconds = part.layer, part.params.text("channel"), part.params.real("seconds")
    text = padding(part.params.integer("payload"), n=100_000, t=0.5)
    if isinstance(layer, HasBlockingHalf):
        send, group_send = layer.blocking.send, layer.blocking.group_send
    else:
        from asgiref.sync import async_to_sync  # noqa: PLC0415 - as in `_caller`

        send, group_send = async_to_sync(layer.send), async_to_sync(layer.group_send)

    def message(n: int) -> dict[str, object]:
        return {"type": "bench.message", "n": n, "t": 0.5, "text": text}

    part.say(ready=True)
    groups = part.hear().texts("groups")
    send(channel, message(0))
    for group in groups:
        group_send(group, message(0))
    time.sleep(part.warmup)
    sent, began = 0, time.monotonic()
    while (now := time.monotonic()) < began + seconds / 2 or not sent:
        send(f"{channel}.{sent % _CHANNELS}", message(sent))
        sent += 1
    part.say(count=sent, rate=sent / (now - began))
    for group in groups:
        most = part.hear().integer("most")
        count, began = 1, time.monotonic()
        while ((now := time.monotonic()) < began + seconds / 2 and count <= most) or count == 1:
            group_send(group, message(count))
            count += 1
        part.say(count=count, rate=(count - 1) / (now - began))
    part.hear()


# -- churn -------------------------------------------------------------------------------------------------------


async def _echo(part: Part) -> None:
    layer = part.layer
    await warm_up(part)
    channel = await layer.new_channel()
    crew = Crew()

    async def answer() -> None:
        while True:
            message = await layer.receive(channel)
            await layer.send(str(message["reply"]), {"type": "bench.answer", "n": message["n"]})

    for _ in range(part.params.integer("tasks")):
        crew.start(answer())
    part.say(channel=channel)
    await crew.finish()


async def _churner(part: Part) -> None:
    layer, tasks, seconds = part.layer, part.params.integer("tasks"), part.params.real("seconds")
    text = padding(part.params.integer("payload"), n=100_000, reply="x" * 50)
    await warm_up(part, tasks)
    numbers = itertools.count()
    part.say(ready=True)
    echo = (await part.hear()).text("channel")
    first = time.monotonic()

    async def visit(task: int) -> Faults:
        faults, group = Faults(), f"bench.room.{task % 5}"
        while time.monotonic() < first + seconds:
            channel, n = await layer.new_channel(), next(numbers)
            await layer.group_add(group, channel)
            await layer.send(echo, {"type": "bench.ask", "n": n, "reply": channel, "text": text})
            try:
                async with asyncio.timeout(part.patience):
                    answer = await layer.receive(channel)
            except TimeoutError:
                return faults + Faults(1, lost=1)
            await layer.group_discard(group, channel)
            faults += Faults(1, disordered=int(answer["n"] != n))
        return faults

    faults = sum(await asyncio.gather(*(visit(task) for task in range(tasks))), start=Faults())
    part.say(seconds=time.monotonic() - first, **_verdict(faults))


# -- what waiting costs ------------------------------------------------------------------------------------------


async def _filler(part: Part) -> None:
    count, channel = part.params.integer("count"), part.params.text("channel")
    text = padding(part.params.integer("payload"), n=100_000)
    await warm_up(part, _ADD_AT_ONCE)
    full = refusals()
    part.say(ready=True)
    await part.hear()
    sent = 0
    for start in range(0, count, _ADD_AT_ONCE):
        numbers = range(start, min(count, start + _ADD_AT_ONCE))
        sends = (part.layer.send(channel, {"type": "bench.message", "n": n, "text": text}) for n in numbers)
        results = await asyncio.gather(*sends, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, full):
                raise result
            sent += result is None
    part.say(sent=sent)
    await part.hear()


async def _idler(part: Part) -> None:
    layer, count, crew = part.layer, part.params.integer("count"), Crew()
    await warm_up(part)
    part.say(ready=True)
    await part.hear()

    async def wait(channel: str) -> None:
        await layer.receive(channel)

    for _ in range(count):
        crew.start(wait(await layer.new_channel()))
    await asyncio.sleep(0)
    part.say(waiting=True)
    await part.hear()
    crew.check()
    part.say(over=True)


ROLES: Final[Mapping[str, Callable[[Part], Awaitable[None]]]] = MappingProxyType(
    {
        "sender": _sender,
        "receiver": _receiver,
        "large-sender": _large_sender,
        "large-receiver": _large_receiver,
        "worker": _worker,
        "pinger": _pinger,
        "ponger": _ponger,
        "members": _members,
        "publisher": _publisher,
        "echo": _echo,
        "churner": _churner,
        "filler": _filler,
        "idler": _idler,
        "floor-pusher": floor.push,
        "floor-pinger": floor.ping,
    }
)
"""Every part that is played in an event loop, by name."""

PLAIN_ROLES: Final[Mapping[str, Callable[[PlainPart], None]]] = MappingProxyType(
    {
        "caller": _caller,
        "blocking-caller": _blocking_caller,
        "floor-caller": floor.call,
    }
)
"""Every part that is played by plain code, by name."""
