"""Providers of credentials: objects that are asked for a user and a password, by the protocol of redis-py.

The library of a cloud gives out tokens that end after minutes, where a fixed password would stand in the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeGuard, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = (
    "REFRESH_INTERVAL",
    "AsyncCredentialProvider",
    "BlockingCredentialProvider",
    "CredentialProvider",
    "Credentials",
    "is_provider",
)

REFRESH_INTERVAL: Final = 180.0
"""Seconds: libraries give out a new token in the last minutes of the old one (Google's in 225 s, Microsoft's in 300 s).
A provider that is asked within that time has the new one early enough, also for a connection that waits up to 25 s."""

Credentials: TypeAlias = tuple[str] | tuple[str, str]
"""The password, or the user and the password."""


@runtime_checkable
class BlockingCredentialProvider(Protocol):
    """Gives the login; may block, so it is called in a thread of its own."""

    def get_credentials(self) -> Credentials:
        """Return the user and the password, or only the password."""
        ...


@runtime_checkable
class AsyncCredentialProvider(Protocol):
    """Gives the login; awaited in the event loop of the connection."""

    def get_credentials_async(self) -> Awaitable[Credentials]:
        """Return the user and the password, or only the password."""
        ...


CredentialProvider: TypeAlias = BlockingCredentialProvider | AsyncCredentialProvider
"""An object of redis-py's protocol, with one of the two methods or with both."""


def is_provider(value: object) -> TypeGuard[CredentialProvider]:
    """Whether *value* has a method of redis-py's protocol, and is no class."""
    return not isinstance(value, type) and isinstance(value, (BlockingCredentialProvider, AsyncCredentialProvider))
