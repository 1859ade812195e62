"""Tasks that resume within a callback of the event loop, not in its next cycle."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from channel_layer.runtime.wakeups import InlineFuture, ReceiveWaiter, resume_all, wake_all


async def _wait(prompt: InlineFuture) -> object:
    return await prompt


def _soon(prompts: list[InlineFuture]) -> asyncio.Future[BaseException | None]:
    """Have the event loop call `resume_all`; the future returns what that raised."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def call() -> None:
        try:
            resume_all(prompts)
        except SystemExit as exc:
            over.set_result(exc)
        else:
            over.set_result(None)

    loop.call_soon(call)
    return over


async def test_woken_tasks_resume_in_the_same_cycle() -> None:
    """Tasks with results resume first, then tasks that these woke; tasks that those wake, a cycle later."""
    loop, said = asyncio.get_running_loop(), list[str]()
    prompt, waiters = InlineFuture(loop), [ReceiveWaiter(loop) for _ in range(3)]

    async def read() -> None:
        said.append(f"read {await prompt}")
        wake_all(waiters[:2])
        said.append("read on")

    async def receive(place: int, other: ReceiveWaiter | None) -> None:
        await waiters[place]
        said.append(f"received {place}")
        if other is not None:
            wake_all([other])

    tasks = [asyncio.create_task(read()), *(asyncio.create_task(receive(n, None)) for n in (0, 2))]
    tasks.append(asyncio.create_task(receive(1, waiters[2])))
    await asyncio.sleep(0)
    prompt.set_result(7)
    over = _soon([prompt])
    over.add_done_callback(lambda _: said.append("over"))
    await asyncio.sleep(0)
    assert said == ["read 7", "read on", "received 0", "received 1"]
    await asyncio.gather(*tasks)
    assert sorted(said[4:]) == ["over", "received 2"]


async def test_without_results_the_event_loop_decides_the_order() -> None:
    """Outside of `resume_all`, a wake-up goes through the event loop."""
    waiter, said = ReceiveWaiter(asyncio.get_running_loop()), list[str]()

    async def receive() -> None:
        await waiter
        said.append("received")

    receiving = asyncio.create_task(receive())
    await asyncio.sleep(0)
    wake_all([waiter])
    assert not said
    await asyncio.sleep(0)
    assert said == ["received"]
    await receiving


