"""The kit's machine above the stores: every right layer passes it, and every wrong one is caught."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky, FlakyStrategyDefinition

from channel_layer import ChannelLayer
from channel_layer.stores.simple import SimpleBackend
from channel_layer.testing import Violation, layers_over, run_layer_conformance_test
from channel_layer.testing.layer_machine import LayerMachine
from tests.support.servers import Deployment
from tests.support.stores import memory_stores, redis_stores, sealed_layers
from tests.support.wrong_kit_layers import (
    WRONG_LAYERS,
    DeafToFlushes,
    LosesOnCancel,
    SharesObjects,
    TakesOneTooMany,
    over_memory,
)
from tests.support.wrong_stores import WrongStore, simple_stores

pytestmark = pytest.mark.usefixtures("tidied")

_STEPS = 30

_QUICK = settings(
    max_examples=1500,  # as in test_kit_stores
    stateful_step_count=_STEPS,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # what is found need not be made small
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
)


def test_the_memory_layer_keeps_every_promise() -> None:
    """Several layers over one memory store do what the specification says, whatever is called in whatever order."""
    run_layer_conformance_test(layers_over(memory_stores()))


def test_the_redis_layer_keeps_every_promise(deployment: Deployment) -> None:
    """The same over servers."""
    few = settings(max_examples=max(30, settings().max_examples // 3), stateful_step_count=_STEPS, deadline=None)
    run_layer_conformance_test(layers_over(redis_stores(deployment)), settings=few)


@pytest.mark.parametrize("cipher", ["aes-256-gcm", "fernet"])
def test_a_sealed_layer_keeps_every_promise(cipher: str) -> None:
    """So do layers that seal what they send and hide what it is called, with each cipher."""
    few = settings(max_examples=max(30, settings().max_examples // 3), stateful_step_count=_STEPS, deadline=None)
    run_layer_conformance_test(sealed_layers(memory_stores(), cipher=cipher), settings=few)


def test_a_sealed_redis_layer_keeps_every_promise(deployment: Deployment) -> None:
    """The same over servers."""
    few = settings(max_examples=max(20, settings().max_examples // 5), stateful_step_count=_STEPS, deadline=None)
    run_layer_conformance_test(sealed_layers(redis_stores(deployment)), settings=few)


def test_what_a_process_keeps_until_it_asks_is_not_taken_for_lost() -> None:
    """A layer without leases finds only with its next pop that what it has popped besides was flushed."""
    make_store = simple_stores(WrongStore)  # a right one
    make_layer = layers_over(lambda rules, clock: SimpleBackend(lambda: make_store(rules, clock), "here"))
    machine = LayerMachine(make_layer, SimpleBackend.capabilities, 5.0, [])
    machine.begin(group_expiry=100.0)
    machine.fill_group(group="green", some=0, by=0, count=1)
    machine.receive(pick=1, by=0, most=1)  # pops the message of the first channel, too
    machine.flush(by=2)
    machine.send(at=2, by=2)
    machine.cancel_amid(pick=0, turns=0)
    machine.teardown()


@pytest.mark.parametrize("wrong", WRONG_LAYERS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_layer_is_caught(wrong: type[ChannelLayer]) -> None:
    """A layer that breaks one promise is found out, and the error says what was to be expected."""
    with pytest.raises(Violation), contextlib.redirect_stdout(io.StringIO()):
        run_layer_conformance_test(over_memory(wrong), settings=_QUICK, patience=0.25)


@pytest.mark.parametrize("wrong", [DeafToFlushes, LosesOnCancel, SharesObjects, TakesOneTooMany])
def test_chance_finds_it_as_well(wrong: type[ChannelLayer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that draws its calls does not depend on the rehearsal before it."""
    monkeypatch.setattr("channel_layer.testing.layer_machine._run_script", LayerMachine.teardown)
    with pytest.raises(Violation), contextlib.redirect_stdout(io.StringIO()):
        run_layer_conformance_test(over_memory(wrong), settings=_QUICK, patience=0.25)


@pytest.mark.parametrize("error", [Flaky, FlakyStrategyDefinition])
def test_what_is_wrong_only_once_is_a_violation_all_the_same(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A promise that is broken by a race is told as such, whatever Hypothesis says of an example that differs."""

    async def lose() -> None:
        raise Violation("a message is lost")

    def run_once(make_machine: Callable[[], LayerMachine], settings: settings) -> None:
        del settings
        machine = make_machine()
        with contextlib.suppress(Violation):
            machine.run(lose())
        machine.teardown()
        raise error("it went another way")

    monkeypatch.setattr("channel_layer.testing.layer_machine._run_script", LayerMachine.teardown)
    monkeypatch.setattr("channel_layer.testing.layer_machine.run_state_machine_as_test", run_once)
    with pytest.raises(Violation, match="a message is lost"):
        run_layer_conformance_test(over_memory(ChannelLayer), settings=_QUICK)


def test_a_failure_is_told_as_a_script() -> None:
    """What led to a violation stands with it: the calls in their order, and what came of them."""
    with pytest.raises(Violation) as caught:
        run_layer_conformance_test(over_memory(WRONG_LAYERS[0]), settings=_QUICK, patience=0.25)
    script = "\n".join(caught.value.__notes__)
    assert script.startswith("state = LayerTest()\nstate.begin(group_expiry=100.0)\n")
    assert "state.change_amid(group=" in script
    assert script.endswith("state.teardown()")
