"""The workloads: which roles they start, which instructions they give, and which figures they make of the reports."""

from __future__ import annotations

import asyncio
import math
import re
import time
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer_bench import floor
from channel_layer_bench.contenders import FLOOR
from channel_layer_bench.context import wait_for
from channel_layer_bench.faults import Faults, Sample
from channel_layer_bench.metrics import FAMILIES, family, percentile, rate
from channel_layer_bench.roles import blocking, consumers, groups, queues

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from channel_layer_bench.coordinator import Coordinator, RoleHandle
    from channel_layer_bench.plan import Plan
    from channel_layer_bench.servers import Usage

__all__ = ("UnknownWorkload", "Workload", "choose")

_T = TypeVar("_T")
_R = TypeVar("_R")

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
_IDLE_SECONDS: Final = 10.0
_QUEUE: Final = "bench.work"
_GROUP: Final = "bench.group"


class UnknownWorkload(ValueError):
    """A --workload names no workload; the message lists those that exist."""


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
    return list(FAMILIES).index(family(name)) if family(name) in FAMILIES else len(FAMILIES)


def _costs(coordinator: Coordinator, spent: Usage, messages: int) -> dict[str, float]:
    """Return processor time for each message, in microseconds."""
    costs = {"client_cpu_us": spent.client / max(1, messages) * 1e6}
    if _served(coordinator):
        costs["server_cpu_us"] = spent.server / max(1, messages) * 1e6
    return costs


def _served(coordinator: Coordinator) -> bool:
    return not coordinator.contender.single_process


async def _ready(*roles: RoleHandle[_T]) -> None:
    """Wait until each role is ready."""
    for role in roles:
        await role.report(type(None))


async def _sample(coordinator: Coordinator, role: RoleHandle[_T], instruction: _T) -> Sample:
    """Return the sample of a role that makes one of its own, and what each of its messages cost."""
    before = await coordinator.usage()
    sample = await role.ask(instruction, Sample)
    spent = await coordinator.usage() - before
    return Sample({**sample.metrics, **_costs(coordinator, spent, sample.faults.sent)}, sample.faults)


# --- one to one -------------------------------------------------------------------------------------------------


async def _direct(coordinator: Coordinator) -> Sample:
    if coordinator.contender.name == FLOOR:
        pusher = coordinator.start(floor.push, coordinator.servers.urls[0], f"{coordinator.prefix}floor", _TASKS)
        await _ready(pusher)
        return await _sample(coordinator, pusher, None)
    receiver = coordinator.start(queues.receiver, _TASKS)
    sender = coordinator.start(queues.sender, _TASKS, coordinator.plan.payload)
    return await _to_receiver(coordinator, sender, receiver)


async def _large(coordinator: Coordinator) -> Sample:
    progress = str(coordinator.folder / "progress")
    receiver = coordinator.start(queues.receiver, _LARGE_TASKS, progress)
    sender = coordinator.start(queues.sender, _LARGE_TASKS, _LARGE_PAYLOAD, _LARGE_WINDOW, progress)
    sample = await _to_receiver(coordinator, sender, receiver)
    messages = sample.metrics.pop("messages_per_second")
    return Sample({"megabytes_per_second": messages * _LARGE_PAYLOAD / 1e6, **sample.metrics}, sample.faults)


async def _to_receiver(
    coordinator: Coordinator, sender: RoleHandle[list[str]], receiver: RoleHandle[list[int]]
) -> Sample:
    channels = await receiver.report(queues.Channels)
    await _ready(sender)
    before = await coordinator.usage()
    sent = await sender.ask(channels, queues.Sent)
    last = await receiver.ask(sent.counts, float)
    spent = await coordinator.usage() - before
    return Sample(_sent(coordinator, sent, last, spent), await receiver.ask(sent.counts, Faults))


def _sent(coordinator: Coordinator, sent: queues.Sent, last: float, spent: Usage) -> dict[str, float]:
    count = sum(sent.counts)
    return {
        "messages_per_second": rate(count, last - sent.first),
        "refused": float(sent.refused),
        **_costs(coordinator, spent, count),
    }


async def _latency(coordinator: Coordinator) -> Sample:
    if coordinator.contender.name == FLOOR:
        pinging = coordinator.start(floor.ping, coordinator.servers.urls[0])
        await _ready(pinging)
        return await pinging.ask(None, Sample)
    echo = coordinator.start(consumers.echo, 1)
    pinger = coordinator.start(queues.pinger)
    await _ready(pinger)
    return await pinger.ask(await echo.report(str), Sample)


# --- one to many ------------------------------------------------------------------------------------------------


