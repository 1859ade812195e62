"""What a process does whose threads gevent or eventlet has replaced: calls of a layer from many greenlets at once.

    python -m tests.support.greenlets gevent before together redis://...

Each scenario prints what came of it as JSON. It runs in a process of its own, because nothing takes the patches back.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer import ChannelLayer

__all__ = ("GREENLETS", "main")

GREENLETS = 40
"""More than the connections that a layer keeps for the commands of threads."""

_SECONDS = 30.0


def patch(library: str) -> None:
    """Let the library replace what blocks."""
    if library == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    else:
        importlib.import_module("eventlet").monkey_patch()


def make(url: str) -> ChannelLayer:
    """Make a layer; the package is imported here if it has not been."""
    layer: ChannelLayer = importlib.import_module("channel_layer").from_url(url)
    return layer


def together(url: str) -> object:
    """Wait in many greenlets at once, and send to each of them when all wait."""
    layer = make(url).blocking
    waiting: list[int] = []
    got: dict[int, object] = {}

    def wait(number: int) -> None:
        waiting.append(number)
        channel, message = layer.receive([f"queue.{number}"], block=True, block_timeout=_SECONDS)
        got[number] = message and [channel, message["n"]]

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(GREENLETS)]
    for thread in threads:
        thread.start()
    while len(waiting) < GREENLETS:  # if the wait of one held up the others, they would not come to theirs
        time.sleep(0.01)
    sending = [
        threading.Thread(target=layer.send, args=(f"queue.{number}", {"n": number})) for number in range(GREENLETS)
    ]
    for thread in sending:
        thread.start()
    for thread in (*sending, *threads):
        thread.join(_SECONDS)
    return [got.get(number) for number in range(GREENLETS)]


def everything(url: str) -> object:
    """Make every other call once."""
    layer = make(url)
    blocking = layer.blocking
    reply = blocking.new_channel("reply?")
    for channel in (reply, "daphne.host!a", "worker"):
        blocking.group_add("group", channel)
    members = blocking.group_channels("group")
    blocking.group_send("group", {"n": 1})
    came = [blocking.receive([channel], block=True)[0] for channel in (reply, "daphne.host!", "worker")]
    blocking.group_discard("group", "worker")
    blocking.send("worker", {"n": 2})
    pending = blocking.channel_statistics("worker")["messages_pending"]
    blocking.flush()
    left = blocking.receive(["worker"])
    blocking.close()
    return {
        "members": len(members),
        "came": came == [reply, "daphne.host!a", "worker"],
        "pending": pending,
        "left": left,
    }


def asynchronous(url: str) -> object:
    """Call the asynchronous interface; return what came of each call."""
    async_to_sync = importlib.import_module("asgiref.sync").async_to_sync
    layer = make(url)
    outcomes: list[list[str]] = []
    calls: list[Callable[[], object]] = [
        lambda: async_to_sync(layer.send)("queue", {"n": 1}),
        lambda: async_to_sync(layer.receive)("queue")["n"],
        lambda: bool(async_to_sync(layer.new_channel)()),
        lambda: async_to_sync(layer.group_send)("group", {"n": 2}),
    ]
    for call in calls:
        try:
            outcomes.append(["returned", str(call())])
        except Exception as exc:  # noqa: BLE001 - it is what the test asks for
            outcomes.append([type(exc).__name__, str(exc)])
    return outcomes


def forked(url: str) -> object:
    """Use a layer, fork, and use it in the child as well."""
    layer = make(url)
    layer.blocking.send("queue", {"n": 0})
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if together(url) == [[f"queue.{n}", n] for n in range(GREENLETS)] else 2
            layer.blocking.send("queue", {"n": 1})
            layer.blocking.receive(["queue"])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return [os.waitstatus_to_exitcode(status), layer.blocking.receive(["queue"])[1] is not None]


def dropped(url: str) -> object:
    """Claim an inbox, drop the layer, and receive from the inbox through another one."""
    layer = make(url)
    layer.blocking.send("daphne.host!a", {"n": 1})
    first = layer.blocking.receive(["daphne.host!"])
    del layer
    layer = make(url)
    layer.blocking.send("daphne.host!a", {"n": 2})
    return [first, layer.blocking.receive(["daphne.host!"])]


_SCENARIOS: dict[str, Callable[[str], object]] = {
    "together": together,
    "everything": everything,
    "asynchronous": asynchronous,
    "forked": forked,
    "dropped": dropped,
}


def main(library: str, moment: str, scenario: str, url: str) -> None:
    """Do what one scenario says.

    Args:
        library: ``gevent`` or ``eventlet``.
        moment: when it patches: ``before`` the layer is imported, ``after`` that, or, like gunicorn, in a ``worker``
            that was forked from a process that has used a layer.
        scenario: what to do then.
        url: of the layer.
    """
    if moment == "after":
        importlib.import_module("channel_layer")
        for adapter in ("ipc", "memory", "redis"):
            importlib.import_module(f"channel_layer_{adapter}")
    elif moment == "worker":
        layer = make(url)
        layer.blocking.send("queue", {"n": 0})
        layer.blocking.receive(["queue"])
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            raise SystemExit(os.waitstatus_to_exitcode(status))
    patch(library)
    print(json.dumps(_SCENARIOS[scenario](url)), flush=True)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
