"""CONFIG for any values: hosts in any form, patterns in any order, any number of mistakes; no secret told."""

from __future__ import annotations

import re
import ssl
import string
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from channel_layer import config_from_url
from channel_layer.config import CommonConfig, parse
from channel_layer.errors import ConfigError, ConfigWarning
from channel_layer.testing.strategies import capacity_maps, short_names
from channel_layer_memory.config import MemoryConfig
from channel_layer_redis.addresses import ClusterNodes, SentinelService, ServerAddress, TCPAddress, UnixAddress
from channel_layer_redis.config import RedisConfig
from channel_layer_redis.hosts import parse_hosts
from channel_layer_redis.tls import TLS, Verify

VERIFY: tuple[Verify, ...] = ("required", "optional", "none")

# -- hosts ---------------------------------------------------------------------------------------------------

_FILE = st.text(string.ascii_letters + "-_. /%?#&=+", min_size=1, max_size=8).map("/".__add__)


def _names() -> st.SearchStrategy[str]:
    part = st.text(string.ascii_lowercase + string.digits + "-_", min_size=1, max_size=10)
    return st.one_of(
        st.lists(part, min_size=1, max_size=3).map(".".join),
        st.ip_addresses(v=4).map(str),
        st.ip_addresses(v=6, network="2001:db8::/32").map(str),
        st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=5).map("fe80::1%".__add__),
    )


@st.composite
def _tls(draw: st.DrawFn) -> TLS:
    verify: Verify = draw(st.sampled_from(VERIFY))
    certfile = draw(st.none() | _FILE)
    return TLS(
        ca_certs=draw(st.none() | _FILE),
        certfile=certfile,
        keyfile=None if certfile is None else draw(st.none() | _FILE),
        password=None if certfile is None else draw(st.none() | st.text(min_size=1, max_size=5)),
        verify=verify,
        check_hostname=verify != "none" and draw(st.booleans()),
        ca_path=draw(st.none() | _FILE),
        min_version=draw(st.none() | st.sampled_from(ssl.TLSVersion)),
        ciphers=draw(st.none() | st.just("ECDHE+AESGCM:!aNULL")),
        include_flags=draw(st.sampled_from([0, ssl.VERIFY_X509_STRICT, ssl.VERIFY_ALLOW_PROXY_CERTS])),
        exclude_flags=draw(st.sampled_from([0, ssl.VERIFY_X509_PARTIAL_CHAIN])),
    )


_LOGIN = st.none() | st.text(min_size=1, max_size=8)
_DATABASE = st.integers(0, 2**31 - 1) | st.integers(0, 15)
_INTERVAL = st.integers(0, 10**9).map(float) | st.sampled_from([0.5, 2.25])
_CLIENT = st.none() | st.text(string.ascii_letters + string.digits + string.punctuation, min_size=1, max_size=8)


def _tcp_hosts() -> st.SearchStrategy[TCPAddress]:
    """Return servers that are reached over TCP, with any login."""
    return st.builds(
        TCPAddress,
        host=_names(),
        port=st.integers(1, 65535),
        db=_DATABASE,
        username=_LOGIN,
        password=_LOGIN,
        health_check_interval=_INTERVAL,
        client_name=_CLIENT,
        connect_timeout=st.none() | _INTERVAL.filter(bool),
        tls=st.none() | _tls(),
        socket_keepalive=st.booleans(),
    )


def _hosts() -> st.SearchStrategy[ServerAddress]:
    """Return servers of every kind, with any login."""
    paths = st.text(min_size=1, max_size=8).filter(lambda path: path != "/" and "\0" not in path)
    unix = st.builds(
        UnixAddress,
        path=paths.map("/".__add__),
        db=_DATABASE,
        username=_LOGIN,
        password=_LOGIN,
        health_check_interval=_INTERVAL,
        client_name=_CLIENT,
    )
    return st.one_of(_tcp_hosts(), unix)


def _host_lists() -> st.SearchStrategy[list[ServerAddress]]:
    return st.lists(_hosts(), min_size=1, max_size=5, unique_by=lambda host: host.identity)


def _tcp_host_lists() -> st.SearchStrategy[list[TCPAddress]]:
    return st.lists(_tcp_hosts(), min_size=1, max_size=5, unique_by=lambda host: host.identity)


