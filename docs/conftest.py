"""Lets ``pytest docs README.md`` run every code block of the pages; how is said in `tests.support.pages`."""
# ruff: noqa: INP001 - a folder of pages, not a package

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.pages import Pages

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register a plugin, because the hooks of this file would see this folder only, and not the README."""
    config.pluginmanager.register(Pages(), "pages")


collect_ignore = ["examples"]  # their tests are run as a third party would, by tests/packaging
