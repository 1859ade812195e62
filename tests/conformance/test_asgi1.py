"""The channel layers of ASGI 1 as their specification describes them, sentence by sentence, through `layer.blocking`.

Source: the ASGI channel layer specification, version 1.1: "Channels", "Channel Semantics", "Extensions", "Capacity",
"Format".

Every store runs plain and sealed, except that a Sentinel service runs plain and a Cluster sealed: messages are sealed
above the store, and what is new here is to find a primary, and the slot of a blinded name.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import string
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretBytes

from channel_layer import ChannelLayer, InvalidMessage, InvalidName
from channel_layer.blocking import BlockingChannelLayer
from channel_layer.domain.rules import Encryption
from channel_layer.testing import MakeStore, VirtualClock, make_rules
from tests.conformance.test_kit_stores import within
from tests.support.clusters import Cluster
from tests.support.sentinels import Service
from tests.support.servers import Deployment, ServerKind, ServerPool
from tests.support.stores import IPCWorlds, cluster_stores, halves, memory_stores, redis_stores, service_stores

MakeLayers = Callable[..., BlockingChannelLayer]

_KEY = SecretBytes(b"the SHA-256 of a configured key.")
_ENCRYPTION = {
    "plain": None,
    "sealed": Encryption((_KEY,), "aes-256-gcm", _KEY),
}
_PLACES = [
    *itertools.product(["memory", "ipc", "one-host", "three-databases", "local-and-remote"], _ENCRYPTION),
    ("sentinel", "plain"),
    ("cluster", "sealed"),
]


@pytest.fixture
def clock() -> VirtualClock:
    """It moves every clock."""
    return VirtualClock()


@pytest.fixture(params=_PLACES, ids="-".join)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A store, and whether it is plain or sealed: each in turn."""
    store, encryption = request.param
    return store, encryption


@pytest.fixture
def make_store(
    place: tuple[str, str],
    server_pool: ServerPool,
    get_service: Callable[[ServerKind], Service],
    get_cluster: Callable[[ServerKind], Cluster],
    prefix: str,
    tmp_path: Path,
) -> Generator[MakeStore]:
    """Every store in turn."""
    name, _ = place
    worlds = IPCWorlds(tmp_path / "worlds")
    if name == "memory":
        yield memory_stores()
    elif name == "ipc":
        yield worlds
    elif name == "local-and-remote":
        remote = within(prefix, redis_stores(Deployment((server_pool.get().host(),))))
        yield halves(worlds, remote)
    elif name == "sentinel":
        yield within(prefix, service_stores(get_service(ServerKind.VALKEY)))
    elif name == "cluster":
        yield within(prefix, cluster_stores(get_cluster(ServerKind.VALKEY), 5))
    else:
        count = 1 if name == "one-host" else 3
        yield within(prefix, redis_stores(Deployment(tuple(server_pool.get().host(db) for db in range(count)))))
    worlds.close()


@pytest.fixture
def layers(place: tuple[str, str], make_store: MakeStore, clock: VirtualClock) -> Generator[MakeLayers]:
    """Make a layer over one store, as another process would; plain, or sealed and with hidden names."""
    world = make_rules(capacity=5)
    encryption = _ENCRYPTION[place[1]]
    with ExitStack() as stack:

        def make(*, group_expiry: float | None = 86400.0, max_message_size: int = 100_000) -> BlockingChannelLayer:
            rules = replace(world, encryption=encryption, group_expiry=group_expiry, max_message_size=max_message_size)
            layer = ChannelLayer(rules, make_store(rules, clock), clock=clock)
            stack.callback(lambda: asyncio.run(layer.aclose()))
            return layer.blocking

        yield make


def drain(layer: BlockingChannelLayer, channels: list[str]) -> list[tuple[str, object]]:
    """Receive all that is there."""
    found: list[tuple[str, object]] = []
    while True:
        channel, message = layer.receive(channels)
        if channel is None or message is None:
            return found
        found.append((channel, message))


# -- send and receive --------------------------------------------------------------------------------------------


