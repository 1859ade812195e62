"""Writes docs/reference/layer.md from the docstrings and signatures of the public API.

So the page cannot contradict the code; a test compares them. To write it again: ``python -m tests.support.api``.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from string import Template
from textwrap import dedent, fill

import channel_layer
from channel_layer import (
    BlockingChannelLayer,
    Channel,
    ChannelFull,
    ChannelLayer,
    ChannelLayerError,
    ConfigError,
    Counts,
    DamagedRecord,
    FieldError,
    Group,
    InvalidFields,
    InvalidMessage,
    InvalidName,
    MessageTooLarge,
    PatchedThreadsError,
    Statistics,
    StoreError,
    Subscription,
    SubscriptionError,
    config_from_url,
    from_url,
)
from channel_layer.domain import codec, counters
from channel_layer_ipc import IPCChannelLayer
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer

__all__ = ("PAGE", "Doc", "documented", "parse_doc", "reference")

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "layer.md"

_WIDTH = 110

_METHODS = {
    "messages": ("send", "receive", "new_channel"),
    "groups": ("group_add", "group_discard", "group_send", "group_channels"),
    "whole": ("ready", "flush", "statistics", "run_maintenance"),
    "end": ("aclose", "close_pools"),
}
"""The methods by the part of the page in which they are described."""

_PLAIN = ("subscribe", "reject")
"""Methods that are not awaited."""

_TYPED = {
    Channel: "channel",
    Group: "group",
    Subscription: "subscription",
}
"""The classes of typed messages, and the variable name of an instance in the examples of calls."""

_ERRORS = (
    ChannelLayerError,
    InvalidName,
    InvalidMessage,
    InvalidFields,
    MessageTooLarge,
    ChannelFull,
    SubscriptionError,
    ConfigError,
    StoreError,
    PatchedThreadsError,
    DamagedRecord,
)

_LAYERS: tuple[type[ChannelLayer], ...] = (MemoryChannelLayer, IPCChannelLayer, RedisChannelLayer)

_OPTIONS = (
    "Their options are on the page about [configuration](configuration.md). A wrong one raises `ConfigError`; one that "
    "is unwise or changes nothing is a `ConfigWarning`, for the module `warnings`."
)

_TEMPLATE = Template(
    """\
# The layer

<!-- Generated from the docstrings by `python -m tests.support.api`: edit those. -->

Every layer has the methods and attributes on this page. They are those that Django Channels 4 calls, and a few
more. What they promise together is on the page about [semantics](../explanation/semantics.md).

```python
from channel_layer_memory import MemoryChannelLayer

async with MemoryChannelLayer() as layer:
    await layer.send("thumbnails", {"file": "cat.png"})
    print(await layer.receive("thumbnails"))
```

```text
{'file': 'cat.png'}
```

An `await` outside of a function works in `python -m asyncio`; elsewhere it stands in an `async def`.

$layers
$urls
## Messages

$message
$messages
## Groups

$groups
## Typed messages and subscriptions

How they are used is on the page about [typed messages](../how-to/typed-messages.md).

$plain
$typed
## All at once

$whole
$counting
## Without asyncio

How it is used is on the page about [threads](../how-to/blocking.md).

$blocking
## The end

`async with layer:` closes the layer when the block ends.

$end
## Attributes

$attributes
## Errors

All are importable from `channel_layer`, and `except ChannelLayerError` catches every one. Where
`channels.exceptions` is in use, a `ChannelFull` or `MessageTooLarge` that is raised is also the exception of the
same name there, if there is one.

$errors
## Statistics

$statistics
## Counts

