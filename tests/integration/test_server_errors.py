"""What a server answers with instead of a reply: which errors end a receive(), and which it waits out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from channel_layer import StoreError
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis._replies import UnknownScript, refusal
from tests.support.fake_server import redis_proxy

if TYPE_CHECKING:
    from channel_layer import Message
    from tests.support.servers import Server

PASSING: Final = (
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN The cluster is down",
    "ERR max number of clients reached",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "NOREPLICAS Not enough good replicas to write.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "ERR Error running script (call to f_0123): @user_script:1: -OOM command not allowed when used memory is over it.",
)
"""Refusals of a server that has done nothing and will serve again."""

STRANGE: Final = (
    "ERR the proxy has no backend",
    "ERR Error running script (call to f_0123): @user_script:1: user_script:1: attempt to index a nil value",
    "EXECABORT Transaction discarded because of previous errors.",
    "IOERR error or timeout reading to target instance",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "no colon, no code",
)
"""Errors after which nobody knows what was done."""

PERMANENT: Final = (
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM this user has no permissions to run the 'blpop' command or its subcommand",
    "DENIED Redis is running in protected mode because protected mode is enabled.",
    "ERR unknown command 'EVALSHA', with args beginning with: ",
    "MOVED 3999 127.0.0.1:6381",
    "CROSSSLOT Keys in request don't hash to the same slot",
)
"""Errors that only a person can end."""


DENIED: Final = (
    "ERR The user executing the script can't run this command or subcommand script: 0123, on @user_script:1.",
    "ERR Error running script (call to f_0): @user_script:1: The user executing the script can't run it",
    "ERR Error running script (call to f_0): @user_script:1: Unknown Redis command called from Lua script",
    "ERR ACL failure in script: User u has no permissions to run the 'hget' command script: on @user_script:1.",
    "ERR Unknown Redis command called from script script: 0123, on @user_script:1.",
    "ERR Unknown command called from script script: on @user_script:1.",
)
"""Errors that only a person can end, in the middle of a script: what it did before stays done."""


def test_every_error_says_what_was_done_and_whether_it_passes() -> None:
    """One table of errors: `retryable` and `outcome`, with the server's name and its own words."""
    for texts, retryable, outcome in (
        (PASSING, True, "not_sent"),
        (STRANGE, True, "unknown"),
        (PERMANENT, False, "not_sent"),
        (DENIED, False, "unknown"),
    ):
        for text in texts:
            error = refusal("redis://h:1/0", text)
            assert isinstance(error, StoreError)
            assert (error.retryable, error.outcome) == (retryable, outcome), text
            assert "redis://h:1/0" in str(error)
            assert text in str(error)
    assert isinstance(refusal("h", "NOSCRIPT No matching script. Please use EVAL."), UnknownScript)


class Refusing:
    """Answers commands with an error, some times.

    Args:
        text: the error.
        times: how often.
        names: the commands.
    """

    def __init__(self, text: str, times: int, *names: bytes) -> None:
        self._reply = f"-{text}\r\n".encode()
        self._names = names
        self.left = times
        self.over = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def __call__(self, command: list[bytes]) -> bytes | None:
        """Answer, or have the server answer."""
        if self.left and command[0].upper() in self._names:
            self.left -= 1
            if not self.left:
                self._loop.call_soon(self.over.set)
            return self._reply
        return None


async def receive(layer: RedisChannelLayer, *, blocks: bool) -> Message | None:
    """Receive from a normal channel, in the event loop or in a thread."""
    if not blocks:
        return await layer.receive("jobs")
    _, message = await asyncio.to_thread(layer.blocking.receive, ["jobs"], block=True)
    return message


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
@pytest.mark.parametrize("names", [(b"EVALSHA", b"EVAL"), (b"BLPOP",), (b"HELLO",)], ids=["pop", "wait", "connect"])
@pytest.mark.parametrize("text", [*PASSING, *STRANGE])
async def test_what_passes_does_not_end_a_receive(
    server: Server, prefix: str, text: str, names: tuple[bytes, ...], *, blocks: bool
) -> None:
    """receive() waits out every error that does not need a person: at a pop, a wait or a connection."""
    refusing = Refusing(text, 2, *names)
    async with (
        redis_proxy(lambda: server.port, refusing) as port,
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as sender,
        RedisChannelLayer(hosts=[f"redis://127.0.0.1:{port}/0"], prefix=prefix) as layer,
    ):
        receiving = asyncio.create_task(receive(layer, blocks=blocks))
        await asyncio.wait([receiving, asyncio.create_task(refusing.over.wait())], return_when="FIRST_COMPLETED")
        assert not receiving.done()
        await sender.send("jobs", {"n": 1})
        assert await receiving == {"n": 1}


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
@pytest.mark.parametrize("text", PERMANENT)
async def test_what_needs_a_person_ends_a_receive(server: Server, prefix: str, text: str, *, blocks: bool) -> None:
    """receive() raises an error that only a change of the configuration or the server can end."""
    refusing = Refusing(text, -1, b"EVALSHA", b"EVAL")
    async with (
        redis_proxy(lambda: server.port, refusing) as port,
        RedisChannelLayer(hosts=[f"redis://127.0.0.1:{port}/0"], prefix=prefix) as layer,
    ):
        with pytest.raises(StoreError) as caught:
            await receive(layer, blocks=blocks)
        assert not caught.value.retryable
        assert text in str(caught.value)
        refusing.left = 0
