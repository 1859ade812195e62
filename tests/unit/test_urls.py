"""A whole CONFIG in a URL: what each form means, and what is said to each mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint

import pytest

import channel_layer
from channel_layer import ChannelLayer, ConfigError, config_from_url, discovery, from_url
from channel_layer.config import parse, require_url
from channel_layer_memory import MemoryChannelLayer
from channel_layer_memory.config import MemoryConfig
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis.addresses import TCPAddress, UnixAddress
from channel_layer_redis.config import RedisConfig

_KEY = "k" * 32


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://a:1/2", {"hosts": [("a", 1)], "db": None}),
        ("redis://a?prefix=chat:&capacity=200&expiry=30", {"prefix": "chat:", "capacity": 200, "expiry": 30}),
        ("redis://a?expiry=.5&timeout=2.&group_expiry=1e3", {"expiry": 0.5, "timeout": 2.0, "group_expiry": 1000.0}),
        ("redis://a?group_expiry=None", {"group_expiry": None}),
        ("redis://a?prefix=", {"prefix": ""}),
        ("redis://a?prefix=10", {"prefix": "10"}),
        ("redis://a?prefix=a+b%2Bc", {"prefix": "a b+c"}),
        (
            "redis://a?channel_capacity=re:%5Ex:y:5&channel_capacity=http.*:6",
            {"channel_capacity": {"re:^x:y": 5, "http.*": 6}},
        ),
        (
            f"redis://a?symmetric_encryption_keys={_KEY}&symmetric_encryption_keys=l{_KEY}&encryption=fernet",
            {"symmetric_encryption_keys": [_KEY, f"l{_KEY}"], "encryption": "fernet"},
        ),
        (
            f"redis://a?blind_names={_KEY}&symmetric_encryption_keys={_KEY}",
            {"symmetric_encryption_keys": [_KEY], "blind_names": _KEY},
        ),
        (
            f"redis://a?symmetric_encryption_keys={_KEY}&blind_names=TRUE",
            {"symmetric_encryption_keys": [_KEY], "blind_names": True},
        ),
        ("redis://a?faults=refuse:0.5&faults=seed:7", {"faults": {"refuse": 0.5, "seed": 7}}),
    ],
)
def test_each_form_of_an_option_is_read(url: str, options: Mapping[str, object]) -> None:
    """Numbers, texts, switches, lists and mappings come out as what they are in a CONFIG."""
    server = {"hosts": ["redis://a:1/2" if ":1" in url else "redis://a"]}
    assert config_from_url(url) == parse(RedisConfig, {**options, **server})


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("redis://a:1/2?host=b:3&host=c", ["a:1/2", "b:3/2", "c:6379/2"]),
        ("redis://a/2?host=b/4", ["a:6379/2", "b:6379/4"]),
        ("redis://a?host=b&db=3", ["a:6379/3", "b:6379/3"]),
        ("valkeys://u:p@a?host=[::1]:7&ssl_cert_reqs=none", ["a:6379/0", "[::1]:7/0"]),
        ("unix:///run/r.sock?db=3&capacity=5", ["/run/r.sock/3"]),
        ("REDIS://A", ["a:6379/0"]),
    ],
)
def test_several_servers_are_one_url_and_the_hosts_in_its_query(url: str, servers: list[str]) -> None:
    """``host=NAME:PORT/DB``, repeated, adds servers; what it leaves out is as in the URL, or the usual port."""
    config = config_from_url(url)
    assert isinstance(config, RedisConfig)
    assert [server.identity for server in config.servers] == servers
    plain = [server for server in config.servers if isinstance(server, TCPAddress | UnixAddress)]
    assert len({(server.username, server.password, getattr(server, "tls", None)) for server in plain}) == 1


MISTAKES: Mapping[str, tuple[str, dict[str, str]]] = {
    "an unknown parameter": (
        "redis://a?capcity=5",
        {"capcity": "in the query of the URL: unknown option, did you mean"},
    ),
    "one that has no name": ("redis://a?p.w=hidden", {"url": "in the query of the URL: unknown option"}),
    "a text for a number": (
        "redis://a?capacity=many",
        {"capacity": "must be a whole number, 1 or more, and the URL has"},
    ),
    "nothing for a number": ("redis://a?capacity", {"capacity": "must be a whole number, 1 or more, and the URL has"}),
    "a number out of range": ("redis://a?capacity=0", {"capacity": "must be a whole number, 1 or more, not 0"}),
    "a fraction for a count": ("redis://a?capacity=5.0", {"capacity": "must be a whole number, 1 or more, not 5.0"}),
    "no number": ("redis://a?expiry=nan", {"expiry": "must be a number of seconds"}),
    "an endless number": ("redis://a?expiry=1e999", {"expiry": "must be a number of seconds"}),
    "an option twice": ("redis://a?capacity=1&capacity=1", {"capacity": "is given twice in the URL: remove one"}),
    "a pattern without a number": (
        "redis://a?channel_capacity=http.*",
        {"channel_capacity": "must be a name, a colon and a number, as in channel_capacity=http.*:200"},
    ),
    "a pattern twice": (
        "redis://a?channel_capacity=a:1&channel_capacity=a:2",
        {"channel_capacity": "gives one name two numbers: remove one"},
    ),
    "a pattern that is wrong": (
        "redis://a?channel_capacity=[:1",
        {'channel_capacity["["]': 'the "[" at position 0 is never closed'},
    ),
    "an option of others": ("redis://a?serializer_format=json", {"serializer_format": "always writes msgpack"}),
    "a port as a parameter": ("redis://a?port=6379", {"port": "in the query of the URL: unknown option"}),
    "an option of redis-py": ("redis://a?connection_class=x", {"connection_class": "has connections of its own"}),
    "a server twice": (
        "redis://a?host=a:6379",
        {"host[0]": "the same server and database as url, a:6379/0: remove one"},
    ),
    "a URL for a further server": (
        "redis://a?host=redis://b",
        {"host[0]": "must be a name, name:port or name:port/db"},
    ),
    "a further port that is none": ("redis://a?host=b:0", {"host[0]": "the port in the URL must be a whole number"}),
    "a socket and a host": ("unix:///a?host=b", {"host[0]": "does not go together with a Unix socket"}),
    "a database that is none": ("redis://a/x", {"url": "must end in the number of a database"}),
    "an escape that is none": ("memory://?prefix=%ff", {"url": "after its escapes it is not UTF-8"}),
    "a server for memory": ("memory://a?capacity=5", {"url": "must have nothing but options after its scheme"}),
    "a fragment for memory": ("memory://?prefix=#", {"url": "must have nothing but options after its scheme"}),
    "a slip in the scheme": (
        "redsi://a",
        {
            "url": "ipc://, memory://, redis://, rediss://, unix://, valkey://, valkeys://, some also with +cluster, "
            "+local, +sentinel; did you mean redis://?"
        },
    ),
    "no scheme": ("localhost:6379", {"url": "must be a URL that begins with one of ipc://"}),
    "several at once": (
        "redis://a?timeout=x&capacity=0&host=b&host=b&hots=c",
        {
            "capacity": "must be a whole number",
            "timeout": "must be a number of seconds",
            "host[1]": "the same server and database as host[0], b:6379/0: remove one",
            "hots": "did you mean 'host'?",
        },
    ),
}


@pytest.mark.parametrize(("url", "problems"), MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_names_its_parameter_and_the_mend(url: str, problems: dict[str, str]) -> None:
    """Every mistake is told at once, by the name of its parameter, and no value is repeated."""
    for make in (config_from_url, from_url):
        with pytest.raises(ConfigError) as caught:
            make(url)
        assert {error.field for error in caught.value.errors} == problems.keys()
        for error in caught.value.errors:
            assert problems[error.field] in error.problem
        assert "hidden" not in str(caught.value)


def test_a_variable_that_is_not_set_is_a_config_error() -> None:
    """None, as `os.environ.get` returns it, is told as what it is."""
    unset: dict[str, str] = {}
    with pytest.raises(ConfigError, match="url: must be a URL, not None"):
        require_url(unset.get("REDIS_URL"))
    assert require_url("memory://") == "memory://"


def test_a_layer_is_made_of_the_class_that_is_asked() -> None:
    """`from_url` of a class makes that class, of a subclass too; the function finds the class by the scheme."""

    class Own(MemoryChannelLayer):
        """A subclass as a project may have one."""

    assert type(Own.from_url("memory://?capacity=3")) is Own
    assert Own.from_url("memory://?capacity=3").capacity == 3
    made = channel_layer.from_url("redis://u:p@a/4?capacity=3&prefix=x")
    assert type(made) is RedisChannelLayer
    assert (made.capacity, made.prefix) == (3, "x")
    assert type(from_url("memory://")) is MemoryChannelLayer
    assert config_from_url("memory://") == parse(MemoryConfig, {})


def test_a_class_that_does_not_say_its_options_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's layer without a model cannot be made from a URL, and the error names it."""

    class Silent(ChannelLayer):
        """Says nothing of its options."""

    with pytest.raises(TypeError, match="Silent has no config"):
        Silent.from_url("silent://")

    def point(**_: str) -> list[EntryPoint]:
        return [EntryPoint("silent", f"{__name__}:Silent", discovery.SCHEMES)]

    def load(_: EntryPoint) -> type[ChannelLayer]:
        return Silent

    monkeypatch.setattr(discovery, "entry_points", point)
    monkeypatch.setattr(EntryPoint, "load", load)
    with pytest.raises(TypeError, match=re.escape("Silent has no config, which says what its options are")):
        config_from_url("silent://")