async def test_a_task_cancelled_meanwhile_is_not_resumed() -> None:
    """A task that an earlier one has cancelled gets neither its result nor its wake-up."""
    loop = asyncio.get_running_loop()
    first, second, waiter = InlineFuture(loop), InlineFuture(loop), ReceiveWaiter(loop)
    others: list[asyncio.Task[object]] = []

    async def one() -> None:
        await first
        wake_all([waiter])
        for other in others:
            other.cancel()

    task = asyncio.create_task(one())
    others += [asyncio.create_task(_wait(second)), asyncio.create_task(_wait(waiter))]
    await asyncio.sleep(0)
    assert await _soon([first, second]) is None
    await task
    await asyncio.wait(others)
    assert all(other.cancelled() for other in others)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_the_others_resume_if_one_task_ends_the_program(place: int) -> None:
    """`SystemExit` of one task is raised to the caller of the loop; if the loop runs on, the other tasks resume."""
    loop = asyncio.get_running_loop()
    prompts, waiter = [InlineFuture(loop) for _ in range(3)], ReceiveWaiter(loop)

    async def wait(number: int) -> object:
        result = await prompts[number]
        if number == 0:
            wake_all([waiter])
        if number == place:
            raise SystemExit
        return result

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    woken = asyncio.create_task(asyncio.wait_for(_wait(waiter), 10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number, prompt in enumerate(prompts):
        prompt.set_result(number)
    assert isinstance(await _soon(prompts), SystemExit)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for number, result in enumerate(results) if number != place] == [
        number for number in range(3) if number != place
    ]
    await woken


async def test_a_result_is_kept_until_it_is_awaited() -> None:
    """A result, an error or a cancellation is kept until it is awaited, and does not change any more."""
    loop = asyncio.get_running_loop()
    late, wrong, gone = InlineFuture(loop), InlineFuture(loop), InlineFuture(loop)
    late.set_result(1)
    assert not late.done()
    assert await _soon([late]) is None
    assert late.done()
    assert not late.cancel()
    assert await late == 1
    wrong.set_exception(ValueError("wrong"))
    assert not wrong.cancel()
    with pytest.raises(ValueError, match="wrong"):
        await wrong
    assert gone.cancel()
    gone.set_result(2)
    assert await _soon([gone]) is None
    task = asyncio.create_task(_wait(gone))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_reaches_the_awaiting_task() -> None:
    """An error is raised in the awaiting task in the next cycle of the event loop."""
    prompt, receiver = InlineFuture(asyncio.get_running_loop()), ReceiveWaiter(asyncio.get_running_loop())
    tasks = [asyncio.create_task(_wait(prompt)), asyncio.create_task(_wait(receiver))]
    await asyncio.sleep(0)
    prompt.set_exception(ValueError("no reply"))
    receiver.fail(ValueError("no message"))
    assert [repr(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [
        "ValueError('no reply')",
        "ValueError('no message')",
    ]


async def test_a_cancellation_keeps_its_reason() -> None:
    """A cancelled task stays cancelled, with its reason; a result that arrived meanwhile is discarded."""
    receiver = ReceiveWaiter(asyncio.get_running_loop())
    task = asyncio.create_task(_wait(receiver))
    await asyncio.sleep(0)
    receiver.wake()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert task.cancelled()
    assert receiver.done()

    async def in_time() -> None:
        async with asyncio.timeout(0):
            await ReceiveWaiter(asyncio.get_running_loop())

    with pytest.raises(TimeoutError):
        await in_time()


async def test_a_task_goes_on_in_its_own_context() -> None:
    """A task resumes with its own context variables, whatever the resuming context has set."""
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")

    prompts = [InlineFuture(asyncio.get_running_loop()) for _ in range(3)]

    async def wait(number: int) -> str:
        place.set(f"task {number}")
        await prompts[number]
        seen = place.get()
        place.set("changed")
        return seen

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    place.set("callback")
    assert await _soon(prompts) is None
    assert await asyncio.gather(*tasks) == ["task 0", "task 1", "task 2"]
    assert place.get() == "callback"


async def test_only_one_task_may_wait() -> None:
    """A second waiting task is refused, because it would replace the first."""
    prompt = InlineFuture(asyncio.get_running_loop())
    first, second = asyncio.create_task(_wait(prompt)), asyncio.create_task(_wait(prompt))
    with pytest.raises(RuntimeError, match="already"):
        await second
    assert await _soon([prompt]) is None
    assert await first is None


def test_a_task_is_woken_from_any_thread() -> None:
    """A wake-up from another thread resumes the task in its own loop; after the end of that loop it does nothing."""

    async def body() -> None:
        receiver = ReceiveWaiter(asyncio.get_running_loop())
        task = asyncio.create_task(_wait(receiver))
        await asyncio.to_thread(receiver.wake)
        await task
        receivers.append(ReceiveWaiter(asyncio.get_running_loop()))

    receivers: list[ReceiveWaiter] = []
    asyncio.run(body())
    receivers[0].wake()


async def test_plain_python_tasks_wait_in_the_same_way() -> None:
    """Tasks of asyncio's Python implementation, which uses the same protocol of futures, wait and resume alike."""
    make: type[asyncio.Task[object]] = vars(asyncio.tasks)["_PyTask"]

    loop = asyncio.get_running_loop()
    prompt, gone = InlineFuture(loop), InlineFuture(loop)
    tasks = [make(_wait(prompt), loop=loop), make(_wait(gone), loop=loop)]
    await asyncio.sleep(0)
    prompt.set_result(1)
    tasks[1].cancel()
    assert await _soon([prompt]) is None
    assert tasks[0].done()
    assert await tasks[0] == 1
    await asyncio.wait(tasks)
    assert tasks[1].cancelled()
