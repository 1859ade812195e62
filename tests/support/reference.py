"""Writes docs/reference/configuration.md and the schemas beside it from the configuration models.

What the page says of an option (its default, what it takes and does) and of a mistake is what the code says,
so it cannot drift; a test compares. To write it anew: ``python -m tests.support.reference``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from textwrap import fill

from pydantic.fields import FieldInfo

from channel_layer.config import CommonConfig, options_from_url, parse
from channel_layer.errors import ConfigError
from channel_layer.options import Accepts
from channel_layer_cli._config import layer_schema, settings_schema
from channel_layer_ipc.config import IPCConfig
from channel_layer_memory.config import MemoryConfig
from channel_layer_redis.addresses import ClusterNodes, HostsEntry, SentinelService, TCPAddress
from channel_layer_redis.config import RedisConfig
from channel_layer_redis.credentials import REFRESH_INTERVAL
from channel_layer_redis.hosts import OPTIONS, URL_OPTIONS, parse_hosts
from channel_layer_redis.local_config import LocalStoreOptions, RedisLocalConfig
from tests.support.mistakes import MISTAKES

__all__ = ("PAGE", "configuration", "schemas")

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"

_SERVERS = (
    "redis://localhost:6379/0",
    "redis://localhost",
    "redis://user:secret@redis.example:6380/2",
    "redis://:p%40ss@redis.example",
    "redis://[::1]:6379",
    "rediss://redis.example:6380",
    "valkey://valkey.example",
    "valkeys://valkey.example/1",
    "unix:///run/redis.sock",
    "unix://:secret@/run/redis.sock?db=3",
    "rediss://redis.example?ssl_ca_certs=/etc/ssl/redis-ca.pem",
    ("redis.example", 6379),
    {"host": "redis.example", "db": 1, "password": "secret"},
    {"host": "redis.example", "ssl": True, "ssl_ca_certs": "/etc/ssl/redis-ca.pem"},
    "redis+sentinel://:secret@sentinel1.example,sentinel2.example:26380/0/mymaster",
    {"sentinels": [("sentinel1.example", 26379)], "master_name": "mymaster", "password": "secret"},
    "redis+cluster://:secret@node1.example,node2.example",
    {"address": "rediss://redis.example:6380", "ssl_cert_reqs": "none"},
    {"host": "redis.example", "port": "6379", "client_name": "site"},
)
"""Servers as they may be written, one for each form and for what can be said in it."""

_SEVERAL: Mapping[str, object] = {
    "hosts": ["redis://:secret@redis.example:6379/x", ("localhost", "redis")],
    "expiry": -1,
    "capcity": 200,
}
"""Mistakes in one configuration."""

_QUERIES = (
    "prefix=chat:",
    "expiry=0.5",
    "group_expiry=none",
    "capacity=200",
    "channel_capacity=http.*:50&channel_capacity=re:^chat:20",
    "symmetric_encryption_keys=KEY1&symmetric_encryption_keys=KEY2&blind_names=KEY1",
    "symmetric_encryption_keys=KEY1&blind_names=true",
    "faults=refuse:0.01&faults=delay:0.2",
)
"""Options in a query, one for each way to write them."""

_WIDEST = 160
"""Characters of a mistake that the page shows as it is written; a number of 400 digits is none of them."""

_MORE = {
    "hosts": "See [Servers](#servers).",
    "channel_capacity": "See [Capacity by channel name](#capacity-by-channel-name).",
}
"""Where the page says more about an option."""

_TEMPLATE = Template(
    """\
# Configuration

<!-- Generated from the configuration models by `python -m tests.support.reference`: edit those. -->

Every option is a keyword argument of the layer and, with Django Channels, a key of `CONFIG` in the
settings:

```python
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channel_layer_redis.RedisChannelLayer",
        "CONFIG": {
            "hosts": ["redis://localhost:6379/0"],
            "capacity": 200,
        },
    },
}
```

```python
from channel_layer_redis import RedisChannelLayer

layer = RedisChannelLayer(hosts=["redis://localhost:6379/0"], capacity=200)
```

