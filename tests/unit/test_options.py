"""One set of options, said three times: to Pydantic, to Python, and to type checkers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import get_type_hints

import pytest
from pydantic import TypeAdapter

from channel_layer import ChannelLayer
from channel_layer.config import CommonConfig, parse
from channel_layer_ipc import IPCChannelLayer, IPCConfigDict
from channel_layer_ipc.config import IPCConfig
from channel_layer_memory import MemoryChannelLayer, MemoryConfigDict
from channel_layer_memory.config import MemoryConfig
from channel_layer_redis import RedisChannelLayer, RedisConfigDict, RedisLocalChannelLayer, RedisLocalConfigDict
from channel_layer_redis.config import RedisConfig
from channel_layer_redis.hosts import URL_OPTIONS
from channel_layer_redis.local_config import RedisLocalConfig

LAYERS: tuple[tuple[type[ChannelLayer], type[CommonConfig], type], ...] = (
    (IPCChannelLayer, IPCConfig, IPCConfigDict),
    (MemoryChannelLayer, MemoryConfig, MemoryConfigDict),
    (RedisChannelLayer, RedisConfig, RedisConfigDict),
    (RedisLocalChannelLayer, RedisLocalConfig, RedisLocalConfigDict),
)
"""Each layer with the model and the type of its CONFIG; a new layer adds a line."""

OTHERS = {"clock", "unknown"}
"""Arguments that are no options: one for tests, and the one that catches what does not exist."""


def _annotations(typed: type) -> dict[str, str]:
    """Return the annotations of a TypedDict and those it inherits, as they are written."""
    found: Mapping[str, object] = inspect.get_annotations(typed)
    texts = {name: getattr(hint, "__forward_arg__", hint) for name, hint in found.items()}
    return TypeAdapter(dict[str, str]).validate_python(texts)


@pytest.mark.parametrize(("layer", "model", "typed"), LAYERS)
def test_names_are_the_same_everywhere(layer: type[ChannelLayer], model: type[CommonConfig], typed: type) -> None:
    """The model, the keyword arguments of the layer and the TypedDict have the same options."""
    arguments = inspect.signature(layer).parameters.keys() - OTHERS
    assert model.model_fields.keys() == arguments == _annotations(typed).keys()
    assert layer.config is model


@pytest.mark.parametrize(("layer", "model", "typed"), LAYERS)
def test_types_are_the_same_everywhere(layer: type[ChannelLayer], model: type[CommonConfig], typed: type) -> None:
    """A keyword argument and its key of the TypedDict are annotated with the same words."""
    arguments = inspect.signature(layer).parameters
    assert {name: arguments[name].annotation for name in model.model_fields} == _annotations(typed)


@pytest.mark.parametrize(("layer", "model", "typed"), LAYERS)
def test_none_is_a_default_where_it_means_the_default(
    layer: type[ChannelLayer], model: type[CommonConfig], typed: type
) -> None:
    """Where None is the same as nothing it is the default of the argument, and the other defaults are the model's."""
    del typed
    arguments = inspect.signature(layer).parameters
    shown = {name: arguments[name].default for name in model.model_fields}
    assert parse(model, shown) == parse(model, {}) == parse(model, dict.fromkeys(model.unset))
    assert {name for name, default in shown.items() if default is None} == model.unset | {"faults"}
    assert not parse(model, shown).model_fields_set & model.unset


def test_none_beside_hosts_is_no_contradiction() -> None:
    """What is left out by writing None does not clash with what is written."""
    assert len(parse(RedisConfig, {"hosts": ["redis://a"], "host": None, "db": None}).servers) == 1
    assert parse(RedisConfig, {"hosts": None, "host": "a"}).servers[0].identity == "a:6379/0"


@pytest.mark.parametrize(("layer", "model", "typed"), LAYERS)
def test_every_option_that_a_url_can_hold_says_how(
    layer: type[ChannelLayer], model: type[CommonConfig], typed: type
) -> None:
    """All options but the servers, which a URL says otherwise, have a form, and none is also an option of a server."""
    del layer, typed
    assert model.model_fields.keys() - model.url_forms.keys() <= {"hosts", "host", "port", "db", "local"}
    local = {"directory", "memory"} if "local" in model.model_fields else set[str]()
    assert model.url_forms.keys() <= model.model_fields.keys() | local
    assert not model.url_forms.keys() & {*URL_OPTIONS, "host"}


def test_the_types_can_be_read_at_run_time() -> None:
    """A library that evaluates annotations finds all names in those of our TypedDicts."""
    assert get_type_hints(IPCConfigDict).keys() == IPCConfig.model_fields.keys()
    assert get_type_hints(MemoryConfigDict).keys() == MemoryConfig.model_fields.keys()
    assert get_type_hints(RedisConfigDict).keys() == RedisConfig.model_fields.keys()