def test_send_takes_a_channel_and_a_message(layers: MakeLayers) -> None:
    """``send(channel, message)`` puts a message on a channel; ``receive(channels)`` returns both, or two None."""
    sender, receiver = layers(), layers()
    assert receiver.receive(["http.request", "websocket.connect"]) == (None, None)
    sender.send("websocket.connect", {"path": "/"})
    assert receiver.receive(["http.request", "websocket.connect"]) == ("websocket.connect", {"path": "/"})
    assert receiver.receive(["http.request", "websocket.connect"]) == (None, None)


def test_receive_waits_if_it_is_told_to(layers: MakeLayers) -> None:
    """With ``block`` it does not return before a message comes, on whichever channel, or its time is over."""
    sender, receiver = layers(), layers()
    assert receiver.receive(["jobs", "reply?x", "box!"], block=True, block_timeout=0.01) == (None, None)
    for channel in ("jobs", "reply?x", "box!a"):
        found: list[object] = []
        waiter = threading.Thread(target=_receive_into, args=(found, receiver))
        waiter.start()
        sender.send(channel, {"n": 1})
        waiter.join()
        assert found == [(channel, {"n": 1})]


def _receive_into(found: list[object], layer: BlockingChannelLayer) -> None:
    found.append(layer.receive(["jobs", "reply?x", "box!"], block=True))


def test_receive_many_is_the_name_of_old(layers: MakeLayers) -> None:
    """``receive_many`` is ``receive``, and deprecated."""
    layer = layers()
    layer.send("jobs", {"n": 1})
    with pytest.warns(DeprecationWarning, match=r"call receive\(\)"):
        assert layer.receive_many(["jobs"]) == ("jobs", {"n": 1})


def test_each_message_is_received_once(layers: MakeLayers) -> None:
    """Delivery is at most once: what one received, nobody else does."""
    sender, one, other = layers(), layers(), layers()
    for number in range(5):
        sender.send("jobs", {"n": number})
    received = [one.receive(["jobs"]), other.receive(["jobs"]), *drain(one, ["jobs"]), *drain(other, ["jobs"])]
    assert sorted(str(message) for _, message in received) == [str({"n": number}) for number in range(5)]


def test_one_writer_is_received_in_order(layers: MakeLayers) -> None:
    """Messages on a single-reader channel, and in an inbox, come in the order in which one writer sent them."""
    sender, receiver = layers(), layers()
    for channel, source in (("reply?x", "reply?x"), ("box!a", "box!")):
        for number in range(5):
            sender.send(channel, {"n": number})
        assert drain(receiver, [source]) == [(channel, {"n": number}) for number in range(5)]


def test_a_busy_channel_starves_no_quiet_one(layers: MakeLayers) -> None:
    """Of several channels each comes to its turn, however full the others are."""
    sender, receiver = layers(), layers()
    for channel in ("busy", "busy!a", "quiet"):
        sender.send(channel, {})
    for _ in range(20):
        came, _ = receiver.receive(["busy", "busy!", "quiet"])
        if came == "quiet":
            return
        assert came is not None
        sender.send(came, {})
    pytest.fail("the quiet channel did not come to its turn")


# -- names -------------------------------------------------------------------------------------------------------


def test_names_are_text_of_some_letters(layers: MakeLayers) -> None:
    """Names are unicode text of ASCII letters, digits, hyphens, underscores and periods, up to 100 of them."""
    layer = layers()
    letters = string.ascii_letters + string.digits + "-_."
    for name in (letters[:100], "a" * 100, "a?" + "b" * 98, "a!" + "b" * 98):
        layer.send(name, {})
        layer.group_add("".join(random.choices(letters, k=100)), name)
    for wrong in ("", "a" * 101, "a b", "ä", "a\n", "a?b?c", "?a", "!a"):
        with pytest.raises(InvalidName):
            layer.send(wrong, {})


