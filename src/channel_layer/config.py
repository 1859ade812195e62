"""CONFIG as people write it: checked when a layer is made, and turned into the frozen `Rules` of the core.

All mistakes are told at once, each with its field and its mend, because a wrong settings file should be put
right in one go and before the first message. Pydantic stays in this module and its kin.

An adapter with options of its own subclasses `CommonConfig` and reads what its user wrote with `parse`.

Source: the asgi_redis README, whose options, names and defaults these are; ``max_message_size``,
``inbox_capacity``, ``timeout``, ``faults``, ``encryption`` and ``blind_names`` are new.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, TypeGuard, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SecretBytes,
    SecretStr,
    ValidationError,
    WithJsonSchema,
)

from channel_layer.domain.capacity import CapacityTable, compile_glob
from channel_layer.errors import ConfigError, ConfigWarning, FieldError
from channel_layer.options import ChannelPattern, NoLocalReaderOption
from channel_layer.stores.faults import Faults
from channel_layer.urls import Form, read_options, split_query

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = (
    "CIPHERS",
    "Accepts",
    "ChannelPattern",
    "CommonConfig",
    "Concern",
    "Encryption",
    "Rules",
    "describe_unknown",
    "describe_value",
    "json_schema",
    "options_from_url",
    "parse",
    "require_url",
)

_REGEX = "re:"

_NAME_CHARACTERS = "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz!?"
"""All that a channel name can hold; see `channel_layer.domain.names`."""

CIPHERS: Final = ("aes-256-gcm", "fernet")
"""What ``encryption`` may always be, the default first; third parties add to it by entry points."""

_LONGEST = 1e9
"""Seconds, about 31 years: the waits of Python's threading module overflow at 9.2e9."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """How messages are kept from who can read and write the store.

    Attributes:
        keys: 32 bytes each, the SHA-256 of what was configured; the first seals, all open.
        cipher: the name of an entry point in the group ``channel_layer.ciphers``.
        names: the key that names are blinded with; None: they stand in the store as they are.
    """

    keys: tuple[SecretBytes, ...]
    cipher: str
    names: SecretBytes | None


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


@dataclass(frozen=True, slots=True)
class Concern:
    """What is valid and yet worth a word when a project is checked.

    Attributes:
        id: what it is silenced by, as in Django's ``SILENCED_SYSTEM_CHECKS``.
        field: where it is, as it would be written.
        problem: what may come of it and how to mend it. Never holds a secret.
        deploy: it matters in production only.
    """

    id: str
    field: str
    problem: str
    deploy: bool = False


# -- saying what is wrong ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepts:
    """What an option takes, in words that follow "must be" in an error and stand in the reference.

    Annotate a field with it: ``Annotated[int, Field(ge=1), Accepts("a whole number, 1 or more")]``.
    """

    text: str


def describe_value(value: object) -> str:
    """Say what a value is: a number as it stands; of all else only the kind, because it may hold a secret."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, int):
        return repr(int(value)) if abs(value) < 10**20 else "a number as long as this"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def describe_unknown(name: str, options: Iterable[str]) -> str:
    """Say that there is no option *name*, which one may have been meant, and which ones there are."""
    known = tuple(options)
    close = get_close_matches(name.lower().replace("-", "_"), known, n=1)
    guess = f", did you mean {close[0]!r}?" if close else ";"
    return f"unknown option{guess} the options are {', '.join(known)}"


# -- channel_capacity ----------------------------------------------------------------------------------------


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_regex(value: object) -> TypeGuard[re.Pattern[str] | re.Pattern[bytes]]:
    return isinstance(value, re.Pattern)


def _compile(pattern: ChannelPattern) -> re.Pattern[str]:
    """Turn a valid key of ``channel_capacity`` into what is matched at the start of a name."""
    if not isinstance(pattern, str):
        return pattern
    if pattern.startswith(_REGEX):
        return re.compile(pattern.removeprefix(_REGEX))
    return compile_glob(pattern)


