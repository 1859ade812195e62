"""Short fixed scripts, one for each known mistake of stores: random examples need not find what is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer.testing.store_machine import StoreMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer.testing.factories import MakeStore
    from channel_layer.testing.store_machine import RunCounts
    from channel_layer.testing.store_traits import Traits

__all__ = ("run_scripts",)


def _expire(state: StoreMachine) -> None:
    state.push_at_once(channel="jobs", count=5)
    state.pop(channel="jobs", count=0, claimant="anna")
    state.pop(channel="jobs", count=3, claimant="anna")
    for channel, to, then in (
        ("jobs", "after", "pop"),
        ("reply?x", "after", "pop one"),
        ("Jobs", "before", "pop"),
        ("jobs", "after", "push"),
    ):
        state.grow_old(channel=channel, to=to, then=then)


def _cancel(state: StoreMachine) -> None:
    for channel, meanwhile in (
        ("jobs", "nothing"),
        ("jobs", "fill"),
        ("reply?x", "flush"),
        ("reply?x", "pop"),
        ("Jobs", "time"),
    ):
        state.receive_and_cancel(channel=channel, count=2, back=2, meanwhile=meanwhile)


def _report_and_survey(state: StoreMachine) -> None:
    if state.traits.capabilities.statistics:
        for channel in ("jobs", "Jobs"):
            state.report(channel=channel, messages=3, refused=1, others=1)
        for seconds in (9.0, 71.0):
            state.slow_down(channel="jobs", seconds=seconds)
        state.push(channel="jobs", times=1)
        state.pass_a_little_time()
        state.push(channel="jobs", times=1)
        state.survey(channel="jobs", whole=False)
        state.push(channel="reply?x", times=2)
        state.survey(channel="Jobs", whole=False)
        state.survey(channel="reply?x", whole=True)
        state.pass_time(to="after", what="message")
        state.survey(channel="jobs", whole=False)
        state.flush()
        state.report(channel="jobs", messages=1, refused=0, others=0)


def _count_the_unread(state: StoreMachine) -> None:
    if state.traits.capabilities.statistics:
        state.claim(inbox="specific.me!")
        state.push(channel="specific.me!a", times=2)
        state.push(channel="specific.me!ab", times=1)
        for channel, whole in (("specific.me!a", False), ("specific.me!ab", True)):
            state.survey(channel=channel, whole=whole)
        state.count_credits(channel="specific.me!a", received=1, meanwhile="nothing")
        state.survey(channel="specific.me!a", whole=False)
        state.report(channel="specific.me!a", messages=2, refused=0, others=0)


def _hand_over(state: StoreMachine) -> None:
    state.push(channel="claimed!a", times=1)
    state.push_at_once(channel="claimed!b", count=4)
    state.pending(channel="claimed!a")
    for how in ("not yet", "by release", "by time"):
        state.hand_over(channel="claimed!a", how=how)
    state.grow_old(channel="claimed!b", to="after", then="pop")


def _stop_reading(state: StoreMachine) -> None:
    if state.traits.capabilities.tracks_unread:
        for channel, meanwhile, to in (
            ("jobs", "pop", "after"),
            ("reply?x", "clear unread", "after"),
            ("Jobs", "nothing", "before"),
            ("claimed!a", "nothing", "after"),
            ("claimed!a", "flush", "after"),
            ("claimed!a", "late pop", "after"),
            ("reply?x", "late pop", "after"),
            ("reply?x", "peek", "after"),
        ):
            state.stop_reading(channel=channel, meanwhile=meanwhile, to=to)


def _join_and_leave(state: StoreMachine) -> None:
    state.join(group="g", channel="jobs")
    state.join(group="g", channel="Jobs")
    state.join_again(group="g", channel="jobs")
    state.leave(group="g", channel="Jobs")
    state.members(group="g")
    state.pass_time(to="after", what="membership")
    state.members(group="g")
    state.join(group="g", channel="jobs")
    state.flush()
    state.members(group="g")


def _find_an_owner(state: StoreMachine) -> None:
    state.push(channel="specific.me!a", times=2)
    state.claim(inbox="specific.me!")
    state.pending(channel="specific.me!ab")
    state.push(channel="specific.me!ab", times=1)
    state.pending(channel="specific.me!a")
    state.read(inbox="specific.me!", where="on")
    state.read(inbox="specific.me!", where="again")
    state.read_and_fill(inbox="specific.me!", channel="specific.me!a")
    state.push_at_once(channel="specific.me!ab", count=5)
    state.release(inbox="specific.me!", sure=6)
    state.alive()


def _count_credits(state: StoreMachine) -> None:
    for meanwhile in ("nothing", "flush", "claim"):
        state.count_credits(channel="specific.me!a", received=1, meanwhile=meanwhile)


def _come_back(state: StoreMachine) -> None:
    for meanwhile in ("flush", "nothing", "push", "pop"):
        state.come_back(channel="specific.me!a", meanwhile=meanwhile)
    state.pass_time(to="before", what="lease")
    state.renew(inbox="specific.me!")
    state.pass_time(to="after", what="lease")
    state.renew(inbox="specific.me!")


def _begin_anew(state: StoreMachine) -> None:
    state.claim(inbox="specific.me!")
    state.deliver(inbox="specific.me!", group="g", extra_recipients=1)
    state.mark(group="g", channel="specific.me!a")
    state.read(inbox="specific.me!", where="on")
    state.push(channel="specific.me!a", times=1)
    state.flush()
    state.unflushed(which=0)
    state.acknowledge(inbox="specific.me!")
    state.unflushed(which=0)


def _own_members(state: StoreMachine) -> None:
    state.claim(inbox="specific.me!")
    state.join_own(group="g", channel="specific.me!a")
    state.join(group="g", channel="specific.me!a")
    state.join(group="g", channel="specific.me!ab")
    state.send_to_group(group="g", meanwhile="a stranger joins", channel="specific.me!a")
    state.leave_and_be_restored(group="g", channel="specific.me!a")
    state.tidy_up_late(group="g", channel="specific.me!a", other="specific.me!a")
    state.tidy_up_late(group="G", channel="specific.me!a", other="specific.me!ab")
    state.tidy_up(which=0, known="all")
    state.read(inbox="specific.me!", where="on")


def _send_to_all(state: StoreMachine) -> None:
    state.send_to_a_full_one(group="g", channel="specific.me!a")
    state.flush()
    state.send_to_a_dead_one(group="g", channel="specific.you!a", meanwhile="nothing")
    state.send_to_a_dead_one(group="G", channel="specific.you!a", meanwhile="an owner comes back")


def _outlive(state: StoreMachine) -> None:
    state.claim(inbox="specific.me!")
    state.join_own(group="g", channel="specific.me!a")
    state.restore(which=0)
    for to in ("before", "after"):
        state.pass_time(to=to, what="membership")
        state.members(group="g")
    state.claim(inbox="specific.me!")
    state.check_groups(channel="specific.me!a", extend=True)
    state.join_own(group="g", channel="specific.me!a")
    state.flush()
    state.members(group="g")


_SCRIPTS: tuple[tuple[str, float | None, Callable[[StoreMachine], None]], ...] = (
    ("queues", 25.0, _expire),
    ("queues", 25.0, _cancel),
    ("queues", None, _report_and_survey),
    ("owned inboxes", 25.0, _count_the_unread),
    ("claimed inboxes", 25.0, _hand_over),
    ("members", 25.0, _stop_reading),
    ("members", 25.0, _join_and_leave),
    ("members", None, _join_and_leave),
    ("owned inboxes", 25.0, _find_an_owner),
    ("owned inboxes", 25.0, _count_credits),
    ("owned inboxes", 25.0, _come_back),
    ("owned inboxes", 25.0, _begin_anew),
    ("groups", 25.0, _own_members),
    ("groups", 25.0, _send_to_all),
    ("groups", 25.0, _outlive),
)
"""The topic, the ``group_expiry``, and what is done."""


def run_scripts(make_store: MakeStore, traits: Traits, run_counts: RunCounts) -> None:
    """Run the fixed scripts.

    Raises:
        Violation: with the script as its note.
    """
    for topic, group_expiry, script in _SCRIPTS:
        state = StoreMachine(make_store, traits, run_counts)
        if topic not in state.topics:
            continue
        state.script = [f"state.begin(topic={topic!r}, expiry=2.75, group_expiry={group_expiry}, capacity=2, ...)"]
        try:
            try:
                state.begin(
                    topic=topic,
                    expiry=2.75,
                    group_expiry=group_expiry,
                    capacity=2,
                    inbox_capacity=6,
                    nested="neighbour",
                )
                script(state)
            finally:
                state.teardown()
        except Exception as exc:
            exc.add_note("\n".join(map(str, ["This is what was done:", *state.script])))
            raise
