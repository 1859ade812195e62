"""Mistakes that people make in a CONFIG, one in each, and what they are told: tested, and shown in the documentation.

In one place, so that the page can show no answer that no test has seen.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping

from redis.credentials import UsernamePasswordCredentialProvider

__all__ = ("KEY", "MISTAKES")

_PORT = "must be a whole number from 1 to 65535, not"
_COUNT = "must be a whole number, 1 or more, not"
_SECONDS = "must be a number of seconds, more than 0 and at most 1e9"
_FAULTS = 'must be None or a mapping of faults to how often they happen, as in {"refuse": 0.01, "delay": 0.2}'
_SHARE = "must be a number from 0 to 1"
_TEXT = "a character where it cannot stand; in a login or an option % / ? # @ and spaces are written %25"
_URL = "cannot be read as a URL: the port is a number from 1 to 65535, an IPv6 address stands in brackets"
_TLS = 'needs TLS: a rediss:// URL, or "ssl": True in a dict'
KEY = "hidden, and long enough for 256 bits"
_OF_IPC = "an option of channel_layer_ipc.IPCChannelLayer: remove it, or use that layer"
_OF_HALVES = "an option of channel_layer_redis.RedisLocalChannelLayer: remove it, or use that layer"

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
    "one pattern": ({"channel_capacity": "http.*"}, "channel_capacity", "must be a mapping"),
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
        {"symmetric_encryption_keys": [KEY, 5]},
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
        {"symmetric_encryption_keys": [KEY, "other" * 8, KEY.encode()]},
        "symmetric_encryption_keys[2]",
        "is the same key as symmetric_encryption_keys[0]: remove one",
    ),
    "a cipher that is none": (
        {"symmetric_encryption_keys": [KEY], "encryption": "aes"},
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
    "a key for names without keys": ({"blind_names": KEY}, "blind_names", "there are no symmetric_encryption_keys"),
    "an empty key for names": (
        {"symmetric_encryption_keys": [KEY], "blind_names": b""},
        "blind_names",
        "this key is empty: make one with: channel-layer genkey",
    ),
    "names of another type": (
        {"symmetric_encryption_keys": [KEY], "blind_names": 5},
        "blind_names",
        "must be True, False or a key, not of type int",
    ),
    "blind names that follow keys which change": (
        {"symmetric_encryption_keys": [KEY, "other" * 8], "blind_names": True},
        "blind_names",
        "with several symmetric_encryption_keys, processes that have them in another order would not find",
    ),
    "local": ({"local": {}}, "local", _OF_HALVES),
    "no_local_reader": ({"no_local_reader": "queue"}, "no_local_reader", _OF_HALVES),
    "directory": ({"directory": "/run"}, "directory", _OF_IPC),
    "memory": ({"memory": 100}, "memory", _OF_IPC),
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
    "of its pub/sub layer": (
        {"on_disconnect": "redis.disconnect"},
        "on_disconnect",
        "consumers are not told: the layer reconnects",
    ),
    "of asgi_redis": ({"connection_kwargs": {}}, "connection_kwargs", "write its options in hosts"),
    "a class of redis-py": ({"connection_class": object}, "connection_class", "the layer has connections of its own"),
    "a provider beside hosts": ({"credential_provider": object()}, "credential_provider", "write it in hosts, as in"),
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
    "no list of hosts": ({"hosts": 6379}, "hosts", "must be a list of servers, not 6379"),
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
    "a timeout of the layer": (
        {"hosts": ["redis://a?timeout=1"]},
        "hosts[0]",
        "the URL's query has 'timeout': it is an option of the layer: write it beside hosts",
    ),
    "redis-py's connections": (
        {"hosts": ["redis://a?connection_class=Mine"]},
        "hosts[0]",
        "the URL's query has 'connection_class': the layer has connections of its own",
    ),
    "a provider in a URL": (
        {"hosts": ["redis://a?credential_provider=x"]},
        "hosts[0]",
        "the URL's query has 'credential_provider': an object cannot stand in a URL",
    ),
    "a time to connect that is none": (
        {"hosts": ["redis://a?socket_connect_timeout=0"]},
        "hosts[0]",
        "the socket_connect_timeout in the URL must be a number of seconds, more than 0, not 0",
    ),
    "a name with a space": (
        {"hosts": ["redis://a?client_name=my%20site"]},
        "hosts[0]",
        "the client_name in the URL must consist of ASCII letters, digits and marks, without spaces",
    ),
    "a version of TLS that is none": (
        {"hosts": ["rediss://a?ssl_min_version=1.3"]},
        "hosts[0]",
        "the ssl_min_version in the URL must be one of ",
    ),
    "flags that are none": (
        {"hosts": ["rediss://a?ssl_exclude_verify_flags=STRICT"]},
        "hosts[0]",
        "must be a list of ssl.VerifyFlags, or of their names",
    ),
    "ciphers that are none": (
        {"hosts": ["rediss://a?ssl_ciphers=hidden"]},
        "hosts[0]",
        "the ssl_ciphers in the URL must be a list of ciphers as OpenSSL writes it",
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
    "a word for a port": ({"hosts": ["redis://b", ("a", "redis")]}, "hosts[1].port", f"{_PORT} a str"),
    "a text for a port that is too large": ({"hosts": [("a", "65536")]}, "hosts[0].port", f"{_PORT} 65536"),
    "no port": ({"hosts": [("a", None)]}, "hosts[0].port", f"{_PORT} None"),
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
    "a negative interval": (
        {"hosts": [{"health_check_interval": -1}]},
        "hosts[0].health_check_interval",
        "must be a number of seconds, or 0 for no check, not -1",
    ),
    "a word for an interval": (
        {"hosts": ["redis://a?health_check_interval=never"]},
        "hosts[0]",
        "the health_check_interval in the URL must be a number of seconds, or 0 for no check, not a str",
    ),
    "keepalive of a Unix socket": (
        {"hosts": [{"address": "unix:///run/redis.sock", "socket_keepalive": True}]},
        "hosts[0].socket_keepalive",
        "is for TCP, and this is a Unix socket: remove it",
    ),
    "options of keepalive by name": (
        {"hosts": [{"host": "a", "socket_keepalive_options": {"TCP_KEEPIDLE": 60}}]},
        "hosts[0].socket_keepalive_options",
        "must be a dict of numbers, as in {socket.TCP_KEEPIDLE: 60}",
    ),
    "options of keepalive for a socket": (
        {"hosts": [{"address": "unix:///run/redis.sock", "socket_keepalive_options": {}}]},
        "hosts[0].socket_keepalive_options",
        "is for TCP, and this is a Unix socket: remove it",
    ),
    "a class for a provider": (
        {"hosts": [{"host": "a", "credential_provider": UsernamePasswordCredentialProvider}]},
        "hosts[0].credential_provider",
        "must be an object with the method get_credentials() or get_credentials_async()",
    ),
    "a provider and a password": (
        {"hosts": [{"address": "redis://:hidden@a", "credential_provider": UsernamePasswordCredentialProvider()}]},
        "hosts[0].address",
        "the password in the URL does not go together with 'credential_provider': remove one",
    ),
    "an interval without a provider": (
        {"hosts": ["redis://a?credential_refresh_interval=60"]},
        "hosts[0]",
        "needs the provider that is to be asked: add credential_provider",
    ),
    "certificates that are none": (
        {"hosts": [{"address": "rediss://a", "ssl_ca_data": "hidden"}]},
        "hosts[0].ssl_ca_data",
        "must be one or more certificates as PEM text or DER bytes, and these are none",
    ),
    "a file for certificates": (
        {"hosts": [{"address": "rediss://a", "ssl_ca_data": 5}]},
        "hosts[0].ssl_ca_data",
        "must be certificates as PEM text or DER bytes, not 5",
    ),
    "a check by OCSP": (
        {"hosts": [{"address": "rediss://a", "ssl_validate_ocsp": True}]},
        "hosts[0].ssl_validate_ocsp",
        "certificates are not checked by OCSP: remove it",
    ),
    "a context as ssl of a plain address": (
        {"hosts": [{"address": "redis://a", "ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}]},
        "hosts[0].ssl",
        "contradicts the address: rediss:// and valkeys:// are with TLS, the others without",
    ),
    "a context beside hosts": (
        {"hosts": ["rediss://a"], "ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
        "ssl",
        'an SSLContext is written "ssl_context" there',
    ),
    "an option of TLS beside hosts": (
        {"hosts": ["rediss://a"], "ssl_cert_reqs": None},
        "ssl_cert_reqs",
        "write rediss:// in hosts, and other options of TLS beside it",
    ),
    "TLS in the query": (
        {"hosts": ["redis://a?ssl=true"]},
        "hosts[0]",
        "the URL's query has 'ssl': the scheme of the URL says it, as in rediss://localhost:6379",
    ),
    "a context in the query": (
        {"hosts": ["rediss://a?ssl_context=x"]},
        "hosts[0]",
        "the URL's query has 'ssl_context': an object cannot stand in a URL",
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
    "a service without a name": (
        {"hosts": [{"sentinels": [("a", 26379)]}]},
        "hosts[0].master_name",
        "must be the name that the sentinels know the service by, as a str without slashes",
    ),
    "no sentinels": (
        {"hosts": [{"sentinels": [], "master_name": "m"}]},
        "hosts[0].sentinels",
        "must be a list of (host, port) pairs, as in [('sentinel1.example', 26379)]",
    ),
    "a sentinel as text": (
        {"hosts": [{"sentinels": ["a"], "master_name": "m"}]},
        "hosts[0].sentinels[0]",
        "must be a (host, port) pair, not a str",
    ),
    "a database of sentinels": (
        {"hosts": [{"sentinels": [("a", 1)], "master_name": "m", "sentinel_kwargs": {"db": 1}}]},
        "hosts[0].sentinel_kwargs.db",
        "unknown option",
    ),
    "a URL of sentinels without a service": (
        {"hosts": ["redis+sentinel://a,b/0"]},
        "hosts[0]",
        "must end in the database and the service, or the service, as in redis+sentinel://sentinel1,sentinel2/0/mymaster",
    ),
    "a URL with a gap": (
        {"hosts": ["redis+sentinel://a,/0/m"]},
        "hosts[0]",
        "must name a server between all commas",
    ),
    "a service twice": (
        {"hosts": ["redis+sentinel://a/0/m", "redis+sentinel://b/0/m"]},
        "hosts[1]",
        "the same server and database as hosts[0]",
    ),
    "sentinels at an address": (
        {"hosts": [{"address": "redis+sentinel://a/0/m"}]},
        "hosts[0].address",
        "must be the URL of one server; one of several servers is an entry of its own",
    ),
    # Cluster
    "no nodes": ({"hosts": [{"cluster": []}]}, "hosts[0].cluster", "must be a list of (host, port) pairs, as in"),
    "a Cluster beside a server": (
        {"hosts": ["redis://a", {"cluster": [("b", 6379)]}]},
        "hosts[1]",
        "must be the only entry: a Cluster spreads queues and groups over its nodes",
    ),
    "a database of a Cluster": (
        {"hosts": [{"cluster": [("a", 6379)], "db": 1}]},
        "hosts[0].db",
        "does not go together with 'cluster': remove one",
    ),
    "a database in the URL of a Cluster": (
        {"hosts": ["redis+cluster://a,b/1"]},
        "hosts[0]",
        "must end after the nodes: a Cluster has the database 0 alone",
    ),
    "one partition": (
        {"hosts": [{"cluster": [("a", 6379)], "partitions": 1}]},
        "hosts[0].partitions",
        "must be a whole number from 2 to 1024, not 1",
    ),
    "a remap that is no function": (
        {"hosts": [{"cluster": [("a", 6379)], "address_remap": "b"}]},
        "hosts[0].address_remap",
        "must be a function of (host, port), not a str",
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
    "a number for a host's name": ({"host": 5}, "host", "must be the name of a host, as in 'localhost', not 5"),
    "a word for the port": ({"port": "redis"}, "port", f"{_PORT} a str"),
    "a port of zero": ({"port": 0}, "port", f"{_PORT} 0"),
    "a bool for the database": ({"db": True}, "db", "must be a whole number, 0 or more, not True"),
    "a database below zero": ({"db": -1}, "db", "must be a whole number, 0 or more, not -1"),
}
