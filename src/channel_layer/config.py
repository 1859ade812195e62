"""CONFIG as users write it: checked when a layer is made, and turned into the frozen `Rules` of the core.

All errors are reported together, each with its field and how to fix it, so that a wrong settings file can be corrected
in one step and before the first message. Pydantic is used only in this module, and in the few others that read input.

An adapter with options of its own subclasses `CommonConfig` and reads a CONFIG with `parse`.

Source: the asgi_redis README, for the options, their names and defaults; ``max_message_size``, ``inbox_capacity``,
``timeout``, ``faults``, ``encryption`` and ``blind_names`` are new.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    SecretBytes,
    SecretStr,
    ValidationError,
    WithJsonSchema,
)

from channel_layer.domain.capacity import CapacityTable, compile_pattern
from channel_layer.domain.rules import Encryption, Faults, Rules
from channel_layer.errors import ConfigError, ConfigWarning, FieldError
from channel_layer.options import Accepts, ChannelPattern, describe_unknown, describe_value
from channel_layer.urls import Form, read_options, split_query
from channel_layer.validators import (
    BLIND_NAMES,
    CAPACITIES,
    CIPHERS,
    COUNT,
    ENCRYPTION,
    FAULTS,
    FAULTS_SCHEMA,
    GENKEY,
    check_prefix,
    is_sequence,
    read_blind_names,
    read_channel_capacity,
    read_cipher,
    read_faults,
    read_keys,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = (
    "CommonConfig",
    "Concern",
    "json_schema",
    "options_from_url",
    "parse",
    "require_url",
)

_LONGEST = 1e9
"""Seconds, about 31 years: the waits of Python's threading module overflow at 9.2e9."""


_SHORT = 32
"""Bytes of a key below which there is a warning: 256 bits, as AES-256 uses and `channel-layer genkey` makes."""

_FEW = 10
"""Messages below which a `capacity` is reported as a concern: the smallest capacity in the examples of asgi_redis and
of Channels, that of ``http.response*``."""

_SECONDS = Accepts("a number of seconds, more than 0 and at most 1e9")
_Count = Annotated[int, Field(ge=1), COUNT]
_Seconds = Annotated[float, Field(gt=0.0, le=_LONGEST)]

_LOCAL_AND_REMOTE_ONLY = "an option of channel_layer_redis.RedisLocalChannelLayer: remove it, or use that layer"
_IPC_ONLY = "an option of channel_layer_ipc.IPCChannelLayer: remove it, or use that layer"


