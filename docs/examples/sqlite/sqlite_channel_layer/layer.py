"""The layer: its CONFIG, checked, and a store of its own."""

from __future__ import annotations

import os.path
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from channel_layer import ChannelLayer
from channel_layer.config import Accepts, CommonConfig, parse
from channel_layer.loops import SystemClock
from channel_layer.simple import SimpleBackend
from sqlite_channel_layer.store import SQLiteStore

if TYPE_CHECKING:
    from channel_layer.config import Rules
    from channel_layer.ports import Backend, Clock

__all__ = ("SQLiteChannelLayer", "backend")


class SQLiteConfig(CommonConfig):
    """The options of every layer, and one more."""

    path: Annotated[str, Field(min_length=1), Accepts("the path of a file")] = Field(
        description="The file that keeps the messages. It is made if it is not there."
    )


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
        config = parse(SQLiteConfig, {"path": path, **options})
        clock = clock if clock is not None else SystemClock()
        super().__init__(config.rules(), backend(config.path, config.rules(), clock), clock=clock)


def backend(path: str, rules: Rules, clock: Clock) -> Backend:
    """Return the way to a file."""
    return SimpleBackend(partial(SQLiteStore, path, rules, clock), identity=os.path.realpath(path))
