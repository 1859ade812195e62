"""The workloads: which roles they start, which instructions they give, and which figures they make of the reports."""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from channel_layer_bench.contenders import FLOOR
from channel_layer_bench.faults import Faults
from channel_layer_bench.metrics import FAMILIES, percentile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from channel_layer_bench.coordinator import Coordinator, RoleHandle, Usage
    from channel_layer_bench.inputs import Record
    from channel_layer_bench.plan import Plan

__all__ = ("Sample", "UnknownWorkload", "Workload", "choose")

_TASKS: Final = 50
_LARGE_PAYLOAD: Final = 1_000_000
_LARGE_TASKS: Final = 2
_LARGE_WINDOW: Final = 4
"""Messages of 1 MB on their way to one channel: a server disconnects a subscriber that is 32 MB behind."""
_WORKERS: Final = 4
_WORKER_TASKS: Final = 10
_WORKER_QUIET: Final = 0.4
"""Seconds; many times the interval of the reports of a worker."""
_SYNC_MEMBERS: Final = 10
_BLOCKING_MEMBERS: Final = (10, 1000)
_BLOCKING_MOST: Final = (100_000, 100)
"""The most messages that blocking code sends to each group: few to the large one, so that its members keep up."""
_CHURNERS: Final = 20
_PENDING: Final = 10_000
_IDLE_CHANNELS: Final = 10_000
_IDLE_SETTLE: Final = 3.0
_IDLE_SECONDS: Final = 10.0
_QUEUE: Final = "bench.work"
_GROUP: Final = "bench.group"


class UnknownWorkload(ValueError):
    """A --workload names no workload; the message lists those that exist."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one run.

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
        run: runs it once.
    """

    name: str
    run: Callable[[Coordinator], Awaitable[Sample]]


