"""The IPC layer's files when something else has written to them: an error, never the end of a process.

Forty random damages by default. ``CHANNEL_LAYER_DAMAGES`` says how many, and ``CHANNEL_LAYER_CRASH_SEED`` which ones.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import struct
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import lmdb
import pytest

from channel_layer import StoreError
from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_ipc import IPCBackend, IPCChannelLayer, reset
from channel_layer_ipc import _keys as k
from channel_layer_ipc._blocking import IPCBlockingStore
from channel_layer_ipc._data_file import find_damage
from channel_layer_ipc._environment import EnvironmentReference
from channel_layer_ipc._process_lock import ProcessLock, acquire

DAMAGES: Final = int(os.environ.get("CHANNEL_LAYER_DAMAGES", "40"))
SEED: Final = int(os.environ.get("CHANNEL_LAYER_CRASH_SEED", "1"))
MEMORY: Final = 16 << 20
PAGE: Final = resource.getpagesize()
ROOM: Final = 1_000_000
MANY: Final = 1_000_000
"""Pages: all of them."""

JOBS: Final = ChannelName.parse("jobs")
OWN: Final = ChannelName.parse("specific.me!1")
OTHER: Final = ChannelName.parse("other")
RESPONSE: Final = ChannelName.parse("resp?1")
GROUP: Final = GroupName.parse("room")
NAMES: Final = [f"jobs.{n}" for n in range(12)]
WAITING: Final = 40
"""Messages in each of these."""


def make_backend(directory: Path, clock: VirtualClock | None = None) -> IPCBackend:
    """Make a backend, as one process would."""
    return IPCBackend(make_rules(prefix="t:", expiry=3600), clock or VirtualClock(), directory, MEMORY)


def payload(name: str, n: int) -> bytes:
    """Return the payload of a message; some have more than a page."""
    return b"%s %d " % (name.encode(), n) + bytes([n]) * (3 * PAGE if n % 16 == 0 else 90)


def push(store: IPCBlockingStore, name: str, data: bytes = b"1") -> None:
    """Push one message."""
    assert store.execute(c.Push(0, ChannelName.parse(name), ROOM, data)).accepted


def pop(store: IPCBlockingStore, name: str, count: int) -> list[bytes]:
    """Pop some messages; return their payloads."""
    popped = store.execute(c.Pop(0, ChannelName.parse(name).queue, count, "me"))
    return [entry.frame[2 + len(name) :] for entry in popped.entries]


def fill(store: IPCBlockingStore) -> None:
    """Make queues, a group, an owned inbox, a claim, a reader, statistics, and free pages."""
    for n in range(10 + WAITING):
        for name in NAMES:
            push(store, name, payload(name, n))
    for name in NAMES:
        assert pop(store, name, 10) == [payload(name, n) for n in range(10)]
    for call in everything(store):
        call()
    for n in range(30):
        store.execute(c.Join(0, GROUP, ChannelName.parse(f"resp?{n}"), owned=False, age=0, restore=False, mark=True))


def everything(store: IPCBlockingStore) -> Iterator[Callable[[], object]]:
    """Return one call of each command."""
    marker = MembershipMarker(GROUP.name, OWN.name, True, 1, 0)
    claimed, counts = ChannelName.parse("claimed!x").queue, (c.Count(JOBS.queue, 5, 1),)
    requests: list[c.Command[object]] = [
        c.Push(0, JOBS, ROOM, b"1"),
        c.AcquireLease(0, OWN.queue, "g", "", ((OWN.name, 1),)),
        c.Push(0, OWN, ROOM, b"1"),
        c.Push(0, RESPONSE, ROOM, b"1", to_member=True),
        c.Push(0, JOBS, ROOM, b"1", if_registered=True),
        c.Pop(0, JOBS.queue, 1, "me", register=60.0),
        c.PutBack(0, JOBS.queue, (c.Entry(1e9, b"m\x04jobs1"),)),
        c.Pop(0, claimed, 1, "me"),
        c.Pending(0, JOBS),
        c.RenewLease(0, OWN.queue),
        c.Alive(0, (OWN.queue,)),
        c.Mark(0, OWN.queue, marker),
        c.Deliver(0, OWN.queue, GROUP, (), b"1"),
        c.ReturnCredits(0, OWN.queue, "g", 1, ((OWN.name, 1),)),
        c.Join(0, GROUP, OWN, owned=True, age=0, restore=False, mark=True),
        c.Join(0, GROUP, RESPONSE, owned=False, age=0, restore=True, mark=True),
        c.Leave(0, GROUP, OTHER, mark=True),
        c.Members(0, GROUP),
        c.CheckGroups(0, OWN.queue, (GROUP,), extend=True),
        c.Publish(0, GROUP, b"1", at_once=True),
        c.Prune(0, GROUP, 1, (OWN.queue.name,), (RESPONSE.name,)),
        c.Report(0, counts, 5, 1),
        c.Reported(0, JOBS.queue),
        c.Reported(0, None),
        c.Survey(0, None),
        c.Survey(0, OWN),
        c.FindOrphaned(0),
        c.Unflushed(0, (OWN.queue.name,), "g"),
    ]
    yield from (partial(store.execute, request) for request in requests)


def use(backend: IPCBackend, directory: Path) -> str:
    """Use everything, in threads and in an event loop; say what happened to the messages, and to other calls."""
    refused, intact = 0, True
    with closing(backend.open_blocking()) as store:
        for name in NAMES:
            try:
                intact &= pop(store, name, WAITING) == [payload(name, n) for n in range(10, 10 + WAITING)]
                push(store, name)
                intact &= pop(store, name, 1) == [b"1"]
            except StoreError as exc:
                check(exc, directory)
                refused += 1
        flush: Callable[[], object] = partial(store.execute, c.Flush(0, "g2"))
        for call in [*everything(store), flush, *everything(store)]:
            try:
                call()
            except StoreError as exc:
                check(exc, directory)
                refused += 1
    refused += asyncio.run(use_in_loop(backend, directory))
    return "refused" if refused else "intact" if intact else "loss"


def open_and_use(directory: Path) -> str:
    """Use everything in a process that comes now."""
    return use(make_backend(directory), directory)


async def use_in_loop(backend: IPCBackend, directory: Path) -> int:
    """Push, wait and pop in an event loop; return how often that was refused."""
    refused = 0
    async with aclosing(backend.open()) as store:
        for ask in (
            lambda: store.execute(c.Push(0, JOBS, ROOM, b"1")),
            lambda: store.wait(c.Wait(0, JOBS.queue, 5)),
            lambda: store.execute(c.Pop(0, JOBS.queue, 100, "me")),
            lambda: store.wait(c.Wait(0, OTHER.queue, 0.01)),
        ):
            try:
                await ask()
            except StoreError as exc:
                check(exc, directory)
                refused += 1
    return refused


def check(error: StoreError, directory: Path) -> None:
    """Check that an error says that the files are damaged, which, and what to do."""
    assert "damaged" in str(error)
    assert f"channel_layer_ipc.reset({str(directory)!r})" in str(error)
    assert not error.retryable
    assert error.outcome == "not_sent"


# -- damages


@dataclass(frozen=True, slots=True)
class Image:
    """The bytes of a data file: all of it, and as it was when a little less had been sent."""

    data: bytes
    older: bytes

    @property
    def used(self) -> int:
        """The size of the pages that are in use, in bytes."""
        last: int = max(struct.unpack_from("=Q", self.data, page + 136)[0] for page in (0, PAGE))
        return (last + 1) * PAGE


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A data file with something of every kind in it."""
    backend = make_backend(tmp_path_factory.mktemp("image") / "ipc")
    with closing(backend.open_blocking()) as store:
        fill(store)
        data = backend.acquire_environment().environment.process_lock.data
        older = data.read_bytes()
        push(store, "more")
        pop(store, "more", 1)
        return Image(data.read_bytes(), older)


