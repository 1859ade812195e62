"""CONFIG: what is accepted and what becomes of it, and a table of mistakes with what is said to each."""

from __future__ import annotations

import hashlib
import inspect
import re
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field, SecretBytes, ValidationError

from channel_layer.config import (
    Accepts,
    ChannelPattern,
    CommonConfig,
    Encryption,
    describe_unknown,
    describe_value,
    parse,
)
from channel_layer.errors import ChannelLayerError, ConfigError, ConfigWarning, FieldError
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis.config import RedisConfig
from channel_layer_redis.hosts import TLS, Host, parse_hosts
from tests.support import reference, tls


class Number(int):
    """An int whose repr tells something else."""

    def __repr__(self) -> str:
        return "secret"


def errors_of(options: Mapping[str, object], model: type[CommonConfig] = RedisConfig) -> tuple[FieldError, ...]:
    """Return what is wrong with a CONFIG."""
    with pytest.raises(ConfigError) as caught:
        parse(model, options)
    return caught.value.errors


# -- mistakes ------------------------------------------------------------------------------------------------

_PORT = "must be a whole number from 1 to 65535, not"
_COUNT = "must be a whole number, 1 or more, not"
_SECONDS = "must be a number of seconds, more than 0 and at most 1e9"
_FAULTS = 'must be None or a mapping of faults to how often they happen, as in {"refuse": 0.01, "delay": 0.2}'
_SHARE = "must be a number from 0 to 1"
_TEXT = "a character where it cannot stand; in a login or an option % / ? # @ and spaces are written %25"
_URL = "cannot be read as a URL: the port is a number from 1 to 65535, an IPv6 address stands in brackets"
_TLS = 'needs TLS: a rediss:// URL, or "ssl": True in a dict'
_KEY = "hidden, and long enough for 256 bits"
_LATER = "not available yet in this version: remove it"
_SENTINEL = "connecting through Sentinel is not available yet in this version: remove it and name the server"

