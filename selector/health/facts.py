"""Define the facts from which a monitor's labels follow, and derive them from its hours. Pure.

An hour in which most monitors delivered nothing is an outage of the pool: it counts neither for nor against any of
them. All times are naive UTC, as in the ledger, and those of hours are their starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Final

from schema.names import IpVersion
from selector.health.hours import MonitorHour

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
WEEK: Final = 7
"""Days that are judged one by one."""
MONTH: Final = timedelta(days=30)

USUAL_SHARE: Final = 0.5
"""Share of the usual number of monitors below which an hour is an outage of the pool."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """Hours of a period in which a monitor delivered results, of those that count: since its first one, without
    outages."""

    delivered: int
    counted: int

    @property
    def missed(self) -> int:
        return max(0, self.counted - self.delivered)


@dataclass(frozen=True, slots=True)
class MonitorFacts:
    """Facts about one monitor at the end of an hour."""

    monitor_id: int
    ipv: IpVersion
    age: timedelta
    """Time since its first hour; at most that of the oldest hour that is kept."""
    days: tuple[Attendance, ...]
    """Of the last seven days, the latest first."""
    month: Attendance
    hours: Mapping[datetime, MonitorHour]
    """Its hours of the last day that count."""
    latest: tuple[datetime, ...]
    """All hours of the last day that count, since its first one, the newest first."""
    sibling: Mapping[datetime, MonitorHour]
    """The hours of the last day of the same agent's other protocol; empty without one."""
    not_probing: str | None = None
    """The reason why the agent does not probe, from its status; None if it probes, or is offline."""


def outages(monitors_per_hour: Mapping[datetime, int]) -> frozenset[datetime]:
    """Return the hours in which far fewer monitors than usual delivered results."""
    if not monitors_per_hour:
        return frozenset()
    least = USUAL_SHARE * median(monitors_per_hour.values())
    return frozenset(hour for hour, count in monitors_per_hour.items() if count < least)


def counted_hours(monitors_per_hour: Mapping[datetime, int]) -> list[datetime]:
    """Return the hours that count, in order."""
    return sorted(monitors_per_hour.keys() - outages(monitors_per_hour))


def attendance(
    delivered: int, counted: Sequence[datetime], first: datetime | None, begin: datetime, end: datetime
) -> Attendance:
    """Return the attendance of a monitor with ``delivered`` hours from ``begin`` until ``end``.

    Args:
        counted: the hours that count.
        first: the monitor's first hour; None if it has none.
    """
    if first is None:
        return Attendance(0, 0)
    begin = max(begin, first)
    return Attendance(delivered, sum(begin <= hour < end for hour in counted))
