"""The options of a layer as the core reads them: frozen, and known to be valid.

`channel_layer.config` makes them from what users write.
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
    """Bytes that no repr shows, so that no log and no error does: Pydantic's ``SecretBytes`` is one."""

    def get_secret_value(self) -> bytes:
        """Return them."""
        ...


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong.

    Attributes:
        refuse: the share of commands, from 0 to 1, that are not sent.
        lose_reply: the share that are carried out, and whose reply is lost.
        disconnect: the share at which the connection is lost: this command and all in flight fail, carried out or not.
        delay: seconds that a command waits before it is sent, at most; evenly spread from 0 on.
        seed: of the generator that decides; the same seed decides the same, command by command.
    """

    refuse: float = 0.0
    lose_reply: float = 0.0
    disconnect: float = 0.0
    delay: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Encryption:
    """How messages are kept from who can read and write the store.

    Attributes:
        keys: 32 bytes each, the SHA-256 of what was configured; the first seals, all open.
        cipher: the name of an entry point in the group ``channel_layer.ciphers``.
        names: the key that names are blinded with; None: they stand in the store as they are.
    """

    keys: tuple[Secret, ...]
    cipher: str
    names: Secret | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The options that every layer has, known to be valid.

    Attributes:
        prefix: what all keys in the store begin with.
        expiry: seconds that a message may wait unread.
        group_expiry: seconds that a membership lasts; None: as long as its owner lives.
        capacity: how many unread messages each channel may hold.
        default_capacity: the same, for a channel that no pattern matches.
        channel_capacity: the patterns and their capacities as they were configured, in that order.
        max_message_size: bytes of an encoded message.
        inbox_capacity: entries that the inbox of one process may hold.
        timeout: seconds that a command to the store may take.
        faults: what goes wrong on purpose; None: nothing.
        encryption: how messages are sealed; None: they are not.
        no_local_reader: of two halves, what becomes of messages that nobody on this machine reads.
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