MISTAKES: dict[str, tuple[Mapping[str, object], str, str]] = {
    # the common options
    "prefix of another type": ({"prefix": 5}, "prefix", "must be a str without braces, not 5"),
    "prefix as bytes": ({"prefix": b"asgi:"}, "prefix", "must be a str without braces, not a bytes"),
    "prefix with a brace": ({"prefix": "a{b"}, "prefix", "must be a str without braces, and this has '{'"),
    "prefix with both braces": ({"prefix": "{b}"}, "prefix", "this has '{' and '}'"),
    "prefix that is no Unicode": ({"prefix": "a\ud800"}, "prefix", "must be valid Unicode"),
    "expiry of nothing": ({"expiry": 0}, "expiry", f"{_SECONDS}, not 0"),
    "expiry below zero": ({"expiry": -1}, "expiry", f"{_SECONDS}, not -1"),
    "expiry as text": (
        {"expiry": "60"},
        "expiry",
        f"{_SECONDS}, not a str (write the number without quotes)",
    ),
    "expiry as a bool": ({"expiry": True}, "expiry", f"{_SECONDS}, not True"),
    "expiry of None": ({"expiry": None}, "expiry", f"{_SECONDS}, not None"),
    "expiry of NaN": ({"expiry": float("nan")}, "expiry", f"{_SECONDS}, not nan"),
    "expiry without end": ({"expiry": float("inf")}, "expiry", f"{_SECONDS}, not inf"),
    "expiry beyond any wait": ({"expiry": 10**10}, "expiry", f"{_SECONDS}, not 10000000000"),
    "expiry beyond a float": ({"expiry": 10**400}, "expiry", f"{_SECONDS}, not a number as long as this"),
    "group_expiry of nothing": ({"group_expiry": 0}, "group_expiry", f"{_SECONDS}, or None, not 0"),
    "group_expiry as text": ({"group_expiry": "1d"}, "group_expiry", f"{_SECONDS}, or None, not a str"),
    "group_expiry of NaN": ({"group_expiry": float("nan")}, "group_expiry", f"{_SECONDS}, or None, not nan"),
    "capacity of nothing": ({"capacity": 0}, "capacity", f"{_COUNT} 0"),
    "capacity as text": ({"capacity": "5"}, "capacity", f"{_COUNT} a str (write the number without quotes)"),
    "capacity as a bool": ({"capacity": True}, "capacity", f"{_COUNT} True"),
    "capacity as a float": ({"capacity": 5.0}, "capacity", f"{_COUNT} 5.0"),
    "capacity as a dict": ({"capacity": {"http.*": 5}}, "capacity", f"{_COUNT} a dict"),
    "max_message_size of nothing": ({"max_message_size": 0}, "max_message_size", f"{_COUNT} 0"),
    "max_message_size with a unit": ({"max_message_size": "4MiB"}, "max_message_size", f"{_COUNT} a str"),
    "inbox_capacity of nothing": ({"inbox_capacity": 0}, "inbox_capacity", f"{_COUNT} 0"),
    "inbox_capacity of None": ({"inbox_capacity": None}, "inbox_capacity", f"{_COUNT} None"),
    "timeout of nothing": ({"timeout": 0.0}, "timeout", f"{_SECONDS}, not 0.0"),
    "timeout of None": ({"timeout": None}, "timeout", f"{_SECONDS}, not None"),
    "faults of a number": ({"faults": 0.1}, "faults", f"{_FAULTS}, not 0.1"),
    "fault unknown": (
        {"faults": {"refus": 0.1}},
        'faults["refus"]',
        "unknown option, did you mean 'refuse'? the options are refuse, lose_reply, disconnect, delay, seed",
    ),
    "fault of no name": (
        {"faults": {3: 0.1}},
        "faults[3]",
        "unknown option; the options are refuse, lose_reply, disconnect, delay, seed",
    ),
    "fault more often than always": ({"faults": {"refuse": 2}}, 'faults["refuse"]', f"{_SHARE}, not 2"),
    "fault less often than never": ({"faults": {"lose_reply": -0.1}}, 'faults["lose_reply"]', f"{_SHARE}, not -0.1"),
    "fault of nan": ({"faults": {"disconnect": float("nan")}}, 'faults["disconnect"]', f"{_SHARE}, not nan"),
    "fault of True": ({"faults": {"refuse": True}}, 'faults["refuse"]', f"{_SHARE}, not True"),
    "delay of an hour": ({"faults": {"delay": 3600}}, 'faults["delay"]', "must be a number from 0 to 60, not 3600"),
    "seed of a fraction": ({"faults": {"seed": 0.5}}, 'faults["seed"]', "must be a whole number, not 0.5"),
    # channel_capacity
    "patterns as a list": (
        {"channel_capacity": [("http.*", 5)]},
        "channel_capacity",
        'must be a mapping of patterns to capacities, as in {"http.*": 200}, not a list',
    ),
    "patterns of None": ({"channel_capacity": None}, "channel_capacity", "must be a mapping"),
    "a pattern for nothing": (
        {"channel_capacity": {"http.*": 0}},
        'channel_capacity["http.*"]',
        f"{_COUNT} 0",
    ),
    "a pattern for a text": (
        {"channel_capacity": {"http.*": "5"}},
        'channel_capacity["http.*"]',
        f"{_COUNT} a str (write the number without quotes)",
    ),
    "a pattern for a bool": ({"channel_capacity": {"a": True}}, 'channel_capacity["a"]', f"{_COUNT} True"),
    "an empty glob": (
        {"channel_capacity": {"": 5}},
        'channel_capacity[""]',
        "matches no channel name: remove it",
    ),
    "a set that is not closed": (
        {"channel_capacity": {"http.[a-z": 5}},
        'channel_capacity["http.[a-z"]',
        'the "[" at position 5 is never closed: add the "]"',
    ),
    "a set that is only closed": ({"channel_capacity": {"[]": 5}}, 'channel_capacity["[]"]', "never closed"),
    "a set that excludes nothing": (
        {"channel_capacity": {"[!]": 5}},
        'channel_capacity["[!]"]',
        "never closed",
    ),
    "a set backwards": (
        {"channel_capacity": {"a[z-a]": 5}},
        'channel_capacity["a[z-a]"]',
        "'[z-a]' at position 1 is in no channel name, so this glob matches nothing",
    ),
    "a set of other letters": (
        {"channel_capacity": {"[éü]": 5}},
        'channel_capacity["[éü]"]',
        "'[éü]' at position 0",
    ),
    "a glob with a space": (
        {"channel_capacity": {"http request": 5}},
        'channel_capacity["http request"]',
        "' ' at position 4 is in no channel name",
    ),
    "a regex without its mark": (
        {"channel_capacity": {"^http": 5}},
        'channel_capacity["^http"]',
        'a regular expression is written "re:..."',
    ),
    "a bad regex": (
        {"channel_capacity": {"re:(": 5}},
        'channel_capacity["re:("]',
        "not a regular expression: missing ), unterminated subpattern",
    ),
    "a regex too large": (
        {"channel_capacity": {"re:a{99999999999}": 5}},
        'channel_capacity["re:a{99999999999}"]',
        "not a regular expression",
    ),
    "a regex of nothing": (
        {"channel_capacity": {"re:": 5}},
        'channel_capacity["re:"]',
        "there is no regular expression",
    ),
    "a regex for bytes": (
        {"channel_capacity": {re.compile(b"http"): 5}},
        "channel_capacity[re.compile(b'http')]",
        'is for bytes and names are str: write re.compile(r"...")',
    ),
    "a pattern of another type": (
        {"channel_capacity": {5: 5}},
        "channel_capacity[5]",
        "a pattern must be a str or an re.Pattern, not 5",
    ),
    # encryption, and other things to come
    "one key for a list": (
        {"symmetric_encryption_keys": "hidden"},
        "symmetric_encryption_keys",
        "must be a list of keys, as in symmetric_encryption_keys=[KEY], not a single one",
    ),
    "one key as bytes": (
        {"symmetric_encryption_keys": b"hidden"},
        "symmetric_encryption_keys",
        "must be a list of keys, as in",
    ),
    "no list of keys": (
        {"symmetric_encryption_keys": 5},
        "symmetric_encryption_keys",
        "must be a list of keys, not of type int",
    ),
    "an encryption key of another type": (
        {"symmetric_encryption_keys": [_KEY, 5]},
        "symmetric_encryption_keys[1]",
        "must be a str or bytes, not of type int",
    ),
    "an empty key": (
        {"symmetric_encryption_keys": [""]},
        "symmetric_encryption_keys[0]",
        "is empty: make one with: channel-layer genkey",
    ),
    "a key that is no Unicode": (
        {"symmetric_encryption_keys": ["\ud800"]},
        "symmetric_encryption_keys[0]",
        "must be valid Unicode, and this has a lone surrogate",
    ),
    "the same key twice, as str and as bytes": (
        {"symmetric_encryption_keys": [_KEY, "other" * 8, _KEY.encode()]},
        "symmetric_encryption_keys[2]",
        "is the same key as symmetric_encryption_keys[0]: remove one",
    ),
    "a cipher that is none": (
        {"symmetric_encryption_keys": [_KEY], "encryption": "aes"},
        "encryption",
        "there is no such cipher; there are aes-256-gcm, fernet",
    ),
    "a cipher of another type": ({"encryption": True}, "encryption", 'must be "aes-256-gcm" or "fernet", not True'),
    "a cipher without keys": (
        {"encryption": "fernet"},
        "encryption",
        "there are no symmetric_encryption_keys: add one, or remove this",
    ),
    "blind names without keys": (
        {"blind_names": True},
        "blind_names",
        "there are no symmetric_encryption_keys: add one, or remove this",
    ),
    "a key for names without keys": ({"blind_names": _KEY}, "blind_names", "there are no symmetric_encryption_keys"),
    "an empty key for names": (
        {"symmetric_encryption_keys": [_KEY], "blind_names": b""},
        "blind_names",
        "this key is empty: make one with: channel-layer genkey",
    ),
    "names of another type": (
        {"symmetric_encryption_keys": [_KEY], "blind_names": 5},
        "blind_names",
        "must be True, False or a key, not of type int",
    ),
    "blind names that follow keys which change": (
        {"symmetric_encryption_keys": [_KEY, "other" * 8], "blind_names": True},
        "blind_names",
        "with several symmetric_encryption_keys, processes that have them in another order would not find",
    ),
    "local": ({"local": {}}, "local", _LATER),
    "no_local_reader": ({"no_local_reader": "queue"}, "no_local_reader", _LATER),
    "directory": ({"directory": "/run"}, "directory", _LATER),
    "memory": ({"memory": 100}, "memory", _LATER),
    # unknown options
    "a slip": (
        {"capcity": 5},
        "capcity",
        "unknown option, did you mean 'capacity'? the options are prefix, expiry,",
    ),
    "another case": ({"HOSTS": []}, "HOSTS", "unknown option, did you mean 'hosts'?"),
    "another dash": ({"group-expiry": 5}, "group-expiry", "unknown option, did you mean 'group_expiry'?"),
    "a stranger": (
        {"xyzzy": 5},
        "xyzzy",
        "unknown option; the options are prefix, expiry, group_expiry, capacity,",
    ),
    "of channels_redis": (
        {"serializer_format": "json"},
        "serializer_format",
        "always writes msgpack: remove it",
    ),
    "of asgi_redis": ({"connection_kwargs": {}}, "connection_kwargs", "write it in hosts"),
    "a password beside hosts": (
        {"password": "hidden"},
        "password",
        'write it in hosts, as in hosts=[{"host":',
    ),
    # hosts
    "one URL for a list": (
        {"hosts": "redis://:hidden@a"},
        "hosts",
        'must be a list, even for one server: hosts=["redis://localhost:6379/0"]',
    ),
    "one dict for a list": (
        {"hosts": {"host": "a"}},
        "hosts",
        'must be a list, even for one server: hosts=[{"host"',
    ),
    "no list of hosts": ({"hosts": None}, "hosts", "must be a list of servers, not None"),
    "a set of hosts": ({"hosts": {"redis://a"}}, "hosts", "must be a list of servers, not a set"),
    "an empty list": ({"hosts": []}, "hosts", "must name at least one server; leave it out for"),
    "a number for a host": (
        {"hosts": [6379]},
        "hosts[0]",
        "must be a URL, a (host, port) pair or a dict, not 6379",
    ),
    "a bytes for a host": ({"hosts": [b"redis://a"]}, "hosts[0]", "(host, port) pair or a dict, not a bytes"),
    "twins": (
        {"hosts": ["redis://a", "redis://b", "rediss://:hidden@A:6379/0"]},
        "hosts[2]",
        "the same server and database as hosts[0], a:6379/0: remove one",
    ),
    "twins on a socket": (
        {"hosts": ["unix:///run/r.sock?db=1", "unix://u:hidden@/run/r.sock?db=1"]},
        "hosts[1]",
        "the same server and database as hosts[0], /run/r.sock/1",
    ),
    # URLs
    "no scheme": (
        {"hosts": ["localhost:6379"]},
        "hosts[0]",
        "one of redis://, rediss://, unix://, valkey://, valkeys://",
    ),
    "another scheme": ({"hosts": ["http://a"]}, "hosts[0]", "must be a URL that begins with one of redis://"),
    "a slash in a password": ({"hosts": ["redis://:hid/den@a"]}, "hosts[0]", _TEXT),
    "a question mark in a password": ({"hosts": ["redis://:1?hidden=1@a"]}, "hosts[0]", _TEXT),
    "a number sign in a password": ({"hosts": ["redis://:1#hidden@a"]}, "hosts[0]", _TEXT),
    "an at sign and more in a password": ({"hosts": ["redis://:hid@den?x=1@a"]}, "hosts[0]", _TEXT),
    "a space in a URL": ({"hosts": ["redis://a b"]}, "hosts[0]", _TEXT),
    "a line break in a URL": ({"hosts": ["redis://a\n"]}, "hosts[0]", _TEXT),
    "a password alone": ({"hosts": ["redis://:hidden"]}, "hosts[0]", _URL),
    "a port too large": ({"hosts": ["redis://a:65536"]}, "hosts[0]", _URL),
    "an open bracket": ({"hosts": ["redis://[::1:6379"]}, "hosts[0]", _URL),
    "a password that is no Unicode": ({"hosts": ["redis://:%ff@a"]}, "hosts[0]", _URL),
    "port zero": ({"hosts": ["redis://a:0"]}, "hosts[0]", f"the port in the URL {_PORT} 0"),
    "no number for a database": (
        {"hosts": ["redis://a/one"]},
        "hosts[0]",
        "must end in the number of a database",
    ),
    "a query's database": (
        {"hosts": ["redis://a?db=x"]},
        "hosts[0]",
        "the db in the URL must be a whole number, 0",
    ),
    "two databases": (
        {"hosts": ["redis://a/1?db=2"]},
        "hosts[0]",
        "the db in the URL is given twice: remove one",
    ),
    "an option twice": ({"hosts": ["redis://a?db=1&db=1"]}, "hosts[0]", "the db in the URL is given twice"),
    "an unknown option in a URL": (
        {"hosts": ["redis://a", "redis://a/1?pasword=hidden"]},
        "hosts[1]",
        "the URL's query has 'pasword': unknown option, did you mean 'password'? the options are db,",
    ),
    "redis-py's timeout": (
        {"hosts": ["redis://a?socket_timeout=1"]},
        "hosts[0]",
        "the layer's own option timeout",
    ),
    "two hosts in a URL": (
        {"hosts": ["redis://a,b"]},
        "hosts[0]",
        "the host in the URL must be the name of one host",
    ),
    "an empty part of a host": ({"hosts": ["redis://a..b"]}, "hosts[0]", "must be the name of one host"),
    "a socket that is not full": (
        {"hosts": ["unix://run/r.sock"]},
        "hosts[0]",
        "after three slashes: unix:///run",
    ),
    "a socket without a path": ({"hosts": ["unix://"]}, "hosts[0]", "after three slashes"),
    "a TLS option without TLS": (
        {"hosts": ["redis://a?ssl_cert_reqs=none"]},
        "hosts[0]",
        f"ssl_cert_reqs in the URL {_TLS}",
    ),
    "a TLS option that is no bool": (
        {"hosts": ["rediss://a?ssl_check_hostname=maybe"]},
        "hosts[0]",
        "the ssl_check_hostname in the URL must be True or False, not a str",
    ),
    # pairs
    "half a pair": (
        {"hosts": [("a",)]},
        "hosts[0]",
        'must be a pair, as in ("localhost", 6379), and this has 1 item',
    ),
    "three for a pair": ({"hosts": [["a", 1, 2]]}, "hosts[0]", "and this has 3 items"),
    "a text for a port": ({"hosts": ["redis://b", ("a", "6379")]}, "hosts[1].port", f"{_PORT} a str (write"),
    "a bool for a port": ({"hosts": [("a", True)]}, "hosts[0].port", f"{_PORT} True"),
    "a number for a name": (
        {"hosts": [(5, 6379)]},
        "hosts[0].host",
        "must be the name of a host, as in 'localhost', not 5",
    ),
    "a URL for a name": (
        {"hosts": [("redis://:hidden@a", 1)]},
        "hosts[0].host",
        'a URL goes into hosts=["redis://..."]',
    ),
    "a port in a name": ({"hosts": [("a:1", 6379)]}, "hosts[0].host", "a port has its own place"),
    "an empty name": (
        {"hosts": [("", 6379)]},
        "hosts[0].host",
        "must be the name of one host, and this is empty",
    ),
    "an old pair's port": ({"hosts": ["localhost", 0]}, "hosts.port", f"{_PORT} 0"),
    # dicts
    "an empty dict": (
        {"hosts": [{}]},
        "hosts[0]",
        'is empty: name a host, as in {"host": "localhost", "port": 6379}',
    ),
    "an unknown key": (
        {"hosts": [{"hots": "a"}]},
        "hosts[0].hots",
        "unknown option, did you mean 'host'? the options are",
    ),
    "a key of another type": ({"hosts": [{5: "a"}]}, "hosts[0]", "must have keys that are str, not 5"),
    "redis-py's path": (
        {"hosts": [{"unix_socket_path": "/run/r"}]},
        "hosts[0].unix_socket_path",
        '{"address": "unix:',
    ),
    "a negative database": (
        {"hosts": [{"db": -1}]},
        "hosts[0].db",
        "must be a whole number, 0 or more, not -1",
    ),
    "a number for a password": (
        {"hosts": [{"password": 4711}]},
        "hosts[0].password",
        "must be a str, not of type int",
    ),
    "a password of no Unicode": (
        {"hosts": [{"password": "\udc80"}]},
        "hosts[0].password",
        "must be valid Unicode",
    ),
    "a number for ssl": (
        {"hosts": [{"host": "a", "ssl": 1}]},
        "hosts[0].ssl",
        "must be True or False, not 1",
    ),
    "a file without TLS": ({"hosts": [{"ssl_ca_certs": "/x"}]}, "hosts[0].ssl_ca_certs", _TLS),
    "an empty file name": (
        {"hosts": [{"ssl": True, "ssl_ca_certs": ""}]},
        "hosts[0].ssl_ca_certs",
        "must be the path of a file, not an empty str",
    ),
    "a file of another type": (
        {"hosts": [{"ssl": True, "ssl_certfile": b"x"}]},
        "hosts[0].ssl_certfile",
        "must be the path of a file, not a bytes",
    ),
    "a key without a certificate": (
        {"hosts": [{"ssl": True, "ssl_keyfile": "/x"}]},
        "hosts[0].ssl_keyfile",
        "needs the certificate it is for: add ssl_certfile",
    ),
    "a word for ssl_cert_reqs": (
        {"hosts": [{"ssl": True, "ssl_cert_reqs": "no"}]},
        "hosts[0].ssl_cert_reqs",
        "must be 'required', 'optional' or 'none', not another str",
    ),
    "a bool for ssl_cert_reqs": (
        {"hosts": [{"ssl": True, "ssl_cert_reqs": False}]},
        "hosts[0].ssl_cert_reqs",
        "must be 'required', 'optional' or 'none', not False",
    ),
    "a name to check and nothing to check it by": (
        {"hosts": [{"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": True}]},
        "hosts[0].ssl_check_hostname",
        "cannot be True while ssl_cert_reqs is 'none': remove one",
    ),
    "no context": (
        {"hosts": [{"ssl": True, "ssl_context": "x"}]},
        "hosts[0].ssl_context",
        "must be an ssl.SSLContext, not a str",
    ),
    "a context and more": (
        {"hosts": [{"ssl": True, "ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "ssl_ca_certs": "/x"}]},
        "hosts[0].ssl_ca_certs",
        "does not go together with 'ssl_context': remove one",
    ),
    "an address of another type": ({"hosts": [{"address": 5}]}, "hosts[0].address", "must be a URL, as in"),
    "an address and a port": (
        {"hosts": [{"address": "redis://a", "port": 1}]},
        "hosts[0].port",
        "does not go together with 'address': remove one",
    ),
    "an address that is no URL": (
        {"hosts": [{"address": "a"}]},
        "hosts[0].address",
        "must be a URL that begins with",
    ),
    "two passwords": (
        {"hosts": [{"address": "redis://:hidden@a", "password": "hidden2"}]},
        "hosts[0].password",
        "is given twice, with another value in the address: remove one",
    ),
    "TLS only beside the address": (
        {"hosts": [{"address": "redis://a", "ssl": True}]},
        "hosts[0].ssl",
        "contradicts the address: rediss:// and valkeys:// are with TLS, the others without",
    ),
    # Sentinel
    "a right Sentinel": (
        {"hosts": [{"sentinels": [("a", 26379), ["b", 26379]], "master_name": "m", "db": 1, "password": "hidden"}]},
        "hosts[0]",
        _SENTINEL,
    ),
    "a Sentinel of one pair": (
        {"hosts": [{"sentinels": ["a", 26379], "master_name": "m"}]},
        "hosts[0]",
        _SENTINEL,
    ),
    # shorthand
    "a host beside hosts": (
        {"hosts": ["redis://a"], "host": "b"},
        "host",
        "does not go together with hosts: keep one of the two",
    ),
    "a port beside hosts": (
        {"hosts": ["redis://a"], "port": 6379},
        "port",
        "does not go together with hosts",
    ),
    "a database beside hosts": ({"hosts": ["redis://a"], "db": 0}, "db", "does not go together with hosts"),
    "a URL for a host": (
        {"host": "redis://:hidden@a"},
        "host",
        "must be only the name of a host; a URL goes into hosts=",
    ),
    "None for a host": ({"host": None}, "host", "must be the name of a host, as in 'localhost', not None"),
    "a text for the port": ({"port": "6379"}, "port", f"{_PORT} a str (write the number without quotes)"),
    "a port of zero": ({"port": 0}, "port", f"{_PORT} 0"),
    "a bool for the database": ({"db": True}, "db", "must be a whole number, 0 or more, not True"),
    "a database below zero": ({"db": -1}, "db", "must be a whole number, 0 or more, not -1"),
}


@pytest.mark.parametrize(("options", "field", "fragment"), MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_one_error_that_names_its_field_and_the_mend(
    options: Mapping[str, object], field: str, fragment: str
) -> None:
    """One mistake is one `FieldError`, at the field where it was written, with a mend and no secret."""
    (error,) = errors_of(options)
    assert error.field == field
    assert fragment in error.problem
    assert not any(secret in error.problem for secret in ("hid", "den", "4711"))


def test_every_option_has_a_mistake_in_the_table() -> None:
    """The table leaves no option out."""
    fields = {re.split(r"[.\[]", field)[0] for _, field, _ in MISTAKES.values()}
    assert set(RedisConfig.model_fields) <= fields


def test_all_mistakes_come_at_once_in_the_order_of_the_options() -> None:
    """One error tells of every field, those included that pydantic does not see, in whatever order."""
    errors = errors_of(
        {
            "capcity": 5,
            "db": 1,
            "hosts": ["a", ("b", 0), {"host": "", "port": -1}],
            "timeout": 0,
            "channel_capacity": {"[": 0, "b": 0},
            "prefix": "{",
        }
    )
    assert [error.field for error in errors] == [
        "prefix",
        'channel_capacity["["]',
        'channel_capacity["["]',
        'channel_capacity["b"]',
        "timeout",
        "hosts[0]",
        "hosts[1].port",
        "hosts[2].host",
        "hosts[2].port",
        "db",
        "capcity",
    ]


def test_a_wrong_sentinel_is_told_its_mistakes_and_that_it_is_too_early() -> None:
    """A Sentinel dict is held against its grammar, each mistake at its place, before it is refused."""
    sentinel = {
        "sentinels": [("a", "1"), "b", ("c",)],
        "db": "0",
        "host": "a",
        "sentinel_kwargs": {"password": 5, "pasword": "hidden", "ssl_ca_certs": "/x"},
    }
    assert [error.field for error in errors_of({"hosts": [sentinel]})] == [
        "hosts[0].host",
        "hosts[0].sentinels[0].port",
        "hosts[0].sentinels[1]",
        "hosts[0].sentinels[2]",
        "hosts[0].master_name",
        "hosts[0].sentinel_kwargs.pasword",
        "hosts[0].sentinel_kwargs.password",
        "hosts[0].sentinel_kwargs.ssl_ca_certs",
        "hosts[0].db",
        "hosts[0]",
    ]
    nothing: list[object] = []
    for sentinels in (None, nothing, "a"):
        wrong = {"sentinels": sentinels, "master_name": "m"}
        assert [error.field for error in errors_of({"hosts": [wrong]})] == ["hosts[0].sentinels", "hosts[0]"]
    assert [error.field for error in errors_of({"hosts": [{"master_name": "m"}]})] == [
        "hosts[0].sentinels",
        "hosts[0]",
    ]
    kwargs = {"sentinels": [("a", 1)], "master_name": "m", "sentinel_kwargs": 5}
    assert [error.field for error in errors_of({"hosts": [kwargs]})] == [
        "hosts[0].sentinel_kwargs",
        "hosts[0]",
    ]


def test_a_wrong_address_does_not_hide_what_is_wrong_beside_it() -> None:
    """Beside a URL that cannot be read, the other keys are checked, and TLS options not called useless."""
    fields = [
        error.field
        for error in errors_of(
            {"hosts": [{"address": "http://a", "db": "1", "ssl": False, "ssl_ca_certs": "/x", "dbb": 1}]}
        )
    ]
    assert fields == ["hosts[0].dbb", "hosts[0].address", "hosts[0].db"]


def test_a_config_error_is_ours_and_pydantic_does_not_hang_on_it() -> None:
    """It is a `ChannelLayerError` and a `ValueError`; pydantic's, which holds values, is not its context."""
    with pytest.raises(ChannelLayerError) as caught:
        parse(CommonConfig, {"symmetric_encryption_keys": ["hidden"], "expiry": "hidden", "hidden_": 1})
    assert type(caught.value) is ConfigError
    assert issubclass(ConfigError, ValueError)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_a_key_that_is_no_str_is_an_error() -> None:
    """An option's name that is no str is told like any other mistake."""
    options: dict[str, object] = {"expiry": 5}
    options.update({5: 1})  # type: ignore[dict-item]  # a CONFIG from outside holds anything
    (error,) = errors_of(options)
    assert error.field == "5"


def test_a_common_layer_knows_no_hosts() -> None:
    """The options of one layer are unknown to another, and its list of options names its own only."""
    (error,) = errors_of({"hosts": ["redis://a"]}, CommonConfig)
    assert error.field == "hosts"
    assert error.problem.startswith("unknown option")
    assert error.problem.endswith("inbox_capacity, timeout, faults")


# -- what is accepted ----------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_reference() -> None:
    """A CONFIG without options has the documented defaults, as numbers of the documented types."""
    config = parse(RedisConfig, {})
    rules = config.rules()
    assert config.servers == (Host("localhost", 6379, db=0),)
    assert config.symmetric_encryption_keys == ()
    assert (rules.prefix, rules.expiry, rules.group_expiry, rules.timeout) == ("asgi:", 60.0, 86400.0, 5.0)
    assert (rules.default_capacity, rules.channel_capacity, rules.inbox_capacity) == (100, {}, 10_000)
    assert rules.max_message_size == 4 * 1024 * 1024
    assert rules.capacity.of("anything") == 100
    assert {type(value) for value in (rules.expiry, rules.group_expiry, rules.timeout)} == {float}


def test_every_option_arrives_in_the_rules() -> None:
    """Each option that is given is what the core gets, ints as seconds included."""
    rules = parse(
        CommonConfig,
        {
            "prefix": "p",
            "expiry": 1,
            "group_expiry": None,
            "capacity": 2,
            "channel_capacity": {"http.*": 3},
            "symmetric_encryption_keys": [_KEY, SecretBytes(b"other" * 8)],
            "encryption": "fernet",
            "blind_names": _KEY.encode(),
            "max_message_size": 4,
            "inbox_capacity": 5,
            "timeout": 0.25,
        },
    ).rules()
    assert (rules.prefix, rules.expiry, rules.group_expiry, rules.default_capacity) == ("p", 1.0, None, 2)
    assert (rules.max_message_size, rules.inbox_capacity, rules.timeout) == (4, 5, 0.25)
    assert rules.channel_capacity == {"http.*": 3}
    first, second = (SecretBytes(hashlib.sha256(key).digest()) for key in (_KEY.encode(), b"other" * 8))
    assert rules.encryption == Encryption((first, second), "fernet", first)
    assert (rules.capacity.of("http.request"), rules.capacity.of("chat")) == (3, 2)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"blind_names": True}, _KEY),
        ({"blind_names": "other" * 8}, "other" * 8),
        ({}, None),
        ({"blind_names": False}, None),
    ],
)
def test_names_are_blinded_with_the_key_that_is_said(options: dict[str, object], names: str | None) -> None:
    """``blind_names=True`` takes the one key there is; a key stands for itself; else names stay as they are."""
    encryption = parse(CommonConfig, {"symmetric_encryption_keys": [_KEY], **options}).rules().encryption
    assert encryption is not None
    assert encryption.cipher == "aes-256-gcm"
    assert encryption.names == (None if names is None else SecretBytes(hashlib.sha256(names.encode()).digest()))


