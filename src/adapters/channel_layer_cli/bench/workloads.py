"""The workloads: which parts are played, in what order, and what is made of what they tell."""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from channel_layer_cli.bench.contenders import FLOOR
from channel_layer_cli.bench.faults import Faults
from channel_layer_cli.bench.metrics import FAMILIES, percentile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from channel_layer_cli.bench.inputs import Said
    from channel_layer_cli.bench.plan import Plan
    from channel_layer_cli.bench.stage import Actor, Reading, Stage

__all__ = ("Sample", "UnknownWorkload", "Workload", "choose")

_TASKS: Final = 50
_LARGE_PAYLOAD: Final = 1_000_000
_LARGE_TASKS: Final = 2
_LARGE_WINDOW: Final = 4
"""Messages of 1 MB on their way to one channel: a server cuts a subscriber off who is 32 MB behind."""
_WORKERS: Final = 4
_WORKER_TASKS: Final = 10
_WORKER_QUIET: Final = 0.4
"""Seconds, several times those between two reports of a worker."""
_SYNC_MEMBERS: Final = 10
_BLOCKING_MEMBERS: Final = (10, 1000)
_BLOCKING_MOST: Final = (100_000, 100)
"""Group messages that plain code sends to each group at most: few to the large one, whose members are to keep up."""
_CHURNERS: Final = 20
_PENDING: Final = 10_000
_IDLE_CHANNELS: Final = 10_000
_IDLE_SETTLE: Final = 3.0
_IDLE_SECONDS: Final = 10.0
_QUEUE: Final = "bench.work"
_GROUP: Final = "bench.group"


