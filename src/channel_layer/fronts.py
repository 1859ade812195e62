"""A backend in front of another one, as far as it changes nothing: what stands there says only what it does.

Whoever hinders a store or translates for it has to pass everything else on, and forgetting to would be found late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channel_layer.ports import Backend, Capabilities

__all__ = ("Front",)


class Front:
    """All of a backend but for `channel_layer.ports.Backend.open`, which a subclass adds.

    Args:
        backend: the one behind, which does the work.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend: Backend = backend

    @property
    def capabilities(self) -> Capabilities:
        """Those of the backend behind."""
        return self._backend.capabilities

    @property
    def identities(self) -> tuple[str, ...]:
        """Those of the backend behind."""
        return self._backend.identities

    @property
    def connects(self) -> bool:
        """As the backend behind."""
        return self._backend.connects

    def forked(self) -> None:
        """Tell the backend behind."""
        self._backend.forked()