def _capitals(name: str) -> str:
    return name if "%" in name else name.upper()  # the zone of an IPv6 address is the name of a device


def _as_url(host: ServerAddress, *, valkey: bool, db_in_query: bool) -> str:
    """Write a host as a URL, by the rules of URLs and not by the code under test."""
    login = quote(host.username or "", safe="")
    if host.password is not None:
        login += ":" + quote(host.password, safe="")
    query = [(name, str(value)) for name, value in _connection_options(host).items()]
    if isinstance(host, UnixAddress):
        start, where = "unix", quote(host.path)
        query.append(("db", str(host.db)))
    else:
        start = ("valkey" if valkey else "redis") + ("s" if host.tls else "")
        where = f"[{quote(host.host, safe=':')}]" if ":" in host.host else host.host
        where += f":{host.port}"
        if db_in_query:
            query.append(("db", str(host.db)))
        else:
            where += f"/{host.db}"
    options = "&".join(f"{name}={quote(value, safe='')}" for name, value in query)
    return f"{start}://{login + '@' if login else ''}{where}{'?' + options if options else ''}"


def _as_dict(host: ServerAddress) -> dict[str, object]:
    options: dict[str, object] = {"db": host.db, "username": host.username, "password": host.password}
    options.update(_connection_options(host))
    if isinstance(host, UnixAddress):
        return {"address": "unix://" + quote(host.path), **options}
    return {"host": host.host, "port": host.port, "ssl": host.tls is not None, **options}