def test_short_keys_are_warned_of() -> None:
    """A key under 32 bytes is a warning with its field and how to make one, where the layer is made; 32 are enough."""
    with pytest.warns(ConfigWarning) as warned:
        MemoryChannelLayer(symmetric_encryption_keys=["x" * 32, "hidden"], blind_names=b"hidden!")
    texts = [str(each.message) for each in warned]
    assert [each.filename for each in warned] == [__file__] * 2
    assert [text.partition(":")[0] for text in texts] == ["symmetric_encryption_keys[1]", "blind_names"]
    assert all(text.endswith("make one with: channel-layer genkey") for text in texts)
    assert "hidden" not in "".join(texts)


def test_no_repr_shows_a_key() -> None:
    """A configuration and its rules can be shown to anyone."""
    config = parse(RedisConfig, {"symmetric_encryption_keys": [_KEY], "blind_names": _KEY})
    shown = f"{config!r} {config} {config.rules()!r}"
    assert "hidden" not in shown
    assert hashlib.sha256(_KEY.encode()).hexdigest() not in shown
    assert repr(hashlib.sha256(_KEY.encode()).digest()) not in shown


def test_a_prefix_may_be_any_text_without_braces() -> None:
    """Nothing but braces is special in a prefix: it may be empty, or hold what looks like a pattern."""
    for prefix in ("", "*", "a\n", "é:", "[a-z]?"):
        assert parse(CommonConfig, {"prefix": prefix}).prefix == prefix


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("http.request", "http.request", "http.request2"),
        ("http.*", "http.", "https."),
        ("HTTP.*", "HTTP.x", "http.x"),
        ("a?c", "a?c", "ac"),
        ("a[bc]", "ac", "ad"),
        ("a[!bc]", "ad", "ab"),
        ("[]a]", "a", "b"),
        ("resp?*", "resp?x7", "resp"),
        ("re:http", "http.request", "xhttp"),
        ("re:http$", "http", "http.request"),
        (re.compile("http"), "http.request", "xhttp"),
        (re.compile("HTTP", re.IGNORECASE), "http", "xhttp"),
    ],
)
def test_a_pattern_is_a_whole_glob_or_a_regex_from_the_start(
    pattern: ChannelPattern, matching: str, other: str
) -> None:
    """A str is a glob for the whole name, in its case; a regex, compiled or as text, matches at the start."""
    rules = parse(CommonConfig, {"channel_capacity": {pattern: 7}}).rules()
    assert (rules.capacity.of(matching), rules.capacity.of(other)) == (7, 100)


