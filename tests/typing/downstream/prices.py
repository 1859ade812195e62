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
    """A model."""

    type: Literal["tick"] = "tick"
    price: float


class Halt(BaseModel):
    """Another one."""

    type: Literal["halt"] = "halt"
    reason: str


@dataclass(frozen=True)
class Order:
    """A dataclass."""

    amount: int


class Receipt(TypedDict):
    """A TypedDict."""

    number: int


Event: TypeAlias = Annotated[Tick | Halt, Field(discriminator="type")]


async def watch(layer: ChannelLayer) -> list[str]:
    """Receive from groups in each way there is."""
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
    either: list[Subscription[Tick | Halt]] = [layer.subscribe(ticks)]  # what gives ticks gives events
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
            seen.append(tell(message))
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


def tell(event: Tick | Halt) -> str:
    """Say what has happened; the match covers every type of event."""
    match event:
        case Tick():
            return f"{event.price:g}"
        case Halt():
            return event.reason
        case _:
            assert_never(event)


async def trade(layer: ChannelLayer) -> Receipt:
    """Send an order to a worker, and wait for its receipt on a channel of one's own."""
    orders = Channel(layer, "orders", Order)
    receipts = Channel(layer, await layer.new_channel(), Receipt)
    assert_type(orders, Channel[Order])
    assert_type(receipts, Channel[Receipt])
    assert_type(Channel(layer, "plain"), Channel[Message])
    everybody = Group(layer, "receipts", Receipt)
    assert_type(await everybody.add(receipts), None)
    assert_type(await orders.send(Order(amount=3)), None)
    async for order in orders:
        assert_type(order, Order)
        await receipts.send({"number": order.amount})
        break
    assert_type(await everybody.discard(receipts), None)
    assert_type(everybody.load({"number": 1}), Receipt)
    return assert_type(await receipts.receive(), Receipt)
