"""Find layers by the scheme of a URL, or by the dotted path of a class in the settings.

Both are looked up among the entry points of all installed packages, so the core depends on no adapter, and adapters of
third parties are found in the same way. No class is imported before it is needed.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from channel_layer.config import CommonConfig, options_from_url, parse, require_url
from channel_layer.errors import ConfigError, FieldError
from channel_layer.layer import ChannelLayer

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ("ADAPTERS", "SCHEMES", "backends", "config_from_url", "from_url", "load_cipher", "load_layer")

ADAPTERS = "channel_layer.adapters"
"""The group of entry points for layers, each under a short name."""

SCHEMES = "channel_layer.schemes"
"""The group of entry points for layers, each under the scheme of its URLs."""


def from_url(url: str) -> ChannelLayer:
    """Make the layer that a URL describes. It does not connect yet.

    Args:
        url: ``redis://redis.example:6379/0?prefix=chat:&capacity=200``, ``memory://?capacity=10``.

    Raises:
        ConfigError: the URL is wrong; it names every wrong parameter, and repeats no value.
        ImportError: the extra that this layer needs is not installed.
    """
    return _layer_of(url).from_url(url)


def config_from_url(url: str) -> CommonConfig:
    """Check a URL as `from_url` does, without making a layer.

    Returns:
        The options, as the model of that layer.

    Raises:
        ConfigError: the URL is wrong; it names every wrong parameter, and repeats no value.
        ImportError: the extra that this layer needs is not installed.
        TypeError: the layer is one of a third party, and has no model of its options.
    """
    layer = _layer_of(url)
    if layer.config is None:
        raise TypeError(f"{layer.__name__} has no config, which says what its options are")
    return parse(layer.config, options_from_url(layer.config, url))


def backends() -> dict[str, EntryPoint]:
    """Return the entry points of the layers that are installed, by dotted path as in the settings."""
    return {f"{point.module}.{point.attr}": point for point in entry_points(group=ADAPTERS)}


def load_layer(point: EntryPoint) -> type[ChannelLayer] | None:
    """Import the class of an entry point; return None if it is not a `ChannelLayer`.

    Raises:
        ImportError: an extra is not installed; the text says which.
    """
    found: object = point.load()
    return found if isinstance(found, type) and issubclass(found, ChannelLayer) else None


def load_cipher(name: str) -> None:
    """Import the cipher that the option ``encryption`` names, to check that it is installed.

    Raises:
        ImportError: an extra is not installed; the text says which.
    """
    for point in entry_points(group="channel_layer.ciphers", name=name):
        point.load()


def _layer_of(url: str) -> type[ChannelLayer]:
    scheme, mark, _ = require_url(url).partition("://")
    points = {point.name: point for point in entry_points(group=SCHEMES)}
    point = points.get(scheme.lower()) if mark else None
    layer = load_layer(point) if point is not None else None
    if layer is None:
        known = ", ".join(f"{name}://" for name in sorted(points) if "+" not in name)
        if forms := sorted({f"+{form}" for name in points for form in name.split("+")[1:]}):
            known = f"{known}, some also with {', '.join(forms)}"
        # Without "://" the text may be anything, even a password; a scheme holds nothing secret.
        close = get_close_matches(scheme.lower(), points, n=1) if mark else []
        guess = f"; did you mean {close[0]}://?" if close else ""
        raise ConfigError([FieldError("url", f"must be a URL that begins with one of {known}{guess}")])
    return layer
