"""The tests of stores that third parties call: the commands one by one, fixed scripts, and a state machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import hypothesis
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from channel_layer.stores.simple import SimpleBackend
from channel_layer.testing import store_machine
from channel_layer.testing.factories import Violation
from channel_layer.testing.profiles import machine_settings
from channel_layer.testing.store_machine import RunCounts, StoreMachine
from channel_layer.testing.store_scripts import run_scripts
from channel_layer.testing.store_traits import examine

if TYPE_CHECKING:
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Backend, Capabilities, Clock
    from channel_layer.testing.factories import MakeSimpleStore, MakeStore

__all__ = ("run_async_conformance_test", "run_conformance_test")

_STEPS = 15
"""Steps of an example; most of them make several requests."""


def run_async_conformance_test(
    make_store: MakeStore, *, capabilities: Capabilities | None = None, settings: hypothesis.settings | None = None
) -> None:
    """Test a store: make any calls in any order, and compare every reply with what the contract says.

    First every command is asked once, and several at once. Then come some short scripts that are always the same, then
    a state machine calls what Hypothesis draws. Needs no pytest, and never sleeps. How many examples there are, and
    whether they are the same each time, is decided by the Hypothesis settings. If a lease of this store does not end
    when the clock is moved, a short one is watched until it does.

    Args:
        make_store: makes one process's way to the store.
        capabilities: what the store can do; None for what it declares, and else the same as that.
        settings: None for those of the current profile, with 15 steps an example and no deadline.

    Raises:
        Violation: the store breaks a rule, which the text names; a note tells all that was done before.
    """
    traits = asyncio.run(examine(make_store, capabilities))
    run_counts = RunCounts()
    run_scripts(make_store, traits, run_counts)

    class TestedStore(StoreMachine):
        """The machine over this store."""

        def __init__(self) -> None:
            super().__init__(make_store, traits, run_counts)

    chosen = machine_settings(_STEPS) if settings is None else settings
    one = hypothesis.settings(chosen, report_multiple_bugs=False)  # several would come as a group, not as a Violation
    try:
        run_state_machine_as_test(TestedStore, settings=one)
    except Flaky as flaky:  # a race went another way when Hypothesis tried the example again
        if not run_counts.found:
            raise
        raise run_counts.found[-1] from flaky
    if run_counts.examples and not run_counts.replies:
        raise Violation(f"Nothing was checked: not one reply came within {store_machine.EXAMPLE_SECONDS} seconds")


def run_conformance_test(
    make_store: MakeSimpleStore,
    *,
    capabilities: Capabilities | None = None,
    settings: hypothesis.settings | None = None,
) -> None:
    """Test a simple store: as `run_async_conformance_test` does, through `channel_layer.stores.simple.SimpleBackend`.

    Args:
        make_store: makes one process's way to the store.
        capabilities: what it can do; None, or none of them all.
        settings: None for those of the current profile, with 15 steps an example and no deadline.

    Raises:
        Violation: the store breaks a rule.
    """

    def make_whole(rules: Rules, clock: Clock) -> Backend:
        return SimpleBackend(lambda: make_store(rules, clock), "simple")

    run_async_conformance_test(make_whole, capabilities=capabilities, settings=settings)
