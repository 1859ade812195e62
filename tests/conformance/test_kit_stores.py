"""The kit's test of stores: correct stores pass, and every store that is wrong on purpose is noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings

from channel_layer.domain.names import ChannelName
from channel_layer.domain.rules import Rules
from channel_layer.ports import Backend, Capabilities, Clock
from channel_layer.testing import MakeStore, StoreSuite, Violation
from channel_layer.testing.command_checks import command_types, example_commands
from channel_layer.testing.store_conformance import run_async_conformance_test, run_conformance_test
from channel_layer.testing.suites.stores import StoreEnvironment
from tests.support.servers import Deployment
from tests.support.stores import blind_stores, memory_stores, redis_stores
from tests.support.wrong_stores import (
    WRONG_STORES,
    FailsAsAWhole,
    LacksAHandler,
    MixesOutcomesUp,
    OneTooMany,
    RefusesACommand,
    ThreadsLackAHandler,
    TwoForOne,
    WrongStore,
    simple_stores,
    wrong_stores,
)

pytestmark = pytest.mark.usefixtures("tidied")

FIRST = settings(
    phases=[Phase.generate],  # the shortest script is for people
    max_examples=2000,  # few need more than 200, but which ones changes with every constant in the code
    stateful_step_count=15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
"""To see whether something is noticed at all."""


def within(prefix: str, make: MakeStore) -> MakeStore:
    """Put all stores of a factory under one prefix, so that what they leave on a server is removed with it."""

    def make_store(rules: Rules, clock: Clock) -> Backend:
        return make(replace(rules, prefix=prefix + rules.prefix), clock)

    return make_store


# -- right ones --------------------------------------------------------------------------------------------------


def test_memory_is_right() -> None:
    """The memory store answers every request as the contract says."""
    run_async_conformance_test(memory_stores())


def test_redis_is_right(deployment: Deployment, prefix: str) -> None:
    """So does the Redis store, on one host and on three, though its leases end by the servers' clocks."""
    run_async_conformance_test(within(prefix, redis_stores(deployment)))


def test_a_store_behind_hidden_names_is_right(deployment: Deployment, prefix: str) -> None:
    """A store that gets to see tokens for names does all the same what the contract says."""
    run_async_conformance_test(blind_stores(memory_stores()))
    run_async_conformance_test(within(prefix, blind_stores(redis_stores(deployment))))


def test_a_simple_store_is_tested_by_its_capabilities() -> None:
    """A simple store is correct without leases and without notes of unread messages."""
    none = Capabilities(leases=False, blocking=False, tracks_unread=False, statistics=False)
    run_conformance_test(simple_stores(WrongStore), capabilities=none)


def test_there_is_an_example_of_every_command() -> None:
    """So that none is left out when a store is asked whether it handles all of them."""
    examples = example_commands(ChannelName.parse("specific.me!a"))
    assert {type(command) for command in examples} == command_types()
    assert command_types()
    assert len(examples) == len(command_types())


# -- wrong ones --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LacksAHandler, "A store handles every command[^$]*execute.. of Prune"),
        (
            RefusesACommand,
            "A store handles every command[^$]*execute.. of CheckGroups[^$]*the store has leases",
        ),
        (ThreadsLackAHandler, "A store handles every command[^$]*blocking store of Acknowledge"),
        (MixesOutcomesUp, "one outcome for each command"),
        (FailsAsAWhole, "one outcome for each command"),
    ],
)
def test_a_command_without_a_handler_is_named(kind: type[WrongStore], message: str) -> None:
    """A store that does not handle a command is told which; and so is one that mixes up what came of several."""
    with pytest.raises(Violation, match=message):
        run_async_conformance_test(wrong_stores(kind), settings=FIRST)
    with pytest.raises(Violation, match=message):
        StoreSuite().test_every_command_is_handled(StoreEnvironment(wrong_stores(kind), patience=20.0))


@pytest.mark.parametrize("kind", WRONG_STORES, ids=lambda kind: kind.__name__)
def test_a_wrong_store_is_noticed(kind: type[WrongStore]) -> None:
    """Each store that breaks one rule fails, and with no other error than that of a rule that is broken."""
    with pytest.raises(Violation):
        run_async_conformance_test(wrong_stores(kind), settings=FIRST)


def test_what_the_wrong_stores_share_is_right() -> None:
    """So each of them fails for what it adds."""
    run_async_conformance_test(wrong_stores(WrongStore))


def test_a_wrong_simple_store_is_noticed() -> None:
    """A simple store that breaks a rule fails, too."""
    with pytest.raises(Violation, match="fewer than the capacity"):
        run_conformance_test(simple_stores(OneTooMany), settings=FIRST)


def test_capabilities_have_to_be_the_declared_ones() -> None:
    """A test by other capabilities than the store declares fails and says so."""
    with pytest.raises(Violation, match="does not declare the capabilities"):
        run_async_conformance_test(
            memory_stores(), capabilities=Capabilities(tracks_unread=False, statistics=False), settings=FIRST
        )
    with pytest.raises(Violation, match="does not declare the capabilities"):
        run_conformance_test(simple_stores(WrongStore), capabilities=Capabilities(), settings=FIRST)


# -- what is said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OneTooMany, TwoForOne], ids=["fixed script", "random example"])
def test_a_failure_comes_with_a_script(kind: type[WrongStore]) -> None:
    """It says which rule is broken, what was asked, what came, what should have come, and all that was done before."""
    with pytest.raises(Violation) as caught:
        run_async_conformance_test(wrong_stores(kind), settings=FIRST)
    parts = [line.partition(":")[0].strip() for line in str(caught.value).splitlines()]
    assert parts[1:] == ["asked", "came", "should have come"]
    script = "\n".join(caught.value.__notes__)
    assert script.count("state.") > 1
    assert "Pushed(accepted=True" in script


def test_a_machine_that_stands_still_fails_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long is not checked, even if it is wrong; but a run that has checked nothing passes no store."""
    monkeypatch.setattr("channel_layer.testing.store_machine.EXAMPLE_SECONDS", 0.0)
    with pytest.raises(Violation, match="Nothing was checked"):
        run_async_conformance_test(wrong_stores(OneTooMany), settings=settings(FIRST, max_examples=3))
