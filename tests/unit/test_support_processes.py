"""Worker processes line up, report, die on command, and never outlive or fail a test in silence."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import (
    AsyncChild,
    Fleet,
    SyncChild,
    Worker,
    WorkerDied,
    WorkerFailed,
    WorkerTimeout,
    is_alive,
    wait_for_end,
)


@dataclass(frozen=True, slots=True)
class Sum:
    """What `add` adds."""

    left: int
    right: int


async def add(child: AsyncChild, params: Sum) -> int:
    """Wait at a barrier, then add."""
    await child.ready()
    return params.left + params.right


def spell(child: SyncChild, times: int) -> list[str]:
    """Return the words told at so many barriers."""
    return [child.ready(f"{number} of {times}") for number in range(times)]


def gather(child: SyncChild, path: str) -> list[str]:
    """Put a name into a folder, pass the barrier, return the names that are there."""
    folder = Path(path)
    (folder / str(os.getpid())).touch()
    child.ready()
    return sorted(entry.name for entry in folder.iterdir())


async def tick(child: AsyncChild, turns: int) -> int:
    """Count what a background task does while its process stands at a barrier."""
    ticks = 0

    async def background() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            child.progress(ticks)
            await asyncio.sleep(0)

    task = asyncio.create_task(background())
    await child.ready()
    task.cancel()
    return int(ticks >= turns)


def count(child: SyncChild, _params: None) -> None:
    """Write down every number, and never stop."""
    number = 0
    while True:
        number += 1
        child.record(str(number))
        child.progress(number)


def stop_at(child: SyncChild, number: int) -> None:
    """Come so far and end."""
    child.progress(number)


async def fail(_child: AsyncChild, words: str) -> None:
    """Say something and raise."""
    print(words, flush=True)  # noqa: T201 - what a worker prints is what the test is about
    raise LookupError(words.upper())


def hang(child: SyncChild, _params: None) -> None:
    """Never return."""
    child.ready()
    signal.pause()


def vanish(_child: SyncChild, code: int) -> None:
    """End at once."""
    os._exit(code)


def vanish_with_heir(_child: SyncChild, code: int) -> None:
    """End at once, and leave a fork behind that holds on to everything."""
    if os.fork():
        os._exit(code)
    signal.pause()


def father(child: SyncChild, _params: None) -> None:
    """Start a process and name it."""
    heir = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    child.ready(str(heir.pid))
    heir.wait()


def end_badly(_child: SyncChild, code: int) -> str:
    """Return, and still end with an error code."""
    atexit.register(os._exit, code)
    return "returned"


def leave_open(_child: SyncChild, _params: None) -> None:
    """Forget a socket."""
    socket.socket()


def test_a_worker_returns_what_its_function_returned() -> None:
    """Parameters reach the function in the other process, and its result comes back."""
    with Fleet() as fleet:
        worker = fleet.spawn(add, Sum(40, 2))
        worker.go()
        assert worker.result() == 42
        assert worker.result() == 42


def test_no_worker_passes_a_barrier_before_all_have_come() -> None:
    """`Fleet.go` lets workers go only once each has done what stands before its barrier."""
    with Fleet() as fleet:
        directory = fleet.directory / "names"
        directory.mkdir()
        workers = [fleet.spawn_sync(gather, str(directory)) for _ in range(3)]
        fleet.go()
        names = sorted(str(worker.pid) for worker in workers)
        assert [worker.result() for worker in workers] == [names] * 3


def test_barriers_carry_words_both_ways_any_number_of_times() -> None:
    """A worker's word reaches the test, the test's word the worker, at one barrier after the other."""
    with Fleet() as fleet:
        worker = fleet.spawn_sync(spell, 2)
        assert worker.wait_ready() == "0 of 2"
        worker.go("first")
        assert worker.wait_ready() == "1 of 2"
        worker.go("second")
        assert worker.result() == ["first", "second"]


def test_the_event_loop_runs_on_at_a_barrier() -> None:
    """A background task of a worker is not held up by its barrier."""
    with Fleet() as fleet:
        worker = fleet.spawn(tick, 100)
        worker.wait_ready()
        worker.wait_progress(100)
        worker.go()
        assert worker.result() == 1


def test_what_a_worker_wrote_down_survives_sigkill() -> None:
    """Killed in mid-flight, a worker leaves every line and its progress, up to the last completed one."""
    with Fleet() as fleet:
        worker = fleet.spawn_sync(count, None)
        worker.wait_progress(100)
        worker.kill9()
        lines = worker.journal()
        assert lines == [str(number + 1) for number in range(len(lines))]
        assert worker.progress in (len(lines), len(lines) - 1)
        assert len(lines) >= 100
        with pytest.raises(WorkerDied):
            worker.result()


def test_waiting_for_progress_ends_with_the_worker() -> None:
    """A worker that ends too early fails the wait at once, and not at its timeout."""
    with Fleet() as fleet, pytest.raises(WorkerDied, match="at progress 3 of 5"):
        fleet.spawn_sync(stop_at, 3).wait_progress(5)


def test_a_failure_shows_the_traceback_and_the_output() -> None:
    """The error names what was raised in the worker, and the fleet adds what the worker printed."""
    with pytest.raises(WorkerFailed, match="LookupError: MY WORDS") as caught, Fleet() as fleet:
        fleet.spawn(fail, "my words").result()
    assert any("my words" in note for note in caught.value.__notes__)


def test_a_failure_nobody_asked_about_fails_the_test() -> None:
    """A worker that raised fails the `with` block, though the test never looked at its result."""
    with pytest.raises(WorkerFailed, match="LookupError"), Fleet() as fleet:
        wait_for_end(fleet.spawn(fail, "unseen").pid)


def test_a_worker_that_vanishes_is_noticed() -> None:
    """A process that ends without a result is an error with its exit code, asked for or not."""
    with Fleet() as fleet, pytest.raises(WorkerDied, match="code 3"):
        fleet.spawn_sync(vanish, 3).result()
    with pytest.raises(WorkerDied, match="code 4"), Fleet() as fleet:
        wait_for_end(fleet.spawn_sync(vanish, 4).pid)


def test_a_fork_of_a_dead_worker_does_not_hide_its_death() -> None:
    """A worker's death is noticed while a fork of it still holds the connection open."""
    with Fleet() as fleet, pytest.raises(WorkerDied, match="code 5"):
        fleet.spawn_sync(vanish_with_heir, 5).result()