def test_the_first_pattern_wins_in_the_order_of_the_mapping() -> None:
    """An OrderedDict that was reordered is tried in that order, not in that of insertion."""
    patterns: OrderedDict[str, int] = OrderedDict([("*", 1), ("http.*", 2), ("http.request", 3)])
    assert parse(CommonConfig, {"channel_capacity": patterns}).rules().capacity.of("http.request") == 1
    patterns.move_to_end("*")
    patterns.move_to_end("http.request", last=False)
    rules = parse(CommonConfig, {"channel_capacity": patterns}).rules()
    assert [rules.capacity.of(name) for name in ("http.request", "http.x", "x")] == [3, 2, 1]
    assert list(rules.channel_capacity) == ["http.request", "http.*", "*"]


def test_a_configuration_does_not_change_with_the_dict_it_came_from() -> None:
    """What the caller does to its mapping afterwards has no effect, and nobody can change the rules' own."""
    patterns = {"a": 1}
    rules = parse(CommonConfig, {"channel_capacity": patterns}).rules()
    patterns["a"] = 2
    assert rules.channel_capacity == {"a": 1}
    assert rules.capacity.of("a") == 1
    assert not hasattr(rules.channel_capacity, "__setitem__")


def test_a_model_is_frozen() -> None:
    """A configuration cannot be changed after it was checked."""
    config = parse(CommonConfig, {})
    with pytest.raises(ValidationError):
        config.capacity = 0


