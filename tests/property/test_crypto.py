"""Sealing and blinding: what one key has made, it opens, where it belongs; nothing else opens anything."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence

import msgpack
import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretBytes

from channel_layer.domain.codec import MsgpackCodec
from channel_layer.domain.frames import Unauthentic, message_frame
from channel_layer.domain.names import ChannelName, GroupName, Kind, queue_name
from channel_layer.ports import Place, Sealer
from channel_layer.stores.blinding import Tokens
from channel_layer.testing.strategies import channel_names, group_names, messages
from channel_layer_crypto import AesSealer, FernetSealer, SivBlinder

EXPIRY = 60.0
NOW = 1_800_000_000.0
CODEC = MsgpackCodec(1 << 20)

MakeSealer = Callable[[Sequence[bytes], str, float], Sealer]


def aes(keys: Sequence[bytes], prefix: str = "asgi:", now: float = NOW) -> Sealer:
    """Make a sealer at a moment."""
    return AesSealer(list(map(SecretBytes, keys)), prefix=prefix, expiry=EXPIRY, now=lambda: now)


def fernet(keys: Sequence[bytes], prefix: str = "asgi:", now: float = NOW) -> Sealer:
    """Make a sealer at a moment."""
    return FernetSealer(list(map(SecretBytes, keys)), prefix=prefix, expiry=EXPIRY, now=lambda: now)


def digests() -> st.SearchStrategy[bytes]:
    """Return what configured keys become."""
    return st.binary(min_size=1, max_size=64).map(lambda key: hashlib.sha256(key).digest())


KEYS = st.lists(digests(), min_size=1, max_size=5, unique=True)
PLACES: st.SearchStrategy[Place] = st.sampled_from(["channel", "group"])
PREFIXES = st.text(max_size=8).filter(lambda text: not set("{}") & set(text) and text.isprintable())
ciphers = pytest.mark.parametrize("make", [aes, fernet])


@ciphers
@given(messages(), KEYS, PLACES, group_names(), PREFIXES, st.data())
def test_any_message_comes_back_whatever_the_order_of_the_keys(
    make: MakeSealer,
    message: dict[str, object],
    keys: list[bytes],
    place: Place,
    name: str,
    prefix: str,
    data: st.DataObject,
) -> None:
    """What is sealed with any key of a list is opened by who has that key anywhere in his, at the same place."""
    payload = CODEC.encode(message)
    theirs = data.draw(st.permutations([*keys, *data.draw(st.lists(digests(), max_size=3))]))
    assume(len(set(theirs)) == len(theirs))
    sealed = make(keys, prefix, NOW).seal(payload, place, name)
    assert len(payload) < 8 or payload not in sealed
    assert make(theirs, prefix, NOW).open(sealed, place, name) == payload


@ciphers
@given(st.binary(max_size=40), PLACES, st.integers(0), st.integers(0, 7))
def test_a_single_bit_is_enough_to_be_refused(
    make: MakeSealer, payload: bytes, place: Place, where: int, bit: int
) -> None:
    """No bit of what is sealed can be changed."""
    sealer = make([b"k" * 32], "asgi:", NOW)
    sealed = bytearray(sealer.seal(payload, place, "name"))
    sealed[where % len(sealed)] ^= 1 << bit
    with pytest.raises(Unauthentic):
        sealer.open(bytes(sealed), place, "name")


@pytest.mark.parametrize("make", [aes, fernet])
def test_nothing_shorter_or_longer_opens(make: MakeSealer) -> None:
    """What is sealed opens whole or not at all."""
    sealer = make([b"k" * 32], "asgi:", NOW)
    sealed = sealer.seal(b"\x01payload", "channel", "name")
    for part in [*(sealed[:end] for end in range(len(sealed))), sealed + b"\0", sealed + sealed]:
        with pytest.raises(Unauthentic):
            sealer.open(part, "channel", "name")


@ciphers
@given(st.tuples(PREFIXES, PLACES, group_names()), st.tuples(PREFIXES, PLACES, group_names()), st.data())
def test_nothing_opens_in_another_place(
    make: MakeSealer, here: tuple[str, Place, str], there: tuple[str, Place, str], data: st.DataObject
) -> None:
    """What was sealed for one prefix, kind of place and name opens for no other."""
    part = data.draw(st.integers(0, 3))
    there = there if part == 3 else (*here[:part], there[part], *here[part + 1 :])  # type: ignore[assignment]
    assume(here != there)
    keys = [b"k" * 32]
    sealed = make(keys, here[0], NOW).seal(b"\x01payload", *here[1:])
    with pytest.raises(Unauthentic):
        make(keys, there[0], NOW).open(sealed, *there[1:])


@ciphers
@given(st.text("ab", min_size=2, max_size=6), st.integers(0), st.integers(0), PLACES)
def test_prefix_and_name_are_not_run_together(
    make: MakeSealer, text: str, first: int, second: int, place: Place
) -> None:
    """Prefixes and names that give the same text one after the other are different places."""
    first, second = first % len(text), second % len(text)
    assume(first != second)
    sealed = make([b"k" * 32], text[:first], NOW).seal(b"\x01payload", place, text[first:])
    with pytest.raises(Unauthentic):
        make([b"k" * 32], text[:second], NOW).open(sealed, place, text[second:])


@ciphers
@given(KEYS, KEYS)
def test_nothing_opens_with_other_keys(make: MakeSealer, ours: list[bytes], theirs: list[bytes]) -> None:
    """Who does not have the key that sealed opens nothing, however many others he has."""
    assume(ours[0] not in theirs)
    sealed = make(ours, "asgi:", NOW).seal(b"\x01payload", "channel", "name")
    with pytest.raises(Unauthentic):
        make(theirs, "asgi:", NOW).open(sealed, "channel", "name")


@ciphers
@given(st.floats(-200, 200))
def test_a_message_opens_while_it_may_be_delivered(make: MakeSealer, age: float) -> None:
    """A sealed message opens until ``expiry`` and 10 s have passed, and not more than 10 s before it was sealed."""
    assume(min(abs(age - EXPIRY - 10), abs(age + 10)) > 1)  # Fernet counts whole seconds
    sealed = make([b"k" * 32], "asgi:", NOW).seal(b"\x01payload", "channel", "name")
    later = make([b"k" * 32], "asgi:", NOW + age)
    if -10 <= age <= EXPIRY + 10:
        assert later.open(sealed, "channel", "name") == b"\x01payload"
    else:
        with pytest.raises(Unauthentic, match="clocks of two machines differ"):
            later.open(sealed, "channel", "name")


@given(messages(), st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=3, unique=True))
def test_fernet_tokens_are_those_of_asgi_redis(message: dict[str, object], keys: list[str]) -> None:
    """A token opens with the library's own MultiFernet, whose keys are SHA-256 of what was configured, to msgpack."""
    sealer = fernet([hashlib.sha256(key.encode()).digest() for key in keys])
    token = sealer.seal(CODEC.encode(message), "channel", "name")[17:]
    theirs = MultiFernet([Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())) for key in keys])
    assert theirs.extract_timestamp(token) == int(NOW)
    assert theirs.decrypt(token) == msgpack.packb(message)


