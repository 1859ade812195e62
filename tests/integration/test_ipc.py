"""The IPC layer's files, memory and processes: what happens when they are damaged, full, killed or forked."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import resource
import signal
import stat
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from channel_layer import ChannelFull, ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.domain.rules import Rules
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_ipc import IPCBackend, IPCChannelLayer, reset
from channel_layer_ipc._environment import Environment
from channel_layer_ipc._process_lock import acquire
from channel_layer_ipc._store import IPCStore
from tests.support.processes import Fleet, SyncChild

JOBS = ChannelName.parse("jobs")
ROOM = 1_000_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the files are; not there yet."""
    return tmp_path / "ipc"


@pytest.fixture
def backend(directory: Path) -> IPCBackend:
    """A shared store of this test's own."""
    return make_backend(directory)


def make_backend(directory: Path, rules: Rules | None = None, memory: int = 16 << 20) -> IPCBackend:
    """Make a backend, as one process would."""
    return IPCBackend(rules or make_rules(prefix="t:"), VirtualClock(), directory, memory)


async def push(store: IPCStore, payload: bytes = b"1", name: str = "jobs", capacity: int = ROOM) -> bool:
    """Push one message; return whether it was accepted."""
    return (await store.execute(c.Push(0, ChannelName.parse(name), capacity, payload))).accepted


async def pop(store: IPCStore, count: int = 1, name: str = "jobs") -> list[bytes]:
    """Pop some messages."""
    popped = await store.execute(c.Pop(0, ChannelName.parse(name).queue, count, "me"))
    return [entry.frame for entry in popped.entries]


def files(directory: Path) -> list[str]:
    """Return the kinds of files that are there."""
    return sorted(file.suffix for file in directory.iterdir())


# -- who may use them


def modes(directory: Path) -> list[int]:
    """Return the modes of a directory and of the files in it."""
    return [stat.S_IMODE(each.stat().st_mode) for each in (directory, *directory.iterdir())]


def test_all_is_private(directory: Path, backend: IPCBackend) -> None:
    """Only the user who runs the process can enter the directory, and open the files in it, sockets included."""

    async def body() -> None:
        async with aclosing(backend.open()) as store:
            waiting = asyncio.create_task(store.wait(c.Wait(0, JOBS.queue, 60)))
            await push(store, name="other")
            assert modes(directory) == [0o700, 0o600, 0o600, 0o600]
            waiting.cancel()

    asyncio.run(body())


