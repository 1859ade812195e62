"""Credits: places in the capacity of a channel that a receiver gives back to the store of its inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.operations.steps import execute

if TYPE_CHECKING:
    from channel_layer.domain.inbox import Inbox
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = ("return_credits", "return_one_batch")


def return_credits(state: LayerState, inbox: Inbox) -> Operation[None]:
    """Tell the store of every credit of an inbox that is free again, as far as it can be reached.

    The background work may be doing the same: a batch that is told twice counts once, and it is known to have been told
    before the next one is made.
    """
    try:
        while (yield from return_one_batch(state, inbox)):
            pass
    except StoreError:
        return  # the background work tries again


def return_one_batch(state: LayerState, inbox: Inbox) -> Operation[bool]:
    """Tell the store of one batch of credits; whether there was one.

    Raises:
        StoreError: it may not have heard of it; the same batch comes first the next time.
    """
    with state.lock:
        batch = inbox.credit_batch()
    if batch is None:
        return False
    yield from execute(c.ReturnCredits(inbox.shard, inbox.queue, batch.generation, batch.serial, batch.places))
    with state.lock:
        if inbox.returning is batch:
            inbox.returning = None
    return True