def plant(directory: Path, image: Image) -> ProcessLock:
    """Put a data file into a directory, in use by a process, as far as the lock tells."""
    process_lock = acquire(directory, "t:", MEMORY, 5.0)
    process_lock.data.write_bytes(image.data)
    process_lock.data.chmod(0o600)
    with process_lock.data.open("rb") as data:
        process_lock.note_data(data.fileno())
    return process_lock


def damage_at_random(data: Path, image: Image, choose: random.Random) -> str:
    """Damage a data file; say how."""
    at = choose.randrange(image.used)
    page = choose.randrange(2, image.used // PAGE)
    kind = choose.randrange(9)
    if kind == 0:
        size = choose.choice([0, choose.randrange(2 * PAGE), choose.randrange(image.used), page * PAGE])
        os.truncate(data, size)
        return f"cut to {size} bytes"
    if kind == 1:
        data.write_bytes(foreign_content(choose, len(image.data)))
        return "foreign"
    if kind == 2:
        return write(data, at, choose.randbytes(choose.choice([4, 64, PAGE])))
    if kind == 3:
        return write(data, at, bytes(choose.choice([1, 64, PAGE, image.used - at])))
    if kind == 4:
        return write(data, page * PAGE, image.data[at // PAGE * PAGE :][:PAGE])
    if kind == 5:
        return write(data, choose.choice([0, PAGE]) + choose.randrange(152), choose.randbytes(1))
    if kind == 6:
        return write(data, page * PAGE + choose.randrange(64), choose.randbytes(choose.choice([1, 2, 8])))
    if kind == 7:
        return write(data, at, bytes([image.data[at] ^ 1 << choose.randrange(8)]))
    return write(data, 0, image.older)


def foreign_content(choose: random.Random, size: int) -> bytes:
    """Return what another program may have in a file."""
    return choose.choice([b"text " * size, bytes(size), choose.randbytes(size), b"short"])[:size]


def write(data: Path, at: int, content: bytes) -> str:
    """Write over a part of a file; say so."""
    descriptor = os.open(data, os.O_WRONLY)
    os.pwrite(descriptor, content, at)
    os.close(descriptor)
    return f"{len(content)} bytes at {at}"


OUTCOMES: Final = ("intact", "loss", "refused", "another error")


def outcome(body: Callable[[], str]) -> str:
    """Run a function in a child; return its word, or which signal ended the child."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # seconds; it hangs
        code = len(OUTCOMES) - 1
        try:
            code = OUTCOMES.index(body())
        except BaseException:  # noqa: BLE001 - it is shown here
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else OUTCOMES[os.WEXITSTATUS(status)]


def test_no_damage_before_opening_ends_a_process(tmp_path: Path, image: Image) -> None:
    """Whatever has been written over a data file in use, a process that opens it gets an error, or it works."""
    outcomes: dict[str, str] = {}
    for n in range(DAMAGES):
        choose = random.Random(f"{SEED} {n}")
        process_lock = plant(tmp_path / str(n), image)
        how = damage_at_random(process_lock.data, image, choose)
        outcomes[f"{n}: {how}"] = outcome(partial(open_and_use, process_lock.data.parent))
        process_lock.release()
    assert {how: word for how, word in outcomes.items() if word not in {"intact", "loss", "refused"}} == {}
    assert Counter(outcomes.values())["refused"] > DAMAGES // 3


WHILE_OPEN: Final[dict[str, Callable[[Path, Image], object]]] = {
    "emptied": lambda data, _: os.truncate(data, 0),
    "less than a page": lambda data, _: os.truncate(data, 100),
    "one page": lambda data, _: os.truncate(data, PAGE),
    "two pages": lambda data, _: os.truncate(data, 2 * PAGE),
    "half": lambda data, image: os.truncate(data, image.used // 2),
    "all but a page": lambda data, image: os.truncate(data, image.used - PAGE),
    "overwritten with text": lambda data, image: data.write_bytes(b"text " * (len(image.data) // 5)),
    "overwritten with zeros": lambda data, image: data.write_bytes(bytes(len(image.data))),
    "overwritten with something short": lambda data, _: data.write_bytes(b"short"),
    "meta pages zeroed": lambda data, _: write(data, 0, bytes(2 * PAGE)),
    "all but the meta pages zeroed": lambda data, image: write(data, 2 * PAGE, bytes(image.used - 2 * PAGE)),
}


@pytest.mark.parametrize("how", WHILE_OPEN)
def test_no_damage_while_open_ends_a_process(tmp_path: Path, image: Image, how: str) -> None:
    """A process that has the file open when it is cut short or overwritten gets an error with its next call."""
    process_lock = plant(tmp_path, image)

    def body() -> str:
        backend = make_backend(tmp_path)
        with closing(backend.open_blocking()) as store:
            push(store, "before")
            WHILE_OPEN[how](process_lock.data, image)
            with pytest.raises(StoreError, match=r"damaged, or not ours.*reset\("):
                pop(store, "before", 1)
            return use(backend, tmp_path)

    assert outcome(body) == "refused"
    process_lock.release()


def test_room_that_is_missing_is_no_damage(tmp_path: Path, image: Image) -> None:
    """A file that is cut short by no more than what was reserved has lost nothing, and is used as before."""
    process_lock = plant(tmp_path, image)

    def body() -> str:
        backend = make_backend(tmp_path)
        with closing(backend.open_blocking()) as store:
            pop(store, "nothing", 1)
            os.truncate(process_lock.data, image.used)
            return use(backend, tmp_path)

    assert outcome(body) == "intact"
    process_lock.release()


async def test_after_removal_the_same_process_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once damaged files are removed, the processes that refused them use new ones together, and say so."""
    backends = [make_backend(tmp_path / "ipc"), make_backend(tmp_path / "ipc")]
    async with aclosing(backends[0].open()) as store:
        before = await store.run_id(0)
        with closing(backends[1].open_blocking()) as other:
            push(other, "jobs")
            waiting = asyncio.create_task(store.wait(c.Wait(0, OTHER.queue, 60)))
            gone = asyncio.create_task(store.disconnected(0))
            await store.execute(c.Pending(0, JOBS))
            process_lock = backends[0].acquire_environment().environment.process_lock
            os.truncate(process_lock.data, PAGE)
            for _ in range(2):
                with pytest.raises(StoreError, match="cut short"):
                    push(other, "jobs")
                with pytest.raises(StoreError, match="cut short"):
                    await store.execute(c.Pending(0, JOBS))
            for file in (tmp_path / "ipc").iterdir():
                file.unlink()
            with pytest.raises(StoreError, match="cut short"):
                await store.execute(c.Pending(0, JOBS))
            await gone
            with pytest.raises(StoreError, match="removed"):
                await waiting
            with pytest.raises(StoreError, match="cut short"):
                push(other, "jobs")
            push(other, "jobs", b"new")
            assert await store.run_id(0) != before
            assert await store.execute(c.Pending(0, JOBS)) == 1
    assert "were removed while they were in use" in caplog.text


def test_a_child_of_a_process_with_damaged_files_gets_the_error(tmp_path: Path, image: Image) -> None:
    """A process that is forked after the damage was done refuses the files as its parent does."""
    process_lock = plant(tmp_path, image)
    backend = make_backend(tmp_path)
    with closing(backend.open_blocking()) as store:
        push(store, "before")
        os.truncate(process_lock.data, image.used // 2)

        def body() -> str:
            backend.forked()
            return use(backend, tmp_path)

        assert outcome(body) == "refused"
    process_lock.release()


def test_what_lmdb_finds_wrong_once_is_not_used_again(tmp_path: Path, image: Image) -> None:
    """After LMDB has found something wrong, a process asks it no more, whatever is in the file then."""
    process_lock = plant(tmp_path, image)
    backend = make_backend(tmp_path)
    with closing(backend.open_blocking()) as store:
        pop(store, "nothing", 1)
        assert process_lock.data.read_bytes() != b""
        environment = backend.acquire_environment().environment
        error = environment.failure(lmdb.CorruptedError("found"))
        assert error is not None
        check(error, tmp_path)
        with pytest.raises(StoreError, match="found"):
            push(store, "jobs")
    process_lock.release()


# -- other files


def test_a_new_process_does_not_begin_anew_in_a_file_that_is_in_use(tmp_path: Path, image: Image) -> None:
    """A file that was emptied while it is in use is damaged; only one that no process has used yet is new."""
    process_lock = plant(tmp_path, image)
    os.truncate(process_lock.data, 0)
    with pytest.raises(StoreError, match="damaged"):
        make_backend(tmp_path).acquire_environment()
    assert process_lock.data.stat().st_size == 0
    process_lock.release()
    make_backend(tmp_path).acquire_environment().release()


@pytest.mark.parametrize("what", ["removed", "replaced"])
async def test_a_data_file_that_is_gone_ends_its_shared_store(tmp_path: Path, what: str) -> None:
    """When the data file alone was removed or replaced, new processes begin anew, and the others follow them."""
    directory, clock = tmp_path / "ipc", VirtualClock()
    one, two = make_backend(directory, clock), make_backend(directory, clock)
    async with aclosing(one.open()) as store:
        await store.execute(c.Push(0, JOBS, ROOM, b"old"))
        data = one.acquire_environment().environment.process_lock.data
        content = data.read_bytes()
        data.unlink()
        if what == "replaced":
            data.write_bytes(content)
            data.chmod(0o600)
        elsewhere = outcome(lambda: sent_by_child(two))
        assert elsewhere == "intact"
        clock.advance(5)
        await store.execute(c.Pending(0, JOBS))  # notices it
        assert await store.execute(c.Pending(0, JOBS)) == 0
        assert data.exists()


def sent_by_child(backend: IPCBackend) -> str:
    """Send and receive in new files."""
    backend.forked()
    with closing(backend.open_blocking()) as store:
        assert pop(store, "jobs", 1) == []
        push(store, "jobs")
        return "intact" if pop(store, "jobs", 1) == [b"1"] else "loss"


@pytest.mark.parametrize("at", [0, 3, 20, 60, -2])
def test_a_lock_file_that_is_damaged_is_named(tmp_path: Path, image: Image, at: int) -> None:
    """A lock file in use that was written over is refused, with an error that names it."""
    process_lock = plant(tmp_path, image)
    lock = process_lock.data.with_suffix(".lock")
    content = bytearray(lock.read_bytes())
    content[at] ^= 1
    lock.write_bytes(content)
    with pytest.raises(StoreError, match=r"lock file '.*\.lock' is damaged: .*reset\(") as caught:
        acquire(tmp_path, "t:", MEMORY, 0.05)
    assert not caught.value.retryable
    process_lock.release()
    assert reset(tmp_path) == 0


# -- records

RUBBISH: Final[dict[str, Callable[[bytes], bytes]]] = {
    "empty": lambda _: b"",
    "short": lambda value: value[:-1],
    "long": lambda value: value + b"\xff",
    "zeros": lambda value: bytes(len(value)),
    "ones": lambda value: b"\xff" * len(value),
    "an infinite time": lambda value: struct.pack(">d", float("inf")) * 2 + value[16:],
    "a much later tail": lambda value: value[:24] + b"\x90" + value[25:],
    "a much earlier head": lambda value: value[:16] + b"\0\x01" + value[18:],
    "a text": lambda value: b"rubbish!" * (len(value) // 8 + 1),
}


@pytest.mark.parametrize("how", RUBBISH)
def test_rubbish_in_a_record_harms_one_queue(tmp_path: Path, how: str) -> None:
    """Whichever value is rubbish, no call raises anything but a StoreError, and other queues notice nothing."""
    for n, key in enumerate(keys_of(tmp_path / "all")):
        directory, clock = tmp_path / str(n), VirtualClock()
        backend = make_backend(directory, clock)
        with closing(backend.open_blocking()) as store:
            fill(store)
            reference = backend.acquire_environment()
            rewrite(reference, key, RUBBISH[how])
            judge(store, clock)
            reference.release()


def keys_of(directory: Path) -> list[bytes]:
    """Return one key of each kind, of those that have a value, and two of entries."""
    backend = make_backend(directory)
    with closing(backend.open_blocking()) as store:
        fill(store)
        reference = backend.acquire_environment()
        with reference.environment.write() as transaction:
            items = [(key, value) for key, value in transaction.cursor() if value]
        reference.release()
    return list({key[:1] + key[1:2]: key for key, _ in items}.values())


def rewrite(reference: EnvironmentReference, key: bytes, change: Callable[[bytes], bytes]) -> None:
    """Change the value of a key."""
    with reference.environment.write() as transaction:
        value = transaction.get(key, b"")
        transaction.put(key, change(value))
        transaction.commit()


def judge(store: IPCBlockingStore, clock: VirtualClock) -> None:
    """Check that an innocent queue works, also when all is swept, and that everything does after a flush."""
    for _ in range(2):
        for call in everything(store):
            try:
                call()
            except StoreError as exc:
                assert "damaged" in str(exc)  # noqa: PT017 - it may, and then it has to be this
            push(store, "innocent", b"2")
            assert pop(store, "innocent", 1) == [b"2"]
        clock.advance(40)
    store.execute(c.Flush(0, "g2"))
    for call in everything(store):
        call()
    clock.advance(10 * 86400)
    for _ in range(5):
        clock.advance(5)
        store.execute(c.Survey(0, None))


@pytest.mark.parametrize(
    "key",
    [
        k.DUE,
        k.DUE + bytes(8),
        k.DUE + bytes(9) + b"rubbish",
        *(k.DUE + bytes(8) + kind + b"\xff\0" for kind in (k.QUEUE, k.INBOX, k.GROUP, k.WAITER, k.ENTRY, k.OWNED)),
        k.key(k.QUEUE, b"\xff"),
        k.key(k.INBOX, b"\xff!"),
        k.key(k.GROUP, b"\xff"),
        k.key(k.WAITER, b"jobs"),
        k.key(k.READER, b"jobs", b"\xff"),
        k.key(k.JOIN_ORDER, b"room", k.OTHER + bytes(8) + b"nobody"),
        k.key(k.JOIN_ORDER, b"room", k.OWNED),
        k.key(k.GROUP_INBOX, b"room", b"x"),
        k.key(k.UNREAD_COUNT, b"specific.me!", b"\xff"),
    ],
    ids=repr,
)
def test_a_rubbish_key_harms_no_other(tmp_path: Path, key: bytes) -> None:
    """A key that this library did not write does not stop the sweeping, nor any call for long."""
    clock = VirtualClock()
    backend = make_backend(tmp_path / "ipc", clock)
    with closing(backend.open_blocking()) as store:
        fill(store)
        reference = backend.acquire_environment()
        rewrite(reference, key, lambda _: b"rubbish")
        judge(store, clock)
        reference.release()


def test_a_record_that_is_lost_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A queue whose record is damaged is empty afterwards, works, and the log says which one it was."""
    backend = make_backend(tmp_path / "ipc")
    with closing(backend.open_blocking()) as store:
        push(store, "jobs")
        push(store, "innocent", b"2")
        reference = backend.acquire_environment()
        rewrite(reference, k.key(k.QUEUE, b"jobs"), lambda value: value[:16] + b"\xff" * 8 + value[24:])
        assert pop(store, "jobs", 1) == []
        assert "the queue 'jobs' was damaged" in caplog.text
        push(store, "jobs", b"new")
        assert pop(store, "jobs", 5) == [b"new"]
        assert pop(store, "innocent", 1) == [b"2"]
        reference.release()


# -- what is healthy


def test_what_lmdb_writes_is_never_refused(tmp_path: Path) -> None:
    """Whatever is written, removed and aborted, a file that LMDB has written is found to be whole."""
    choose = random.Random(SEED)
    environment = lmdb.open(str(tmp_path / "data"), subdir=False, map_size=64 << 20, lock=False, sync=False)
    keys: list[bytes] = []
    with (tmp_path / "data").open("rb") as data, closing(environment):
        assert find_damage(data.fileno(), MANY) is None
        for _ in range(150):
            with environment.begin(write=True) as transaction:
                for _ in range(choose.choice([1, 10, 200, 2000])):
                    if keys and choose.random() < choose.choice([0.3, 0.7, 0.9]):
                        transaction.delete(keys.pop(choose.randrange(len(keys))))
                        continue
                    if not keys or choose.random() < 0.8:
                        keys.append(choose.randbytes(choose.randrange(1, choose.choice([20, 500]))))
                    value = choose.randbytes(choose.randrange(choose.choice([10, 1000, 20000])))
                    transaction.put(choose.choice(keys[-10:]), value)
            assert find_damage(data.fileno(), MANY) is None
        with environment.begin(write=True) as transaction:
            transaction.drop(environment.open_db(txn=transaction), delete=False)
        assert find_damage(data.fileno(), MANY) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_store_in_use_is_never_refused(tmp_path: Path, seed: int) -> None:
    """Whatever is sent, received, flushed and swept, with little memory, too, the file is found to be whole."""
    choose, clock = random.Random(seed), VirtualClock()
    backend = IPCBackend(make_rules(prefix="t:"), clock, tmp_path / "ipc", choose.choice([4, 32]) << 20)
    with closing(backend.open_blocking()) as store:
        reference = backend.acquire_environment()
        with reference.environment.process_lock.data.open("rb") as data:
            for _ in range(100):
                names = [ChannelName.parse(f"q{choose.randrange(30)}") for _ in range(choose.choice([1, 50, 400]))]
                size = choose.choice([50, 500, 5000])
                if choose.random() < 0.5:
                    store.execute_many([c.Push(0, name, ROOM, bytes(choose.randrange(size))) for name in names])
                elif choose.random() < 0.1:
                    store.execute(c.Flush(0, "g"))
                else:
                    store.execute_many([c.Pop(0, name.queue, 10, "me") for name in names])
                clock.advance(choose.choice([0, 0, 1, 100]))
                assert find_damage(data.fileno(), MANY) is None
        reference.release()


def test_a_record_that_tells_of_too_much_is_mended(tmp_path: Path) -> None:
    """A queue whose record tells of entries that are not there loses none of those that are."""
    backend = make_backend(tmp_path / "ipc")
    with closing(backend.open_blocking()) as store:
        reference = backend.acquire_environment()
        for n, change in enumerate([lambda value: value[:16] + bytes(8) + value[24:], RUBBISH["a much later tail"]]):
            push(store, f"jobs.{n}", b"1")
            push(store, f"jobs.{n}", b"2")
            rewrite(reference, k.key(k.QUEUE, b"jobs.%d" % n), change)
            assert pop(store, f"jobs.{n}", 2) == [b"1", b"2"]
            assert pop(store, f"jobs.{n}", 2) == []
            push(store, f"jobs.{n}", b"3")
            assert pop(store, f"jobs.{n}", 2) == [b"3"]
        reference.release()


def test_each_byte_of_a_head_is_looked_at(tmp_path: Path, image: Image) -> None:
    """A page in use whose head is another one is found, whichever byte of it was changed."""
    data = tmp_path / "data"
    data.write_bytes(image.data)
    with data.open("rb") as file:
        assert find_damage(file.fileno(), MANY) is None
        root = struct.unpack_from("=Q", image.data, newest(image) + 128)[0]
        for at in (*range(8), *range(10, 16)):  # but not the padding
            place = root * PAGE + at
            write(data, place, bytes([image.data[place] ^ 0x55]))
            assert find_damage(file.fileno(), MANY) is not None, at
            write(data, place, image.data[place : place + 1])
        assert find_damage(file.fileno(), MANY) is None


def newest(image: Image) -> int:
    """Return where the meta page is that counts."""
    return max((0, PAGE), key=lambda page: struct.unpack_from("=Q", image.data, page + 144)[0])


async def test_a_layer_says_so(tmp_path: Path) -> None:
    """A user of a layer gets a StoreError from each method, and messages again once the files were removed."""
    async with IPCChannelLayer(directory=tmp_path / "ipc", prefix="t:", expiry=3) as layer:
        waiting = asyncio.create_task(layer.receive("other"))
        own = await layer.new_channel()
        await layer.send("jobs", {"n": 1})
        [data] = (tmp_path / "ipc").glob("*.mdb")
        os.truncate(data, 100)
        for call in (
            layer.send("jobs", {}),
            layer.receive("jobs"),
            layer.group_add("room", own),
            layer.statistics(),
            asyncio.to_thread(layer.blocking.send, "jobs", {}),
            waiting,  # it looks after a third of expiry
        ):
            with pytest.raises(StoreError, match="damaged"):
                await call
        for file in (tmp_path / "ipc").iterdir():
            file.unlink()
        while True:
            try:  # each store of this process notices it by an error
                await layer.send("jobs", {"n": 2})
                await asyncio.to_thread(layer.blocking.send, "jobs", {"n": 3})
                assert await layer.receive("jobs") == {"n": 2}
                break
            except StoreError as exc:
                assert "damaged" in str(exc)  # noqa: PT017 - or none