@pytest.mark.parametrize("wrong", ["open to others", "another user's", "a link", "a file"])
def test_what_is_not_ours_alone_is_refused(directory: Path, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that others may enter, that is another user's or none is refused; the error says what to do."""
    if wrong == "a file":
        directory.write_text("mine")
    elif wrong == "a link":
        (directory.parent / "real").mkdir(mode=0o700)
        directory.symlink_to("real")
    else:
        directory.mkdir(mode=0o700)
    if wrong == "open to others":
        directory.chmod(0o750)
    if wrong == "another user's":
        monkeypatch.setattr("os.geteuid", lambda: directory.stat().st_uid + 1)
    with pytest.raises(
        StoreError, match=r"chmod it|each user a directory|the directory itself|give another one"
    ) as caught:
        make_backend(directory).acquire_environment()
    assert not caught.value.retryable


@pytest.mark.parametrize("kind", [".lock", ".mdb"])
def test_a_foreign_file_is_refused_and_reset(directory: Path, kind: str) -> None:
    """A foreign file in the place of ours is refused, with an error that names the call that removes it."""
    stem = make_backend(directory).acquire_environment().environment.process_lock.data.with_suffix("")
    assert files(directory) == []
    stem.with_name(stem.name + kind).write_bytes(b"foreign" * 1000)
    stem.with_name(stem.name + kind).chmod(0o600)
    with pytest.raises(StoreError, match=r"no file of this library: stop .* channel_layer_ipc\.reset\("):
        make_backend(directory).acquire_environment()
    assert reset(directory) == 1
    make_backend(directory).acquire_environment().release()


def test_another_release_is_told_apart(directory: Path, backend: IPCBackend) -> None:
    """Files in use by another release are refused; what that release leaves behind is removed like our own."""
    process_lock = backend.acquire_environment().environment.process_lock.data.with_suffix(".lock")
    backend.close()
    process_lock.write_bytes(b"channel-layer ipc 1\n{}\n")
    process_lock.chmod(0o600)
    process_lock.with_suffix(".mdb-lock").write_bytes(b"of a kind that we do not have")
    with process_lock.open("rb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_SH)
        with pytest.raises(StoreError, match="another release of this library: stop them") as caught:
            make_backend(directory).acquire_environment()
        assert not caught.value.retryable
    reference = make_backend(directory).acquire_environment()
    assert files(directory) == [".lock", ".mdb"]
    reference.release()


def test_incomplete_data_is_made_anew(directory: Path) -> None:
    """A process that is killed while it makes the data's first two pages does not stop the next one."""
    process_lock = acquire(directory, "t:", 16 << 20, 5.0)
    process_lock.data.write_bytes(b"x" * resource.getpagesize())
    process_lock.data.chmod(0o600)
    environment = Environment(process_lock)
    with environment.write() as transaction:
        transaction.put(b"key", b"value")
        transaction.commit()
    environment.close()
    assert files(directory) == []


def test_damaged_data_in_use_is_refused(directory: Path, backend: IPCBackend) -> None:
    """Data that another process uses, and that is cut short or overwritten, is refused; a reset has to wait."""
    with Fleet() as fleet:
        keeper = fleet.spawn_sync(keep_open, Keep(str(directory)))
        keeper.wait_ready()
        [data] = directory.glob("*.mdb")
        os.truncate(data, 8192)
        with pytest.raises(StoreError, match=r"cut short.*reset"):
            backend.acquire_environment()
        data.write_bytes(b"x" * (1 << 20))
        with pytest.raises(StoreError, match=r"damaged, or not ours.*reset"):
            backend.acquire_environment()
        with pytest.raises(StoreError, match="in use by processes"):
            reset(directory)
        keeper.kill9()
    assert reset(directory) == 1
    assert files(directory) == []


@dataclass(frozen=True, slots=True)
class Keep:
    """Arguments of a process that uses the files.

    Attributes:
        directory: of the files.
    """

    directory: str


def keep_open(child: SyncChild, params: Keep) -> None:
    """Open the files, and keep them open."""

    async def use(backend: IPCBackend) -> None:
        async with aclosing(backend.open()) as store:
            for n in range(500):
                await push(store, b"%d" % n)

    backend = make_backend(Path(params.directory))
    asyncio.run(use(backend))
    child.ready()


# -- how long they are there


def test_the_last_one_removes_the_files(directory: Path) -> None:
    """Messages last for as long as any process uses the files; the last one removes the files."""
    backends = [make_backend(directory), make_backend(directory)]

    async def use(backend: IPCBackend) -> list[bytes]:
        async with aclosing(backend.open()) as store:
            await push(store)
            return await pop(store, 0 if len(backends) > 1 else 5)

    asyncio.run(use(backends[0]))
    asyncio.run(use(backends[1]))
    del backends[0]
    gc.collect()
    assert len(asyncio.run(use(backends[0]))) == 3
    assert files(directory) == [".lock", ".mdb"]
    del backends[0]
    gc.collect()
    assert files(directory) == []


async def test_after_all_were_killed_the_next_one_starts_empty(directory: Path, backend: IPCBackend) -> None:
    """The next process clears the files of processes that were killed, with what was in them."""
    with Fleet() as fleet:
        keeper = fleet.spawn_sync(keep_open, Keep(str(directory)))
        keeper.wait_ready()
        keeper.kill9()
    assert ".mdb" in files(directory)

    async with aclosing(backend.open()) as store:
        assert await pop(store) == []


def remove_all(directory: Path) -> None:
    """Remove all files, as a system that tidies up does."""
    for file in directory.iterdir():
        file.unlink()


async def test_removed_files_are_missed(directory: Path) -> None:
    """A process whose files were removed notices it, raises errors, and uses the same new files as others."""
    clock = VirtualClock()
    one = IPCBackend(make_rules(prefix="t:"), clock, directory, 16 << 20)

    async with aclosing(one.open()) as store:
        await push(store)
        before = await store.run_id(0)
        gone = asyncio.create_task(store.disconnected(0))
        waiting = asyncio.create_task(store.wait(c.Wait(0, ChannelName.parse("other").queue, 60)))
        await asyncio.sleep(0)
        remove_all(directory)
        clock.advance(5)
        await push(store)
        await gone
        with pytest.raises(StoreError, match="removed"):
            await waiting
        assert await store.run_id(0) != before
        async with aclosing(make_backend(directory).open()) as other:
            await push(other, b"new")
            assert len(await pop(store, 5)) == 1


async def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    """A directory whose path is longer than a socket's may be works, where the system has a way around that."""
    backend = make_backend(tmp_path / ("d" * 120))

    async with aclosing(backend.open()) as store, aclosing(backend.open()) as sender:
        waiting = asyncio.create_task(store.wait(c.Wait(0, JOBS.queue, 60)))
        await push(sender, name="other")
        await push(sender)
        await asyncio.wait_for(waiting, 20)


# -- memory


async def test_full_memory_refuses_and_recovers(directory: Path) -> None:
    """When the memory is used up a push is refused, and nothing else; what is popped makes room again."""
    backend = make_backend(directory, memory=4 << 20)

    async with aclosing(backend.open()) as store:
        for _ in range(3):
            accepted = 0
            while await push(store, bytes(1000)):
                accepted += 1
            assert 2000 < accepted < 4000
            assert await push(store, b"") is False
            await store.execute(c.Join(0, GroupName.parse("g"), JOBS, owned=False, age=0.0, restore=False, mark=False))
            taken = 0
            while some := await pop(store, 100):
                taken += len(some)
            assert taken == accepted
        for _ in range(10):  # what the last transactions have freed is free after them
            await push(store)
        assert await push(store, bytes(1 << 20))  # a quarter finds room where small ones have been


@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_what_is_full_is_said(directory: Path, caplog: pytest.LogCaptureFixture, *, blocks: bool) -> None:
    """Errors and the log name the directory, the prefix and the memory, and what to do; a full channel stays one."""
    async with IPCChannelLayer(
        directory=directory,
        prefix="t:",
        memory=4 << 20,
        max_message_size=1000,
        capacity=ROOM,
        channel_capacity={"small": 1},
    ) as layer:

        async def send(channel: str) -> None:
            if blocks:
                layer.blocking.send(channel, {"x": bytes(900)})
            else:
                await layer.send(channel, {"x": bytes(900)})

        async def fill() -> None:
            while True:
                await send("jobs")

        async def add_groups() -> None:
            for number in range(ROOM):
                await layer.group_add(f"group{number}", "jobs")

        await send("small")
        with pytest.raises(ChannelFull) as full:
            await send("small")
        assert str(full.value) == "channel 'small' is full: 1 messages wait in it unread"
        with pytest.raises(ChannelFull) as full:
            await fill()
        said = (
            f"the memory for the prefix 't:' in {str(directory)!r} is used up, memory=4194304 bytes: "
            "receive what waits, or stop all its processes and start them with more memory"
        )
        assert str(full.value) == f"channel 'jobs' takes no message: {said}"
        logged = [record.getMessage() for record in caplog.records if record.name == "channel_layer"]
        assert logged == [f"the channel layer refuses messages: {said}"]
        with pytest.raises(StoreError) as failed:
            await add_groups()
        assert str(failed.value) == f"channel_layer_ipc: {said}"
        assert (failed.value.retryable, failed.value.outcome) == (True, "not_sent")


def test_a_disk_that_is_full_is_memory_that_is_full(directory: Path) -> None:
    """Where the system gives no more room than this, a push is refused; no signal ends the process."""
    with Fleet() as fleet:
        worker = fleet.spawn_sync(fill_a_small_disk, Keep(str(directory)))
        fleet.go()
        accepted, said = worker.result()
    assert accepted > 2000
    assert said.startswith(f"the disk has no more room for the prefix 't:' in {str(directory)!r}, which has got ")
    assert said.endswith("bytes of memory=67108864: free some, give another directory, or receive what waits")


def fill_a_small_disk(child: SyncChild, params: Keep) -> tuple[int, str]:
    """Fill a shared store whose file may not grow to its memory."""
    child.ready()
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, resource.RLIM_INFINITY))
    backend = make_backend(Path(params.directory), memory=64 << 20)

    async def body() -> tuple[int, str]:
        async with aclosing(backend.open()) as store:
            accepted, said = 0, ""
            for _ in range(3):
                accepted = 0
                while await push(store, bytes(1000)):
                    accepted += 1
                said = (await store.execute(c.Push(0, JOBS, ROOM, bytes(1000)))).no_room
                taken = 0
                while some := await pop(store, 100):
                    taken += len(some)
                assert taken == accepted
            return accepted, said

    return asyncio.run(body())


