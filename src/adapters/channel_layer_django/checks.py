"""Django's system checks of ``CHANNEL_LAYERS``, so that a wrong setting is found before the first message.

No check makes a layer or connects to a server. docs/how-to/check-your-configuration.md describes the ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's names

from channel_layer_django.audit import audit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from django.apps import AppConfig

    from channel_layer_django.audit import Finding

__all__ = ("check_deployment", "check_settings")


def check_settings(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """Report what is wrong or unwise in every environment.

    Args:
        app_configs: the applications to check; a setting belongs to none of them, so it is always checked.
    """
    del app_configs
    return list(_messages(audit(_setting())))


def check_deployment(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """Report what is unwise in production only; Django calls this with ``check --deploy``."""
    del app_configs
    everywhere = audit(_setting())
    return list(_messages(finding for finding in audit(_setting(), deploy=True) if finding not in everywhere))


def _setting() -> object:
    setting: object = getattr(settings, "CHANNEL_LAYERS", {})
    return setting


def _messages(findings: Iterable[Finding]) -> Iterator[CheckMessage]:
    kinds = {"error": Error, "warning": Warning}
    for finding in findings:
        if finding.level in kinds:
            yield kinds[finding.level](finding.problem, obj=finding.path, id=finding.id)
