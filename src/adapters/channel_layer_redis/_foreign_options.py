"""Options of channels_redis and redis-py that are not options here: why each is not needed, or what to do instead.

Projects that move here have them in their settings. One that changes nothing is accepted with a warning; one that
cannot be honoured is an error, because an option that is silently ignored is worse than none.

Source: the constructors of channels_redis 3 and 4 and of redis-py 4.2 to 8.1, and the pools of aioredis 1.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("DEFAULTS", "ONLY", "REFUSED", "REFUSED_IN_LAYER", "UNNEEDED", "UNNEEDED_IN_LAYER")

_RETRIES = "the layer reconnects by itself, and never sends a command twice"
_POOL = "an event loop has one connection to a server for commands, and others only for what waits"
_BYTES = "the layer decodes what it has written itself"
_PROTOCOL = "the layer reads and writes Redis's protocol in its own way"
_LIBRARY = "the layer tells the server no library; `client_name` names its connections"

UNNEEDED: Final[Mapping[str, str]] = {
    "socket_timeout": "the layer's own option `timeout` limits every command, and a wait for messages has no limit",
    "retry": _RETRIES,
    "retry_on_error": _RETRIES,
    "retry_on_timeout": _RETRIES,
    "max_connections": _POOL,
    "minsize": _POOL,
    "maxsize": _POOL,
    "queue_class": _POOL,
    "single_connection_client": _POOL,
    "auto_close_connection_pool": "the layer closes its connections itself",
    "loop": "each event loop gets connections of its own",
    "decode_responses": _BYTES,
    "encoding": _BYTES,
    "encoding_errors": _BYTES,
    "encoder_class": _PROTOCOL,
    "parser_class": _PROTOCOL,
    "command_packer": _PROTOCOL,
    "socket_read_size": _PROTOCOL,
    "protocol": _PROTOCOL,
    "legacy_responses": _PROTOCOL,
    "lib_name": _LIBRARY,
    "lib_version": _LIBRARY,
    "driver_info": _LIBRARY,
    "socket_type": "connections are made to whatever address family the host has",
    "maint_notifications_config": "the layer connects anew when a server goes away",
    "check_connection": "the layer checks each connection before it uses it",
}
"""Options of a server that change nothing here, and why."""

_RECONNECTS = "the layer reconnects by itself"
_NO_EVENTS = (
    "consumers are not told: the layer reconnects, what waits stays on the server, and memberships are kept, so "
    "remove it; what is lost all the same is counted in statistics()"
)

UNNEEDED_IN_LAYER: Final[Mapping[str, str]] = {
    "serializer_format": "the layer always writes msgpack",
    "random_prefix_length": "equal messages are told apart without a random prefix",
    "on_disconnect": _RECONNECTS,
    "on_reconnect": _RECONNECTS,
    **UNNEEDED,
}
"""Options beside ``hosts`` that change nothing here, and why; some of them only with one value, see `ONLY`."""

ONLY: Final[Mapping[str, tuple[object, str]]] = {
    "serializer_format": (
        "msgpack",
        "the layer always writes msgpack: remove it; what msgpack has no form for, send as a text",
    ),
    "on_disconnect": (None, _NO_EVENTS),
    "on_reconnect": (None, _NO_EVENTS),
}
"""The only values with which these options change nothing, and what to do about any other."""

_INTERNAL = "redis-py passes it to itself: remove it"
_OCSP = 'certificates are not checked by OCSP: remove it, or give an "ssl_context" that makes the checks you need'

REFUSED: Final[Mapping[str, str]] = {
    "connection_class": "the layer has connections of its own: write rediss:// for TLS, unix:// for a socket, and "
    "remove it",
    "connection_pool": "the layer has connections of its own: write the options of the pool here instead",
    "connection_kwargs": "write its options here, without the dict around them",
    "redis_connect_func": "the layer calls nothing when it connects: write credential_provider for a login, "
    "client_name for a name, and remove it",
    "event_dispatcher": "the layer has no events of redis-py: remove it; credential_provider works without",
    "ssl_validate_ocsp": _OCSP,
    "ssl_validate_ocsp_stapled": _OCSP,
    "ssl_ocsp_context": _OCSP,
    "ssl_ocsp_expected_cert": _OCSP,
    "cache": "replies are never cached: remove it",
    "cache_config": "replies are never cached: remove it",
    "cache_factory": "replies are never cached: remove it",
    "is_master": "the layer writes, and only the master takes that: remove it",
    "path": 'a socket is written {"address": "unix:///run/redis.sock"}',
    "unix_socket_path": 'a socket is written {"address": "unix:///run/redis.sock"}',
    **dict.fromkeys(
        (
            "himport_registry",
            "maint_notifications_pool_handler",
            "maintenance_notification_hash",
            "maintenance_state",
            "orig_host_address",
            "orig_socket_connect_timeout",
            "orig_socket_timeout",
            "oss_cluster_maint_notifications_handler",
            "sentinel_manager",
        ),
        _INTERNAL,
    ),
}
"""Options of a server that cannot be honoured, and what to do."""

DEFAULTS: Final[Mapping[str, object]] = {
    "ssl_validate_ocsp": False,
    "ssl_validate_ocsp_stapled": False,
    "is_master": True,
}
"""Values of refused options that ask for nothing; None asks for nothing in all of them."""

REFUSED_IN_LAYER: Final[Mapping[str, str]] = {
    "connection_kwargs": "write its options in hosts, as in "
    'hosts=[{"host": "localhost", "port": 6379, "client_name": ...}]',
    **dict.fromkeys(
        ("sentinel", "sentinels", "master_name", "sentinel_kwargs"),
        'write it in hosts, as in hosts=[{"sentinels": [("sentinel1.example", 26379)], "master_name": ...}]',
    ),
    "stats_prefix": "an option of asgi_redis that this layer does not need: remove it",
}
"""Options beside ``hosts`` that cannot be honoured, and what to do."""