# -- crashes


async def test_a_transaction_ends_with_its_process(directory: Path, backend: IPCBackend) -> None:
    """A process that is killed in the midst of a transaction has done nothing, and stops no other process."""
    reference = backend.acquire_environment()
    with Fleet() as fleet:
        victim = fleet.spawn_sync(die_in_a_transaction, Keep(str(directory)))
        victim.wait_ready()
        victim.kill9()

        async def body() -> None:
            async with aclosing(backend.open()) as store:
                assert await pop(store, 10) == []
                assert await push(store)

        await body()
    reference.release()


def die_in_a_transaction(child: SyncChild, params: Keep) -> None:
    """Begin a transaction, write in it, and wait to be killed."""
    reference = make_backend(Path(params.directory)).acquire_environment()
    with reference.environment.write() as transaction:
        for n in range(1000):
            transaction.put(b"mjobs\0%08d" % n, b"x" * 500)
        child.ready()
        signal.pause()


async def test_a_notification_of_a_killed_waiter_goes_to_another(directory: Path, backend: IPCBackend) -> None:
    """When the process that has waited for longest was killed, the next one is notified in its place."""
    reference = backend.acquire_environment()
    with Fleet() as fleet:
        victim = fleet.spawn_sync(wait_for_ever, Keep(str(directory)))
        victim.wait_ready()

        async def body() -> None:
            async with aclosing(backend.open()) as store, aclosing(make_backend(directory).open()) as sender:
                waiting = asyncio.create_task(store.wait(c.Wait(0, JOBS.queue, 600)))
                await push(store, name="other")
                await asyncio.to_thread(victim.kill9)
                await push(sender)
                await asyncio.wait_for(waiting, 20)

        await body()
    reference.release()


