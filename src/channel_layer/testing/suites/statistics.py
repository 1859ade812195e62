"""What is counted over all processes: messages, refusals, rates, and what waits.

A process tells the store now and then what it has counted, so that each can be told the counts of all. Asking makes a
process tell, so that no test has to wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channel_layer.testing.suites.base import LayerTests
from channel_layer.testing.suites.tools import POPPED, LayerEnvironment, async_test, dropped, expect, sends

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.layer import ChannelLayer

__all__ = ("StatisticsTests",)

_ADDED: Final = "statistics are those of all processes"


async def _counted(env: LayerEnvironment, layers: Iterable[ChannelLayer], channel: str | None) -> tuple[int, int]:
    """Return how many messages were put into a channel, and how many sends refused, as the last layer knows."""
    found = [await layer.statistics(channel) for layer in layers]
    some = found[-1:] if env.capabilities.statistics else found
    return sum(each.messages_count for each in some), sum(each.channel_full_count for each in some)


class StatisticsTests(LayerTests):
    """Counts and rates over all processes, what waits, and how long."""

    @async_test
    async def test_what_all_processes_have_sent_is_added_up(self, env: LayerEnvironment) -> None:
        """Messages and refusals are counted by channel and in all, for all senders, and told to any process."""
        async with env.layer(capacity=3) as one, env.layer(capacity=3) as two:
            owned = await one.new_channel()
            for name in (*POPPED, owned):
                accepted = [await sends(layer, name) for layer in (one, two, two, two)]
                expect(accepted.count(True), 3, "a channel holds its capacity", name)
            for layers in ((one, two), (two, one)):
                for name in (*POPPED, owned):
                    expect(await _counted(env, layers, name), (3, 1), _ADDED, f"4 sends to {name}, capacity 3")
                expect(await _counted(env, layers, None), (12, 4), _ADDED, "16 sends to 4 channels, capacity 3")
                expect(await _counted(env, layers, "unused"), (0, 0), _ADDED, "none to another channel")

    @async_test
    async def test_every_copy_of_a_group_message_counts(self, env: LayerEnvironment) -> None:
        """A message to a group counts once for each member that gets it, and not for one that is full."""
        async with env.layer(capacity=2) as owner, env.layer(capacity=2) as sender:
            owned = await owner.new_channel("owned")
            for member in ("jobs", "daemon!x", owned):
                await owner.group_add("group", member)
            for _ in range(3):
                await sender.group_send("group", {"n": 1})
            counted = "what a full member misses is counted"
            await env.eventually(lambda: dropped(owner, sender).get("full") == 3, counted)
            rule = "of a group message each copy counts"
            for name in ("jobs", "daemon!x", owned):
                expect(await _counted(env, (owner, sender), name), (2, 0), rule, f"3 messages to {name}, 1 full")
            expect(await _counted(env, (owner, sender), None), (6, 0), rule, "3 messages to 3 members, 1 full")

    @async_test
    async def test_what_waits_and_since_when(self, env: LayerEnvironment) -> None:
        """Messages wait until a receive() takes them, wherever they are; the oldest of them tells how long."""
        rule = "what no receive() has taken waits"
        async with env.layer() as owner, env.layer() as sender:
            owned = await owner.new_channel()
            for name in (*POPPED, owned):
                before = (await sender.statistics(name)).messages_pending
                expect(before, 0, rule, f"nothing yet on {name}")
                await sender.send(name, {"n": 1})
                await env.forward(5, [owner, sender])
                await sender.send(name, {"n": 2})
                for layer in (sender, owner):
                    found = await layer.statistics(name)
                    expect(found.messages_pending, 2, rule, f"2 messages to {name}")
                    if env.capabilities.statistics and (layer is owner or name != owned):
                        age = found.messages_max_age
                        expect(age is not None and 4.5 < age < 5 + env.patience, True, rule, f"{age}, after 5 s")
            if env.capabilities.statistics:
                expect((await owner.statistics()).messages_pending, 2 * len(POPPED) + 2, rule, "any channel")
            for name in (*POPPED, owned):
                await env.numbers(owner, name, 2)
                found = await owner.statistics(name)
                expect(found.messages_pending, 0, rule, f"nothing any more on {name}")
                if env.capabilities.statistics:
                    expect(found.messages_max_age, 0.0, rule, f"nothing any more on {name}")

    @async_test
    async def test_a_rate_is_one_of_the_last_minute(self, env: LayerEnvironment) -> None:
        """A rate is the messages of the last minute, by its seconds; later they still count, but not in the rate."""
        async with env.layer(capacity=60, expiry=600) as layer:
            for n in range(70):
                await sends(layer, "jobs", n)
            for channel in ("jobs", None):
                found = await layer.statistics(channel)
                rates = found.messages_count_per_second, found.channel_full_count_per_second
                due = [count / 70 <= rate <= count / 60 for count, rate in zip((60, 10), rates, strict=True)]
                expect(due, [True, True], "a rate is a count by its seconds", f"{rates} of 60 and 10")
            if not env.capabilities.statistics:
                return  # by a clock that is not moved
            await env.forward(71, [layer])
            for channel in ("jobs", None):
                found = await layer.statistics(channel)
                came = (found.messages_count, found.messages_count_per_second, found.channel_full_count_per_second)
                expect(came, (60, 0.0, 0.0), "what is older than a minute is in no rate", f"{channel}, 71 s later")

    @async_test
    async def test_what_was_counted_is_told_without_being_asked_for(self, env: LayerEnvironment) -> None:
        """A second later the others know what a process has counted, and at once when it closes."""
        async with env.layer() as one, env.layer() as two, env.layer() as watcher:
            await one.send("jobs", {"n": 1})
            await two.send("jobs", {"n": 2})
            await two.aclose()
            if not env.capabilities.statistics:
                return
            expect(await _counted(env, [watcher], "jobs"), (1, 0), _ADDED, "one message of a layer that closed")

            async def told() -> bool:
                return (await watcher.statistics("jobs")).messages_count == 2

            await env.eventually(told, "what a process has counted is told, a second later")

    @async_test
    async def test_a_flush_begins_anew(self, env: LayerEnvironment) -> None:
        """After flush() nothing has been counted, of no channel, and counting goes on."""
        async with env.layer(capacity=1) as layer:
            for _ in range(2):
                await sends(layer, "jobs")
            await layer.statistics()
            await layer.flush()
            for channel in ("jobs", None):
                expect(await _counted(env, [layer], channel), (0, 0), "flush() begins anew", f"of {channel}")
            await layer.send("jobs", {"n": 1})
            expect(await _counted(env, [layer], "jobs"), (1, 0), "flush() begins anew", "one message then")
