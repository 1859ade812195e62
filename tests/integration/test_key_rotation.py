"""Keys are changed one process at a time while messages are sent: none is lost, none is received twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace

from channel_layer import ChannelFull
from channel_layer_redis import RedisChannelLayer
from tests.support.processes import AsyncChild, Fleet, Worker
from tests.support.servers import Deployment

OLD, NEW = ("the key that was, of a good length", "the key that will be, of a good length")
STEPS = ((OLD,), (OLD, NEW), (NEW, OLD), (NEW,))
"""As documented: the new key is added last, then moved to the front; the old one goes when nothing needs it."""

WORKERS = 3
ENOUGH = 40
"""Messages that a worker sends, and receives, before it is replaced."""


@dataclass(frozen=True)
class Work:
    """The parameters of a process."""

    hosts: list[str]
    prefix: str
    keys: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Done:
    """The results of a process."""

    sent: int
    dropped: dict[str, int]


async def work(child: AsyncChild, params: Work) -> Done:
    """Send jobs, do jobs of all processes and send to a group, until told to stop."""
    sent = received = heard = 0

    async with RedisChannelLayer(
        hosts=params.hosts,
        prefix=params.prefix,
        symmetric_encryption_keys=params.keys,
    ) as layer:
        mine = await layer.new_channel()
        await layer.group_add("all", mine)

        async def send() -> None:
            nonlocal sent
            while True:
                try:
                    await layer.send("jobs", {"job": f"{params.name}/{sent}"})
                except ChannelFull:
                    await asyncio.sleep(0.001)
                else:
                    sent += 1

        async def receive() -> None:
            nonlocal received
            while True:
                message = await layer.receive("jobs")
                child.record(str(message["job"]))
                received += 1
                await layer.group_send("all", {"done": received})

        async def listen() -> None:
            nonlocal heard
            while True:
                await layer.receive(mine)
                heard += 1
                child.progress(min(sent, received, heard))

        tasks = [asyncio.create_task(each()) for each in (send, receive, listen)]
        word = asyncio.create_task(child.ready())
        done, _ = await asyncio.wait([word, *tasks], return_when=asyncio.FIRST_COMPLETED)
        assert done == {word}, [task.exception() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()  # a message that is just being sent may be sent or not: it is not counted
        await asyncio.gather(*tasks, return_exceptions=True)
        dropped = layer.counts().dropped
        return Done(sent, {str(reason): count for reason, count in dropped.items()})


class _Fleet:
    """Three workers at a time, and the results of all.

    Args:
        fleet: starts processes.
        work: their parameters, except name and keys.
    """

    def __init__(self, fleet: Fleet, work: Work) -> None:
        self._fleet = fleet
        self._work = work
        self._live: list[tuple[str, Worker[Done]]] = []
        self._journals: list[str] = []
        self.sent: set[str] = set()
        self.dropped: Counter[str] = Counter()

    def start(self, keys: tuple[str, ...]) -> None:
        """Start one more worker."""
        name = f"{len(self._live)} of {len(keys)} {keys[0]} {len(self.sent)}"
        worker = self._fleet.spawn(work, replace(self._work, keys=keys, name=name))
        worker.wait_ready()
        self._live.append((name, worker))

    def stop(self) -> None:
        """Stop the oldest worker."""
        name, worker = self._live.pop(0)
        worker.go()
        done = worker.result()
        self.sent.update(f"{name}/{n}" for n in range(done.sent))
        self.dropped.update(done.dropped)
        self._journals += worker.journal()

    def wait(self) -> None:
        """Wait until each worker has sent and received more jobs and group messages."""
        for _, worker in self._live:
            worker.wait_progress(worker.progress + ENOUGH)

    @property
    def done(self) -> Counter[str]:
        """How often each job was done."""
        return Counter([*self._journals, *(job for _, worker in self._live for job in worker.journal())])


def test_a_rolling_change_of_keys_loses_nothing(one_host: Deployment, prefix: str) -> None:
    """Three processes that send and receive continuously get new keys in three steps, and every job is done once."""

    async def drain(due: set[str]) -> list[str]:
        """Receive the jobs that are left when all workers have stopped."""
        jobs: list[str] = []
        async with RedisChannelLayer(hosts=one_host.urls, prefix=prefix, symmetric_encryption_keys=STEPS[-1]) as layer:
            while due - set(jobs):
                jobs.append(str((await asyncio.wait_for(layer.receive("jobs"), 10))["job"]))
        return jobs

    with Fleet() as processes:
        fleet = _Fleet(processes, Work(one_host.urls, prefix, (), ""))
        for _ in range(WORKERS):
            fleet.start(STEPS[0])
        for keys in STEPS[1:]:
            while OLD not in keys and fleet.sent - set(fleet.done):  # "when nothing is left of the old one"
                fleet.wait()
            for _ in range(WORKERS):
                fleet.wait()
                fleet.start(keys)
                fleet.stop()
        fleet.wait()
        for _ in range(WORKERS):
            fleet.stop()
        done = fleet.done
    done.update(asyncio.run(drain(fleet.sent - set(done))))
    assert not fleet.dropped["unauthentic"]
    assert set(done.values()) == {1}
    assert fleet.sent <= set(done)
    assert len(fleet.sent) > 4 * WORKERS * ENOUGH