def choose(names: Sequence[str], plan: Plan) -> list[Workload]:
    """Return workloads by name, in the order of `FAMILIES`; all of them if none is named.

    Args:
        names: families, such as ``fanout``, or one of a family, such as ``fanout-500x4``.
        plan: has the sizes of a family.

    Raises:
        UnknownWorkload: a name is not that of a workload.
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


def _faults(report: Record) -> Faults:
    return Faults(*(report.integer(name) for name in ("sent", "lost", "doubled", "disordered")))


def _costs(spent: Usage, messages: int, *, served: bool) -> dict[str, float]:
    """Return processor time for each message, in microseconds."""
    costs = {"client_cpu_us": spent.client / max(1, messages) * 1e6}
    if served:
        costs["server_cpu_us"] = spent.server.cpu / max(1, messages) * 1e6
    return costs


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _served(coordinator: Coordinator) -> bool:
    return not coordinator.contender.single_process


# --- one to one -------------------------------------------------------------------------------------------------


async def _direct(coordinator: Coordinator) -> Sample:
    plan = coordinator.plan
    if coordinator.contender.name == FLOOR:
        return await _floor_direct(coordinator)
    receiver = await coordinator.start_role("receiver", tasks=_TASKS)
    sender = await coordinator.start_role("sender", tasks=_TASKS, seconds=plan.seconds, payload=plan.payload)
    return await _one_way(coordinator, sender, receiver)


async def _large(coordinator: Coordinator) -> Sample:
    progress = str(coordinator.folder / "progress")
    receiver = await coordinator.start_role("large-receiver", tasks=_LARGE_TASKS, progress=progress)
    sender = await coordinator.start_role(
        "large-sender",
        tasks=_LARGE_TASKS,
        seconds=coordinator.plan.seconds,
        payload=_LARGE_PAYLOAD,
        window=_LARGE_WINDOW,
        progress=progress,
    )
    sample = await _one_way(coordinator, sender, receiver)
    rate = sample.metrics.pop("messages_per_second")
    return Sample({"megabytes_per_second": rate * _LARGE_PAYLOAD / 1e6, **sample.metrics}, sample.faults)


async def _one_way(coordinator: Coordinator, sender: RoleHandle, receiver: RoleHandle) -> Sample:
    channels = (await receiver.next_report()).texts("channels")
    await sender.next_report()
    before = await coordinator.usage()
    sender.instruct(channels=channels)
    sent = await sender.next_report()
    counts = sent.integers("counts")
    receiver.instruct(counts=counts)
    last = (await receiver.next_report()).real("last")
    spent = await coordinator.usage() - before
    faults = _faults(await receiver.next_report())
    metrics = {
        "messages_per_second": _rate(sum(counts), last - sent.real("first")),
        "refused": float(sent.integer("refused")),
        **_costs(spent, sum(counts), served=_served(coordinator)),
    }
    return Sample(metrics, faults)


async def _floor_direct(coordinator: Coordinator) -> Sample:
    plan = coordinator.plan
    pusher = await coordinator.start_role(
        "floor-pusher",
        url=coordinator.servers.urls[0],
        tasks=_TASKS,
        seconds=plan.seconds,
        payload=plan.payload,
        key=f"{coordinator.prefix}floor",
    )
    await pusher.next_report()
    before = await coordinator.usage()
    pusher.instruct()
    report = await pusher.next_report()
    count = report.integer("count")
    spent = await coordinator.usage() - before
    rate = _rate(count, report.real("last") - report.real("first"))
    return Sample({"messages_per_second": rate, **_costs(spent, count, served=True)}, Faults(count))


async def _latency(coordinator: Coordinator) -> Sample:
    seconds = coordinator.plan.seconds
    if coordinator.contender.name == FLOOR:
        pinger = await coordinator.start_role("floor-pinger", url=coordinator.servers.urls[0], seconds=seconds)
        await pinger.next_report()
        pinger.instruct()
        report = await pinger.next_report()
        return Sample(_percentiles(report), Faults(report.integer("count")))
    ponger = await coordinator.start_role("ponger")
    pinger = await coordinator.start_role("pinger", seconds=seconds, payload=coordinator.plan.payload)
    await pinger.next_report()
    pinger.instruct(channel=(await ponger.next_report()).text("channel"))
    report = await pinger.next_report()
    return Sample(_percentiles(report), _faults(report))


def _percentiles(report: Record) -> dict[str, float]:
    return {"p50_ms": report.real("p50") * 1e3, "p99_ms": report.real("p99") * 1e3}


# --- one to many ------------------------------------------------------------------------------------------------


async def _fanout(coordinator: Coordinator, *, members: int, receivers: int) -> Sample:
    progress = str(coordinator.folder / "progress")
    shares = [members // receivers + (receiver < members % receivers) for receiver in range(receivers)]
    readers = [
        await coordinator.start_role("members", group=_GROUP, receiver=receiver, members=share, progress=progress)
        for receiver, share in enumerate(shares)
    ]
    publisher = await coordinator.start_role(
        "publisher",
        group=_GROUP,
        receivers=receivers,
        window=coordinator.plan.window,
        seconds=coordinator.plan.seconds,
        payload=coordinator.plan.payload,
        progress=progress,
    )
    for each in readers:
        await each.next_report()
    await publisher.next_report()
    publisher.instruct()
    await publisher.next_report()
    before = await coordinator.usage()
    publisher.instruct()
    sent = await publisher.next_report()
    count = sent.integer("count")
    for each in readers:
        each.instruct(count=count)
    last = max([(await each.next_report()).real("last") for each in readers])
    spent = await coordinator.usage() - before
    checked = [await each.next_report() for each in readers]
    delays = [delay for each in checked for delay in each.reals("delays")]
    deliveries = (count - sent.integer("before")) * members
    metrics = {
        "deliveries_per_second": _rate(deliveries, last - sent.real("first")),
        "group_send_ms": sent.real("call") * 1e3,
        "group_send_alone_ms": sent.real("single") * 1e3,
        "p99_ms": percentile(delays, 0.99) * 1e3,
        **_costs(spent, deliveries, served=_served(coordinator)),
    }
    return Sample(metrics, sum(map(_faults, checked), start=Faults()))


async def _sync(coordinator: Coordinator) -> Sample:
    # The caller first, so that it has the main thread if there is only one process.
    caller = await coordinator.start_role(
        "caller", blocking=True, group=_GROUP, seconds=coordinator.plan.seconds, payload=coordinator.plan.payload
    )
    members = await coordinator.start_role("members", group=_GROUP, receiver=0, members=_SYNC_MEMBERS, progress="")
    await caller.next_report()
    await members.next_report()
    caller.instruct()
    await caller.next_report()
    before = await coordinator.usage()
    caller.instruct()
    report = await caller.next_report()
    spent = await coordinator.usage() - before
    count, rate, empty = report.integer("count"), report.real("rate"), report.real("empty_rate")
    members.instruct(count=count)
    await members.next_report()
    metrics = {
        "calls_per_second": rate,
        "empty_calls_per_second": empty,
        "of_empty": rate / empty,
    }
    if _served(coordinator):
        metrics["connections_per_call"] = spent.server.connections / (count - 1)
    return Sample(metrics, _faults(await members.next_report()))


async def _blocking(coordinator: Coordinator) -> Sample:
    plan = coordinator.plan
    if coordinator.contender.name == FLOOR:
        caller = await coordinator.start_role(
            "floor-caller",
            blocking=True,
            url=coordinator.servers.urls[0],
            seconds=plan.seconds / 2,
            payload=plan.payload,
            key=f"{coordinator.prefix}floor",
        )
        await caller.next_report()
        caller.instruct()
        report = await caller.next_report()
        return Sample({"sends_per_second": report.real("rate")}, Faults(report.integer("count")))
    caller = await coordinator.start_role(
        "blocking-caller", blocking=True, channel=_QUEUE, seconds=plan.seconds, payload=plan.payload
    )
    groups = [f"{_GROUP}.{members}" for members in _BLOCKING_MEMBERS]
    readers = [
        await coordinator.start_role("members", group=group, receiver=receiver, members=members, progress="")
        for receiver, (group, members) in enumerate(zip(groups, _BLOCKING_MEMBERS, strict=True))
    ]
    for each in (caller, *readers):
        await each.next_report()
    caller.instruct(groups=groups)
    sends = (await caller.next_report()).real("rate")
    rates: list[float] = []
    faults = Faults()
    for reader, most in zip(readers, _BLOCKING_MOST, strict=True):
        caller.instruct(most=most)
        report = await caller.next_report()
        rates.append(report.real("rate"))
        reader.instruct(count=report.integer("count"))
        await reader.next_report()
        faults += _faults(await reader.next_report())
    metrics = {
        "sends_per_second": sends,
        "group_sends_per_second": rates[0],
        "of_a_loop": rates[-1] * _BLOCKING_MEMBERS[-1] / sends,
    }
    return Sample(metrics, faults)


# --- one of many ------------------------------------------------------------------------------------------------


async def _worker(coordinator: Coordinator) -> Sample:
    files = [coordinator.folder / f"jobs-{number}" for number in range(_WORKERS)]
    workers = [
        await coordinator.start_role("worker", channel=_QUEUE, tasks=_WORKER_TASKS, file=str(file)) for file in files
    ]
    sender = await coordinator.start_role(
        "sender", tasks=_TASKS, seconds=coordinator.plan.seconds, payload=coordinator.plan.payload
    )
    for each in [*workers, sender]:
        await each.next_report()
    before = await coordinator.usage()
    sender.instruct(channels=[_QUEUE])
    taken = [0] * _WORKERS
    moved = asyncio.Event()

    async def follow(number: int) -> None:
        while True:
            taken[number] = (await workers[number].next_report()).integer("count")
            moved.set()

    async def settle(within: float, enough: Callable[[], bool]) -> None:
        """Wait until the workers have enough messages, or none has taken one for so many seconds."""
        while not enough():
            moved.clear()
            try:
                async with asyncio.timeout(within):
                    await moved.wait()
            except TimeoutError:
                return

    following = [asyncio.create_task(follow(number)) for number in range(_WORKERS)]
    try:
        sent = await sender.next_report()
        total = sum(sent.integers("counts"))
        await settle(coordinator.plan.patience, lambda: sum(taken) >= total)
        spent = await coordinator.usage() - before
        # The right number may hide a duplicate, with another message still to come.
        await settle(_WORKER_QUIET, lambda: sum(taken) > total)
        if sum(taken) > total:
            await settle(coordinator.plan.patience, lambda: False)
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    for each in workers:
        each.instruct()
    last = max([await _final(each) for each in workers])
    jobs = array("Q")
    for file in files:
        jobs.frombytes(file.read_bytes())
    metrics = {
        "messages_per_second": _rate(total, last - sent.real("first")),
        "refused": float(sent.integer("refused")),
        **_costs(spent, total, served=_served(coordinator)),
    }
    different = len(set(jobs))
    return Sample(metrics, Faults(total, lost=max(0, total - different), doubled=len(jobs) - different))


async def _final(worker: RoleHandle) -> float:
    while "last" not in (report := await worker.next_report()):
        pass
    return report.real("last")


async def _churn(coordinator: Coordinator) -> Sample:
    echo = await coordinator.start_role("echo", tasks=_CHURNERS)
    churner = await coordinator.start_role(
        "churner", tasks=_CHURNERS, seconds=coordinator.plan.seconds, payload=coordinator.plan.payload
    )
    await churner.next_report()
    channel = (await echo.next_report()).text("channel")
    before = await coordinator.usage()
    churner.instruct(channel=channel)
    report = await churner.next_report()
    spent = await coordinator.usage() - before
    faults = _faults(report)
    metrics = {
        "cycles_per_second": _rate(faults.sent, report.real("seconds")),
        **_costs(spent, faults.sent, served=_served(coordinator)),
    }
    return Sample(metrics, faults)


# --- what waiting costs -----------------------------------------------------------------------------------------


async def _pending(coordinator: Coordinator) -> Sample:
    filler = await coordinator.start_role("filler", channel=_QUEUE, count=_PENDING, payload=coordinator.plan.payload)
    await filler.next_report()
    before = await coordinator.usage()
    filler.instruct()
    sent = (await filler.next_report()).integer("sent")
    spent = await coordinator.usage() - before
    return Sample({"server_bytes_per_message": spent.server.memory / max(1, sent)}, Faults(sent))


async def _idle(coordinator: Coordinator) -> Sample:
    idler = await coordinator.start_role("idler", count=_IDLE_CHANNELS)
    await idler.next_report()
    memory = idler.memory
    idler.instruct()
    await idler.next_report()
    await asyncio.sleep(_IDLE_SETTLE)
    metrics = {"client_bytes_per_channel": (idler.memory - memory) / _IDLE_CHANNELS}
    before, began = coordinator.servers.counters(), time.monotonic()
    await asyncio.sleep(_IDLE_SECONDS)
    if _served(coordinator):
        spent = coordinator.servers.counters() - before
        metrics["commands_per_second"] = spent.commands / (time.monotonic() - began)
    idler.instruct()
    await idler.next_report()
    return Sample(metrics, Faults())


_SIMPLE: Final[Mapping[str, Callable[[Coordinator], Awaitable[Sample]]]] = MappingProxyType(
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
