"""No message is lost without a trace: what was accepted is delivered, dropped for a reason, or still there.

Whoever runs a site learns of losses from these counts and from the log, so both have to be right on every store.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from channel_layer import ChannelFull, ChannelLayer
from tests.support.scenarios_delivery import accounts, drain, eventually, receive_or_none
from tests.support.servers import Deployment, fresh_prefix
from tests.support.systems import System, run

EXPIRY = 30.0


class Books(RuleBasedStateMachine):
    """Two processes do whatever processes do; a third one watches. In the end the books balance."""

    deployment: Deployment | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        options = {"capacity": 3, "inbox_capacity": 12, "expiry": EXPIRY}
        self.system = System(self.deployment, fresh_prefix(), options=options)

    @initialize()
    def begin(self) -> None:
        """Channels of every kind, all of them in one group, added by owners and by strangers."""
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.layers: list[ChannelLayer] = [self.system.layer() for _ in range(3)]
        one, two, _ = self.layers
        self.owners = {"jobs": one, "reply?x": two, "daemon!x": one, "nobody!x": one}
        self.owners |= {await one.new_channel(): one, await two.new_channel(): two, await two.new_channel("b"): two}
        self.names = list(self.owners)
        for place, (name, owner) in enumerate(self.owners.items()):
            await (owner if place % 3 else two).group_add("room", name)

    @rule(place=st.integers(0, 6), by=st.integers(0, 1), count=st.integers(1, 4))
    def send(self, place: int, by: int, count: int) -> None:
        """Some messages to one channel; those over its capacity are refused."""
        self.runner.run(self._send(self.names[place], by, count))

    async def _send(self, name: str, by: int, count: int) -> None:
        for _ in range(count):
            try:
                await self.layers[by].send(name, {"n": 0})
            except ChannelFull:
                return

    @rule(by=st.integers(0, 1), count=st.integers(1, 4))
    def group_send(self, by: int, count: int) -> None:
        """Some messages to all; who is full misses them."""
        self.runner.run(self._group_send(by, count))

    async def _group_send(self, by: int, count: int) -> None:
        for _ in range(count):
            await self.layers[by].group_send("room", {"n": 1})

    @rule(place=st.integers(0, 6), count=st.integers(1, 4))
    def receive(self, place: int, count: int) -> None:
        """What is there is received."""
        self.runner.run(self._receive(self.names[place], count))

    async def _receive(self, name: str, count: int) -> None:
        for _ in range(count):
            if await receive_or_none(self.owners[name], name, 0.01) is None:
                return

    @rule(place=st.integers(0, 6), steps=st.integers(0, 9))
    def give_up(self, place: int, steps: int) -> None:
        """A receive() is cancelled, wherever it is."""
        self.runner.run(self._give_up(self.names[place], steps))

    async def _give_up(self, name: str, steps: int) -> None:
        task = asyncio.create_task(self.owners[name].receive(name))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    @rule(seconds=st.sampled_from([1.0, EXPIRY / 2, EXPIRY]))
    def let_time_pass(self, seconds: float) -> None:
        """Messages grow old; at most until a lease that nobody renews would end."""
        if self.system.clock.offset + seconds <= 1.4 * EXPIRY:
            self.system.clock.advance(seconds)

    def teardown(self) -> None:
        """Everything that was accepted is accounted for: while all live, and when they have closed one by one."""
        if not hasattr(self, "owners"):
            self.runner.close()
            return
        try:
            for name in self.names[:4]:  # what became too old in the store is counted by who looks there
                self.runner.run(drain(self.owners[name], name))
            for layer in self.layers:
                self.runner.run(self._balance())
                if layer is not self.layers[-1]:
                    self.runner.run(layer.aclose())
        finally:
            self.runner.run(self._close())
            self.runner.close()
            for host in self.deployment.hosts if self.deployment is not None else ():
                host.remove(self.system.prefix)

    async def _balance(self) -> None:
        try:
            await eventually(self._balances, "accepted = delivered + dropped + waiting")
        except AssertionError as exc:
            exc.add_note(repr(await accounts(self.layers, self.names)))
            raise

    async def _balances(self) -> bool:
        total = await accounts(self.layers, self.names)
        return total["entered"] == total["gone"] + total["here"]

    async def _close(self) -> None:
        for layer in self.layers:
            await layer.aclose()


def test_every_message_is_accounted_for(system: System) -> None:
    """Accepted = delivered + dropped by reason + waiting, over all processes, whatever they do, and as they close."""

    class Kept(Books):
        deployment = system.deployment

    run_state_machine_as_test(Kept, settings=settings(max_examples=12, stateful_step_count=25))


def test_each_loss_has_its_reason(system: System) -> None:
    """A message dropped for want of room, for its age, or because its layer closed is counted as just that."""

    async def body() -> None:
        options = {"capacity": 2, "expiry": EXPIRY}
        async with system.layer(**options) as sender:
            owner = system.layer(**options)
            owned = await owner.new_channel()
            for member in (owned, "nobody!x"):
                await owner.group_add("room", member)
            for _ in range(5):
                await sender.group_send("room", {"n": 0})
            await eventually(lambda: _dropped(owner, {"full": 3}), "the owner has no room")
            assert await _dropped(sender, {"full": 3})
            system.clock.advance(EXPIRY)
            await eventually(lambda: _dropped(owner, {"full": 3, "expired": 2}), "its mailbox is swept")
            await sender.send("nobody!x", {"n": 1})
            assert await _dropped(sender, {"full": 3, "expired": 2})
            await sender.send(owned, {"n": 2})
            await owner.aclose()
            assert await _dropped(owner, {"full": 3, "expired": 2, "closed": 1})

    run(body())


async def _dropped(layer: ChannelLayer, dropped: dict[str, int]) -> bool:
    return (await layer.statistics()).dropped == dropped


def test_a_refused_send_is_no_loss(system: System) -> None:
    """What send() refuses is counted as refused, and neither as sent nor as dropped: its caller knows."""

    async def body() -> None:
        async with system.layer(capacity=2) as layer:
            for channel in ("jobs", "reply?x", "nobody!x", await layer.new_channel()):
                for _ in range(2):
                    await layer.send(channel, {"n": 0})
                with pytest.raises(ChannelFull):
                    await layer.send(channel, {"n": 1})
            found = await layer.statistics()
            assert (found.sent, found.refused, found.dropped) == (8, 4, {})

    run(body())


@pytest.mark.parametrize("who", ["owner", "sender"])
def test_the_first_loss_warns_and_then_one_line_a_minute(
    system: System, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    """The first loss is logged as it happens, later ones a minute later at once, with totals and channels named."""

    def lines() -> list[str]:
        return [r.getMessage() for r in caplog.records if "dropped" in r.getMessage() and r.levelno == logging.WARNING]

    async def logged(count: int) -> bool:
        return len(lines()) == count

    async def body() -> None:
        # Its sweep, which looks for what to say, comes every 0.2 s.
        async with system.layer(capacity=1, expiry=4) as owner, system.layer(capacity=1, expiry=4) as sender:
            member = await owner.new_channel() if who == "owner" else "nobody!x"
            await owner.group_add("room", member)
            for _ in range(3):
                await sender.group_send("room", {"n": 0})
            await eventually(lambda: logged(1), "the first loss is told")
            assert "full" in lines()[0]
            assert member in lines()[0]
            for _ in range(4):
                await sender.group_send("room", {"n": 0})
            await asyncio.sleep(0.5)  # for a second line to come, if it were to come
            assert len(lines()) == 1
            system.clock.advance(60)
            await owner.group_add("room", member)  # what expired unread has ended its membership
            await sender.group_send("room", {"n": 0})
            await sender.group_send("room", {"n": 0})
            await eventually(lambda: logged(2), "a minute has passed")
            assert "since the last warning" in lines()[1]
            assert "full" in lines()[1]
            assert member in lines()[1]

    with caplog.at_level(logging.WARNING, logger="channel_layer"):
        run(body())