def _connection_options(host: ServerAddress) -> dict[str, object]:
    options: dict[str, object] = {
        "health_check_interval": host.health_check_interval,
        "client_name": host.client_name,
        "socket_connect_timeout": host.connect_timeout,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(host, UnixAddress):
        return options
    options["socket_keepalive"] = host.socket_keepalive
    if host.tls is None:
        return options
    options |= {
        "ssl_ca_certs": host.tls.ca_certs,
        "ssl_certfile": host.tls.certfile,
        "ssl_keyfile": host.tls.keyfile,
        "ssl_password": host.tls.password,
        "ssl_cert_reqs": host.tls.verify,
        "ssl_check_hostname": host.tls.check_hostname,
        "ssl_ca_path": host.tls.ca_path,
        "ssl_min_version": None if host.tls.min_version is None else host.tls.min_version.name,
        "ssl_ciphers": host.tls.ciphers,
        "ssl_include_verify_flags": _flag_names(host.tls.include_flags),
        "ssl_exclude_verify_flags": _flag_names(host.tls.exclude_flags),
    }
    return {name: value for name, value in options.items() if value is not None}


def _flag_names(flags: int) -> str | None:
    names = [flag.name for flag in ssl.VerifyFlags if flag & flags and flag.name is not None]
    return ",".join(names) or None


@given(_host_lists(), st.data())
def test_a_host_is_the_same_in_whatever_form_it_is_written(hosts: list[ServerAddress], data: st.DataObject) -> None:
    """Any servers, each written as a URL, a dict or both, come back as they were, in their order."""
    written: list[object] = []
    for host in hosts:
        url = _as_url(host, valkey=data.draw(st.booleans()), db_in_query=data.draw(st.booleans()))
        written.append(data.draw(st.sampled_from([url, {"address": url}, _as_dict(host)])))
    assert parse_hosts(written) == tuple(hosts)
    assert parse(RedisConfig, {"hosts": tuple(written)}).servers == tuple(hosts)


@given(_tcp_host_lists(), st.booleans())
def test_pairs_are_hosts(hosts: list[TCPAddress], as_list: bool) -> None:  # noqa: FBT001 - drawn
    """Any (host, port) pairs, as tuples or lists, in whatever case, are these servers."""
    plain = {(host.host, host.port): TCPAddress(host.host, host.port) for host in hosts}
    pairs = [[_capitals(name), port] if as_list else (_capitals(name), port) for name, port in plain]
    assert parse_hosts(pairs) == tuple(plain.values())
    for (name, port), host in plain.items():
        assert parse_hosts([name, port]) == (host,)  # a single pair without a list around it


def _place(host: ServerAddress) -> tuple[object, ...]:
    return (host.path, host.db) if isinstance(host, UnixAddress) else (host.host, host.port, host.db)


@given(_hosts(), _hosts())
def test_an_identity_depends_on_place_and_database_only(host: ServerAddress, other: ServerAddress) -> None:
    """Login and TLS change nothing in an identity; another address, socket or database always does."""
    bare = replace(host, username=None, password=None)
    bare = replace(bare, tls=None) if isinstance(bare, TCPAddress) else bare
    assert bare.identity == host.identity
    assert replace(host, username=other.username, password=other.password).identity == host.identity
    assert (host.identity == other.identity) == (_place(host) == _place(other))


@given(_host_lists(), st.data())
def test_twins_are_refused_whatever_their_logins(hosts: list[ServerAddress], data: st.DataObject) -> None:
    """A server that is listed again, with another login or in capitals, is an error at the later place."""
    twin = data.draw(st.sampled_from(hosts))
    again = replace(twin, username="another", password="login")
    again = replace(again, host=_capitals(again.host)) if isinstance(again, TCPAddress) else again
    with pytest.raises(ConfigError) as caught:
        parse_hosts([_as_dict(host) for host in [*hosts, again]])
    (error,) = caught.value.errors
    assert error.field == f"hosts[{len(hosts)}]"
    assert f"as hosts[{hosts.index(twin)}], {twin.identity}" in error.problem


@given(_hosts())
def test_a_label_is_a_url_without_login_of_the_same_server(host: ServerAddress) -> None:
    """What logs and errors show of a server is a URL of the same place, without credentials."""
    (read,) = parse_hosts([host.label])
    assert isinstance(read, TCPAddress | UnixAddress)
    assert read.identity == host.identity
    assert (read.username, read.password) == (None, None)


# -- patterns and numbers ------------------------------------------------------------------------------------


@given(capacity_maps(), st.lists(short_names(), min_size=1, max_size=10), st.data())
def test_the_order_of_the_mapping_decides(
    patterns: dict[str | re.Pattern[str], int], names: list[str], data: st.DataObject
) -> None:
    """In any order, in any kind of mapping, a name has the capacity of the first pattern that matches."""
    order = data.draw(st.permutations(list(patterns.items())))
    given_as: Mapping[str | re.Pattern[str], int] = data.draw(
        st.sampled_from(
            [
                dict(order),
                OrderedDict(order),
                parse(CommonConfig, {"channel_capacity": dict(order)}).channel_capacity,
            ]
        )
    )
    rules = parse(CommonConfig, {"channel_capacity": given_as, "capacity": 5000}).rules()
    for name in names:
        alone = [
            limit
            for pattern, limit in order
            if parse(CommonConfig, {"channel_capacity": {pattern: limit}, "capacity": 5000}).rules().capacity.of(name)
            != 5000
        ]
        assert rules.capacity.of(name) == (alone[0] if alone else 5000)


@given(st.dictionaries(st.text("ab[]!*?-^ é{}(\\", max_size=6), st.integers(1, 9), max_size=4))
def test_a_glob_that_is_accepted_can_match(patterns: dict[str, int]) -> None:
    """Of any texts, each with an open set or a character that no name has is reported, and no other."""
    try:
        parse(CommonConfig, {"channel_capacity": patterns})
        wrong: list[str] = []
    except ConfigError as error:
        wrong = [each.field for each in error.errors]
    simple = [pattern for pattern in patterns if "[" not in pattern]
    for pattern in simple:
        allowed = pattern != "" and re.fullmatch(r"[A-Za-z0-9\-_.!?*]+", pattern) is not None
        shown = pattern.replace("\\", "\\\\")
        assert (f'channel_capacity["{shown}"]' not in wrong) == allowed
    for pattern in set(patterns) - set(simple):
        if "]" not in pattern:
            shown = pattern.replace("\\", "\\\\")
            assert f'channel_capacity["{shown}"]' in wrong


@given(st.integers(1, 10**9) | st.floats(0, 1e9, exclude_min=True), st.integers(1, 2**63))
def test_any_positive_number_is_taken(seconds: float, count: int) -> None:
    """Seconds may be any number above zero, counts any whole number above it, and they arrive unchanged."""
    rules = parse(
        CommonConfig,
        {
            "expiry": seconds,
            "group_expiry": seconds,
            "timeout": seconds,
            "capacity": count,
            "inbox_capacity": count,
            "max_message_size": count,
        },
    ).rules()
    assert (rules.expiry, rules.group_expiry, rules.timeout) == (seconds, seconds, seconds)
    assert (rules.default_capacity, rules.inbox_capacity, rules.max_message_size) == (count, count, count)


@given(st.text().filter(lambda text: not set("{}") & set(text)))
def test_any_text_without_braces_is_a_prefix(prefix: str) -> None:
    """Any Unicode text without braces is taken as a prefix, as it is."""
    assert parse(CommonConfig, {"prefix": prefix}).rules().prefix == prefix


# -- a whole CONFIG in a URL ---------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        *"/?#@:[]%&=,. \n",
        "redis://",
        "unix://",
        "rediss://",
        "localhost",
        "::1",
        "6379",
        "db=1",
        "%ff",
        "\0",
        "a",
    ]
)