def test_new_channel_takes_a_pattern(layers: MakeLayers) -> None:
    """``new_channel(pattern)`` takes a pattern that ends in a question mark, and returns a name of that beginning."""
    layer = layers()
    names = {layer.new_channel("http.response?") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("http.response?") and len(name) > len("http.response?") for name in names)
    name = names.pop()
    layers().send(name, {"n": 1})
    assert layer.receive([name]) == (name, {"n": 1})


@pytest.mark.parametrize("pattern", ["response", "response!", "resp?onse", "?", "a??", "ä?", "", "a" * 95 + "?"])
def test_any_other_pattern_is_refused(pattern: str) -> None:
    """A pattern that does not end in one question mark, or leaves no valid name, is refused."""
    with pytest.raises(InvalidName):
        ChannelLayer(make_rules(), memory_stores()(make_rules(), VirtualClock())).blocking.new_channel(pattern)


def test_the_mend_is_said() -> None:
    """Who asks for what there is none of is told what there is."""
    layer = ChannelLayer(make_rules(), memory_stores()(make_rules(), VirtualClock())).blocking
    with pytest.raises(InvalidName, match=r"await layer.new_channel\('specific'\)"):
        layer.new_channel("specific!")
    with pytest.raises(InvalidName, match=r"receive its inbox, 'box!'"):
        layer.receive(["box!a"])
    with pytest.raises(InvalidName, match=r"receive\(\['jobs'\]\)"):
        layer.receive("jobs")
    with pytest.raises(InvalidName, match="the list is empty"):
        layer.receive([])


def test_an_inbox_brings_full_names(layers: MakeLayers) -> None:
    """Receiving from ``name!`` brings the messages of all channels that begin so, with their full names, in order."""
    sender, receiver = layers(), layers()
    for number, local in enumerate("abab"):
        sender.send(f"box!{local}", {"n": number})
    assert drain(receiver, ["box!"]) == [(f"box!{local}", {"n": number}) for number, local in enumerate("abab")]


# -- messages ----------------------------------------------------------------------------------------------------

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[])
@given(message=st.dictionaries(st.text(), _values, max_size=3))
def test_messages_come_out_as_they_went_in(message: dict[str, object]) -> None:
    """Byte strings stay byte strings and text stays text, at any depth; so do all other types that are allowed."""
    rules = make_rules()
    layer = ChannelLayer(rules, memory_stores()(rules, VirtualClock())).blocking
    layer.send("jobs", message)
    _, received = layer.receive(["jobs"])
    assert _typed(received) == _typed(message)


def _typed(value: object) -> str:
    """Write a value down with its types: True is not 1, nor 1.0, nor is b"" the same as ""."""
    return repr(value)


def test_bytes_and_text_stay_apart(layers: MakeLayers) -> None:
    """The same over every store, encrypted or not."""
    message = {"b": b"x", "t": "x", "deep": [{"b": [b"\x00\xff"], "t": ["\u0000ÿ"]}]}
    layers().send("jobs", message)
    assert layers().receive(["jobs"]) == ("jobs", message)


def test_only_a_dict_of_allowed_types_is_a_message(layers: MakeLayers) -> None:
    """Anything else is refused before it is sent."""
    layer = layers()
    wrong: list[dict[str, object]] = [{"at": time}, {"inner": {1: 2}}, {"set": {1}}, {"large": 2**64}]
    for message in wrong:
        with pytest.raises(InvalidMessage):
            layer.send("jobs", message)
    assert layer.receive(["jobs"]) == (None, None)


# -- capacity and expiry -----------------------------------------------------------------------------------------


def test_a_full_channel_raises(layers: MakeLayers) -> None:
    """``ChannelFull`` is raised when a channel is over its capacity, and the message is not sent."""
    sender, receiver = layers(), layers()
    for _ in range(sender.capacity):
        sender.send("jobs", {})
    with pytest.raises(sender.ChannelFull):
        sender.send("jobs", {})
    assert len(drain(receiver, ["jobs"])) == sender.capacity


def test_an_inbox_shares_its_capacity(layers: MakeLayers) -> None:
    """Capacity counts over all channels of an inbox, as the specification allows."""
    sender, receiver = layers(), layers()
    for number in range(sender.capacity):
        sender.send(f"box!{number}", {})
    with pytest.raises(sender.ChannelFull):
        sender.send("box!other", {})
    assert receiver.receive(["box!"]) != (None, None)
    sender.send("box!other", {})


