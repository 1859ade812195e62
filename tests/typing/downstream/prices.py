"""Messages of several types, and everything that sends and receives them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, assert_never, assert_type

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from channel_layer import (
    Channel,
    ChannelLayer,
    FieldError,
    Group,
    InvalidFields,
    Message,
    Subscription,
    SubscriptionError,
)

__all__ = ("Event", "Halt", "Order", "Receipt", "Tick", "trade", "watch")


class Tick(BaseModel):
    """A message as a Pydantic model."""

    type: Literal["tick"] = "tick"
    price: float


class Halt(BaseModel):
    """Another message as a Pydantic model."""

    type: Literal["halt"] = "halt"
    reason: str


@dataclass(frozen=True)
class Order:
    """A message as a dataclass."""

    amount: int


class Receipt(TypedDict):
    """A message as a TypedDict."""

    number: int


Event: TypeAlias = Annotated[Tick | Halt, Field(discriminator="type")]


async def watch(layer: ChannelLayer) -> list[str]:
    """Receive from groups in every way."""
    ticks = Group(layer, "ticks", Tick)
    halts = Group(layer, "halts", Halt, invalid="raise")
    events = Group(layer, "events", Event)
    rooms = Group(layer, "rooms")
    assert_type(ticks, Group[Tick])
    assert_type(events, Group[Tick | Halt])
    assert_type(rooms, Group[Message])
    assert_type(layer.subscribe("a", "b"), Subscription[Message])
    assert_type(layer.subscribe(rooms), Subscription[Message])
    assert_type(layer.subscribe(*[ticks, ticks]), Subscription[Tick])
    assert_type(layer.subscribe(ticks, halts), Subscription[Tick | Halt])
    assert_type(layer.subscribe(ticks, halts, rooms), Subscription[Tick | Halt | Message])
    assert_type(layer.subscribe(ticks, halts, rooms, events), Subscription[Tick | Halt | Message])
    either: list[Subscription[Tick | Halt]] = [layer.subscribe(ticks)]  # a subscription is covariant
    assert_type(aiter(either[0]), AsyncIterator[Tick | Halt])
    assert_type(await ticks.send(Tick(price=1)), None)

    seen: list[str] = []
    async with layer.subscribe(ticks, halts) as messages:
        assert_type(messages, Subscription[Tick | Halt])
        assert_type(messages.channels, tuple[str, ...])
        await ticks.send(Tick(price=1))
        await halts.send(Halt(reason="news"))
        async for message in messages:
            assert_type(message, Tick | Halt)
            seen.append(describe(message))
            if len(seen) == 2:
                break
        await layer.group_send("halts", {"type": "halt"})
        try:
            await anext(messages)
        except InvalidFields as error:
            assert_type(error.errors, tuple[FieldError, ...])
            seen.extend(each.field for each in error.errors)
    try:
        await anext(messages)
    except SubscriptionError as error:
        seen.append(type(error).__name__)

    return seen


def describe(event: Tick | Halt) -> str:
    """Return an event as text; the match covers every type of event."""
    match event:
        case Tick():
            return f"{event.price:g}"
        case Halt():
            return event.reason
        case _:
            assert_never(event)


async def trade(layer: ChannelLayer) -> Receipt:
    """Send an order to a worker, and wait for its receipt on a channel of this task."""
    orders = Channel(layer, "orders", Order)
    receipts = Channel(layer, await layer.new_channel(), Receipt)
    assert_type(orders, Channel[Order])
    assert_type(receipts, Channel[Receipt])
    assert_type(Channel(layer, "plain"), Channel[Message])
    readers = Group(layer, "receipts", Receipt)
    assert_type(await readers.add(receipts), None)
    assert_type(await orders.send(Order(amount=3)), None)
    async for order in orders:
        assert_type(order, Order)
        await receipts.send({"number": order.amount})
        break
    assert_type(await readers.discard(receipts), None)
    assert_type(readers.load({"number": 1}), Receipt)
    return assert_type(await receipts.receive(), Receipt)