# -- hosts ---------------------------------------------------------------------------------------------------

SECURE = TLS()
UNSAFE = TLS(verify="none", check_hostname=False)


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("redis://", Host()),
        ("redis://a", Host("a")),
        ("REDIS://A:1/2", Host("a", 1, db=2)),
        ("redis://a:1/2/", Host("a", 1, db=2)),
        ("redis://a/?db=2", Host("a", db=2)),
        ("redis://:p@a", Host("a", password="p")),
        ("redis://u@a", Host("a", username="u")),
        ("redis://u:p:%2F%40%3a+@a", Host("a", username="u", password="p:/@:+")),
        ("redis://:p@ss@a", Host("a", password="p@ss")),
        ("redis://a?username=u&password=p%20q", Host("a", username="u", password="p q")),
        ("redis://[::1]:1", Host("::1", 1)),
        ("redis://[0:0:0:0:0:0:0:1]", Host("::1")),
        ("redis://[::FFFF:7f00:1]", Host("::ffff:127.0.0.1")),
        ("redis://[fe80::1%25eth0]", Host("fe80::1%eth0")),
        ("redis://127.0.0.1", Host("127.0.0.1")),
        ("valkey://a", Host("a")),
        ("rediss://a", Host("a", tls=SECURE)),
        ("valkeys://a", Host("a", tls=SECURE)),
        ("rediss://a?ssl_cert_reqs=none", Host("a", tls=UNSAFE)),
        ("rediss://a?ssl_cert_reqs=optional", Host("a", tls=TLS(verify="optional"))),
        ("rediss://a?ssl_check_hostname=False", Host("a", tls=TLS(check_hostname=False))),
        (
            "rediss://a?ssl_ca_certs=/c&ssl_certfile=/e&ssl_keyfile=/k&ssl_password=p",
            Host("a", tls=TLS(ca_certs="/c", certfile="/e", keyfile="/k", password="p")),
        ),
        ("unix:///run/r.sock", Host(path="/run/r.sock")),
        ("unix://u:p@/run/r%20s@1?db=3", Host(path="/run/r s@1", db=3, username="u", password="p")),
        (("A", 1), Host("a", 1)),
        (["::1", 1], Host("::1", 1)),
        (["[::1]", 1], Host("::1", 1)),
        ({"host": "a", "port": 1, "db": 2}, Host("a", 1, db=2)),
        ({"db": 2}, Host(db=2)),
        ({"host": "a", "username": "u", "password": "p"}, Host("a", username="u", password="p")),
        ({"host": "a", "username": None, "password": None}, Host("a")),
        ({"host": "a", "password": ""}, Host("a")),
        ({"host": "a", "ssl": False}, Host("a")),
        ({"host": "a", "ssl": True, "ssl_cert_reqs": ssl.CERT_NONE}, Host("a", tls=UNSAFE)),
        ({"host": "a", "ssl": True, "ssl_cert_reqs": None}, Host("a", tls=UNSAFE)),
        ({"host": "a", "ssl": True, "ssl_ca_certs": Path("/c")}, Host("a", tls=TLS(ca_certs="/c"))),
        ({"host": "a", "ssl": True, "ssl_ca_certs": None, "ssl_keyfile": None}, Host("a", tls=SECURE)),
        ({"address": "redis://:p@a:1/2"}, Host("a", 1, db=2, password="p")),
        ({"address": "redis://a", "db": 2, "password": "p"}, Host("a", db=2, password="p")),
        ({"address": "redis://:p@a", "password": None}, Host("a", password="p")),
        (
            {"address": "redis://:p@a/1", "password": "p", "db": 1, "ssl": False},
            Host("a", db=1, password="p"),
        ),
        ({"address": "rediss://a", "ssl": True, "ssl_cert_reqs": None}, Host("a", tls=UNSAFE)),
        ({"address": "unix:///run/r.sock", "db": 1}, Host(path="/run/r.sock", db=1)),
    ],
)
def test_each_form_of_a_host_is_read(written: object, host: Host) -> None:
    """URLs, pairs and dicts, with what can be said in them, come out as the same kind of `Host`."""
    assert parse_hosts([written]) == (host,)


