"""The suite for layers, put together from its parts."""

from __future__ import annotations

from channel_layer.testing.suites.delivery import DeliveryTests
from channel_layer.testing.suites.groups import GroupTests
from channel_layer.testing.suites.limits import CapacityTests, ExpiryTests
from channel_layer.testing.suites.receiving import ReceivingTests
from channel_layer.testing.suites.statistics import StatisticsTests
from channel_layer.testing.suites.whole import WholeTests

__all__ = ("LayerSuite",)


class LayerSuite(DeliveryTests, ReceivingTests, CapacityTests, GroupTests, ExpiryTests, StatisticsTests, WholeTests):
    """All that a layer promises and a sequence of calls cannot show.

    ::

        class TestMine(LayerSuite):
            make_layer = staticmethod(make_layer)

    ``make_layer(rules, clock)`` makes a layer over the store of ``rules.prefix``; each call is one more process.
    A fixture of the same name, in the class or outside of it, does as well, and may have parameters. A class says with
    `capabilities` what its store lacks; less is asked of it then, but every test runs.
    """
