"""The Django application: it registers the system checks once Django has loaded the applications."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from django.apps import AppConfig
    from django.core.checks import register
except ImportError as _exc:
    if (_exc.name or "").partition(".")[0] != "django":
        raise
    raise ImportError(
        'the checks of channel_layer_django need django: pip install "channel-layer[django]"', name=_exc.name
    ) from _exc

from channel_layer_django.checks import check_deployment, check_settings

__all__ = ()


class _Application(AppConfig):  # private: Django finds it by itself, and its base class has no types
    """Makes ``manage.py check`` check ``CHANNEL_LAYERS``."""

    name = "channel_layer_django"
    label = "channel_layer"

    def ready(self) -> None:
        """Register the checks."""
        register(check_settings, "channel_layer")
        register(check_deployment, "channel_layer", deploy=True)


if TYPE_CHECKING:
    _fits: type[AppConfig] = _Application
