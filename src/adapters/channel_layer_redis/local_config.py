"""The CONFIG of the local-and-remote layer: that of the Redis layer, and where this machine's half is.

What is under ``local`` is checked as the IPC layer checks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, TypeGuard

from pydantic import Field, PlainValidator, WithJsonSchema

from channel_layer.config import json_schema, parse
from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import Accepts, NoLocalReaderOption, describe_unknown, describe_value
from channel_layer.urls import Form
from channel_layer_ipc.config import DEFAULT_MEMORY, IPCConfig
from channel_layer_redis.config import RedisConfig

__all__ = ("LocalHalf", "RedisLocalConfig")

_OPTIONS: Final = ("directory", "memory")
"""Those of the IPC layer that stand under ``local``; what else it has is common to both halves."""

_SCHEME_SUFFIX = "+local"
"""Of the scheme of a URL, by which it is told from one of the Redis layer."""

_LOCAL = Accepts('None or a mapping, as in {"directory": "/run/my-site", "memory": 104857600}')


@dataclass(frozen=True, slots=True)
class LocalHalf:
    """Where this machine's half is.

    Attributes:
        directory: of its files; None: see `channel_layer_ipc.config.IPCConfig`.
        memory: bytes of messages at most.
    """

    directory: Path | None = None
    memory: int = DEFAULT_MEMORY


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _local(value: object) -> LocalHalf:
    if isinstance(value, LocalHalf):
        return value
    if not _is_mapping(value):
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
    return LocalHalf(config.directory, config.memory)


def _local_schema() -> dict[str, object]:
    properties = json_schema(IPCConfig)["properties"]
    own = {name: found for name, found in properties.items() if name in _OPTIONS} if _is_mapping(properties) else {}
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

    local: Annotated[LocalHalf, PlainValidator(_local), WithJsonSchema(_local_schema()), _LOCAL] = Field(
        default=LocalHalf(),
        json_schema_extra={"default": {}},
        description=(
            "This machine's half, which keeps the normal channels that somebody here reads: its `directory` and its "
            "`memory`, as of the IPC layer. All processes of this machine need the same directory."
        ),
    )
    no_local_reader: Annotated[NoLocalReaderOption, Accepts('"remote", "queue" or "error"')] = Field(
        default="remote",
        description=(
            'What becomes of a message to a normal channel that nobody on this machine receives from. `"remote"`: it '
            "goes through Redis, so that a worker on another machine gets it, and what waits here goes there too. "
            '`"queue"`: it waits here until somebody comes, as with asgi_redis. `"error"`: `send` raises '
            "`NoLocalReader`."
        ),
    )

    @classmethod
    def conflicts(cls, options: Mapping[str, object]) -> Iterable[FieldError]:
        """Find messages that there would never be room for here, and what is wrong between the other options."""
        yield from super().conflicts(options)
        local = options.get("local")
        memory = local.get("memory", DEFAULT_MEMORY) if _is_mapping(local) else DEFAULT_MEMORY
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
        """Read the options of a query, of which ``directory`` and ``memory`` are this machine's."""
        options = super().read_query(query, errors, others)
        local = {name: options.pop(name) for name in _OPTIONS if name in options}
        return {**options, "local": local} if local else options
