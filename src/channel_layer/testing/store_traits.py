"""Finds out what a store can do, and by which clock its leases end, before its replies are tested."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.names import Kind, Queue
from channel_layer.errors import StoreError
from channel_layer.testing.command_checks import check_commands
from channel_layer.testing.factories import Violation, VirtualClock, make_rules
from channel_layer.testing.model_state import GUARD

if TYPE_CHECKING:
    from channel_layer.ports import Capabilities, Store
    from channel_layer.testing.factories import MakeStore

__all__ = ("Traits", "examine")

_EXPIRY = 10.0
_AFTER_A_LEASE = 15.5
"""Seconds after which a lease has ended that lasts 1.5 times `_EXPIRY`."""

_SHORT_EXPIRY = 0.04
"""Seconds of ``expiry`` where a lease ends by a real clock, and its end is waited for."""

_LATEST = 0.5
"""Seconds within which such a lease has to end when its time is over."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a store before it is tested."""

    capabilities: Capabilities
    shards: int
    leases_move: bool
    claims_move: bool

    @property
    def general_shards(self) -> int:
        """Shards that may keep anything; a local one, which is the last, keeps normal channels only."""
        return self.shards - self.capabilities.local


async def examine(make_store: MakeStore, wanted: Capabilities | None) -> Traits:
    """Find out what a store can do, and by which clock its leases end.

    The clock that is moved cannot move what a server ends by itself. Such leases never end in an example, which takes
    milliseconds; so their end is awaited here, once, with very short ones.
    """
    clock = VirtualClock()
    backend = make_store(make_rules(expiry=_EXPIRY), clock)
    declared = backend.capabilities
    if wanted is not None and declared != wanted:
        raise Violation(f"The store does not declare the capabilities that were asked for: {declared}, not {wanted}")
    identities = backend.identities
    if not identities or len(set(identities)) < len(identities):
        raise Violation(f"A store has one or more shards, whose identities are all different: {identities}")
    await check_commands(make_store(make_rules(), VirtualClock()), declared)
    store = backend.open()
    try:
        leases_taken = _TwoLeases(store, leases=declared.leases)
        await leases_taken.begin()
        clock.advance(_AFTER_A_LEASE)
        owned, claimed = await leases_taken.look()
    finally:
        await _leave(store)
    if owned or claimed:
        await _await_ends(make_store, declared, owned=owned, claimed=claimed)
    return Traits(declared, len(identities), leases_move=not owned, claims_move=not claimed)


async def _leave(store: Store) -> None:
    with contextlib.suppress(StoreError):
        await store.execute(c.Flush(0, "end"))
    await store.aclose()


class _TwoLeases:
    """An owned inbox and a claimed one, and which of them are still held."""

    def __init__(self, store: Store, *, leases: bool) -> None:
        self._store = store
        self._leases = leases
        self._owned = Queue("specific.me!", Kind.INBOX)
        self._claimed = Queue("claimed!", Kind.INBOX)

    async def begin(self) -> None:
        """Take both."""
        await self._store.execute(c.Pop(0, self._claimed, 0, "anna"))
        if self._leases:
            await self._store.execute(c.AcquireLease(0, self._owned, "generation-0", "", ()))

    async def look(self) -> tuple[bool, bool]:
        """Return whether the first still lives, and whether the second is still held."""
        popped = await self._store.execute(c.Pop(0, self._claimed, 0, "ben"))
        alive = await self._store.execute(c.Alive(0, (self._owned,))) if self._leases else (False,)
        return alive == (True,), popped.held_for is not None


async def _await_ends(make_store: MakeStore, declared: Capabilities, *, owned: bool, claimed: bool) -> None:
    """See leases end by a real clock: not before their time, and promptly then."""
    lease = 1.5 * _SHORT_EXPIRY
    store = make_store(make_rules(expiry=_SHORT_EXPIRY), VirtualClock()).open()
    try:
        await store.run_id(0)
        leases_taken = _TwoLeases(store, leases=declared.leases)
        sent = time.monotonic()
        await leases_taken.begin()
        begun = time.monotonic()
        while owned or claimed:
            asked = time.monotonic()
            owned_now, claimed_now = await leases_taken.look()
            over = (owned and not owned_now) or (claimed and not claimed_now)
            if over and time.monotonic() < sent + lease - GUARD:
                raise Violation(f"A lease lasts 1.5 times expiry: it ended before its {lease:.3f} seconds were over")
            owned, claimed = owned and owned_now, claimed and claimed_now
            if (owned or claimed) and asked > begun + lease + _LATEST:
                what = "of an owned inbox" if owned else "of an inbox that was popped"
                raise Violation(
                    f"A lease lasts 1.5 times expiry: that {what} has not ended, neither by the clock that is moved, "
                    f"15 seconds and more after it was taken for 15, nor by a real one after {lease + _LATEST:.3f} "
                    f"seconds of {lease:.3f}"
                )
    finally:
        await _leave(store)
