"""Define the labels that describe the health of a monitor over all servers. The selector raises and clears them."""

from enum import StrEnum
from typing import Final


class HealthLabel(StrEnum):
    """A label in ``monitor_health``; ``docs/operating.md`` says what raises and what clears each.

    They are shown in this order: faults first.
    """

    NOT_PROBING = "not-probing"
    CLOCK_OFF = "clock-off"
    LOSES_PACKETS = "loses-packets"
    V4_FLAKY = "v4-flaky"
    V6_FLAKY = "v6-flaky"
    OFFLINE_OFTEN = "offline-often"
    FAR_FROM_ALL = "far-from-all"
    STABLE_30D = "stable-30d"
    STABLE_1D = "stable-1d"
    CLOCK_GOOD = "clock-good"

    @property
    def is_trouble(self) -> bool:
        """Return whether the label describes a fault; the others describe a merit."""
        return self not in _MERITS


_MERITS: Final = frozenset({HealthLabel.STABLE_1D, HealthLabel.STABLE_30D, HealthLabel.CLOCK_GOOD})

MAX_REASON: Final = 255
"""Characters of a reason that the ledger keeps."""