def _options() -> st.SearchStrategy[dict[str, object]]:
    """Return options of any layer that a URL can hold, with valid values."""
    seconds = st.floats(0.001, 1e9, allow_subnormal=False) | st.integers(1, 10**9)
    count = st.integers(1, 10**18)
    text = st.text(string.printable + "é☃", max_size=8).map(lambda value: re.sub("[{}]", "", value))
    keys = st.lists(st.text(min_size=32, max_size=40), min_size=1, max_size=1)
    return st.fixed_dictionaries(
        {},
        optional={
            "prefix": text,
            "expiry": seconds,
            "group_expiry": seconds | st.none(),
            "capacity": count,
            "channel_capacity": st.dictionaries(
                st.sampled_from(["a*", "b?", "re:a:b", "re:^c", "[a-z]&=+"[:5]]), count
            ),
            "symmetric_encryption_keys": keys,
            "max_message_size": count,
            "inbox_capacity": count,
            "timeout": seconds,
        },
    )


_MAPPING = TypeAdapter(dict[str, int])
_LIST = TypeAdapter(list[str])


def _as_query(options: Mapping[str, object]) -> str:
    """Write options as a query, by the rules that the documentation gives."""
    pairs: list[tuple[str, str]] = []
    for name, value in options.items():
        match value:
            case dict():
                pairs += [(name, f"{key}:{number}") for key, number in _MAPPING.validate_python(value).items()]
            case list():
                pairs += [(name, key) for key in _LIST.validate_python(value)]
            case _:
                pairs.append((name, "none" if value is None else str(value)))
    return "&".join(f"{name}={quote(text, safe='')}" for name, text in pairs)


def _further(host: TCPAddress) -> str:
    """Write a server as the parameter ``host``."""
    name = f"[{quote(host.host, safe=':')}]" if ":" in host.host else host.host
    return "host=" + quote(f"{name}:{host.port}/{host.db}", safe="")


@given(_hosts(), _options(), st.booleans())
def test_any_configuration_can_be_written_as_a_url(
    host: ServerAddress,
    options: dict[str, object],
    valkey: bool,  # noqa: FBT001 - drawn
) -> None:
    """A URL with options in its query is the same configuration as ``hosts`` with that URL, and these options."""
    url = _as_url(host, valkey=valkey, db_in_query=valkey)
    whole = url + ("&" if "?" in url else "?") + _as_query(options)
    assert config_from_url(whole) == parse(RedisConfig, {"hosts": [url], **options})
    assert config_from_url("memory://?" + _as_query(options)) == parse(MemoryConfig, options)


@given(_tcp_host_lists())
def test_further_servers_are_as_the_first(hosts: list[TCPAddress]) -> None:
    """Each ``host`` of the query is one more server, in that order, with the login and the options of the URL."""
    first, *more = hosts
    url = "&".join([_as_url(first, valkey=False, db_in_query=False), *map(_further, more)])
    url = url if "?" in url else url.replace("&", "?", 1)
    wanted = [replace(first, host=host.host, port=host.port, db=host.db) for host in hosts]
    config = config_from_url(url)
    assert isinstance(config, RedisConfig)
    assert config.servers == tuple(wanted)