$counts
"""
)


# -- docstrings ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Doc:
    """The parts of a docstring in Google style.

    Attributes:
        text: the paragraphs before the first section.
        sections: by title, (name, description) pairs; the name is empty where a section has only text.
    """

    text: list[str]
    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict[str, list[tuple[str, str]]])


_TITLE = re.compile(r"(Args|Attributes|Raises|Returns):")
_ITEM = re.compile(r"(\w+): (.*)", re.DOTALL)


def parse_doc(thing: object) -> Doc:
    """Split the docstring of a class or function into its parts.

    Raises:
        ValueError: there is no docstring.
    """
    raw = inspect.getdoc(thing)
    if raw is None:
        raise ValueError(f"{thing!r} has no docstring")
    doc = Doc([])
    for paragraph in _markdown(raw).split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        title = _TITLE.fullmatch(head)
        if title is None:
            doc.text.append(_joined(paragraph))
        else:
            doc.sections[title[1]] = list(_items(title[1], dedent(rest)))
    return doc


def _items(title: str, body: str) -> Iterator[tuple[str, str]]:
    if title == "Returns":
        yield "", _joined(body)
        return
    for part in re.split(r"\n(?! )", body):
        item = _ITEM.fullmatch(part)
        if item is None:
            raise ValueError(f"{part!r} is no item of {title}")
        yield item[1], _joined(item[2])


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _joined(text: str) -> str:
    return " ".join(text.split())


def _constant(module: object, name: str) -> str:
    """Return the docstring below an assignment in a module."""
    if not inspect.ismodule(module):
        raise TypeError("not a module")
    body = ast.parse(inspect.getsource(module)).body
    for statement, following in pairwise(body):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=found)) | ast.Assign(targets=[ast.Name(id=found)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ) if found == name:
                return _markdown(inspect.cleandoc(text))
            case _:
                pass
    raise ValueError(f"{name} has no docstring")


# -- the page ------------------------------------------------------------------------------------------------


def documented() -> set[str]:
    """Return the names of all methods that the page describes."""
    return {name for names in _METHODS.values() for name in names}


def reference() -> str:
    """Return the page."""
    return _TEMPLATE.substitute(
        layers=_paragraphs([*parse_doc(ChannelLayer).text[1:], *map(_layer, _LAYERS), _OPTIONS]),
        urls="\n".join(map(_function, (from_url, config_from_url))),
        message=_paragraphs([_message()]),
        plain="\n".join(_method(name, "layer.") for name in _PLAIN),
        typed="\n".join(_class(kind, called) for kind, called in _TYPED.items()),
        blocking=_class(BlockingChannelLayer, "layer.blocking"),
        attributes=_attributes(),
        errors="\n".join(_error(error) for error in _ERRORS),
        statistics=_described(parse_doc(Statistics)),
        counting=_method("counts", "layer."),
        counts=_counts(),
        **{part: "\n".join(_method(name) for name in names) for part, names in _METHODS.items()},
    )


def _layer(layer: type[ChannelLayer]) -> str:
    package = layer.__module__.partition(".")[0]
    return f"`{package}.{layer.__name__}(**options)`: {_lower(parse_doc(layer).text[0])}"


def _function(function: Callable[..., object]) -> str:
    shown = str(inspect.signature(function)).replace("'", "")
    name = getattr(function, "__name__", "")
    return f"### `{name}`\n\n`channel_layer.{name}{shown}`\n\n{_described(parse_doc(function))}"


def _message() -> str:
    about = _lower(_constant(codec, "Message"))
    more = _constant(codec, "Value").partition(". ")[2]
    return f"`Message`: {about} Its values are of the type `Value`, `{_value_type()}`. {more}"


def _value_type() -> str:
    source = inspect.getsource(codec)
    definition = re.search(r"^Value: TypeAlias = (.*)$", source, re.MULTILINE)
    if definition is None:
        raise ValueError("Value is not defined as it was")
    return definition[1].replace('"', "")


def _class(kind: type[object], called: str) -> str:
    """Describe a class and its methods."""
    doc = parse_doc(kind)
    made = f"`{kind.__name__}({_parameters(kind)})`\n\n"
    if kind in (Subscription, BlockingChannelLayer):  # only a layer makes these
        made, doc = "", Doc(doc.text)
    methods: list[str] = []
    for name, thing in vars(kind).items():
        if not name.startswith("_") and inspect.isfunction(thing):
            call = f"{'await ' * inspect.iscoroutinefunction(thing)}{called}.{name}({_parameters(thing)})"
            methods.append(f"`{call}`: {_lower(' '.join(parse_doc(thing).text))}{_raised(parse_doc(thing))}")
        elif isinstance(thing, property):
            methods.append(f"`{called}.{name}`: {_lower(parse_doc(thing).text[0])}")
    return f"### `{kind.__name__}`\n\n{made}{_described(doc)}\nCalls:\n\n{_list(f'- {method}' for method in methods)}"


def _raised(doc: Doc) -> str:
    names = [f"`{name}`" for name, _ in doc.sections.get("Raises", ())]
    return f" Raises {', '.join(names)}." if names else ""


def _parameters(thing: Callable[..., object]) -> str:
    """Return the parameters of a call without their types; of the defaults only those that are text."""
    shown: list[str] = []
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        if parameter.name != "self":
            default: object = parameter.default
            shown.append(f'{parameter.name}="{default}"' if isinstance(default, str) else parameter.name)
    return ", ".join(shown)


def _method(name: str, called: str = "await layer.") -> str:
    function: Callable[..., object] = getattr(ChannelLayer, name)
    signature = inspect.signature(function)
    shown = signature.replace(parameters=[p for p in signature.parameters.values() if p.name != "self"])
    text = str(shown).replace("'", "")  # annotations are strings: PEP 563
    text = text.replace("Source[object]", "Group[T]").replace("[object]", "[T]")  # overloads say it with T
    defaults = [p.default for p in shown.parameters.values() if isinstance(p.default, str)]
    for default in defaults:
        text = text.replace(f"= {default}", f'= "{default}"')
    return f"### `{name}`\n\n`{called}{name}{text}`\n\n{_described(parse_doc(function))}"


def _attributes() -> str:
    listed = dict(parse_doc(ChannelLayer).sections["Attributes"])
    rows = [f"- `{name}`: {text}" for name, text in listed.items()]
    for name, thing in vars(ChannelLayer).items():
        if isinstance(thing, property):
            getter: object = thing.fget
            kind = inspect.get_annotations(getter)["return"] if inspect.isfunction(getter) else ""
            rows.append(f"- `{name}` (`{kind}`): {_lower(parse_doc(thing).text[0])}")
    return _list(rows)


def _error(error: type[ChannelLayerError]) -> str:
    bases = [f"a{'n' * (base.__name__[0] in 'EI')} `{base.__name__}`" for base in error.__bases__]
    text = f"### `{error.__name__}`\n\nIs {' and '.join(bases)}. {_described(parse_doc(error))}"
    if error is ConfigError:
        fields = _list(f"- `{name}`: {what}" for name, what in parse_doc(FieldError).sections["Attributes"])
        text += f"\nA `FieldError` says: {_lower(parse_doc(FieldError).text[0])}\n\n{fields}"
    return _wrapped(text)


def _counts() -> str:
    head, reasons = _constant(counters, "Reason").split("\n\n")
    listed = re.split(r"(?<=\.) (?=`\w+`: )", _joined(reasons))
    text = _described(parse_doc(Counts)).replace(" (see `Reason`)", "")
    return f"{text}\n{_lower(head).capitalize()[:-1]}:\n\n{_list(f'- {reason}' for reason in listed)}".rstrip()


def _described(doc: Doc) -> str:
    parts = [_paragraphs(doc.text)]
    for title, items in doc.sections.items():
        if title == "Returns":
            parts.append(_paragraphs([f"Returns {_lower(items[0][1])}"]))
        else:
            head = {"Args": "Arguments"}.get(title, title)
            parts.append(f"{head}:\n\n{_list(f'- `{name}`: {text}' for name, text in items)}")
    return "\n".join(parts)


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"{_fill(text)}\n\n" for text in texts).removesuffix("\n")


def _list(items: Iterable[str]) -> str:
    return "".join(f"{_fill(item, indent='  ')}\n" for item in items)


def _wrapped(text: str) -> str:
    """Fill the paragraphs of *text* again, except for headings and lists."""
    parts = text.split("\n\n")
    return "\n\n".join(part if part.startswith(("#", "- ")) else _refilled(part) for part in parts)


def _refilled(part: str) -> str:
    return _fill(part) + ("\n" if part.endswith("\n") else "")


def _fill(text: str, indent: str = "") -> str:
    return fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    print(f"{PAGE.name} is that of channel_layer {channel_layer.__version__}")  # noqa: T201 - run by hand
