"""What the suites are built on: the factory that each is given, and the capabilities of what it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from channel_layer.ports import Capabilities
from channel_layer.testing.suites.tools import LayerEnvironment

if TYPE_CHECKING:
    from channel_layer.testing.factories import MakeLayer

__all__ = ("LayerTests", "SuiteTests")


class SuiteTests:
    """Tests over a factory: a static method of the class, or a fixture of that name, wherever it is defined.

    Attributes:
        capabilities: what the store can do.
        patience: seconds of real time after which what has not happened is taken not to happen. Only what fails waits
            for so long.
    """

    _factory: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    patience: ClassVar[float] = 20.0

    def __init_subclass__(cls) -> None:
        """Make a fixture of a static method, so that both ways are one for the tests."""
        super().__init_subclass__()
        if isinstance(vars(cls).get(cls._factory), staticmethod):
            make: object = getattr(cls, cls._factory)

            def give(_suite: object) -> object:
                return make

            setattr(cls, cls._factory, pytest.fixture(give, name=cls._factory))


class LayerTests(SuiteTests):
    """Tests over ``make_layer``.

    Attributes:
        spans_processes: whether a forked child reaches the same store; False for one inside the process.
    """

    _factory = "make_layer"
    spans_processes: ClassVar[bool] = True

    @pytest.fixture
    def env(self, make_layer: MakeLayer) -> LayerEnvironment:
        """A store of this test's own, and layers over it."""
        return LayerEnvironment(make_layer, self.capabilities, patience=self.patience)
