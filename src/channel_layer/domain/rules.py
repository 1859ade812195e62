"""The options of a layer as the core reads them: frozen, and known to be valid.

`channel_layer.config` makes them from a CONFIG, with Pydantic; the rest of the core and the stores do without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from channel_layer.domain.capacity import CapacityTable
    from channel_layer.options import ChannelPattern, NoLocalReaderOption

__all__ = ("Encryption", "Faults", "Rules", "Secret")


class Secret(Protocol):
    """Bytes that no repr shows, so no log and no error does, such as Pydantic's ``SecretBytes``."""

    def get_secret_value(self) -> bytes:
        """Return the bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each injected fault happens.

    Attributes:
        refuse: the share of commands, from 0 to 1, that are not sent.
        lose_reply: the share of commands that are carried out, and whose reply is lost.
        disconnect: the share of commands at which the connection is lost: this command and all in flight fail, whether
            or not they were carried out.
        delay: the most seconds that a command waits before it is sent; evenly distributed from 0.
        seed: of the random generator; the same seed makes the same decisions, command by command.
    """

    refuse: float = 0.0
    lose_reply: float = 0.0
    disconnect: float = 0.0
    delay: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Encryption:
    """How messages are protected from those who can read and write the store.

    Attributes:
        keys: 32 bytes each, the SHA-256 of the configured keys; the first one seals, all of them open.
        cipher: the name of an entry point in the group ``channel_layer.ciphers``.
        names: the key that names are blinded with; None: names are stored in plain text.
    """

    keys: tuple[Secret, ...]
    cipher: str
    names: Secret | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The options that every layer has, known to be valid.

    Attributes:
        prefix: the prefix of all keys in the store.
        expiry: seconds that a message may wait unread.
        group_expiry: seconds that a membership lasts; None: as long as its owner lives.
        capacity: how many unread messages each channel may hold.
        default_capacity: the capacity of a channel that no pattern matches.
        channel_capacity: the configured patterns and their capacities, in that order.
        max_message_size: the most bytes of an encoded message.
        inbox_capacity: the most entries that the inbox of one process may hold.
        timeout: seconds that a command to the store may take.
        faults: faults that are injected; None: no faults.
        encryption: how messages are sealed; None: they are not.
        no_local_reader: with a local and a remote store, what becomes of messages without a reader on this machine.
    """

    prefix: str
    expiry: float
    group_expiry: float | None
    capacity: CapacityTable
    default_capacity: int
    channel_capacity: Mapping[ChannelPattern, int]
    max_message_size: int
    inbox_capacity: int
    timeout: float
    faults: Faults | None = None
    encryption: Encryption | None = None
    no_local_reader: NoLocalReaderOption = "remote"
