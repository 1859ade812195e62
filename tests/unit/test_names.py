"""Channel and group names: the cases that other layers got wrong, and what the errors say."""

from __future__ import annotations

from enum import Enum

import pytest

from channel_layer.domain.names import LOCAL_LENGTH, ChannelName, GroupName, Kind, Queue, owned_inbox
from channel_layer.errors import ChannelLayerError, InvalidName


class Label(str, Enum):  # noqa: UP042 - the older spelling, which str() renders as Label.CHAT
    """A str that str() turns into something else."""

    CHAT = "chat"


class Safe(str):  # noqa: SLOT000 - as in Django
    """A str whose str() is itself, as Django's SafeString."""

    def __str__(self) -> str:
        return self


@pytest.mark.parametrize(
    "name",
    ["", "foo\n", "foo!é", "f٣", "é", "a b", "a/b", "!x", "?x", "a!b!c", "a?b?c", "a?b!c", "a!b?c", "a\x00"],
)
def test_a_name_outside_the_grammar_is_refused_as_a_channel(name: str) -> None:
    """Nothing but the allowed ASCII characters gets through in a channel, nor a second mark."""
    with pytest.raises(InvalidName, match="invalid channel name"):
        ChannelName.parse(name)


@pytest.mark.parametrize("name", ["", "foo\n", "é", "f٣", "a b", "a!b", "a?b", "a!", "a\x00"])
def test_a_name_outside_the_grammar_is_refused_as_a_group(name: str) -> None:
    """No name with anything but the allowed ASCII characters gets through as a group, nor one with a mark."""
    with pytest.raises(InvalidName, match="invalid group name"):
        GroupName.parse(name)


@pytest.mark.parametrize("value", [None, 5, b"chat", ["chat"], object()])
def test_a_name_that_is_no_str_is_refused_with_its_type(value: object) -> None:
    """What is not a str, bytes included, is refused by the name of its type."""
    for parse, what in ((ChannelName.parse, "channel"), (GroupName.parse, "group")):
        with pytest.raises(InvalidName, match=f"a {what} name is a str, not {type(value).__name__}"):
            parse(value)


def test_100_characters_are_allowed_and_101_are_not() -> None:
    """The bound is exactly 100 characters, for channels of every kind and for groups."""
    for name in ("a" * 100, "a" * 50 + "?" + "b" * 49, "a" * 50 + "!" + "b" * 49):
        assert ChannelName.parse(name).name == name
        with pytest.raises(InvalidName, match="101 characters, at most 100 are allowed"):
            ChannelName.parse(name + "c")
    assert GroupName.parse("a" * 100).name == "a" * 100
    with pytest.raises(InvalidName, match="101 characters, at most 100 are allowed"):
        GroupName.parse("a" * 101)


def test_an_error_about_an_endless_name_is_short() -> None:
    """A megabyte given as a name does not become a megabyte of error text."""
    for value in ("x" * 1_000_000, b"x" * 1_000_000):
        with pytest.raises(InvalidName) as caught:
            ChannelName.parse(value)
        assert len(str(caught.value)) < 200


def test_an_inbox_alone_is_no_channel() -> None:
    """A name that ends in an exclamation mark is refused with the advice to name one of its channels."""
    with pytest.raises(InvalidName, match="an inbox is not a channel; name one of its channels, as in 'daphne!x'"):
        ChannelName.parse("daphne!")


@pytest.mark.parametrize(
    ("name", "queue", "kind"),
    [
        ("http.request", "http.request", Kind.NORMAL),
        ("resp?x7", "resp?x7", Kind.SINGLE_READER),
        ("resp?", "resp?", Kind.SINGLE_READER),
        ("specific.abc!x", "specific.abc!", Kind.INBOX),
    ],
)
def test_a_channel_knows_its_queue(name: str, queue: str, kind: Kind) -> None:
    """Each kind of channel waits in the queue that its name says; only a process's channels share one."""
    channel = ChannelName.parse(name)
    assert channel.queue == Queue(queue, kind)
    assert (str(channel), str(channel.queue)) == (name, queue)


def test_a_name_may_be_a_subclass_of_str_and_becomes_a_plain_one() -> None:
    """An Enum member or a safe string is taken by its value, and what is kept is a str and nothing more."""
    for parsed in (
        ChannelName.parse(Label.CHAT),
        GroupName.parse(Label.CHAT),
        ChannelName.parse(Safe("chat")),
    ):
        assert parsed.name == "chat"
        assert type(parsed.name) is str
    assert owned_inbox(Safe("chat"), "k7").name == "chat.k7!"
    assert str(GroupName.parse("chat")) == "chat"


def test_a_wrong_name_is_a_type_error_and_one_of_ours() -> None:
    """``except TypeError``, as with Django Channels, catches it; so does ``except ChannelLayerError``."""
    for error in (TypeError, ChannelLayerError):
        with pytest.raises(error):
            ChannelName.parse("a b")


def test_a_prefix_has_exactly_the_room_that_the_rest_leaves() -> None:
    """The longest prefix gives a channel of 100 characters; one more is refused with the number that fits."""
    room = 100 - len(".0123456789!") - LOCAL_LENGTH
    inbox = owned_inbox("p" * room, "0123456789")
    assert len(inbox.name) + LOCAL_LENGTH == 100
    assert inbox.kind is Kind.INBOX
    with pytest.raises(InvalidName, match=f"{room + 1} characters, at most {room} leave room"):
        owned_inbox("p" * (room + 1), "0123456789")


@pytest.mark.parametrize("prefix", ["", "a!", "a?", "é", "a\n", None])
def test_a_prefix_obeys_the_grammar_of_a_part(prefix: object) -> None:
    """A prefix for new channels is one part of a name: no marks, not empty, ASCII."""
    with pytest.raises(InvalidName, match="new channel prefix"):
        owned_inbox(prefix, "client")