@dataclass(frozen=True, slots=True)
class Concern:
    """A valid option that is nevertheless reported when a project is checked.

    Attributes:
        id: the identifier that silences it, as in Django's ``SILENCED_SYSTEM_CHECKS``.
        field: the path of the field, as in a CONFIG.
        problem: the possible consequence and how to fix it. Never holds a secret.
        deploy: whether it matters only in production.
    """

    id: str
    field: str
    problem: str
    deploy: bool = False


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
        "local": _LOCAL_AND_REMOTE_ONLY,
        "no_local_reader": _LOCAL_AND_REMOTE_ONLY,
        "directory": _IPC_ONLY,
        "memory": _IPC_ONLY,
    }
    """Names that are not options of this model but are likely to be tried, and the text of the error about each."""

    unneeded: ClassVar[Mapping[str, str]] = {}
    """Names of other layers' options that change nothing in this one, and why: they are accepted with a warning."""

    unset: ClassVar[frozenset[str]] = frozenset({"channel_capacity"})
    """Options for which None means the same as leaving them out."""

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

    prefix: Annotated[str, AfterValidator(check_prefix), Accepts("a str without braces")] = Field(
        default="asgi:",
        description=(
            "The prefix of every key in the store. Give each project, and each of its stages, a prefix of its own, "
            "and all processes of one project the same: layers whose prefixes differ never "
            "see each other's messages, groups or `flush()`, even if one prefix begins with the other."
        ),
    )
    expiry: Annotated[_Seconds, _SECONDS] = Field(
        default=60.0,
        description=(
            "Seconds that a message may wait unread. It is never delivered after that. Fractions count. "
            "Lower it to drop a backlog that is no longer useful; raise it to bridge longer pauses of the readers."
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
            "Unread messages that a channel may hold. When it is full, `send` raises `ChannelFull`, and "
            "`group_send` drops the message for that channel only and counts it."
        ),
    )
    channel_capacity: Annotated[
        Mapping[ChannelPattern, int],
        PlainValidator(read_channel_capacity),
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}),
        CAPACITIES,
    ] = Field(
        default_factory=_no_exceptions,
        json_schema_extra={"default": {}},
        description=(
            "Exceptions from `capacity`, by channel name, tried in the order of the mapping: the first pattern "
            "that matches wins. A `str` is a glob for the whole name, case-sensitive; an `re.Pattern` is "
            'a regular expression matched at the start of the name; `"re:..."` is one too, for files that '
            "hold only text."
        ),
    )
    symmetric_encryption_keys: Annotated[
        tuple[SecretBytes, ...],
        PlainValidator(read_keys),
        WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True}),
        Accepts("a list of keys, each a str or bytes"),
    ] = Field(
        default=(),
        repr=False,
        description=(
            "Keys to encrypt messages with: the first one encrypts, all of them decrypt, so that keys can be "
            "changed while messages are waiting. `channel-layer genkey` makes one. An empty list: messages are not "
            "encrypted. All processes of a project need the same keys. Needs the extra `cryptography`."
        ),
    )
    encryption: Annotated[str, PlainValidator(read_cipher), WithJsonSchema({"type": "string"}), ENCRYPTION] = Field(
        default="aes-256-gcm",
        description=(
            "The cipher that encrypts messages if there are keys. `aes-256-gcm` is faster and adds fewer bytes; "
            "`fernet` makes the same tokens as asgi_redis. Both bind a message to its channel or group, the prefix "
            "and the time. All processes of a project need the same cipher."
        ),
    )
    blind_names: Annotated[
        bool | SecretBytes,
        PlainValidator(read_blind_names),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "minLength": 1}]}),
        BLIND_NAMES,
    ] = Field(
        default=False,
        repr=False,
        description=(
            "Also hide the names of channels and groups from anyone who can read the store. `True`: with a key derived "
            "from the one in `symmetric_encryption_keys`; with several keys there, as while keys are being changed, "
            "give the key that names are blinded with, because it must not change: `blind_names=KEY`."
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
            "Entries that the inbox of one process may hold in the store: everything that was sent to its "
            "channels and groups and has not been fetched. When it is full, group messages for that process "
            "are dropped and counted."
        ),
    )
    timeout: Annotated[_Seconds, _SECONDS] = Field(
        default=5.0,
        description=(
            "Seconds that any command may wait for the store. `send` fails with `StoreError` after that; "
            "`receive` goes on waiting and reconnects. `flush` waits as long for other processes."
        ),
    )

    faults: Annotated[Faults | None, PlainValidator(read_faults), WithJsonSchema(FAULTS_SCHEMA), FAULTS] = Field(
        default=None,
        description=(
            "Faults to inject between this layer and its store, to see how your application handles them: "
            'the shares of commands, from 0 to 1, that are not sent (`"refuse"`), whose reply is lost '
            '(`"lose_reply"`) and at which the connection is lost (`"disconnect"`); the most seconds that a command '
            'waits (`"delay"`); and the `"seed"` of the random generator. For tests and staging, not for production.'
        ),
    )

    _given_in_vain: tuple[str, ...] = PrivateAttr(default=())
    """The options of `unneeded` that were given."""

    def model_post_init(self, context: object) -> None:
        """Keep the names that `parse` has left out; called by Pydantic."""
        if is_sequence(context):
            self._given_in_vain = tuple(map(str, context))

    @classmethod
    def conflicts(cls, options: Mapping[str, object]) -> Iterable[FieldError]:
        """Find options that contradict each other, though each may be valid by itself.

        Args:
            options: the options as they were written, unchecked.
        """
        keys = options.get("symmetric_encryption_keys", ())
        if not is_sequence(keys):
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
                "other's names: set blind_names to the key that names are blinded with, and keep it "
                "(blind_names=OLD_KEY gives the same names as True with only that key)"
            )
            yield FieldError("blind_names", problem)

    def given_in_vain(self) -> Iterable[FieldError]:
        """Find options that are accepted and change nothing."""
        for name in self._given_in_vain:
            yield FieldError(name, f"is not needed: {self.unneeded[name]}")

    def advice(self) -> Iterable[FieldError]:
        """Find options that are valid but unwise."""
        named = [(f"symmetric_encryption_keys[{n}]", key) for n, key in enumerate(self.symmetric_encryption_keys)]
        if isinstance(self.blind_names, SecretBytes):
            named.append(("blind_names", self.blind_names))
        for field, key in named:
            size = len(key.get_secret_value())
            if size < _SHORT:
                problem = f"a key of {size} bytes can be guessed by an attacker who has a message and time; {GENKEY}"
                yield FieldError(field, problem)

    def concerns(self) -> Iterable[Concern]:
        """Find what is reported when a project is checked, but not always when a layer is made."""
        if self.capacity < _FEW:
            problem = (
                f"a burst of {self.capacity + 1} messages already raises ChannelFull or loses group messages, and the "
                f"smallest capacity in the examples of asgi_redis and Channels is {_FEW}: raise it, or name the few "
                "channels that are meant in channel_capacity"
            )
            yield Concern("channel_layer.W001", "capacity", problem)
        for advice in self.advice():
            yield Concern("channel_layer.W002", advice.field, advice.problem)
        for option in self.given_in_vain():
            yield Concern("channel_layer.W005", option.field, option.problem)

    @classmethod
    def read_url(cls, url: str, errors: list[FieldError]) -> dict[str, object]:
        """Read the options of a URL, as they would be in a CONFIG; their values are not checked yet.

        This is for layers that need no server, as in ``memory://?capacity=10``; others override it.

        Args:
            url: the URL.
            errors: the list that errors are added to. No text repeats a part of the URL.
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
        """Read the options in the query of a URL.

        Args:
            query: its parameters, decoded.
            errors: the list that errors are added to.
            others: further parameters that the URL may have, for the error about an unknown one.
        """
        known: list[tuple[str, str]] = []
        unneeded: dict[str, object] = {}
        for name, text in query:
            if name in cls.url_forms:
                known.append((name, text))
            elif name in cls.unneeded:
                unneeded[name] = text
            else:
                # What does not look like a name may be a part of a password.
                field = name if re.fullmatch(r"[A-Za-z][A-Za-z_-]{0,39}", name) else "url"
                problem = cls.refused.get(name) or describe_unknown(name, (*cls.url_forms, *others))
                errors.append(FieldError(field, f"in the query of the URL: {problem}"))
        described = {name: _accepted(field.metadata) for name, field in cls.model_fields.items()}
        accepts = {name: item.text for name, item in described.items() if item is not None}
        return {**read_options(known, cls.url_forms, accepts, errors), **unneeded}

    def _encryption(self) -> Encryption | None:
        keys = tuple(map(_hash, self.symmetric_encryption_keys))
        if not keys:
            return None
        blind = self.blind_names
        names = _hash(blind) if isinstance(blind, SecretBytes) else keys[0] if blind else None
        return Encryption(keys, self.encryption, names)

    def rules(self) -> Rules:
        """Return the common options as the core reads them; warn of unneeded and unwise ones (`ConfigWarning`)."""
        for advice in (*self.given_in_vain(), *self.advice()):
            warnings.warn(f"{advice.field}: {advice.problem}", ConfigWarning, stacklevel=3)  # the caller
        return Rules(
            prefix=self.prefix,
            expiry=self.expiry,
            group_expiry=self.group_expiry,
            capacity=CapacityTable(
                self.capacity,
                [(compile_pattern(pattern), limit) for pattern, limit in self.channel_capacity.items()],
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
    """Return 32 bytes made from a key of any length, as asgi_redis does."""
    return SecretBytes(hashlib.sha256(key.get_secret_value()).digest())


_Model = TypeVar("_Model", bound=CommonConfig)


def parse(model: type[_Model], options: Mapping[str, object]) -> _Model:
    """Read a CONFIG.

    Args:
        model: the model of its options.
        options: the options, from keyword arguments or from the dict of a settings file.

    Raises:
        ConfigError: an option is wrong; it names every wrong field, in the order of the model.
    """
    config, errors = _read(model, options)
    if config is None or errors:
        # Raised outside of the exception handler: Pydantic's exception holds the values, secrets among them, and would
        # otherwise become the context of this one.
        raise _ordered(model, errors)
    return config


def options_from_url(model: type[CommonConfig], url: str) -> dict[str, object]:
    """Read a URL that holds a whole CONFIG, and check it.

    Args:
        model: the model of its options.
        url: ``scheme://...?option=value&...``; see `CommonConfig.read_url`.

    Returns:
        The options as they would be written in a CONFIG, known to be valid.

    Raises:
        ConfigError: an option is wrong; it names every wrong parameter, and repeats no value.
    """
    errors: list[FieldError] = []
    options = model.read_url(require_url(url), errors)
    errors += _read(model, options)[1]  # about the options that could be read
    if errors:
        raise _ordered(model, errors)
    return options


def require_url(url: object) -> str:
    """Return *url*, if it is a str: a variable that is missing in the environment gives None.

    Raises:
        ConfigError: it is not a str.
    """
    if isinstance(url, str):
        return url
    raise ConfigError([FieldError("url", f"must be a URL, not {describe_value(url)}")])


def _read(model: type[_Model], options: Mapping[str, object]) -> tuple[_Model | None, list[FieldError]]:
    given = {name: value for name, value in options.items() if value is not None or name not in model.unset}
    errors = list(model.conflicts(given))
    in_vain = [name for name in given if name in model.unneeded]
    for name in in_vain:
        del given[name]
    try:
        return model.model_validate(given, context=in_vain), errors
    except ValidationError as exc:
        for error in exc.errors(include_url=False):
            errors += _translate(model, error)
    return None, errors


def _ordered(model: type[CommonConfig], errors: list[FieldError]) -> ConfigError:
    order = {name: place for place, name in enumerate(model.model_fields)}
    return ConfigError(sorted(errors, key=lambda error: order.get(re.split(r"[.\[]", error.field)[0], len(order))))


def json_schema(model: type[CommonConfig]) -> dict[str, object]:
    """Describe a CONFIG as JSON Schema (draft 2020-12), for editors and for files that are not Python.

    The schema covers types, ranges and names. What only `parse` finds (contradictions, globs that match nothing)
    passes.
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
    return choices if is_sequence(choices) else [schema]


def _translate(model: type[CommonConfig], error: ErrorDetails) -> Iterable[FieldError]:
    """Turn an error of Pydantic into errors in our words."""
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
    return (FieldError(field, accepts.problem(value)),)


def _accepted(metadata: Iterable[object]) -> Accepts | None:
    return next((item for item in metadata if isinstance(item, Accepts)), None)