def test_a_message_that_is_too_large_is_refused(layers: MakeLayers) -> None:
    """``MessageTooLarge`` is raised for what is over the limit; 1 MB as JSON is not."""
    layer = layers(max_message_size=10_000)
    with pytest.raises(layer.MessageTooLarge):
        layer.send("jobs", {"text": "x" * 10_001})
    with pytest.raises(layer.MessageTooLarge):
        layer.group_send("room", {"text": "x" * 10_001})


def test_messages_expire(layers: MakeLayers, clock: VirtualClock) -> None:
    """What is older than ``expiry`` is not delivered; what is not, is."""
    sender, receiver = layers(), layers()
    for channel in ("jobs", "box!a", "reply?x"):
        sender.send(channel, {})
    clock.advance(sender.expiry - 5)
    sender.send("jobs", {"young": True})
    clock.advance(5.1)
    assert drain(receiver, ["jobs", "box!", "reply?x"]) == [("jobs", {"young": True})]


# -- the groups extension ----------------------------------------------------------------------------------------


def test_groups(layers: MakeLayers) -> None:
    """``group_add``, ``group_discard``, ``group_channels``, ``send_group``: one copy for each member."""
    layer, other = layers(), layers()
    assert "groups" in layer.extensions
    for channel in ("jobs", "reply?x", "box!a", "jobs"):
        layer.group_add("room", channel)
    assert other.group_channels("room") == ["box!a", "jobs", "reply?x"]
    other.send_group("room", {"n": 1})
    found = drain(layer, ["jobs", "reply?x", "box!"])
    assert sorted(channel for channel, _ in found) == ["box!a", "jobs", "reply?x"]
    other.group_discard("room", "jobs")
    other.group_discard("room", "nobody")
    layer.group_send("room", {"n": 2})
    assert sorted(channel for channel, _ in drain(layer, ["jobs", "reply?x", "box!"])) == ["box!a", "reply?x"]


def test_members_that_nobody_reads(layers: MakeLayers) -> None:
    """A group may hold channels that nobody reads; ``send_group`` never raises ``ChannelFull``."""
    layer = layers()
    for channel in ("nobody", "no?body", "no!body"):
        layer.group_add("room", channel)
    for _ in range(2 * layer.capacity):
        layer.send_group("room", {})
    assert layer.group_channels("room") == ["no!body", "no?body", "nobody"]


def test_memberships_expire(layers: MakeLayers, clock: VirtualClock) -> None:
    """A membership ends ``group_expiry`` after the last time that the channel was added."""
    layer = layers(group_expiry=200.0)
    assert layer.group_expiry == 200.0
    layer.group_add("room", "jobs")
    clock.advance(150)
    layer.group_add("room", "reply?x")
    clock.advance(51)
    assert layer.group_channels("room") == ["reply?x"]


# -- the flush extension -----------------------------------------------------------------------------------------


def test_flush(layers: MakeLayers) -> None:
    """``flush()`` resets the layer to no messages and no groups."""
    layer, other = layers(), layers()
    assert "flush" in layer.extensions
    for channel in ("jobs", "reply?x", "box!a"):
        layer.send(channel, {})
        layer.group_add("room", channel)
    other.flush()
    assert drain(layer, ["jobs", "reply?x", "box!"]) == []
    assert layer.group_channels("room") == []


def test_close(layers: MakeLayers) -> None:
    """``close()`` lets go of the connections, and of claimed inboxes; the layer connects again when it is used."""
    layer, other = layers(), layers()
    layer.send("box!a", {"n": 1})
    layer.send("box!a", {"n": 2})
    assert layer.receive(["box!"]) == ("box!a", {"n": 1})
    layer.close()
    layer.close()
    assert other.receive(["box!"]) == ("box!a", {"n": 2})
    layer.send("jobs", {})
    assert layer.receive(["jobs"]) == ("jobs", {})
