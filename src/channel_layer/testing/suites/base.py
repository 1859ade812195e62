"""What every part of the suite for layers is built on: the factory, the capabilities, an environment for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from channel_layer.ports import Capabilities
from channel_layer.testing.suites.tools import LayerEnvironment, fixture_from

if TYPE_CHECKING:
    from channel_layer.testing.factories import MakeLayer

__all__ = ("LayerTests",)


class LayerTests:
    """Tests over ``make_layer``: a static method of the class, or a fixture of that name, wherever it is defined.

    Attributes:
        capabilities: what the store can do.
        patience: seconds of real time after which what has not happened is taken not to happen. Only what fails waits
            for so long.
        spans_processes: whether a forked child reaches the same store; False for one inside the process.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    patience: ClassVar[float] = 20.0
    spans_processes: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        fixture_from(cls, "make_layer")

    @pytest.fixture
    def env(self, make_layer: MakeLayer) -> LayerEnvironment:
        """A store of this test's own, and layers over it."""
        return LayerEnvironment(make_layer, self.capabilities, self.patience)