def test_the_old_literal_is_one_pair_and_two_urls_are_two() -> None:
    """``["localhost", 6379]`` and its tuple are one server; only a str and a number together are read so."""
    for pair in (["localhost", 6379], ("localhost", 6379)):
        assert parse(RedisConfig, {"hosts": pair}).servers == (Host("localhost", 6379),)
    assert parse_hosts(("redis://a", "redis://b")) == (Host("a"), Host("b"))
    assert parse_hosts([("a", 1), ("b", 2)]) == (Host("a", 1), Host("b", 2))


def test_shorthand_is_one_host() -> None:
    """``host``, ``port`` and ``db``, any of them, make one server; the rest of it is the default's."""
    assert parse(RedisConfig, {"host": "Redis", "db": 4}).servers == (Host("redis", 6379, db=4),)
    assert parse(RedisConfig, {"port": 1}).servers == (Host("localhost", 1),)
    assert parse(RedisConfig, {"host": "[::1]"}).servers == (Host("::1"),)


def test_an_identity_says_where_and_never_who() -> None:
    """The identity is the host in lower case, port and database, or socket and database: no login."""
    hosts = parse_hosts(["rediss://u:p@A:1/2", "redis://[::1]", "unix://u:p@/run/r.sock?db=3"])
    assert [host.identity for host in hosts] == ["a:1/2", "[::1]:6379/0", "/run/r.sock/3"]
    assert [host.label for host in hosts] == [
        "rediss://a:1/2",
        "redis://[::1]:6379/0",
        "unix:///run/r.sock?db=3",
    ]


