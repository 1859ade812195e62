"""Who takes part in a benchmark: the names, the dotted paths, and the placeholders of their configuration."""

from __future__ import annotations

import pytest

from channel_layer_bench.contenders import (
    BUILT_IN,
    DEFAULT,
    FLOOR,
    UnknownContender,
    fill,
    parse_contender,
)
from channel_layer_bench.context import Context, Settings
from channel_layer_bench.plan import Plan

_URLS = ["redis://127.0.0.1:7001/0", "redis://127.0.0.1:7002/0", "redis://127.0.0.1:7003/0"]


def _nothing(_: str) -> None:
    """Find nothing."""


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_name_is_enough_for_those_that_are_built_in(name: str) -> None:
    """Each is found by its name."""
    assert parse_contender(name) is BUILT_IN[name]


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - {FLOOR}))
def test_every_configuration_is_one_that_its_layer_takes(name: str) -> None:
    """The layer of each can be made with its filled configuration; nothing is connected to."""
    contender = BUILT_IN[name]
    config = fill(contender.config, urls=_URLS[: contender.hosts], prefix="bench-1:", capacity=77)
    settings = Settings(contender.backend, config, Plan(), single_process=True, blocking=False, profile="")
    layer = Context(settings, repr).layer
    assert getattr(layer, "capacity", 77) == 77 if name != "pubsub" else layer


def test_nobody_is_in_the_default_who_cannot_pass_messages_between_processes() -> None:
    """Only layers that do the same thing are compared unasked, beside the limit."""
    assert all(not BUILT_IN[name].single_process for name in DEFAULT)


def test_another_layer_is_named_by_path_and_configuration() -> None:
    """The name, the class and the JSON are taken apart at the first = and the first colon."""
    found = parse_contender('mine=my.package.Layer:{"hosts": ["{url}"], "note": "a=b:c"}')
    assert (found.name, found.backend) == ("mine", "my.package.Layer")
    assert found.config == {"hosts": ["{url}"], "note": "a=b:c"}
    assert not found.single_process


def test_a_layer_without_a_server_lives_in_one_process() -> None:
    """A configuration that mentions no server says that there is none, so that nothing crosses processes."""
    found = parse_contender("mine=my.package.Layer")
    assert found.single_process
    assert "pending" in found.lacks


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nobody", "is none of redis"),
        ("mine=", "dotted path"),
        ("mine=Layer", "dotted path"),
        ("mine=my.package.Layer:{", "JSON"),
        ("mine=my.package.Layer:[1]", "JSON"),
        ("core=my.package.Layer", "built in"),
        ("=my.package.Layer", "no name"),
        ("two words=my.package.Layer", "no name"),
    ],
)
def test_a_wrong_name_is_refused_with_the_reason(text: str, complaint: str) -> None:
    """What names no layer is an error that says what is wrong with it."""
    with pytest.raises(UnknownContender, match=complaint):
        parse_contender(text)


def test_placeholders_are_filled_wherever_they_stand() -> None:
    """Servers, prefix and capacity come into lists and dicts too; everything else stays as it is."""
    config: dict[str, object] = {
        "all": "{urls}",
        "one": [{"address": "{url}", "timeout": 60}],
        "prefix": "x-{prefix}",
        "capacity": "{capacity}",
        "flag": None,
    }
    assert fill(config, urls=_URLS, prefix="p:", capacity=5) == {
        "all": _URLS,
        "one": [{"address": _URLS[0], "timeout": 60}],
        "prefix": "x-p:",
        "capacity": 5,
        "flag": None,
    }


def test_what_is_missing_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender whose package is not there says which one, and how to get it."""
    monkeypatch.setattr("importlib.util.find_spec", _nothing)
    assert BUILT_IN["redis"].missing() == 'redis needs redis: pip install "channel-layer[redis]"'
    assert BUILT_IN["core"].missing() == "core needs channels_redis: pip install channels_redis"
    assert BUILT_IN["memory"].missing() is None