def wait_for_ever(child: SyncChild, params: Keep) -> None:
    """Wait for a message."""

    async def body() -> None:
        async with aclosing(make_backend(Path(params.directory)).open()) as store:
            waiting = asyncio.create_task(store.wait(c.Wait(0, JOBS.queue, 600)))
            await push(store, name="other")
            await asyncio.to_thread(child.ready)
            await waiting

    asyncio.run(body())


# -- forks


def test_a_child_does_not_touch_what_its_parent_has_open(directory: Path) -> None:
    """A forked child opens the files for itself, and closing them there leaves the parent's as they were."""
    backend = make_backend(directory)

    async def put(payload: bytes) -> None:
        async with aclosing(backend.open()) as store:
            await push(store, payload)

    async def take() -> list[bytes]:
        async with aclosing(backend.open()) as store:
            return await pop(store, 10)

    asyncio.run(put(b"1"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            backend.forked()
            asyncio.run(put(b"2"))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(put(b"3"))
    assert [frame[-1:] for frame in asyncio.run(take())] == [b"1", b"2", b"3"]


# -- what it costs to be idle


def test_a_waiting_process_does_nothing(backend: IPCBackend) -> None:
    """While a task waits and no message comes, there is no transaction, and nothing wakes the loop."""

    async def body() -> None:
        async with aclosing(backend.open()) as store:
            waiting = asyncio.create_task(store.wait(c.Wait(0, JOBS.queue, 3600)))
            await push(store, name="other")
            await pop(store, name="other")
            before = store.transactions
            timers = [each.when() for each in _timers() if not each.cancelled()]
            assert [round(when - asyncio.get_running_loop().time(), -2) for when in timers] == [3600]
            for _ in range(100):
                await asyncio.sleep(0)
            assert store.transactions == before
            waiting.cancel()

    asyncio.run(body())


def _timers() -> list[asyncio.TimerHandle]:
    found: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009
    return found


async def test_commands_of_one_turn_share_a_transaction(backend: IPCBackend) -> None:
    """A hundred sends at once are one transaction, whether they are asked for one by one or together."""
    async with aclosing(backend.open()) as store:
        await push(store)
        before = store.transactions
        await asyncio.gather(*(push(store) for _ in range(100)))
        assert store.transactions == before + 1
        await store.execute_many([c.Push(0, JOBS, ROOM, b"1") for _ in range(100)])
        assert store.transactions == before + 2


# -- the layer


async def test_a_layer_between_processes(directory: Path) -> None:
    """What one process sends another one receives, in order, and a group has members in both."""
    with Fleet() as fleet:
        worker = fleet.spawn_sync(answer, Keep(str(directory)))
        there = worker.wait_ready()

        async def body() -> None:
            async with IPCChannelLayer(directory=directory, capacity=1000) as layer:
                mine = await layer.new_channel()
                await layer.group_add("room", mine)
                worker.go()
                for n in range(300):
                    await send(layer, there, n, mine)
                came = [(await layer.receive(mine))["n"] for _ in range(300)]
                assert came == list(range(300))

        await body()
        worker.result()
    assert files(directory) == []


async def send(layer: ChannelLayer, to: str, n: int, mine: str) -> None:
    """Send, and again if the channel is full."""
    while True:
        try:
            await layer.send(to, {"n": n, "reply": mine})
        except layer.ChannelFull:
            await asyncio.sleep(0.001)
        else:
            return


def answer(child: SyncChild, params: Keep) -> None:
    """Send back what comes, to the group."""

    async def body() -> None:
        async with IPCChannelLayer(directory=Path(params.directory), capacity=1000) as layer:
            mine = await layer.new_channel()
            await asyncio.to_thread(child.ready, mine)
            for _ in range(300):
                message = await layer.receive(mine)
                await layer.group_send("room", {"n": message["n"]})

    asyncio.run(body())
