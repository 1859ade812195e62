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
from redis.backoff import ExponentialBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry

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


# -- whole CONFIGs -------------------------------------------------------------------------------------------

_CONTEXT: Final = ssl.create_default_context()
_PROVIDER: Final = UsernamePasswordCredentialProvider("site", "secret")
_RETRY: Final = Retry(ExponentialBackoff(), 3)
_KEY: Final = "django-insecure-this-is-long-enough-to-be-a-key"

LOCAL: Final = "redis://localhost:6379/0"
REMOTE: Final = "redis://redis.example:6379/0"
SECURE: Final = "rediss://redis.example:6379/0"

ACCEPTED: Final[Mapping[str, tuple[Mapping[str, object], list[str], Mapping[str, object], list[str]]]] = {
    # without hosts, and pairs
    "nothing": ({}, [LOCAL], {}, []),
    "the tutorial": ({"hosts": [("127.0.0.1", 6379)]}, ["redis://127.0.0.1:6379/0"], {}, []),
    "a service of Docker": ({"hosts": [("redis", 6379)]}, ["redis://redis:6379/0"], {}, []),
    "a list for a pair": ({"hosts": [["redis.example", 6379]]}, [REMOTE], {}, []),
    "tuples all over": ({"hosts": (("redis.example", 6379),)}, [REMOTE], {}, []),
    "a port from the environment": ({"hosts": [("redis.example", "6379")]}, [REMOTE], {}, []),
    "a pair without its list": ({"hosts": ("redis.example", "6379")}, [REMOTE], {}, []),
    "shards": (
        {"hosts": [("redis1.example", 6379), ("redis2.example", 6379)]},
        ["redis://redis1.example:6379/0", "redis://redis2.example:6379/0"],
        {},
        [],
    ),
    # URLs
    "a URL": ({"hosts": ["redis://redis.example:6379/1"]}, ["redis://redis.example:6379/1"], {}, []),
    "a URL without a port": ({"hosts": ["redis://redis.example"]}, [REMOTE], {}, []),
    "a URL that ends in a slash": ({"hosts": ["redis://redis.example:6379/"]}, [REMOTE], {}, []),
    "an older Heroku": ({"hosts": ["redis://h:secret@redis.example:6379"]}, [REMOTE], {"username": "h"}, []),
    "a cloud": (
        {"hosts": ["redis://default:secret@redis.example:6379"]},
        [REMOTE],
        {"username": "default", "password": "secret"},
        [],
    ),
    "a password alone": ({"hosts": ["redis://:secret@redis.example:6379/0"]}, [REMOTE], {"password": "secret"}, []),
    "an empty password": ({"hosts": ["redis://:@redis.example:6379/0"]}, [REMOTE], {"password": None}, []),
    "an encoded password": ({"hosts": ["redis://:p%40ss@redis.example"]}, [REMOTE], {"password": "p@ss"}, []),
    "an at sign in a password": ({"hosts": ["redis://:p@ss@redis.example"]}, [REMOTE], {"password": "p@ss"}, []),
    "Upstash": ({"hosts": ["rediss://default:secret@redis.example:6379"]}, [SECURE], {}, []),
    "TLS in a URL": ({"hosts": ["rediss://:secret@redis.example:6379/0"]}, [SECURE], {"password": "secret"}, []),
    "a query as Celery has it": (
        {"hosts": ["rediss://redis.example:6379/0?ssl_cert_reqs=CERT_NONE"]},
        [SECURE],
        {"tls.verify": "none"},
        [],
    ),
    "a query as redis-py has it": (
        {"hosts": ["redis://redis.example?db=2&socket_timeout=5&retry_on_timeout=True&max_connections=50"]},
        ["redis://redis.example:6379/2"],
        {},
        ["socket_timeout", "retry_on_timeout", "max_connections"],
    ),
    "a socket": ({"hosts": ["unix:///run/redis/redis.sock"]}, ["unix:///run/redis/redis.sock?db=0"], {}, []),
    "a socket with a database": (
        {"hosts": ["unix://:secret@/run/redis.sock?db=3"]},
        ["unix:///run/redis.sock?db=3"],
        {"password": "secret"},
        [],
    ),
    # dicts
    "a host": ({"hosts": [{"host": "redis.example", "port": 6379}]}, [REMOTE], {}, []),
    "a host from the environment": (
        {"hosts": [{"host": "redis.example", "port": "6379", "db": "3", "password": "secret"}]},
        ["redis://redis.example:6379/3"],
        {"password": "secret"},
        [],
    ),
    "no password": (
        {"hosts": [{"host": "redis.example", "port": 6379, "password": None}]},
        [REMOTE],
        {"password": None},
        [],
    ),
    "an address": ({"hosts": [{"address": "redis://redis.example/2"}]}, ["redis://redis.example:6379/2"], {}, []),
    "an address and a database": (
        {"hosts": [{"address": "redis://redis.example", "db": 5, "password": "secret"}]},
        ["redis://redis.example:6379/5"],
        {"password": "secret"},
        [],
    ),
    "an address of aioredis": (
        {"hosts": [{"address": ("redis.example", 6379), "db": 1, "password": "secret", "minsize": 1, "maxsize": 5}]},
        ["redis://redis.example:6379/1"],
        {"password": "secret"},
        ["minsize", "maxsize"],
    ),
    "the cure for redis-py 8": (
        {"hosts": [{"address": "redis://redis.example", "socket_timeout": None}]},
        [REMOTE],
        {},
        ["socket_timeout"],
    ),
    "options of redis-py": (
        {
            "hosts": [
                {
                    "host": "redis.example",
                    "socket_timeout": 5,
                    "socket_connect_timeout": 2,
                    "socket_keepalive": True,
                    "health_check_interval": 30,
                    "retry_on_timeout": True,
                    "retry": _RETRY,
                    "retry_on_error": [ConnectionError, TimeoutError],
                    "max_connections": 100,
                    "client_name": "site",
                }
            ]
        },
        [REMOTE],
        {"connect_timeout": 2, "health_check_interval": 30, "client_name": "site"},
        ["socket_timeout", "retry_on_timeout", "retry", "retry_on_error", "max_connections"],
    ),
    "text in replies": (
        {"hosts": [{"host": "redis.example", "decode_responses": False, "encoding": "utf-8", "protocol": 3}]},
        [REMOTE],
        {},
        ["decode_responses", "encoding", "protocol"],
    ),
    "a provider": (
        {"hosts": [{"host": "redis.example", "ssl": True, "credential_provider": _PROVIDER}]},
        [SECURE],
        {"credential_provider": _PROVIDER, "password": None},
        [],
    ),
    # TLS
    "Heroku": (
        {"hosts": [{"address": "rediss://:secret@redis.example:6379", "ssl_cert_reqs": None}]},
        [SECURE],
        {"tls.verify": "none", "tls.check_hostname": False},
        [],
    ),
    "Heroku with a constant": (
        {"hosts": [{"address": "rediss://redis.example", "ssl_cert_reqs": ssl.CERT_NONE}]},
        [SECURE],
        {"tls.verify": "none"},
        [],
    ),
    "Heroku on aioredis": (
        {"hosts": [{"address": "rediss://redis.example", "ssl": _CONTEXT}]},
        [SECURE],
        {"tls.context": _CONTEXT},
        [],
    ),
    "a name that is not checked": (
        {"hosts": [{"address": "rediss://redis.example", "ssl_check_hostname": False}]},
        [SECURE],
        {"tls.verify": "required", "tls.check_hostname": False},
        [],
    ),
    "an authority": (
        {"hosts": [{"host": "redis.example", "ssl": True, "ssl_ca_certs": "/etc/ssl/ca.pem", "ssl_keyfile": None}]},
        [SECURE],
        {"tls.ca_certs": "/etc/ssl/ca.pem"},
        [],
    ),
    "a client's certificate": (
        {
            "hosts": [
                {
                    "address": "rediss://redis.example",
                    "ssl_certfile": "/site.pem",
                    "ssl_keyfile": "/site.key",
                    "ssl_min_version": ssl.TLSVersion.TLSv1_2,
                }
            ]
        },
        [SECURE],
        {"tls.certfile": "/site.pem", "tls.keyfile": "/site.key", "tls.min_version": ssl.TLSVersion.TLSv1_2},
        [],
    ),
    # Sentinel
    "a service": (
        {"hosts": [{"sentinels": [("s1", 26379), ("s2", 26379)], "master_name": "mymaster"}]},
        ["redis+sentinel://s1:26379,s2:26379/0/mymaster"],
        {},
        [],
    ),
    "a service with passwords": (
        {
            "hosts": [
                {
                    "sentinels": [("s1", "26379")],
                    "master_name": "mymaster",
                    "sentinel_kwargs": {"password": "secret", "socket_timeout": 1},
                    "password": "secret",
                    "db": 2,
                    "retry_on_timeout": True,
                    "check_connection": True,
                }
            ]
        },
        ["redis+sentinel://s1:26379/2/mymaster"],
        {"server.password": "secret"},
        ["socket_timeout", "retry_on_timeout", "check_connection"],
    ),
    "a service beside a server": (
        {"hosts": [{"sentinels": [("s1", 26379)], "master_name": "m", "sentinel_kwargs": None}, LOCAL]},
        ["redis+sentinel://s1:26379/0/m", LOCAL],
        {},
        [],
    ),
    # options of the layer
    "capacities": (
        {
            "hosts": [LOCAL],
            "capacity": 1500,
            "expiry": 10,
            "group_expiry": 3600,
            "channel_capacity": {"http.request": 200, re.compile(r"^websocket.send\\!.+"): 20},
        },
        [LOCAL],
        {},
        [],
    ),
    "encryption": ({"hosts": [LOCAL], "symmetric_encryption_keys": [_KEY]}, [LOCAL], {}, []),
    "a prefix": ({"hosts": [LOCAL], "prefix": "crm:channels"}, [LOCAL], {}, []),
    "what is the default there": (
        {
            "hosts": [LOCAL],
            "channel_capacity": None,
            "random_prefix_length": 12,
            "serializer_format": "msgpack",
            "on_disconnect": None,
        },
        [LOCAL],
        {},
        ["random_prefix_length", "serializer_format", "on_disconnect"],
    ),
}
"""CONFIGs as projects have them, each with the labels of its servers, attributes of the first, and what is in vain."""