def test_databases_of_one_server_are_different_hosts() -> None:
    """Several databases of one server, or of one socket, may be listed: they are shards of their own."""
    hosts = parse_hosts(["redis://a/0", "redis://a/1", "unix:///r", "unix:///r?db=1"])
    assert len({host.identity for host in hosts}) == 4


def test_a_repr_shows_no_password() -> None:
    """Neither a host nor a configuration shows the password of a login or of a private key."""
    config = parse(RedisConfig, {"hosts": ["rediss://u:hidden@a?ssl_certfile=/e&ssl_password=hidden2"]})
    assert config.servers[0].password == "hidden"
    assert config.servers[0].tls is not None
    assert config.servers[0].tls.password == "hidden2"
    assert "hidden" not in f"{config!r} {config} {config.servers!r} {config.rules()!r}"


# -- TLS -----------------------------------------------------------------------------------------------------


def test_a_tls_context_checks_the_server_unless_it_is_told_not_to() -> None:
    """By default certificate and name are checked; each can be turned off, and only that one is."""
    context = TLS().make_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = TLS(check_hostname=False).make_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    context = UNSAFE.make_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_a_tls_context_trusts_the_given_authority_and_shows_the_given_certificate(tmp_path: Path) -> None:
    """A context trusts only the authority that is named, and takes the client's certificate and key."""
    files = tls.issue(tmp_path)
    options = TLS(ca_certs=str(files.ca_file), certfile=str(files.certificate_file), keyfile=str(files.key_file))
    assert len(options.make_context().get_ca_certs()) == 1


