"""The CONFIG of the local-and-remote layer: that of the Redis layer, and the location of the local store.

What is under ``local`` is checked as the IPC layer checks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import Field, PlainValidator, WithJsonSchema

from channel_layer.config import json_schema, parse
from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import Accepts, NoLocalReaderOption, describe_unknown, describe_value
from channel_layer.urls import Form
from channel_layer_ipc.config import DEFAULT_MEMORY, IPCConfig
from channel_layer_redis._given_options import is_mapping
from channel_layer_redis.config import RedisConfig

__all__ = ("LocalStoreOptions", "RedisLocalConfig")

_OPTIONS: Final = ("directory", "memory")
"""Options of the IPC layer that stand under ``local``; all others are common to both stores."""

_SCHEME_SUFFIX = "+local"
"""Ends the scheme of a URL, and tells it from one of the Redis layer."""

_LOCAL = Accepts('None or a mapping, as in {"directory": "/run/my-site", "memory": 104857600}')


@dataclass(frozen=True, slots=True)
class LocalStoreOptions:
    """The location and the size of the local store.

    Attributes:
        directory: of its files; None: see `channel_layer_ipc.config.IPCConfig`.
        memory: bytes of messages at most.
    """

    directory: Path | None = None
    memory: int = DEFAULT_MEMORY


def _local(value: object) -> LocalStoreOptions:
    if isinstance(value, LocalStoreOptions):
        return value
    if not is_mapping(value):
        raise ConfigError([FieldError("local", f"must be {_LOCAL.text}, not {describe_value(value)}")])
    errors = [
        FieldError(f"local.{name}", describe_unknown(str(name), _OPTIONS)) for name in value if name not in _OPTIONS
    ]
    options = {str(name): option for name, option in value.items() if name in _OPTIONS}
    # Messages that are too large for the memory are found where max_message_size is known: below.
    try:
        config = parse(IPCConfig, {**options, "max_message_size": 1})
    except ConfigError as exc:
        raise ConfigError(
            [*errors, *(FieldError(f"local.{each.field}", each.problem) for each in exc.errors)]
        ) from None
    if errors:
        raise ConfigError(errors)
    return LocalStoreOptions(config.directory, config.memory)


def _local_schema() -> dict[str, object]:
    properties = json_schema(IPCConfig)["properties"]
    own = {name: found for name, found in properties.items() if name in _OPTIONS} if is_mapping(properties) else {}
    return {"type": "object", "properties": own, "additionalProperties": False}


class RedisLocalConfig(RedisConfig):
    """The options of the local-and-remote layer. Made by `parse`."""

    refused: ClassVar[Mapping[str, str]] = {
        **{name: text for name, text in RedisConfig.refused.items() if name not in ("local", "no_local_reader")},
        **{name: f'write it in local, as in local={{"{name}": ...}}' for name in _OPTIONS},
    }

    unset: ClassVar[frozenset[str]] = RedisConfig.unset | {"local"}

    url_forms: ClassVar[Mapping[str, Form]] = {
        **RedisConfig.url_forms,
        "directory": "text",
        "memory": "number",
        "no_local_reader": "text",
    }

    local: Annotated[LocalStoreOptions, PlainValidator(_local), WithJsonSchema(_local_schema()), _LOCAL] = Field(
        default=LocalStoreOptions(),
        json_schema_extra={"default": {}},
        description=(
            "The local store, which keeps the normal channels that have a reader on this machine: its `directory` and "
            "its `memory`, as in the IPC layer. All processes of this machine need the same directory."
        ),
    )
    no_local_reader: Annotated[NoLocalReaderOption, Accepts('"remote", "queue" or "error"')] = Field(
        default="remote",
        description=(
            'What becomes of a message to a normal channel that has no reader on this machine. `"remote"`: it '
            "goes through Redis, so that a worker on another machine gets it, and what waits here goes there too. "
            '`"queue"`: it waits here for a reader, as with asgi_redis. `"error"`: `send` raises '
            "`NoLocalReader`."
        ),
    )

    @classmethod
    def conflicts(cls, options: Mapping[str, object]) -> Iterable[FieldError]:
        """Find a maximum message size that the local store has no room for, and other options in conflict."""
        yield from super().conflicts(options)
        local = options.get("local")
        memory = local.get("memory", DEFAULT_MEMORY) if is_mapping(local) else DEFAULT_MEMORY
        size = options.get("max_message_size", cls.model_fields["max_message_size"].default)
        for error in IPCConfig.conflicts({"memory": memory, "max_message_size": size}):
            yield FieldError(error.field, error.problem.replace("memory", "local.memory"))

    @classmethod
    def read_url(cls, url: str, errors: list[FieldError]) -> dict[str, object]:
        """Read a URL as that of the Redis layer, whose scheme may end in ``+local``."""
        scheme, mark, rest = url.partition("://")
        if mark and scheme.lower().endswith(_SCHEME_SUFFIX):
            url = scheme[: -len(_SCHEME_SUFFIX)] + mark + rest
        return super().read_url(url, errors)

    @classmethod
    def read_query(
        cls, query: Iterable[tuple[str, str]], errors: list[FieldError], others: Iterable[str] = ()
    ) -> dict[str, object]:
        """Read the options of a query, of which ``directory`` and ``memory`` are those of the local store."""
        options = super().read_query(query, errors, others)
        local = {name: options.pop(name) for name in _OPTIONS if name in options}
        return {**options, "local": local} if local else options