REFUSED: Final[Mapping[str, tuple[Mapping[str, object], list[str]]]] = {
    "JSON": ({"serializer_format": "json"}, ["serializer_format"]),
    "events": (
        {"on_disconnect": "redis.disconnect", "on_reconnect": "redis.reconnect"},
        ["on_disconnect", "on_reconnect"],
    ),
    "a bare URL": ({"hosts": LOCAL}, ["hosts"]),
    "a variable that is not set": ({"hosts": [None]}, ["hosts[0]"]),
    "two variables that are not set": ({"hosts": [(None, None)]}, ["hosts[0].host", "hosts[0].port"]),
    "no hosts": ({"hosts": []}, ["hosts"]),
    "a URL in a pair": ({"hosts": [("redis://redis.example", 6379)]}, ["hosts[0].host"]),
    "two ports": ({"hosts": [("172.16.8.92:8000", 6379)]}, ["hosts[0].host"]),
    "a name without a scheme": ({"hosts": ["redis.example:6379"]}, ["hosts[0]"]),
    "a scheme of Celery": ({"hosts": ["redis+socket:///run/redis.sock"]}, ["hosts[0]"]),
    "a class of one's own": (
        {"hosts": [{"address": "rediss://redis.example", "connection_class": object, "ssl_context": _CONTEXT}]},
        ["hosts[0].connection_class"],
    ),
    "TLS beside hosts": ({"hosts": [SECURE], "ssl_cert_reqs": None}, ["ssl_cert_reqs"]),
    "TLS without TLS": ({"hosts": [{"address": REMOTE, "ssl_cert_reqs": None}]}, ["hosts[0].ssl_cert_reqs"]),
    "a service beside hosts": ({"sentinel": {"sentinels": [("s1", 26379)], "service_name": "m"}}, ["sentinel"]),
    "options of asgi_redis": ({"connection_kwargs": {"socket_timeout": 5}}, ["connection_kwargs"]),
    "a capacity from the environment": ({"hosts": [LOCAL], "capacity": "1500"}, ["capacity"]),
}
"""CONFIGs that did not work there either, or cannot here, each with the fields of its errors."""


def _value(server: object, path: str) -> object:
    for name in path.split("."):
        server = getattr(server, name)
    return server


@pytest.mark.parametrize("name", ACCEPTED)
def test_configs_as_projects_have_them_work(name: str) -> None:
    """What works with channels_redis works here; each option without effect is one warning."""
    options, labels, attributes, in_vain = ACCEPTED[name]
    config = parse(RedisConfig, options)
    assert [server.label for server in config.servers] == labels
    assert {path: _value(config.servers[0], path) for path in attributes} == attributes
    told = [str(each) for each in config.given_in_vain()]
    assert len(told) == len(in_vain)
    assert all(any(re.search(rf"\b{option}\b", line) for line in told) for option in in_vain)


@pytest.mark.parametrize("name", REFUSED)
def test_configs_that_cannot_work_are_told_so(name: str) -> None:
    """What cannot work is an error at its field; nothing in it shows a password."""
    options, fields = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        parse(RedisConfig, options)
    assert [error.field for error in caught.value.errors] == fields