def test_a_timeout_shows_where_every_worker_stands_and_ends_them() -> None:
    """After a timeout each worker's output has its stack, and no worker is alive."""
    fleet = Fleet()
    workers: list[Worker[None]] = []

    def wait_in_vain() -> None:
        with fleet:
            workers.extend(fleet.spawn_sync(hang, None) for _ in range(2))
            fleet.go()
            workers[0].result(timeout=0.1)

    with pytest.raises(WorkerTimeout, match="did not return within") as caught:
        wait_in_vain()
    assert "\n".join(caught.value.__notes__).count("in hang") == 2
    assert not any(is_alive(worker.pid) for worker in workers)


def test_a_result_is_not_waited_for_at_a_barrier() -> None:
    """Asking for the result of a worker that nobody let go is said to be the mistake it is."""
    with Fleet() as fleet, pytest.raises(WorkerTimeout, match="waits at a barrier"):
        fleet.spawn(add, Sum(1, 1)).result()


def test_a_worker_that_returns_before_its_barrier_is_an_error() -> None:
    """A barrier that a worker never comes to is reported, and not waited for."""
    with Fleet() as fleet, pytest.raises(WorkerFailed, match="returned before"):
        fleet.spawn_sync(stop_at, 1).wait_ready()


def test_a_bad_exit_after_a_good_result_is_an_error() -> None:
    """A function that returned does not excuse a process that then ends with an error code."""
    with Fleet() as fleet, pytest.raises(WorkerDied, match="code 7 after it had returned"):
        fleet.spawn_sync(end_badly, 7).result()


def test_what_a_worker_started_ends_with_it() -> None:
    """SIGKILL to a worker takes the processes that it started along."""
    with Fleet() as fleet:
        worker = fleet.spawn_sync(father, None)
        heir = int(worker.wait_ready())
        worker.kill9()
        wait_for_end(heir)


def test_a_fleet_ends_with_its_block() -> None:
    """Workers that still run and the files of the fleet are gone after the block."""
    with Fleet() as fleet:
        directory = fleet.directory
        worker = fleet.spawn_sync(hang, None)
        worker.wait_ready()
    assert not is_alive(worker.pid)
    assert not directory.exists()


def test_a_function_that_does_not_pickle_starts_no_process() -> None:
    """A function that another process could not import is refused before anything runs."""

    async def local(_child: AsyncChild, _params: None) -> None: ...

    with Fleet() as fleet, pytest.raises(AttributeError, match="local"):
        fleet.spawn(local, None)


def test_a_journal_entry_is_one_line() -> None:
    """A worker cannot mix up its own journal."""
    with Fleet() as fleet, pytest.raises(WorkerFailed, match="ValueError: a journal entry is one line"):
        fleet.spawn_sync(write_two_lines, None).result()


def write_two_lines(child: SyncChild, _params: None) -> None:
    """Try to pass two lines off as one."""
    child.record("one\ntwo")


def test_a_worker_shows_the_sockets_it_leaves_open() -> None:
    """A ResourceWarning in a worker is in its output, where a test can look for it."""
    with Fleet() as fleet:
        worker = fleet.spawn_sync(leave_open, None)
        worker.result()
        assert "ResourceWarning: unclosed <socket" in worker.output()


def test_a_fleet_works_in_its_block_only() -> None:
    """Outside its block a fleet starts nothing, since nothing would end it."""
    with pytest.raises(RuntimeError, match="with"):
        Fleet().spawn(add, Sum(1, 1))