@given(st.lists(_PIECES | st.sampled_from(["host=", "capacity=", "memory://", "faults=", "none"]), max_size=10))
def test_any_text_is_a_configuration_or_a_config_error(pieces: list[str]) -> None:
    """Whatever stands in the environment, it is taken or refused with a `ConfigError`; nothing else comes out."""
    for url in ("".join(pieces), "redis://" + "".join(pieces), "redis://a?" + "".join(pieces)):
        with suppress(ConfigError):
            config_from_url(url)


# -- mistakes ------------------------------------------------------------------------------------------------

_WRONG: Mapping[str, st.SearchStrategy[object]] = {
    "prefix": st.sampled_from(["{", "a}", 5, None, b"asgi:"]),
    "expiry": st.sampled_from([0, -1, "60", True, None, float("nan"), [60]]),
    "group_expiry": st.sampled_from([0, -0.5, "60", False, float("inf")]),
    "capacity": st.sampled_from([0, -5, 5.0, "5", True, None]),
    "channel_capacity": st.sampled_from([5, [("a", 5)], "a"]),
    "symmetric_encryption_keys": st.sampled_from(["key", b"key", 5, None]),
    "max_message_size": st.sampled_from([0, "4MiB", 1.5]),
    "inbox_capacity": st.sampled_from([0, True, None]),
    "timeout": st.sampled_from([0, -1, "5", None]),
    "hosts": st.sampled_from(["redis://a", [], {}, 5]),
    "host": st.sampled_from(["", "a:1", 5, "redis://a"]),
    "port": st.sampled_from([0, 65536, "0", "one", True]),
    "db": st.sampled_from([-1, "-1", "", 1.0, False]),
    "capcity": st.just(5),
    "encryption": st.sampled_from(["aes", 5, None]),
    "blind_names": st.sampled_from(["", b"", 5, None]),
}


@given(st.sets(st.sampled_from(sorted(_WRONG)), min_size=1), st.data())
def test_all_wrong_fields_are_told_at_once(names: set[str], data: st.DataObject) -> None:
    """Whichever options are wrong, one error names each of them and no other, in their order."""
    options = {name: data.draw(_WRONG[name]) for name in data.draw(st.permutations(sorted(names)))}
    with pytest.raises(ConfigError) as caught:
        parse(RedisConfig, options)
    fields = [error.field for error in caught.value.errors]
    assert set(fields) == names
    known = [field for field in fields if field in RedisConfig.model_fields]
    assert known == sorted(known, key=list(RedisConfig.model_fields).index)
    assert fields[: len(known)] == known
    assert all(str(error) in str(caught.value) for error in caught.value.errors)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(RedisConfig.model_fields)) | st.text(max_size=8), _ANYTHING, max_size=5))
def test_anything_at_all_is_a_configuration_or_a_config_error(options: dict[str, object]) -> None:
    """Whatever stands in a CONFIG, it is taken or refused with a `ConfigError`; nothing else comes out."""
    with suppress(ConfigError, ConfigWarning):
        parse(RedisConfig, options).rules()


_KEYS = (
    "address",
    "host",
    "port",
    "db",
    "username",
    "password",
    "ssl",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "health_check_interval",
    "socket_keepalive",
)


@given(
    st.lists(
        st.lists(_PIECES, max_size=8).map("".join)
        | st.lists(_PIECES, max_size=8).map(lambda pieces: "redis://" + "".join(pieces))
        | st.lists(_ANYTHING, max_size=3)
        | st.dictionaries(st.sampled_from([*_KEYS, "sentinels", "master_name"]), _ANYTHING, max_size=5),
        max_size=3,
    )
)
@example(["redis://[v1.x]"])
def test_any_hosts_are_read_or_refused_and_what_is_read_can_be_connected_to(hosts: list[object]) -> None:
    """Whatever stands under hosts is refused with a `ConfigError`, or can be connected to."""
    try:
        servers = parse_hosts(hosts)
    except ConfigError:
        return
    for server in servers:
        if isinstance(server, SentinelService):
            assert server.sentinels
            assert server.master_name
        elif isinstance(server, ClusterNodes):
            assert server.nodes
        elif isinstance(server, UnixAddress):
            assert server.path.startswith("/")
            assert "\0" not in server.path
        else:
            assert "\0" not in server.host
            assert server.host.encode("idna")
            assert 1 <= server.port <= 65535
            assert server.db >= 0
        assert parse_hosts([server.label])[0].identity == server.identity


