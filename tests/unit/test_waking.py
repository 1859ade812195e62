"""Tasks that go on inside a callback of the event loop, and not with its next turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from channel_layer.loops import Prompt, PromptReceiver, Receiver, after_woken, go_on, wake_all
from tests.support.systems import run

if TYPE_CHECKING:
    from collections.abc import Awaitable


def _soon(prompts: list[tuple[Prompt, object]]) -> asyncio.Future[BaseException | None]:
    """Have the event loop call `go_on`; the future brings what that raised."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def call() -> None:
        try:
            go_on(prompts)
        except SystemExit as exc:
            over.set_result(exc)
        else:
            over.set_result(None)

    loop.call_soon(call)
    return over


def test_who_is_woken_goes_on_in_the_same_turn_and_his_own_with_the_next() -> None:
    """First those whose results came, then whom they have woken, in that order, and who lets others go first."""

    async def body() -> None:
        loop, said = asyncio.get_running_loop(), list[str]()
        prompt, waiters = Prompt(loop=loop), [PromptReceiver(loop) for _ in range(3)]

        async def read() -> None:
            said.append(f"read {await prompt}")
            wake_all(waiters[:2])
            await after_woken()
            said.append("read on")

        async def receive(place: int, other: Receiver | None) -> None:
            await waiters[place].woken
            said.append(f"received {place}")
            if other is not None:
                wake_all([other])

        tasks = [asyncio.create_task(read()), *(asyncio.create_task(receive(n, None)) for n in (0, 2))]
        tasks.append(asyncio.create_task(receive(1, waiters[2])))
        await asyncio.sleep(0)
        over = _soon([(prompt, 7)])
        over.add_done_callback(lambda _: said.append("over"))
        await asyncio.sleep(0)
        assert said == ["read 7", "received 0", "received 1", "read on"]
        await asyncio.gather(*tasks)
        assert sorted(said[4:]) == ["over", "received 2"]

    run(body())


def test_who_is_one_of_many_waits_for_the_event_loop_and_so_does_who_lets_him_go_first() -> None:
    """One turn of it serves them all."""

    async def body() -> None:
        loop, said = asyncio.get_running_loop(), list[str]()
        prompt, waiters = Prompt(loop=loop), [Receiver(loop) for _ in range(3)]

        async def read() -> None:
            await prompt
            wake_all(waiters)
            await after_woken()
            said.append("read on")

        async def receive(waiter: Receiver) -> None:
            await waiter.woken
            said.append("received")

        tasks = [asyncio.create_task(read()), *(asyncio.create_task(receive(waiter)) for waiter in waiters)]
        await asyncio.sleep(0)
        over = _soon([(prompt, None)])
        await asyncio.sleep(0)
        assert over.done()
        assert not said
        await asyncio.gather(*tasks)
        assert said == ["received"] * 3 + ["read on"]

    run(body())


def test_without_results_nobody_goes_first_but_by_the_event_loop() -> None:
    """A wake-up from elsewhere, and who lets others go first there, take the way of the loop."""

    async def body() -> None:
        waiter, said = PromptReceiver(asyncio.get_running_loop()), list[str]()

        async def receive() -> None:
            await waiter.woken
            said.append("received")

        receiving = asyncio.create_task(receive())
        await asyncio.sleep(0)
        wake_all([waiter])
        assert not said
        await after_woken()
        assert said == ["received"]
        await receiving

    run(body())


def test_who_was_cancelled_meanwhile_is_left_alone() -> None:
    """By somebody who went on before him; a result, and a wake-up."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        first, second, waiter = Prompt(loop=loop), Prompt(loop=loop), PromptReceiver(loop)
        others: list[asyncio.Task[object]] = []

        async def one() -> None:
            await first
            wake_all([waiter])
            for other in others:
                other.cancel()

        async def wait(future: Awaitable[object]) -> object:
            return await future

        task = asyncio.create_task(one())
        others += [asyncio.create_task(wait(second)), asyncio.create_task(wait(waiter.woken))]
        await asyncio.sleep(0)
        assert await _soon([(first, 1), (second, 2)]) is None
        await task
        await asyncio.wait(others)
        assert all(other.cancelled() for other in others)

    run(body())


def test_who_has_stopped_waiting_is_not_called() -> None:
    """Though he once did; whoever waits then gets the result."""

    async def body() -> None:
        prompt, called = Prompt(loop=asyncio.get_running_loop()), list[object]()
        prompt.add_done_callback(called.append)
        prompt.remove_done_callback(called.append)
        assert await _soon([(prompt, 3)]) is None
        assert await prompt == 3
        assert not called

    run(body())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_nobody_is_left_waiting_if_one_of_them_ends_the_program(place: int) -> None:
    """`SystemExit` goes to who runs the loop; should that go on, the others do, too."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        prompts, waiter = [Prompt(loop=loop) for _ in range(3)], PromptReceiver(loop)

        async def wait(number: int) -> object:
            result = await prompts[number]
            if number == 0:
                wake_all([waiter])
            if number == place:
                raise SystemExit
            return result

        tasks = [asyncio.create_task(wait(number)) for number in range(3)]
        woken = asyncio.create_task(asyncio.wait_for(waiter.woken, 10))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert isinstance(await _soon([(prompt, number) for number, prompt in enumerate(prompts)]), SystemExit)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [result for number, result in enumerate(results) if number != place] == [
            number for number in range(3) if number != place
        ]
        await woken

    run(body())
