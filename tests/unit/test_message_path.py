"""The path of a message through the code, in each direction, is the one that the architecture page shows."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import pytest

from channel_layer_redis import RedisChannelLayer
from tests.support.servers import Server

_ROOT: Final = Path(__file__).parents[2]
_SRC: Final = _ROOT / "src"
_PAGE: Final = (_ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")


def _path_on_page(heading: str) -> list[tuple[str, str]]:
    """Return the (file, function) pairs of the numbered list below a heading of the page."""
    part = _PAGE.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\d+\. `([\w./]+)`: `([\w.]+)`", part, re.MULTILINE)


@contextmanager
def _calls() -> Generator[list[tuple[str, str]]]:
    """Note each time that a function of ours begins or goes on: (file, qualified name)."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(_SRC)):
            file = Path(frame.f_code.co_filename).relative_to(_SRC).as_posix().removeprefix("adapters/")
            calls.append((file, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def _along(path: list[tuple[str, str]], calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return how far along a path calls went, in its order."""
    rest = iter(calls)
    return [stop for stop in path if stop in rest]


@pytest.mark.usefixtures("settled")
async def test_a_message_is_sent_along_the_documented_path(server: Server, prefix: str) -> None:
    """A `send` passes through the six functions of the page, in their order."""
    path = _path_on_page("Sending")
    assert len(path) == 6
    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        name = await layer.new_channel()
        await layer.send(name, {"n": 1})  # what is made once is there
        with _calls() as calls:
            await layer.send(name, {"n": 2})
    assert _along(path, calls) == path


@pytest.mark.usefixtures("settled")
async def test_a_message_is_received_along_the_documented_path(server: Server, prefix: str) -> None:
    """From the bytes of the server's reply a message passes through the six functions of the page, in their order."""
    path = _path_on_page("Receiving")
    assert len(path) == 6
    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        name = await layer.new_channel()
        with _calls() as calls:
            receiving = asyncio.create_task(layer.receive(name))
            await asyncio.sleep(0)  # it waits
            await layer.send(name, {"n": 1})
            assert await receiving == {"n": 1}
    assert _along(path, calls) == path