class UnknownWorkload(ValueError):
    """A --workload names none; the message says which there are."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run brought.

    Attributes:
        metrics: figures by name; worth nothing if there are faults.
        faults: what went wrong with the messages.
    """

    metrics: dict[str, float]
    faults: Faults


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload.

    Attributes:
        name: its name.
        play: plays it once.
    """

    name: str
    play: Callable[[Stage], Awaitable[Sample]]


def choose(names: Sequence[str], plan: Plan) -> list[Workload]:
    """Return workloads by name, in the order of `FAMILIES`; all of them if none is named.

    Args:
        names: families, such as ``fanout``, or one of a family, such as ``fanout-500x4``.
        plan: with the sizes of a family.

    Raises:
        UnknownWorkload: there is none of a name.
    """
    chosen: dict[str, Workload] = {}
    for name in sorted(names, key=_place) if names else FAMILIES:
        size = re.fullmatch(r"fanout-(\d+)x(\d+)", name)
        if size is not None:
            sizes = [(int(size[1]), int(size[2]))]
        elif name == "fanout":
            sizes = [(members, receivers) for members in plan.members for receivers in plan.receivers]
        elif name in _SIMPLE:
            chosen[name] = Workload(name, _SIMPLE[name])
            continue
        else:
            raise UnknownWorkload(f"{name!r} is none of {', '.join(FAMILIES)}, fanout-<members>x<processes>")
        for members, receivers in sizes:
            if not 1 <= receivers <= members:
                raise UnknownWorkload(f"{members} members cannot live in {receivers} processes")
            full = f"fanout-{members}x{receivers}"
            chosen[full] = Workload(full, partial(_fanout, members=members, receivers=receivers))
    return list(chosen.values())


def _place(name: str) -> int:
    return list(FAMILIES).index(name.partition("-")[0]) if name.partition("-")[0] in FAMILIES else len(FAMILIES)


def _faults(said: Said) -> Faults:
    return Faults(*(said.integer(name) for name in ("sent", "lost", "doubled", "disordered")))


def _costs(spent: Reading, messages: int, *, served: bool) -> dict[str, float]:
    """Return processor time for each message, in microseconds."""
    costs = {"client_cpu_us": spent.client / max(1, messages) * 1e6}
    if served:
        costs["server_cpu_us"] = spent.server.cpu / max(1, messages) * 1e6
    return costs


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _served(stage: Stage) -> bool:
    return not stage.contender.alone


# --- one to one -------------------------------------------------------------------------------------------------


async def _direct(stage: Stage) -> Sample:
    plan = stage.plan
    if stage.contender.name == FLOOR:
        return await _floor_direct(stage)
    receiver = await stage.cast("receiver", tasks=_TASKS)
    sender = await stage.cast("sender", tasks=_TASKS, seconds=plan.seconds, payload=plan.payload)
    return await _one_way(stage, sender, receiver)


async def _large(stage: Stage) -> Sample:
    bell = str(stage.folder / "bell")
    receiver = await stage.cast("large-receiver", tasks=_LARGE_TASKS, bell=bell)
    sender = await stage.cast(
        "large-sender",
        tasks=_LARGE_TASKS,
        seconds=stage.plan.seconds,
        payload=_LARGE_PAYLOAD,
        window=_LARGE_WINDOW,
        bell=bell,
    )
    sample = await _one_way(stage, sender, receiver)
    rate = sample.metrics.pop("messages_per_second")
    return Sample({"megabytes_per_second": rate * _LARGE_PAYLOAD / 1e6, **sample.metrics}, sample.faults)


async def _one_way(stage: Stage, sender: Actor, receiver: Actor) -> Sample:
    channels = (await receiver.hear()).texts("channels")
    await sender.hear()
    before = await stage.read()
    sender.say(channels=channels)
    sent = await sender.hear()
    counts = sent.integers("counts")
    receiver.say(counts=counts)
    last = (await receiver.hear()).real("last")
    spent = await stage.read() - before
    faults = _faults(await receiver.hear())
    metrics = {
        "messages_per_second": _rate(sum(counts), last - sent.real("first")),
        "refused": float(sent.integer("refused")),
        **_costs(spent, sum(counts), served=_served(stage)),
    }
    return Sample(metrics, faults)


async def _floor_direct(stage: Stage) -> Sample:
    plan = stage.plan
    pusher = await stage.cast(
        "floor-pusher",
        url=stage.servers.urls[0],
        tasks=_TASKS,
        seconds=plan.seconds,
        payload=plan.payload,
        key=f"{stage.prefix}floor",
    )
    await pusher.hear()
    before = await stage.read()
    pusher.say()
    said = await pusher.hear()
    count = said.integer("count")
    spent = await stage.read() - before
    rate = _rate(count, said.real("last") - said.real("first"))
    return Sample({"messages_per_second": rate, **_costs(spent, count, served=True)}, Faults(count))


async def _latency(stage: Stage) -> Sample:
    seconds = stage.plan.seconds
    if stage.contender.name == FLOOR:
        pinger = await stage.cast("floor-pinger", url=stage.servers.urls[0], seconds=seconds)
        await pinger.hear()
        pinger.say()
        said = await pinger.hear()
        return Sample(_percentiles(said), Faults(said.integer("count")))
    ponger = await stage.cast("ponger")
    pinger = await stage.cast("pinger", seconds=seconds, payload=stage.plan.payload)
    await pinger.hear()
    pinger.say(channel=(await ponger.hear()).text("channel"))
    said = await pinger.hear()
    return Sample(_percentiles(said), _faults(said))


def _percentiles(said: Said) -> dict[str, float]:
    return {"p50_ms": said.real("p50") * 1e3, "p99_ms": said.real("p99") * 1e3}


# --- one to many ------------------------------------------------------------------------------------------------


async def _fanout(stage: Stage, *, members: int, receivers: int) -> Sample:
    bell = str(stage.folder / "bell")
    shares = [members // receivers + (who < members % receivers) for who in range(receivers)]
    audience = [
        await stage.cast("members", group=_GROUP, who=who, members=share, bell=bell) for who, share in enumerate(shares)
    ]
    publisher = await stage.cast(
        "publisher",
        group=_GROUP,
        receivers=receivers,
        window=stage.plan.window,
        seconds=stage.plan.seconds,
        payload=stage.plan.payload,
        bell=bell,
    )
    for each in audience:
        await each.hear()
    await publisher.hear()
    publisher.say()
    await publisher.hear()
    before = await stage.read()
    publisher.say()
    sent = await publisher.hear()
    count = sent.integer("count")
    for each in audience:
        each.say(count=count)
    last = max([(await each.hear()).real("last") for each in audience])
    spent = await stage.read() - before
    verdicts = [await each.hear() for each in audience]
    delays = [delay for verdict in verdicts for delay in verdict.reals("delays")]
    deliveries = (count - sent.integer("before")) * members
    metrics = {
        "deliveries_per_second": _rate(deliveries, last - sent.real("first")),
        "group_send_ms": sent.real("call") * 1e3,
        "group_send_alone_ms": sent.real("alone") * 1e3,
        "p99_ms": percentile(delays, 0.99) * 1e3,
        **_costs(spent, deliveries, served=_served(stage)),
    }
    return Sample(metrics, sum(map(_faults, verdicts), start=Faults()))


async def _sync(stage: Stage) -> Sample:
    # The script first, so that a layer in one process gives it the main thread.
    caller = await stage.cast(
        "caller", plain=True, group=_GROUP, seconds=stage.plan.seconds, payload=stage.plan.payload
    )
    members = await stage.cast("members", group=_GROUP, who=0, members=_SYNC_MEMBERS, bell="")
    await caller.hear()
    await members.hear()
    caller.say()
    await caller.hear()
    before = await stage.read()
    caller.say()
    said = await caller.hear()
    spent = await stage.read() - before
    count, rate, empty = said.integer("count"), said.real("rate"), said.real("empty_rate")
    members.say(count=count)
    await members.hear()
    metrics = {
        "calls_per_second": rate,
        "empty_calls_per_second": empty,
        "of_empty": rate / empty,
    }
    if _served(stage):
        metrics["connections_per_call"] = spent.server.connections / (count - 1)
    return Sample(metrics, _faults(await members.hear()))


async def _blocking(stage: Stage) -> Sample:
    plan = stage.plan
    if stage.contender.name == FLOOR:
        caller = await stage.cast(
            "floor-caller",
            plain=True,
            url=stage.servers.urls[0],
            seconds=plan.seconds / 2,
            payload=plan.payload,
            key=f"{stage.prefix}floor",
        )
        await caller.hear()
        caller.say()
        said = await caller.hear()
        return Sample({"sends_per_second": said.real("rate")}, Faults(said.integer("count")))
    caller = await stage.cast("blocking-caller", plain=True, channel=_QUEUE, seconds=plan.seconds, payload=plan.payload)
    groups = [f"{_GROUP}.{members}" for members in _BLOCKING_MEMBERS]
    audiences = [
        await stage.cast("members", group=group, who=who, members=members, bell="")
        for who, (group, members) in enumerate(zip(groups, _BLOCKING_MEMBERS, strict=True))
    ]
    for each in (caller, *audiences):
        await each.hear()
    caller.say(groups=groups)
    sends = (await caller.hear()).real("rate")
    rates: list[float] = []
    faults = Faults()
    for audience, most in zip(audiences, _BLOCKING_MOST, strict=True):
        caller.say(most=most)
        said = await caller.hear()
        rates.append(said.real("rate"))
        audience.say(count=said.integer("count"))
        await audience.hear()
        faults += _faults(await audience.hear())
    metrics = {
        "sends_per_second": sends,
        "group_sends_per_second": rates[0],
        "of_a_loop": rates[-1] * _BLOCKING_MEMBERS[-1] / sends,
    }
    return Sample(metrics, faults)


# --- one of many ------------------------------------------------------------------------------------------------


async def _worker(stage: Stage) -> Sample:
    files = [stage.folder / f"jobs-{number}" for number in range(_WORKERS)]
    workers = [await stage.cast("worker", channel=_QUEUE, tasks=_WORKER_TASKS, file=str(file)) for file in files]
    sender = await stage.cast("sender", tasks=_TASKS, seconds=stage.plan.seconds, payload=stage.plan.payload)
    for each in [*workers, sender]:
        await each.hear()
    before = await stage.read()
    sender.say(channels=[_QUEUE])
    taken = [0] * _WORKERS
    moved = asyncio.Event()

    async def follow(number: int) -> None:
        while True:
            taken[number] = (await workers[number].hear()).integer("count")
            moved.set()

    async def settle(within: float, enough: Callable[[], bool]) -> None:
        """Wait until the workers have enough, or none has taken anything for so many seconds."""
        while not enough():
            moved.clear()
            try:
                async with asyncio.timeout(within):
                    await moved.wait()
            except TimeoutError:
                return

    following = [asyncio.create_task(follow(number)) for number in range(_WORKERS)]
    try:
        sent = await sender.hear()
        total = sum(sent.integers("counts"))
        await settle(stage.plan.patience, lambda: sum(taken) >= total)
        spent = await stage.read() - before
        # As many as were sent need not be those that were sent: with one twice, another one is still to come.
        await settle(_WORKER_QUIET, lambda: sum(taken) > total)
        if sum(taken) > total:
            await settle(stage.plan.patience, lambda: False)
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    for each in workers:
        each.say()
    last = max([await _final(each) for each in workers])
    jobs = array("Q")
    for file in files:
        jobs.frombytes(file.read_bytes())
    metrics = {
        "messages_per_second": _rate(total, last - sent.real("first")),
        "refused": float(sent.integer("refused")),
        **_costs(spent, total, served=_served(stage)),
    }
    different = len(set(jobs))
    return Sample(metrics, Faults(total, lost=max(0, total - different), doubled=len(jobs) - different))


async def _final(worker: Actor) -> float:
    while "last" not in (said := await worker.hear()):
        pass
    return said.real("last")


async def _churn(stage: Stage) -> Sample:
    echo = await stage.cast("echo", tasks=_CHURNERS)
    churner = await stage.cast("churner", tasks=_CHURNERS, seconds=stage.plan.seconds, payload=stage.plan.payload)
    await churner.hear()
    channel = (await echo.hear()).text("channel")
    before = await stage.read()
    churner.say(channel=channel)
    said = await churner.hear()
    spent = await stage.read() - before
    faults = _faults(said)
    metrics = {
        "cycles_per_second": _rate(faults.sent, said.real("seconds")),
        **_costs(spent, faults.sent, served=_served(stage)),
    }
    return Sample(metrics, faults)


# --- what waiting costs -----------------------------------------------------------------------------------------


async def _pending(stage: Stage) -> Sample:
    filler = await stage.cast("filler", channel=_QUEUE, count=_PENDING, payload=stage.plan.payload)
    await filler.hear()
    before = await stage.read()
    filler.say()
    sent = (await filler.hear()).integer("sent")
    spent = await stage.read() - before
    return Sample({"server_bytes_per_message": spent.server.memory / max(1, sent)}, Faults(sent))


async def _idle(stage: Stage) -> Sample:
    idler = await stage.cast("idler", count=_IDLE_CHANNELS)
    await idler.hear()
    memory = idler.memory
    idler.say()
    await idler.hear()
    await asyncio.sleep(_IDLE_SETTLE)
    metrics = {"client_bytes_per_channel": (idler.memory - memory) / _IDLE_CHANNELS}
    before, began = stage.servers.counters(), time.monotonic()
    await asyncio.sleep(_IDLE_SECONDS)
    if _served(stage):
        spent = stage.servers.counters() - before
        metrics["commands_per_second"] = spent.commands / (time.monotonic() - began)
    idler.say()
    await idler.hear()
    return Sample(metrics, Faults())


_SIMPLE: Final[Mapping[str, Callable[[Stage], Awaitable[Sample]]]] = MappingProxyType(
    {
        "direct": _direct,
        "latency": _latency,
        "worker": _worker,
        "sync": _sync,
        "blocking": _blocking,
        "churn": _churn,
        "large": _large,
        "pending": _pending,
        "idle": _idle,
    }
)
