"""The CONFIG of the IPC layer: the common options, where its files are, and how much memory they may take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator, WithJsonSchema

from channel_layer.config import CommonConfig
from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import Accepts, describe_value
from channel_layer.urls import Form
from channel_layer_ipc._environment import MIN_MEMORY, largest_message

__all__ = ("DEFAULT_MEMORY", "IPCConfig")

DEFAULT_MEMORY = 100 * 1024 * 1024
"""Bytes."""

_MAX_MEMORY = 1 << 40

_DIRECTORY = Accepts("None or the absolute path of a directory, a str or a Path")


def _directory(value: object) -> Path | None:
    if value is None:
        return None
    problem = f"must be {_DIRECTORY.text}, not {describe_value(value)}"
    if isinstance(value, (str, Path)):
        path = Path(value).expanduser()
        if "\0" not in str(path) and path.is_absolute():
            return path
        problem = f"must be {_DIRECTORY.text}: processes that are started elsewhere have to find it, too"
    raise ConfigError([FieldError("directory", problem)])


class IPCConfig(CommonConfig):
    """The options of the IPC layer. Made by `parse`."""

    refused: ClassVar[Mapping[str, str]] = {
        name: text for name, text in CommonConfig.refused.items() if name not in ("directory", "memory")
    }

    unset: ClassVar[frozenset[str]] = CommonConfig.unset | {"directory"}

    url_forms: ClassVar[Mapping[str, Form]] = {**CommonConfig.url_forms, "directory": "text", "memory": "number"}

    directory: Annotated[
        Path | None, PlainValidator(_directory), WithJsonSchema({"type": ["string", "null"]}), _DIRECTORY
    ] = Field(
        default=None,
        description=(
            "Where the files are. It is made if it is missing, has to belong to the user who runs the processes, and "
            "must not be accessible to other users. `None`: a private one in `/dev/shm` where there is such a place, "
            "else in `$XDG_RUNTIME_DIR`, else in the directory for temporary files."
        ),
    )
    memory: Annotated[
        int,
        Field(ge=MIN_MEMORY, le=_MAX_MEMORY),
        Accepts("a whole number of bytes, 4194304 (4 MiB) or more"),
    ] = Field(
        default=DEFAULT_MEMORY,
        description=(
            "Bytes that all messages and groups of this prefix may take. It is taken as it is needed, in steps of "
            "4 MiB. When it is used up, `send` raises `ChannelFull` and `group_send` drops. It should hold what waits "
            "at the worst of times; `max_message_size` may be at most a quarter of it."
        ),
    )

    @classmethod
    def conflicts(cls, options: Mapping[str, object]) -> Iterable[FieldError]:
        """Find messages that there would never be room for, and what is wrong between the common options."""
        yield from super().conflicts(options)
        memory = options.get("memory", DEFAULT_MEMORY)
        size = options.get("max_message_size", cls.model_fields["max_message_size"].default)
        if isinstance(memory, int) and isinstance(size, int) and memory >= MIN_MEMORY:
            most = largest_message(memory)
            if size > most:
                problem = f"must be at most a quarter of memory, {most} bytes: lower it, or raise memory"
                yield FieldError("max_message_size", problem)
