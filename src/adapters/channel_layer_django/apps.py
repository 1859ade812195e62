"""The Django application: it registers the checks when Django has loaded its applications, and does nothing else."""

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


class _Application(AppConfig):  # Django finds it; it has no types, so no code should build on it
    """Has ``manage.py check`` look at ``CHANNEL_LAYERS``."""

    name = "channel_layer_django"
    label = "channel_layer"

    def ready(self) -> None:
        """Register the checks."""
        register(check_settings, "channel_layer")
        register(check_deployment, "channel_layer", deploy=True)


if TYPE_CHECKING:
    _fits: type[AppConfig] = _Application