def test_a_ready_context_is_used_as_it_is() -> None:
    """``ssl_context`` is the context of the connection, the same object."""
    ready = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    (host,) = parse_hosts([{"address": "rediss://a", "ssl_context": ready}])
    assert host.tls is not None
    assert host.tls.make_context() is ready


def test_a_certificate_that_cannot_be_read_is_an_error_of_its_option(tmp_path: Path) -> None:
    """A missing or wrong file is a `ConfigError` that names option and file, and shows no password."""
    files = tls.issue(tmp_path)
    missing, wrong = tmp_path / "missing.pem", tmp_path / "wrong.pem"
    wrong.write_text("no certificate", encoding="ascii")
    for options, field, file in (
        (TLS(ca_certs=str(missing)), "ssl_ca_certs", "missing.pem cannot be used: No such file"),
        (TLS(ca_certs=str(wrong)), "ssl_ca_certs", "wrong.pem cannot be used"),
        (TLS(certfile=str(missing)), "ssl_certfile", "missing.pem cannot be used"),
        (
            TLS(certfile=str(files.certificate_file), keyfile=str(wrong), password="hidden"),
            "ssl_certfile and ssl_keyfile",
            "wrong.pem cannot be used",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            options.make_context()
        (error,) = caught.value.errors
        assert error.field == field
        assert file in error.problem
        assert "hidden" not in error.problem


# -- for other adapters --------------------------------------------------------------------------------------


class OtherConfig(CommonConfig):
    """What a third party writes."""

    refused: ClassVar[Mapping[str, str]] = {"file": "write path"}

    path: Annotated[str, Accepts("the path of a file")] = "queue.db"
    pages: tuple[int, ...] = Field(default=())


def test_another_adapter_gets_the_same_errors_for_options_of_its_own() -> None:
    """A subclass has the common options and its own, errors in the same words, and refusals of its own."""
    assert parse(OtherConfig, {"path": "a", "capacity": 1}).path == "a"
    errors = errors_of({"path": 5, "file": "x", "pages": (1, "2"), "pathh": 1}, OtherConfig)
    assert [error.field for error in errors] == ["path", "pages[1]", "file", "pathh"]
    assert errors[0].problem == "must be the path of a file, not 5"
    assert errors[1].problem == "Input should be a valid integer"
    assert errors[2].problem == "write path"
    assert "did you mean 'path'?" in errors[3].problem


def test_values_are_described_by_kind_unless_they_are_plain_numbers() -> None:
    """An error shows None, bools and numbers, and of all else the kind only."""
    described = [describe_value(value) for value in (None, True, -5, 0.5, "x", b"x", [1], Number(5), OtherConfig())]
    assert described == ["None", "True", "-5", "0.5", "a str", "a bytes", "a list", "5", "an OtherConfig"]


def test_an_unknown_name_is_told_the_known_ones() -> None:
    """The closest known name is offered if one is close, and all are listed."""
    assert (
        describe_unknown("hosst", ["hosts", "db"]) == "unknown option, did you mean 'hosts'? the options are hosts, db"
    )
    assert describe_unknown("zzz", ["hosts", "db"]) == "unknown option; the options are hosts, db"


# -- the page ------------------------------------------------------------------------------------------------


def test_the_reference_is_what_the_models_say() -> None:
    """docs/reference/configuration.md is generated: ``python -m tests.support.reference`` writes it."""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.configuration()


def test_the_defaults_on_the_page_are_the_defaults() -> None:
    """What the page shows as the default of ``hosts`` is read as what is the default."""
    assert '| `[("localhost", 6379)]` |' in reference.configuration()
    assert parse(RedisConfig, {"hosts": [("localhost", 6379)]}).servers == parse(RedisConfig, {}).servers


@pytest.mark.parametrize(("layer", "model"), [(MemoryChannelLayer, CommonConfig), (RedisChannelLayer, RedisConfig)])
def test_the_keyword_arguments_of_a_layer_are_the_options_with_their_defaults(
    layer: type[MemoryChannelLayer | RedisChannelLayer], model: type[CommonConfig]
) -> None:
    """Every option is a keyword argument, and what its signature shows as the default is the documented one."""
    arguments = inspect.signature(layer).parameters
    assert set(model.model_fields) <= set(arguments)
    shown = {name: arguments[name].default for name in model.model_fields}
    given = {name: value for name, value in shown.items() if value is not None}
    assert parse(model, given) == parse(model, {})
    assert {name for name, value in shown.items() if value is None} <= {
        "channel_capacity",
        "faults",
        "hosts",
        "host",
        "port",
        "db",
    }