# -- secrets -------------------------------------------------------------------------------------------------

_SECRET = "Zq7Xw9Jv"
"""Eight characters, no three of which stand together in any text of ours."""


def _tells(text: str) -> bool:
    return any(_SECRET[place : place + 3] in text for place in range(len(_SECRET) - 2))


def _secrets() -> st.SearchStrategy[str]:
    """Return passwords that hold our secret, with whatever a careless writer forgets to encode."""
    breaks = st.text("/?#@:%[]&=;,\\ \n\t", max_size=2)
    return st.builds(lambda *parts: "".join(parts), breaks, st.just(_SECRET), breaks, st.just(_SECRET), breaks)


@given(_secrets(), st.sampled_from(["redis", "rediss", "unix", "valkey", "http", ""]), st.data())
@example("a/" + _SECRET, "redis", None)
@example(_SECRET + "?" + _SECRET, "redis", None)
@example(_SECRET + "@x?" + _SECRET, "redis", None)
@example("/" + _SECRET, "unix", None)
def test_no_url_makes_an_error_tell_a_password(secret: str, scheme: str, data: st.DataObject | None) -> None:
    """A password that is not encoded, beside any other mistake in its URL, is repeated by no error."""
    form, wrong = "{0}", "/x"
    if data is not None:
        form = data.draw(st.sampled_from(["{0}", ":{0}", "user:{0}"]))
        wrong = data.draw(st.sampled_from(["", "/x", ":x", "?pasword=1", "?db=x", "/1"]))
    where = "/run/r.sock" if scheme == "unix" else "localhost"
    url = f"{scheme}://{form.format(secret)}@{where}{wrong}"
    for entry in (url, {"address": url, "port": 1}, (url, 6379), {"host": url, "ssl": 5}):
        with pytest.raises(ConfigError) as caught:
            parse(RedisConfig, {"hosts": [entry], "capacity": 0})
        error = caught.value
        assert not _tells(f"{error} {error!r} {error.errors!r}")
        assert not _tells("".join(traceback.format_exception_only(error)))


@given(_secrets(), st.sampled_from(sorted(CommonConfig.url_forms)), st.data())
def test_no_whole_url_makes_an_error_tell_a_password(secret: str, option: str, data: st.DataObject) -> None:
    """A password in the login, the key or another parameter of a URL is repeated by no error about that URL."""
    password = data.draw(st.sampled_from([secret, quote(secret, safe="")]))
    form = data.draw(
        st.sampled_from(
            [
                "redis://:{0}@a/x?capacity=0",
                "redis://:{0}@a?capacity={0}",
                "redis://a?host={0}@b&capacity=0",
                "redis://a?capacity=0&symmetric_encryption_keys={0}",
                "redis://a?capacity=0&" + option + "={0}",
                "memory://?capacity=0&" + option + "={0}",
                "memory://{0}?capacity=0",
                "{0}://a?capacity=0",
            ]
        )
    )
    with pytest.raises(ConfigError) as caught:
        config_from_url(form.format(password))
    error = caught.value
    assert not _tells(f"{error} {error!r} {error.errors!r}")
    assert not _tells("".join(traceback.format_exception(error.with_traceback(None))))


@given(_secrets(), st.sampled_from(sorted(_WRONG)))
def test_no_secret_in_the_wrong_place_is_told(secret: str, option: str) -> None:
    """A password or key that stands where it should not, in any option, is in no error's text."""
    assume(option not in {"prefix", "capcity"})
    places: list[object] = [
        secret,
        secret.encode(),
        [secret],
        {"host": "a", "password": secret},
        [{"password": [secret]}],
    ]
    for value in places:
        with pytest.raises(ConfigError) as caught:
            parse(RedisConfig, {"symmetric_encryption_keys": [secret], "hosts": 5, "capacity": 0, option: value})
        error = caught.value
        assert not _tells(f"{error} {error!r} {error.errors!r}")
        assert error.__context__ is None