async def _fanout(coordinator: Coordinator, *, members: int, receivers: int) -> Sample:
    progress = str(coordinator.folder / "progress")
    shares = [members // receivers + (number < members % receivers) for number in range(receivers)]
    readers = [
        coordinator.start(groups.members, _GROUP, share, number, progress) for number, share in enumerate(shares)
    ]
    publisher = coordinator.start(groups.publisher, _GROUP, receivers, progress)
    await _ready(*readers)
    await _ready(publisher)
    publisher.instruct(None)
    await _ready(publisher)
    before = await coordinator.usage()
    sent = await publisher.ask(None, groups.Published)
    last = max(await _ask_all(readers, sent.count, float))
    spent = await coordinator.usage() - before
    checked = await _ask_all(readers, sent.count, groups.Checked)
    deliveries = (sent.count - sent.before) * members
    metrics = {
        "deliveries_per_second": rate(deliveries, last - sent.first),
        "group_send_ms": sent.call * 1e3,
        "group_send_alone_ms": sent.single * 1e3,
        "p99_ms": percentile([delay for each in checked for delay in each.delays], 0.99) * 1e3,
        **_costs(coordinator, spent, deliveries),
    }
    return Sample(metrics, sum((each.faults for each in checked), start=Faults()))


async def _ask_all(roles: Sequence[RoleHandle[_T]], instruction: _T, kind: type[_R]) -> list[_R]:
    """Send an instruction to all roles, and return the report of each."""
    for role in roles:
        role.instruct(instruction)
    return [await role.report(kind) for role in roles]


async def _sync(coordinator: Coordinator) -> Sample:
    # The caller first, so that it has the main thread if there is only one process.
    caller = coordinator.start(blocking.async_to_sync_caller, _GROUP)
    members = coordinator.start(groups.members, _GROUP, _SYNC_MEMBERS)
    await _ready(caller)
    await _ready(members)
    caller.instruct(None)
    await _ready(caller)
    before = await coordinator.usage()
    calls = await caller.ask(None, blocking.Calls)
    spent = await coordinator.usage() - before
    empty = await caller.ask(None, blocking.Calls)
    metrics = {
        "calls_per_second": calls.rate,
        "empty_calls_per_second": empty.rate,
        "of_empty": calls.rate / empty.rate,
    }
    if _served(coordinator):
        metrics["connections_per_call"] = spent.connections / calls.count
    return Sample(metrics, await _faults_of_members(members, 1 + calls.count))


async def _faults_of_members(members: RoleHandle[int], count: int) -> Faults:
    await members.ask(count, float)
    return (await members.ask(count, groups.Checked)).faults


async def _blocking(coordinator: Coordinator) -> Sample:
    if coordinator.contender.name == FLOOR:
        calling = coordinator.start(floor.call, coordinator.servers.urls[0], f"{coordinator.prefix}floor")
        await _ready(calling)
        calls = await calling.ask(None, blocking.Calls)
        return Sample({"sends_per_second": calls.rate}, Faults(calls.count))
    names = [f"{_GROUP}.{members}" for members in _BLOCKING_MEMBERS]
    caller = coordinator.start(blocking.blocking_caller, _QUEUE, list(zip(names, _BLOCKING_MOST, strict=True)))
    readers = [
        coordinator.start(groups.members, name, members) for name, members in zip(names, _BLOCKING_MEMBERS, strict=True)
    ]
    await _ready(caller)
    await _ready(*readers)
    sends = (await caller.ask(None, blocking.Calls)).rate
    rates: list[float] = []
    faults = Faults()
    for reader in readers:
        calls = await caller.ask(None, blocking.Calls)
        rates.append(calls.rate)
        faults += await _faults_of_members(reader, 1 + calls.count)
    metrics = {
        "sends_per_second": sends,
        "group_sends_per_second": rates[0],
        "of_a_loop": rates[-1] * _BLOCKING_MEMBERS[-1] / sends,
    }
    return Sample(metrics, faults)


# --- one of many ------------------------------------------------------------------------------------------------


async def _worker(coordinator: Coordinator) -> Sample:
    workers = [coordinator.start(queues.worker, _QUEUE, _WORKER_TASKS) for _ in range(_WORKERS)]
    sender = coordinator.start(queues.sender, _TASKS, coordinator.plan.payload)
    await _ready(*workers)
    await _ready(sender)

    async def taken() -> int:
        return sum(await _ask_all(workers, False, int))

    before = await coordinator.usage()
    sent = await sender.ask([_QUEUE], queues.Sent)
    total = sum(sent.counts)
    await wait_for(taken, total, coordinator.plan.patience)
    spent = await coordinator.usage() - before
    # The right number may hide a duplicate, with another message still to come.
    if await wait_for(taken, total + 1, _WORKER_QUIET) > total:
        await wait_for(taken, math.inf, coordinator.plan.patience)
    reports = await _ask_all(workers, True, queues.Jobs)
    taken_jobs = sum(len(report.jobs) for report in reports)
    different = len({job for report in reports for job in report.jobs})
    return Sample(
        _sent(coordinator, sent, max(report.last for report in reports), spent),
        Faults(total, lost=max(0, total - different), doubled=taken_jobs - different),
    )


async def _churn(coordinator: Coordinator) -> Sample:
    echo = coordinator.start(consumers.echo, _CHURNERS)
    churner = coordinator.start(consumers.churner, _CHURNERS)
    await _ready(churner)
    return await _sample(coordinator, churner, await echo.report(str))


# --- what waiting costs -----------------------------------------------------------------------------------------


async def _pending(coordinator: Coordinator) -> Sample:
    filler = coordinator.start(consumers.filler, _QUEUE, _PENDING)
    await _ready(filler)
    before = await coordinator.usage()
    sent = await filler.ask(None, int)
    spent = await coordinator.usage() - before
    return Sample({"server_bytes_per_message": spent.memory / max(1, sent)}, Faults(sent))


async def _idle(coordinator: Coordinator) -> Sample:
    idler = coordinator.start(consumers.idler, _IDLE_CHANNELS)
    memory = await idler.report(int)
    metrics = {"client_bytes_per_channel": (await idler.ask(None, int) - memory) / _IDLE_CHANNELS}
    before, began = coordinator.servers.usage(), time.monotonic()
    await asyncio.sleep(_IDLE_SECONDS)
    if _served(coordinator):
        spent = coordinator.servers.usage() - before
        metrics["commands_per_second"] = spent.commands / (time.monotonic() - began)
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