def _wrong_pattern(pattern: object) -> str | None:
    """Say what is wrong with a key of ``channel_capacity``; None when nothing is."""
    if _is_regex(pattern):
        if isinstance(pattern.pattern, bytes):
            return 'this regular expression is for bytes and names are str: write re.compile(r"...")'
        return None
    if not isinstance(pattern, str):
        return f"a pattern must be a str or an re.Pattern, not {describe_value(pattern)}"
    if pattern.startswith(_REGEX):
        return _wrong_regex(pattern.removeprefix(_REGEX))
    return _wrong_glob(pattern)


def _wrong_regex(text: str) -> str | None:
    if not text:
        return 'there is no regular expression after "re:"'
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as exc:
        return f"not a regular expression: {exc}"
    return None


def _wrong_glob(glob: str) -> str | None:
    """Say why a glob can match no channel name.

    fnmatch calls nothing an error: it takes a ``[`` that is never closed for the character itself. Yet a
    pattern that can match no name is a mistake, and one that would be noticed late.
    """
    if not glob:
        return "an empty pattern matches no channel name: remove it"
    place = 0
    while place < len(glob):
        part = glob[place]
        if part == "[":
            first = place + 1 + glob.startswith("!", place + 1)
            end = glob.find("]", first + 1)  # a "]" that comes first is a member of the set
            if end < 0:
                return f'the "[" at position {place} is never closed: add the "]"'
            part = glob[place : end + 1]
        if len(part) == 1:
            possible = part in "*?" or part in _NAME_CHARACTERS
        else:
            possible = any(map(compile_glob(part).match, _NAME_CHARACTERS))
        if not possible:
            return (
                f"{part!r} at position {place} is in no channel name, so this glob matches nothing; "
                'a regular expression is written "re:..."'
            )
        place += len(part)
    return None


def _channel_capacity(value: object) -> Mapping[ChannelPattern, int]:
    if not _is_mapping(value):
        raise ConfigError([FieldError("channel_capacity", _must_be(_CAPACITIES, value))])
    errors: list[FieldError] = []
    capacities: dict[ChannelPattern, int] = {}
    for pattern, capacity in value.items():
        shown = json.dumps(pattern, ensure_ascii=False) if isinstance(pattern, str) else f"{pattern!r:.80}"
        problems = [_wrong_pattern(pattern)]
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            problems.append(_must_be(_COUNT, capacity))
        elif isinstance(pattern, (str, re.Pattern)):
            capacities[pattern] = capacity
        errors += [FieldError(f"channel_capacity[{shown}]", problem) for problem in problems if problem]
    if errors:
        raise ConfigError(errors)
    return MappingProxyType(capacities)


# -- the models ----------------------------------------------------------------------------------------------


