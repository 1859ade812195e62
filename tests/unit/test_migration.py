"""CONFIGs of channels_redis: every option of the table in the migration page, and whole ones as projects have them."""

from __future__ import annotations

import importlib
import inspect
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from unittest.mock import MagicMock

import pytest
import redis.asyncio.connection as connections
from redis.asyncio.sentinel import SentinelConnectionPool

from channel_layer.config import parse
from channel_layer.errors import ConfigError, ConfigWarning
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis.config import RedisConfig
from tests.support.tls import issue

_PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "migrate-from-channels_redis.md"


class _Names(dict[str, object]):
    """What the names of the table's examples stand for: any object, but for those whose kind counts."""

    def __missing__(self, name: str) -> object:
        return "secret" if name.isupper() else MagicMock(name=name)


def _rows(heading: str) -> list[tuple[str, str, str]]:
    """Return the rows of the table below a heading: each example of an option, the word, and the remark."""
    section = re.split(r"^##+ ", _PAGE.read_text(encoding="utf-8").partition(f" {heading}\n")[2], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.*?`) \| (honoured|no effect|refused) \| (.*?) ?\|$", section, re.MULTILINE)
    found = [(code, word, remark) for codes, word, remark in rows for code in re.findall(r"`([^`]+)`", codes)]
    assert len(section.splitlines()) > len(rows) > 5
    return found


OF_LAYERS: Final = _rows("Options")
OF_HOSTS: Final = _rows("Options of a host")


def _options(code: str, certificates: str) -> dict[str, object]:
    context = ssl.create_default_context()
    names = _Names(dict=dict, ssl=ssl, socket=socket, context=context, CERTIFICATES=certificates)
    evaluate: Callable[..., dict[str, object]] = eval  # noqa: S307 - our own page
    return evaluate(f"dict({code})", {}, names)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The certificate of an authority, as text."""
    return issue(tmp_path_factory.mktemp("tls")).ca_file.read_text()


def _try(options: Mapping[str, object], base: Mapping[str, object], word: str, remark: str) -> None:
    """Check that an option does what the table says, against the same configuration without it."""
    if word == "refused":
        with pytest.raises(ConfigError) as caught:
            parse(RedisConfig, options)
        assert [error.problem for error in caught.value.errors] == [remark]
        return
    config = parse(RedisConfig, options)
    told = list(config.given_in_vain())
    if word == "honoured":
        assert told == []
        assert config != parse(RedisConfig, base)
        return
    assert [each.problem for each in told] == [f"is not needed: {remark}"]
    assert config.servers == parse(RedisConfig, base).servers
    with pytest.warns(ConfigWarning, match=f"^{re.escape(str(told[0]))}$"):
        config.rules()


@pytest.mark.parametrize(("code", "word", "remark"), OF_LAYERS, ids=[code for code, _, _ in OF_LAYERS])
def test_every_option_of_a_layer_is_as_the_table_says(code: str, word: str, remark: str, certificates: str) -> None:
    """An option of channels_redis is honoured, accepted with a warning, or refused, with the text of the table."""
    _try(_options(code, certificates), {}, word, remark)


@pytest.mark.parametrize(("code", "word", "remark"), OF_HOSTS, ids=[code for code, _, _ in OF_HOSTS])
def test_every_option_of_a_host_is_as_the_table_says(code: str, word: str, remark: str, certificates: str) -> None:
    """An option in a host's dict is honoured, accepted with a warning, or refused, with the text of the table."""
    options = _options(code, certificates)
    base: dict[str, object] = {"host": "redis.example"}
    if "address" in options:
        base = {"address": "redis://redis.example"}
    elif not {"sentinels", "sentinel_kwargs"}.isdisjoint(options):
        base = {"sentinels": [("sentinel.example", 26379)], "master_name": "service"}
    elif any(name.startswith("ssl_") for name in options):
        base["ssl"] = True
    if not {"ssl_keyfile", "ssl_password"}.isdisjoint(options):
        base["ssl_certfile"] = "/site.pem"
    _try({"hosts": [{**base, **options}]}, {"hosts": [base]}, word, remark)


@pytest.mark.filterwarnings("ignore::channel_layer.ConfigWarning")
def test_what_changes_nothing_does_so_beside_hosts_and_in_a_url_too() -> None:
    """An option without effect in a host's dict has none in a URL, and beside ``hosts``, each with one warning."""
    for code, word, remark in OF_HOSTS:
        name = code.partition("=")[0]
        if word == "no effect":
            for options in ({name: 1}, {"hosts": [f"redis://a?{name}=1"]}):
                (told,) = parse(RedisConfig, options).given_in_vain()
                assert told.problem.endswith(f"is not needed: {remark}")
                assert name in str(told)
            RedisChannelLayer.from_url(f"redis://a?{name}=1&random_prefix_length=5")
        elif word == "refused":
            for options in ({name: 1}, {"hosts": [f"redis://a?{name}=1"]}):
                with pytest.raises(ConfigError, match=re.escape(name)):
                    parse(RedisConfig, options)


def _parameters(*makers: Callable[..., object]) -> Iterator[str]:
    for make in makers:
        for parameter in inspect.signature(make).parameters.values():
            if parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
                yield parameter.name


def test_no_option_is_missing_in_the_table() -> None:
    """The table has every option that the installed channels_redis and redis-py take."""
    of_layers = {code.partition("=")[0] for code, _, _ in OF_LAYERS}
    core: Callable[..., object] = importlib.import_module("channels_redis.core").RedisChannelLayer
    pubsub: Callable[..., object] = importlib.import_module("channels_redis.pubsub").RedisPubSubLoopLayer
    assert {*_parameters(core, pubsub)} - {"channel_layer"} <= of_layers
    of_hosts = {code.partition("=")[0] for code, _, _ in OF_HOSTS}
    makers = (
        connections.AbstractConnection,
        connections.Connection,
        connections.SSLConnection,
        connections.UnixDomainSocketConnection,
        connections.ConnectionPool,
        SentinelConnectionPool,
    )
    assert {*_parameters(*makers)} - {"service_name"} <= of_hosts