No option is required. Making a layer connects to nothing: it reads the options, and raises an error if any is
[wrong](#mistakes). Types are strict: `5` is a number, `"5"` and `True` are not.

All processes of a project need the same configuration. To check one without starting anything, see [check your
configuration](../how-to/check-your-configuration.md).

## Options

$table

Names and defaults are those of asgi_redis; `max_message_size`, `inbox_capacity`, `timeout` and `faults` are new.

### Of the Redis layer

$redis
### Of the local-and-remote layer

Those of the Redis layer, and:

$halves
### Of the IPC layer

$ipc
### Of every layer

$common
## Capacity by channel name

```python
import re

layer = RedisChannelLayer(
    capacity=100,
    channel_capacity={
        "http.request": 200,  # this channel
        "http.*": 50,  # every other that begins with "http."
        re.compile(r"websocket\\.(send|receive)"): 80,  # all that begin so
        "re:chat[.-]": 20,  # the same kind, for configuration files that hold only text
    },
)
```

The patterns are tried in the order in which they are written, and the first that matches decides; a name
that none matches has `capacity`. The name is the full one that is given to `send`: `specific.abc!x`, not
its inbox.

- A `str` is a glob for the whole name; upper and lower case differ. `*` is any text, `?` any one
  character (a question mark, too), `[abc]` and `[a-z]` are one of these characters, `[!abc]` is any
  other.
- An `re.Pattern`, or a `str` that begins with `re:`, is a regular expression. It has to match at the
  start of the name, but not up to its end.

A glob that can match no name is an error: an empty one, a `[` that is never closed, a character or a set of
characters that no channel name has.

## Servers

`hosts` is a list, even for one server. Each entry is a URL, a `(host, port)` pair or a dict:

$servers

The defaults are the host `localhost`, the port 6379 and the database 0. `valkey://` is the same as
`redis://`, and `valkeys://` as `rediss://`. In the login and the options of a URL, the characters
`%` `/` `?` `#` `@` and spaces are written `%25` `%2F` `%3F` `%23` `%40` and `%20`. `hosts=["localhost",
6379]`, as asgi_redis wrote a single pair, works too.

`host`, `port` and `db` are short for one server:

```python
layer = RedisChannelLayer(host="redis.example", db=4)
```

### Options of one server

They are written in the dict, or in the query of the URL (all but $objects), and have the names that redis-py has for
them:

$host_options

A dict holds `host` and `port`, or a URL as its `address`. A port and a database may be text of digits, as environment
variables are. Certificates are read when the layer first connects. Options of redis-py that change nothing here are
accepted with a `ConfigWarning`; those that cannot be honoured are an error that says what to do. [Migrate from
channels_redis](../how-to/migrate-from-channels_redis.md#options-of-a-host) has a list of both.

### Credentials that change

Managed services give out tokens in place of a password, and end them after minutes. A `credential_provider` gives the
one that is valid now. It is an object of redis-py's protocol: with the method `get_credentials()`,
`get_credentials_async()` or both, which return `(username, password)` or `(password,)`.

```python
class FromFile:
    def get_credentials(self) -> tuple[str, str]:
        with open("/run/secrets/redis") as file:
            return "site", file.read().strip()


layer = RedisChannelLayer(hosts=[{"host": "redis.example", "ssl": True, "credential_provider": FromFile()}])
```

- It is asked each time a connection is made, and again while a connection lives, every `credential_refresh_interval`
  seconds. When the answer has changed, the connection logs in anew with it, between two reads if it waits for messages.
  The default of $refresh seconds suits the libraries of the clouds, which give out a new token for the last minutes of
  the old one (Google's in the last 225 seconds, Microsoft's 300); a provider of your own has to do so, too. This
  holds for redis-py's streaming providers, such as those of `redis-entraid`, as well; the layer does not use their
  callbacks.
- In an event loop `get_credentials_async()` is awaited. A provider that only has `get_credentials()` may block: it is
  called in a thread of its own. `layer.blocking` prefers `get_credentials()`, in such a thread too, because of the
  layer's `timeout`. It runs a provider without it in an event loop of its own, which there cannot be under gevent and
  eventlet. So a provider has to stand calls from several threads.
- A provider that fails at a connect, or takes longer than the `timeout`, is a `StoreError` that names it, and is
  `retryable`. Neither that error nor the log shows what it returned, nor the text of its own error.
- When it fails later, or the server refuses the new login, the connection stays as it is, and the log has one warning
  with the server's address, for all connections of the process to that server, until one of them succeeds. A login anew
  is a line at the level `DEBUG`; the first one after such a warning is at `INFO`.

### Several servers

```python
layer = RedisChannelLayer(
    hosts=[
        "redis://redis1.example",
        ("redis2.example", 6379),
        {"host": "redis3.example", "password": "secret"},
    ]
)
```

Each queue and each group lives on one server, chosen by what the table above shows under *identity*: the
address and the database, without credentials and scheme. So passwords, TLS and the order of the list may
change at any time. A server that is added or removed moves only its share of the queues and groups; what
waits in those is lost.

Two entries with the same identity are an error. The layer does not notice that `localhost` and `127.0.0.1`
are one server: write each server in the same way in all processes.

### Sentinel

A service that sentinels watch is one entry: whichever server is its primary keeps its share of the queues and groups.

```python
service = {
    "sentinels": [("sentinel1.example", 26379), ("sentinel2.example", 26379), ("sentinel3.example", 26379)],
    "master_name": "mymaster",
    "password": "secret",
    "sentinel_kwargs": {"password": "another secret"},
}
```

The options beside `master_name` are for the connections to the primary. Those for the sentinels stand in
`sentinel_kwargs`, and none of the others applies there; in a URL they are `sentinel_username` and `sentinel_password`,
and TLS is for both. Several services are several entries. See [Use Redis Sentinel](../how-to/redis-sentinel.md).

### Cluster

A Cluster is the only entry: some of its nodes, which name the others.

```python
cluster = {"cluster": [("node1.example", 6379), ("node2.example", 6379)], "partitions": 64, "password": "secret"}
```

All options of a server go with it but `db`, for every node; its URL is `redis+cluster://user:password@node1,node2`, or
`rediss+cluster://` with TLS.

- `partitions`, from 2 to 1024, `64` by default: over how many parts queues and groups are spread; it is the same in all
  processes, whatever nodes there are.
- `address_remap`: a function from the (host, port) that a node announces to that at which it can be reached, as in
  redis-py. Not in a URL.

See [Use Redis Cluster](../how-to/redis-cluster.md).

## In a URL

One environment variable can hold a whole configuration: the URL of a server, with the options of the layer in its
query.

```python
import channel_layer

layer = channel_layer.from_url("redis://:secret@redis.example:6379/0?prefix=chat:&capacity=200&expiry=30")
other = RedisChannelLayer.from_url("rediss://redis1.example?host=redis2.example:6380&host=redis3.example")
small = channel_layer.from_url("memory://?capacity=10")
```

`from_url` picks the layer by the scheme; the same method of a class makes that class. `channel_layer.config_from_url`
checks a URL and returns the model. A mistake is a `ConfigError` that names the parameters and never repeats their
values.

$url_options

Each `host` adds a server, written `name`, `name:port` or `name:port/db`. The scheme, the login, the TLS options and,
where it has none of its own, the database are those of the URL. Several sockets, or servers with different logins, need
`hosts`. The options of one server in the query are those [above](#options-of-one-server). In a query the characters `&`
`+` `%` `#` `@` and spaces are written `%26` `%2B` `%25` `%23` `%40` and `%20`.

## As a schema

`channel-layer schema` prints a JSON Schema, with which editors complete and check a configuration in JSON or TOML;
`--layer` prints that of one layer. The schemas are also published here: [of a file](channel-layers.schema.json), [of
the Redis layer](redis.schema.json), [of the local-and-remote layer](redis-local.schema.json), [of the IPC
layer](ipc.schema.json), [of the memory layer](memory.schema.json). A schema describes names, types and ranges. Other
rules, such as two options that exclude each other, are checked only by the layer and by `channel-layer check`.

## Mistakes

All mistakes are reported at once, in one `ConfigError`, which is also a `ValueError`. Its text names each
field as it is written and says what to do; it never contains passwords or keys. Its `errors` hold the same
as data, a `FieldError(field, problem)` for each.

```python
from channel_layer import ConfigError

config = {
$several
}
try:
    RedisChannelLayer(**config)
except ConfigError as error:
    print(error)
```

```text
$error
```

$mistakes
"""
)


def configuration() -> str:
    """Return the page."""
    common = CommonConfig.model_fields
    redis = {name: field for name, field in RedisConfig.model_fields.items() if name not in common}
    ipc = {name: field for name, field in IPCConfig.model_fields.items() if name not in common}
    halves = {name: field for name, field in RedisLocalConfig.model_fields.items() if name not in {**common, **redis}}
    return _TEMPLATE.substitute(
        table=_table(
            ("option", "default", "takes"),
            (
                (f"[`{name}`](#{name})", f"`{_default(field)}`", _takes(field))
                for name, field in {**redis, **halves, **ipc, **common}.items()
            ),
        ),
        redis=_described(redis),
        halves=_described(halves),
        ipc=_described(ipc),
        common=_described(common),
        url_options=_table(
            ("in the query", "in CONFIG"),
            ((f"`{query}`", f"`{_from_query(query)}`") for query in _QUERIES),
        ),
        servers=_table(
            ("written", "identity", "TLS"),
            (
                (f"`{_written(server)}`", f"`{host.identity}`", _speaks_tls(host))
                for server in _SERVERS
                for host in parse_hosts([server])
            ),
        ),
        objects=" and ".join(", ".join(f"`{name}`" for name in _no_query()).rsplit(", ", 1)),
        refresh=f"{REFRESH_INTERVAL:g}",
        host_options=_table(("option", "meaning"), ((f"`{name}`", meaning) for name, meaning in OPTIONS.items())),
        several="\n".join(f"    {_written(name)}: {_written(value)}," for name, value in _SEVERAL.items()),
        error=_error(_SEVERAL),
        mistakes=_table(
            ("mistake", "written", "error"),
            (
                (name, f"`{written}`", f"`{error.field}`: {error.problem}")
                for name, (options, _, _) in MISTAKES.items()
                for error in _error(options).errors
                if len(written := ", ".join(f"{key}={_written(value)}" for key, value in options.items())) <= _WIDEST
                and " object at 0x" not in written
            ),
        ),
    )


def _no_query() -> list[str]:
    return [name for name in OPTIONS if name not in URL_OPTIONS]


def _from_query(query: str) -> str:
    """Show what a query says as it would be written in a CONFIG."""
    options = options_from_url(MemoryConfig, f"memory://?{query}")
    return ", ".join(f'"{name}": {_written(value)}' for name, value in options.items())


def schemas() -> dict[Path, str]:
    """Return the schemas by the file that each is in."""
    made = {
        "channel-layers": settings_schema(),
        **{name: layer_schema(name) for name in ("ipc", "memory", "redis", "redis-local")},
    }
    return {
        PAGE.with_name(f"{name}.schema.json"): json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in made.items()
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _described(fields: Mapping[str, FieldInfo]) -> str:
    return "\n".join(
        f"#### `{name}`\n\n{fill(' '.join(filter(None, [field.description, _MORE.get(name)])), 110)}\n\n"
        f"Default: `{_default(field)}`. Takes {_takes(field)}.\n"
        for name, field in fields.items()
    )


def _speaks_tls(entry: HostsEntry) -> str:
    server = entry.server if isinstance(entry, SentinelService) else entry
    server = server.nodes[0] if isinstance(server, ClusterNodes) else server
    return "yes" if isinstance(server, TCPAddress) and server.tls is not None else "no"


def _takes(field: FieldInfo) -> str:
    return next(item.text for item in field.metadata if isinstance(item, Accepts))


def _default(field: FieldInfo) -> str:
    """Show a default as it would be written."""
    value: object = field.get_default(call_default_factory=True)
    if value == (TCPAddress(),):
        return '[("localhost", 6379)]'
    if value == ():
        return "[]"
    if isinstance(value, Mapping) or value == LocalStoreOptions():
        return "{}"
    return f"{value:g}" if isinstance(value, float) else _written(value)


def _written(value: object) -> str:
    """Show a value in the quotes that this page uses."""
    return repr(value).replace("'", '"')


def _error(options: Mapping[str, object]) -> ConfigError:
    try:
        parse(RedisConfig, options)
    except ConfigError as error:
        return error
    raise AssertionError(f"{options} is no mistake any more")


if __name__ == "__main__":
    PAGE.write_text(configuration(), encoding="utf-8")
    for file, text in schemas().items():
        file.write_text(text, encoding="utf-8")