def _prefix(value: str) -> str:
    braces = [character for character in "{}" if character in value]
    if braces:
        raise ValueError(
            f"must be a str without braces, and this has {' and '.join(map(repr, braces))}: "
            "in a key, braces mark what Redis Cluster places it by"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must be valid Unicode, and this has a lone surrogate")
    return value


_SHORT = 32
"""Bytes of a key under which a warning is given: 256 bits, as AES-256 uses and `channel-layer genkey` makes."""

_FEW = 10
"""Messages under which a `capacity` is remarked on: what the examples of asgi_redis and of Channels give to
``http.response*``, the least of theirs."""

_GENKEY = "make one with: channel-layer genkey"


def _secret(key: object) -> bytes | str:
    """Return the bytes of a key, or what is wrong with it."""
    if isinstance(key, (SecretStr, SecretBytes)):
        key = key.get_secret_value()
    if isinstance(key, str):
        try:
            key = key.encode()
        except UnicodeEncodeError:
            return "must be valid Unicode, and this has a lone surrogate"
    if not isinstance(key, bytes):
        return f"must be a str or bytes, not of type {type(key).__name__}"  # a number may be a key, too: do not show it
    return key or f"is empty: {_GENKEY}"


def _keys(value: object) -> tuple[SecretBytes, ...]:
    if isinstance(value, (str, bytes, SecretStr, SecretBytes)):
        problem = "must be a list of keys, as in symmetric_encryption_keys=[KEY], not a single one"
        raise ConfigError([FieldError("symmetric_encryption_keys", problem)])
    if not _is_sequence(value):
        problem = f"must be a list of keys, not of type {type(value).__name__}"
        raise ConfigError([FieldError("symmetric_encryption_keys", problem)])
    errors: list[FieldError] = []
    keys: dict[bytes, int] = {}
    for place, each in enumerate(value):
        where = f"symmetric_encryption_keys[{place}]"
        key = _secret(each)
        if isinstance(key, str):
            errors.append(FieldError(where, key))
        elif key in keys:
            errors.append(FieldError(where, f"is the same key as symmetric_encryption_keys[{keys[key]}]: remove one"))
        else:
            keys[key] = place
    if errors:
        raise ConfigError(errors)
    return tuple(map(SecretBytes, keys))


def _is_sequence(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    return isinstance(value, (list, tuple))


def _cipher(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError([FieldError("encryption", _must_be(_CIPHER, value))])
    if value not in CIPHERS and value not in (names := entry_points(group="channel_layer.ciphers").names):
        known = ", ".join(sorted({*CIPHERS, *names}))
        raise ConfigError([FieldError("encryption", f"there is no such cipher; there are {known}")])
    return value


def _blind_names(value: object) -> bool | SecretBytes:
    if isinstance(value, bool):
        return value
    key = _secret(value)
    if isinstance(key, bytes):
        return SecretBytes(key)
    if isinstance(value, (str, bytes, SecretStr, SecretBytes)):
        raise ConfigError([FieldError("blind_names", f"this key {key}")])
    raise ConfigError([FieldError("blind_names", f"must be {_BLIND.text}, not of type {type(value).__name__}")])


_CAPACITIES = Accepts('a mapping of patterns to capacities, as in {"http.*": 200}')
_COUNT = Accepts("a whole number, 1 or more")
_SECONDS = Accepts("a number of seconds, more than 0 and at most 1e9")

_Count = Annotated[int, Field(ge=1), _COUNT]
_Seconds = Annotated[float, Field(gt=0.0, le=_LONGEST)]

_FAULTS = Accepts('None or a mapping of faults to how often they happen, as in {"refuse": 0.01, "delay": 0.2}')
_FAULT_LIMITS = {"refuse": 1.0, "lose_reply": 1.0, "disconnect": 1.0, "delay": 60.0}
"""The most of each: a share of all commands, or seconds."""

_FAULTS_SCHEMA: dict[str, object] = {
    "anyOf": [
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "seed": {"type": "integer"},
                **{name: {"type": "number", "minimum": 0, "maximum": most} for name, most in _FAULT_LIMITS.items()},
            },
        },
        {"type": "null"},
    ]
}

_BLIND = Accepts("True, False or a key")
_CIPHER = Accepts('"aes-256-gcm" or "fernet"')

_OF_HALVES = "an option of channel_layer_redis.RedisLocalChannelLayer: remove it, or use that layer"
_OF_IPC = "an option of channel_layer_ipc.IPCChannelLayer: remove it, or use that layer"


def _faults(value: object) -> Faults | None:
    if value is None or isinstance(value, Faults):
        return value
    if not _is_mapping(value):
        raise ConfigError([FieldError("faults", _must_be(_FAULTS, value))])
    errors: list[FieldError] = []
    found: dict[str, float] = {}
    seed = 0
    for name, amount in value.items():
        where = f"faults[{json.dumps(name) if isinstance(name, str) else f'{name!r:.80}'}]"
        number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
        if name == "seed":
            if isinstance(amount, int) and number:
                seed = amount
            else:
                errors.append(FieldError(where, _must_be(Accepts("a whole number"), amount)))
        elif not isinstance(name, str) or name not in _FAULT_LIMITS:
            errors.append(FieldError(where, describe_unknown(str(name), (*_FAULT_LIMITS, "seed"))))
        elif isinstance(amount, (int, float)) and number and 0 <= amount <= _FAULT_LIMITS[name]:
            found[name] = float(amount)
        else:
            errors.append(FieldError(where, _must_be(Accepts(f"a number from 0 to {_FAULT_LIMITS[name]:g}"), amount)))
    if errors:
        raise ConfigError(errors)
    refuse, lose_reply, disconnect, delay = (found.get(name, 0.0) for name in _FAULT_LIMITS)
    return Faults(refuse, lose_reply, disconnect, delay, seed)


def _no_exceptions() -> Mapping[ChannelPattern, int]:
    return MappingProxyType({})


class CommonConfig(BaseModel):
    """The options that every layer has. Made by `parse`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    refused: ClassVar[Mapping[str, str]] = {
        "local": _OF_HALVES,
        "no_local_reader": _OF_HALVES,
        "directory": _OF_IPC,
        "memory": _OF_IPC,
    }
    """Names that are no options of this model but may well be met, and what to say then."""

    unset: ClassVar[frozenset[str]] = frozenset({"channel_capacity"})
    """Options for which None is the same as to leave them out."""

    url_forms: ClassVar[Mapping[str, Form]] = {
        "prefix": "text",
        "expiry": "number",
        "group_expiry": "number",
        "capacity": "number",
        "channel_capacity": "pairs",
        "symmetric_encryption_keys": "list",
        "encryption": "text",
        "blind_names": "switch",
        "max_message_size": "number",
        "inbox_capacity": "number",
        "timeout": "number",
        "faults": "pairs",
    }
    """How each option is written in the query of a URL."""

    prefix: Annotated[str, AfterValidator(_prefix), Accepts("a str without braces")] = Field(
        default="asgi:",
        description=(
            "What every key in the store begins with. Give each project, and each stage of it, a prefix "
            "of its own, and all processes of one project the same: layers whose prefixes differ never "
            "see each other's messages, groups or `flush()`, even if one prefix begins with the other."
        ),
    )
    expiry: Annotated[_Seconds, _SECONDS] = Field(
        default=60.0,
        description=(
            "Seconds that a message may wait unread. It is never delivered after that. Fractions count. "
            "Lower it to shed a backlog that nobody wants any more; raise it to ride out a longer pause "
            "of the readers."
        ),
    )
    group_expiry: Annotated[_Seconds | None, Accepts("a number of seconds, more than 0 and at most 1e9, or None")] = (
        Field(
            default=86400.0,
            description=(
                "Seconds that a membership of a group lasts after the last `group_add`. It should be longer "
                "than your longest connection. `None`: a membership lasts as long as the process that owns "
                "the channel."
            ),
        )
    )
    capacity: _Count = Field(
        default=100,
        description=(
            "Unread messages that a channel may hold. At that point `send` raises `ChannelFull`, and "
            "`group_send` drops the message for that channel only and counts it."
        ),
    )
    channel_capacity: Annotated[
        Mapping[ChannelPattern, int],
        PlainValidator(_channel_capacity),
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}),
        _CAPACITIES,
    ] = Field(
        default_factory=_no_exceptions,
        json_schema_extra={"default": {}},
        description=(
            "Exceptions from `capacity`, by channel name, tried in the mapping's order: the first pattern "
            "that matches wins. A `str` is a glob for the whole name, case-sensitive; an `re.Pattern` is "
            'a regular expression matched at the start of the name; `"re:..."` is one too, for files that '
            "hold only text."
        ),
    )
    symmetric_encryption_keys: Annotated[
        tuple[SecretBytes, ...],
        PlainValidator(_keys),
        WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True}),
        Accepts("a list of keys, each a str or bytes"),
    ] = Field(
        default=(),
        repr=False,
        description=(
            "Keys to encrypt messages with: the first one encrypts, all of them decrypt, so that keys can be "
            "changed while messages are on their way. `channel-layer genkey` makes one. An empty list: messages "
            "travel in plain text. All processes of a project need the same ones. Needs the extra `cryptography`."
        ),
    )
    encryption: Annotated[str, PlainValidator(_cipher), WithJsonSchema({"type": "string"}), _CIPHER] = Field(
        default="aes-256-gcm",
        description=(
            "How messages are encrypted, where there are keys. `aes-256-gcm` is the faster and the smaller one; "
            "`fernet` makes the tokens of asgi_redis. Both are bound to their channel or group, the prefix and the "
            "time. All processes of a project need the same."
        ),
    )
    blind_names: Annotated[
        bool | SecretBytes,
        PlainValidator(_blind_names),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "minLength": 1}]}),
        _BLIND,
    ] = Field(
        default=False,
        repr=False,
        description=(
            "Also hide the names of channels and groups from who can read the store. `True`: by a key made from the "
            "one in `symmetric_encryption_keys`; with several keys there, as while they are being changed, say which "
            "one names are blinded with, for it must stay: `blind_names=KEY`."
        ),
    )
    max_message_size: _Count = Field(
        default=4 * 1024 * 1024,
        description=(
            "Bytes of an encoded message; `send` and `group_send` raise `MessageTooLarge` above it. The "
            "default is 4 MiB, room for 1 MB of JSON whatever is in it: floats more than double in size."
        ),
    )
    inbox_capacity: _Count = Field(
        default=10_000,
        description=(
            "Entries that the inbox of one process may hold in the store: all that was sent to its "
            "channels and groups and has not been fetched yet. Above it, group messages for that process "
            "are dropped and counted."
        ),
    )
    timeout: Annotated[_Seconds, _SECONDS] = Field(
        default=5.0,
        description=(
            "Seconds that any command may wait for the store. `send` fails with `StoreError` after that; "
            "`receive` goes on waiting and reconnects."
        ),
    )

    faults: Annotated[Faults | None, PlainValidator(_faults), WithJsonSchema(_FAULTS_SCHEMA), _FAULTS] = Field(
        default=None,
        description=(
            "What shall go wrong on purpose between this layer and its store, to see what your application makes of "
            'it: the shares of commands, from 0 to 1, that are not sent (`"refuse"`), whose reply is lost '
            '(`"lose_reply"`) and at which the connection is lost (`"disconnect"`); the seconds that each waits at '
            'most (`"delay"`); and the `"seed"` of the dice. For tests and staging, never for production.'
        ),
    )

    @classmethod
    def conflicts(cls, options: Mapping[str, object]) -> Iterable[FieldError]:
        """Find what is wrong between options, each of which may be right by itself.

        Args:
            options: as they were written, unchecked.
        """
        keys = options.get("symmetric_encryption_keys", ())
        if not _is_sequence(keys):
            return
        blind = options.get("blind_names", False)
        if not keys:
            none = "there are no symmetric_encryption_keys: add one, or remove this"
            if options.get("encryption") in CIPHERS[1:]:
                yield FieldError("encryption", none)
            if blind is True or isinstance(blind or None, (str, bytes, SecretStr, SecretBytes)):
                yield FieldError("blind_names", none)
        elif blind is True and len(keys) > 1:
            problem = (
                "with several symmetric_encryption_keys, processes that have them in another order would not find each "
                "other's names: say which key names are blinded with, and keep it (blind_names=OLD_KEY goes on as "
                "True with that key alone did)"
            )
            yield FieldError("blind_names", problem)

    def advice(self) -> Iterable[FieldError]:
        """Find what is valid and yet unwise."""
        named = [(f"symmetric_encryption_keys[{n}]", key) for n, key in enumerate(self.symmetric_encryption_keys)]
        if isinstance(self.blind_names, SecretBytes):
            named.append(("blind_names", self.blind_names))
        for field, key in named:
            size = len(key.get_secret_value())
            if size < _SHORT:
                problem = f"a key of {size} bytes can be guessed by who has a message and time; {_GENKEY}"
                yield FieldError(field, problem)

    def concerns(self) -> Iterable[Concern]:
        """Find what a check of a whole project tells, and the making of a layer does not always."""
        if self.capacity < _FEW:
            problem = (
                f"a burst of {self.capacity + 1} messages already raises ChannelFull or loses group messages, and the "
                f"smallest capacity in the examples of asgi_redis and Channels is {_FEW}: raise it, or name the few "
                "channels that are meant in channel_capacity"
            )
            yield Concern("channel_layer.W001", "capacity", problem)
        for advice in self.advice():
            yield Concern("channel_layer.W002", advice.field, advice.problem)

    @classmethod
    def read_url(cls, url: str, errors: list[FieldError]) -> dict[str, object]:
        """Read the options that a URL gives, as they would stand in a CONFIG; their values are not checked yet.

        This is for layers that need no server, ``memory://?capacity=10``; others override it.

        Args:
            url: what the user wrote.
            errors: where to put what is wrong with the form. No text repeats a part of the URL.
        """
        head, _, query = url.partition("?")
        _, mark, rest = head.partition("://")
        if not mark or rest.strip("/") or "#" in url:
            errors.append(
                FieldError("url", "must have nothing but options after its scheme, as in memory://?capacity=10")
            )
            return {}
        try:
            pairs = split_query(query)
        except ValueError as exc:
            errors.append(FieldError("url", str(exc)))
            return {}
        return cls.read_query(pairs, errors)

    @classmethod
    def read_query(
        cls, query: Iterable[tuple[str, str]], errors: list[FieldError], others: Iterable[str] = ()
    ) -> dict[str, object]:
        """Read the options that stand in the query of a URL.

        Args:
            query: its parameters, decoded.
            errors: where to put what is wrong.
            others: parameters that the URL may have as well, for the error about one that is unknown.
        """
        known: list[tuple[str, str]] = []
        for name, text in query:
            if name in cls.url_forms:
                known.append((name, text))
            else:
                # What does not even look like a name may be a piece of a password.
                field = name if re.fullmatch(r"[A-Za-z][A-Za-z_-]{0,39}", name) else "url"
                problem = cls.refused.get(name) or describe_unknown(name, (*cls.url_forms, *others))
                errors.append(FieldError(field, f"in the query of the URL: {problem}"))
        described = {name: _accepted(field.metadata) for name, field in cls.model_fields.items()}
        accepts = {name: item.text for name, item in described.items() if item is not None}
        return read_options(known, cls.url_forms, accepts, errors)

    def _encryption(self) -> Encryption | None:
        keys = tuple(map(_hash, self.symmetric_encryption_keys))
        if not keys:
            return None
        blind = self.blind_names
        names = _hash(blind) if isinstance(blind, SecretBytes) else keys[0] if blind else None
        return Encryption(keys, self.encryption, names)

    def rules(self) -> Rules:
        """Return the common options in the form that the core works by; warn of what is unwise (`ConfigWarning`)."""
        for advice in self.advice():
            warnings.warn(f"{advice.field}: {advice.problem}", ConfigWarning, stacklevel=3)  # who makes the layer
        return Rules(
            prefix=self.prefix,
            expiry=self.expiry,
            group_expiry=self.group_expiry,
            capacity=CapacityTable(
                self.capacity,
                [(_compile(pattern), limit) for pattern, limit in self.channel_capacity.items()],
            ),
            default_capacity=self.capacity,
            channel_capacity=self.channel_capacity,
            max_message_size=self.max_message_size,
            inbox_capacity=self.inbox_capacity,
            timeout=self.timeout,
            faults=self.faults,
            encryption=self._encryption(),
        )


def _hash(key: SecretBytes) -> SecretBytes:
    """Make 32 bytes of a key, whatever its length, as asgi_redis does."""
    return SecretBytes(hashlib.sha256(key.get_secret_value()).digest())


_Model = TypeVar("_Model", bound=CommonConfig)


def parse(model: type[_Model], options: Mapping[str, object]) -> _Model:
    """Read a CONFIG.

    Args:
        model: which options there are.
        options: what the user wrote, as keyword arguments or as the dict of a settings file.

    Raises:
        ConfigError: something is wrong with it; it names every wrong field, in the order of the model's.
    """
    config, errors = _read(model, options)
    if config is None or errors:
        # Raised out here, where no exception is being handled: pydantic's holds the values, secrets among them,
        # and would hang on this one as its context.
        raise _ordered(model, errors)
    return config


def options_from_url(model: type[CommonConfig], url: str) -> dict[str, object]:
    """Read a URL that holds a whole CONFIG, and check it.

    Args:
        model: which options there are.
        url: ``scheme://...?option=value&...``; see `CommonConfig.read_url`.

    Returns:
        the options as they would be written in a CONFIG, known to be valid.

    Raises:
        ConfigError: something is wrong with it; it names every wrong parameter, and repeats no value.
    """
    errors: list[FieldError] = []
    options = model.read_url(require_url(url), errors)
    errors += _read(model, options)[1]  # of those that could be read
    if errors:
        raise _ordered(model, errors)
    return options


def require_url(url: object) -> str:
    """Return *url*, which a type checker has seen to be a str, and an environment may lack.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(url, str):
        return url
    raise ConfigError([FieldError("url", f"must be a URL, not {describe_value(url)}")])


def _read(model: type[_Model], options: Mapping[str, object]) -> tuple[_Model | None, list[FieldError]]:
    given = {name: value for name, value in options.items() if value is not None or name not in model.unset}
    errors = list(model.conflicts(given))
    try:
        return model.model_validate(given), errors
    except ValidationError as exc:
        for error in exc.errors(include_url=False):
            errors += _translate(model, error)
    return None, errors


def _ordered(model: type[CommonConfig], errors: list[FieldError]) -> ConfigError:
    order = {name: place for place, name in enumerate(model.model_fields)}
    return ConfigError(sorted(errors, key=lambda error: order.get(re.split(r"[.\[]", error.field)[0], len(order))))


def json_schema(model: type[CommonConfig]) -> dict[str, object]:
    """Describe a CONFIG as JSON Schema (draft 2020-12), for editors and for files that are not Python.

    It knows types, ranges and names. What only `parse` can tell (contradictions, globs that match nothing) passes it.
    """
    made = model.model_json_schema()
    schema: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": model.__name__,
        "description": (model.__doc__ or "").partition("\n")[0].removesuffix(" Made by `parse`."),
        "type": "object",
        "additionalProperties": False,
    }
    properties: dict[str, dict[str, object]] = made["properties"]
    for name, field in properties.items():
        field.pop("title", None)
        if name in model.unset:
            rest = {key: field.pop(key) for key in list(field) if key not in {"default", "description"}}
            field["anyOf"] = [*_choices(rest), {"type": "null"}]
    schema["properties"] = properties
    return schema


def _choices(schema: dict[str, object]) -> Iterable[object]:
    choices = schema.get("anyOf")
    return choices if _is_sequence(choices) else [schema]


def _translate(model: type[CommonConfig], error: ErrorDetails) -> Iterable[FieldError]:
    """Say in our words what pydantic found."""
    cause: object = error.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return cause.errors
    name = str(error["loc"][0])
    field = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"][1:])
    if isinstance(cause, ValueError):
        return (FieldError(field, str(cause)),)
    if error["type"] == "extra_forbidden":
        return (FieldError(field, model.refused.get(name) or describe_unknown(name, model.model_fields)),)
    accepts = _accepted(model.model_fields[name].metadata) if name in model.model_fields else None
    if accepts is None:
        return (FieldError(field, error["msg"]),)
    value: object = error["input"]
    return (FieldError(field, _must_be(accepts, value)),)


def _accepted(metadata: Iterable[object]) -> Accepts | None:
    return next((item for item in metadata if isinstance(item, Accepts)), None)


def _must_be(accepts: Accepts, value: object) -> str:
    mend = " (write the number without quotes)" if isinstance(value, str) and "number" in accepts.text else ""
    return f"must be {accepts.text}, not {describe_value(value)}{mend}"
