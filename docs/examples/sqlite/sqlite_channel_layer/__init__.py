"""A channel layer in one SQLite file, for any number of processes of one machine."""

from __future__ import annotations

import os.path
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from channel_layer import ChannelLayer
from channel_layer.config import CommonConfig, parse
from channel_layer.options import Accepts
from channel_layer.runtime.event_loops import SystemClock
from channel_layer.stores.simple import SimpleBackend
from sqlite_channel_layer.store import SQLiteStore

if TYPE_CHECKING:
    from channel_layer.ports import Clock

__all__ = ("SQLiteChannelLayer", "SQLiteStore")


class _Config(CommonConfig):
    path: Annotated[str, Field(min_length=1), Accepts("the path of a file")] = Field(description="The file.")


class SQLiteChannelLayer(ChannelLayer):
    """A channel layer in one SQLite file.

    Args:
        path: the file; it is made if it is not there.
        clock: local time; another one is for tests.
        **options: those that every layer has.

    Raises:
        ConfigError: an option is wrong or unknown; it names all that are.
    """

    def __init__(self, path: str, *, clock: Clock | None = None, **options: object) -> None:
        config = parse(_Config, {"path": path, **options})
        clock = clock if clock is not None else SystemClock()
        make = partial(SQLiteStore, config.path, config.rules(), clock)
        super().__init__(config.rules(), SimpleBackend(make, identity=os.path.realpath(config.path)), clock=clock)