# -- names ---------------------------------------------------------------------------------------------------------

TOKENS = Tokens(SivBlinder(SecretBytes(b"k" * 32), prefix="asgi:"))
GRAMMAR = re.compile(r"[A-Za-z0-9_-]+(?:\?|![A-Za-z0-9_-]*)?")


@given(channel_names())
def test_a_channel_s_token_is_of_its_kind_and_turns_back(name: str) -> None:
    """A token keeps what sort of channel it is and which inbox it is in, fits into a frame, and turns back."""
    channel = ChannelName.parse(name)
    fresh = Tokens(SivBlinder(SecretBytes(b"k" * 32), prefix="asgi:"))
    token = TOKENS.channel(channel)
    assert GRAMMAR.fullmatch(token.name)
    assert len(token.name) <= 255
    assert token.queue == TOKENS.queue(channel.queue)
    assert token.queue.kind is channel.queue.kind
    assert queue_name(token.name) == token.queue.name
    assert token.name.endswith("?") is (channel.queue.kind is Kind.SINGLE_READER)
    assert ("!" in token.name) is (channel.queue.kind is Kind.INBOX)
    assert (fresh.name(token.name), fresh.name(token.queue.name)) == (name, channel.queue.name)
    assert fresh.read(message_frame(token.name, b"payload")) == message_frame(name, b"payload")
    assert fresh.frame(message_frame(name, b"payload")) == message_frame(token.name, b"payload")


@given(st.lists(channel_names(), unique=True, min_size=2, max_size=6))
def test_no_two_names_share_a_token(names: list[str]) -> None:
    """Tokens are as many as names, none of them is a name, and a group called like a channel has another one."""
    tokens = {TOKENS.full(name) for name in names}
    assert len(tokens) == len(names)
    groups = {TOKENS.group(GroupName.parse(re.sub("[!?]", ".", name))).name for name in names}
    assert not tokens & groups
    for name in names:
        assert all(part not in token for token in tokens for part in re.split("[!?]", name) if len(part) > 5)


@given(group_names(), st.integers(0), st.sampled_from("AZaz09-_x"))
def test_a_token_that_was_changed_is_none(name: str, where: int, letter: str) -> None:
    """No character of a token can be changed, nor any be taken away."""
    blinder = SivBlinder(SecretBytes(b"k" * 32), prefix="asgi:")
    token = blinder.blind(name, "group")
    where %= len(token)
    for wrong in (token[:where] + letter + token[where + 1 :], token[:where], token + letter, token + "="):
        if wrong != token:
            with pytest.raises(Unauthentic):
                blinder.reveal(wrong, "group")


@given(group_names())
def test_a_token_is_of_one_key_one_prefix_and_one_sort(name: str) -> None:
    """The same name has another token with another key, under another prefix, and as another sort of thing."""
    ours = SivBlinder(SecretBytes(b"k" * 32), prefix="asgi:")
    token = ours.blind(name, "group")
    assert ours.reveal(token, "group") == name
    others = [
        (SivBlinder(SecretBytes(b"l" * 32), prefix="asgi:"), "group"),
        (SivBlinder(SecretBytes(b"k" * 32), prefix="asgi"), "group"),
        (ours, "channel"),
    ]
    for blinder, within in others:
        assert blinder.blind(name, within) != token
        with pytest.raises(Unauthentic, match="no token made with our key"):
            blinder.reveal(token, within)


def test_tokens_of_names_of_like_length_are_of_one_length() -> None:
    """A token tells no more of a name than its length to the next multiple of 16."""
    assert len({len(TOKENS.group(GroupName("x" * length)).name) for length in range(1, 17)}) == 1
