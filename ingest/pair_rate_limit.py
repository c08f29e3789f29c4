"""Limit the rate of results per pair: decide whether a result is too soon (oversampling).

The selector trusts a monitor because it has measured for some time. If a monitor could send a day's results within a
second, it would become active at once. So a result that exceeds the rate limit of its pair is rejected. The limit
compares the times of measurement; the time and order of arrival do not matter.

Correct agents stay far within the limit. One process never measures a pair twice within half an interval; a restart, a
second process with the same name and a manual run may each add one result. The limit uses the shortest interval that
the pair may have been assigned, since an agent without a connection keeps the last assignment that it received: the
interval of any status that the pair has had, at most the pool's default, and at most a minute while results may still
arrive that were measured before a change of the intervals.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from runtime.db.system_settings import Intervals
from schema.limits import SPOOL_AGE
from schema.messages import PairStatus

MOST_NEAR: Final = 5
"""Maximum results of a pair within an interval: one process sends at most two, two processes four."""

MANY: Final = 8
"""Number of intervals for :data:`MOST_OF_MANY`."""

MOST_OF_MANY: Final = 21
"""Maximum results of a pair within :data:`MANY` intervals: one process sends at most nine, two processes 18."""

UNSURE: Final = timedelta(minutes=1)
"""Maximum interval of the limit while results of former intervals may still arrive."""

_DEFAULT: Final = Intervals()
_MEASURED: Final[tuple[PairStatus, ...]] = ("active", "testing", "candidate")
"""Statuses in which a pair is measured."""

IntervalOfStatus = Mapping[PairStatus, timedelta]
"""The interval of each status in which a pair is measured."""


class Recent(NamedTuple):
    """Stored results of a pair around the times of results that may be too soon."""

    interval: timedelta
    """The shortest interval that the pair may have been assigned."""
    times: tuple[datetime, ...]
    """Sorted times of measurement of stored results."""


@dataclass(frozen=True, slots=True)
class Window:
    """Open time interval in which a pair's results are relevant."""

    after: datetime
    before: datetime


def intervals_of_status(intervals: Intervals, *, changed: bool = False) -> IntervalOfStatus:
    """Return the intervals for the limit. ``changed``: results of former intervals may still arrive."""
    most = UNSURE.total_seconds() if changed else float("inf")
    return {status: timedelta(seconds=min(intervals.of(status), _DEFAULT.of(status), most)) for status in _MEASURED}


def were_changed(created: datetime, modified: datetime, now: datetime) -> bool:
    """Return whether agents may still hold results of former intervals, from the times of the settings row.

    A row that was created and never modified replaces the defaults, which :func:`intervals_of_status` includes anyway.
    """
    return modified > created + UNSURE and modified > now - SPOOL_AGE - UNSURE


def shortest(statuses: Iterable[PairStatus], at: IntervalOfStatus) -> timedelta:
    """Return the shortest interval of these statuses, or of all statuses if a pair is measured in none of them."""
    return min((at[status] for status in statuses if status in at), default=min(at.values()))


def may_be_too_soon(ts: datetime, newest: datetime | None, status: PairStatus, at: IntervalOfStatus) -> bool:
    """Return whether the ledger has to be queried; ``newest`` is the time of the pair's newest result.

    A result half an interval later than all others, as nearly all are, is never too soon.
    """
    return newest is not None and ts - newest < at.get(status, max(at.values())) / 2


def is_too_soon(ts: datetime, newest: datetime | None, interval: timedelta, times: Sequence[datetime]) -> bool:
    """Return whether a result measured at ``ts`` is too soon; ``times`` are the sorted times of the pair's others."""
    if newest is None or ts - newest >= interval / 2:
        return False
    return _crowded(times, ts, MOST_NEAR, interval) or _crowded(times, ts, MOST_OF_MANY, MANY * interval)


def _crowded(times: Sequence[datetime], ts: datetime, most: int, within: timedelta) -> bool:
    """Return whether ``ts`` would be one of more than ``most`` times within less than ``within``."""
    place = bisect_right(times, ts)
    around = [*times[max(0, place - most) : place], ts, *times[place : place + most]]
    return any(last - first < within for first, last in zip(around, around[most:], strict=False))


def windows(moments: Iterable[datetime], interval: timedelta) -> list[Window]:
    """Return the windows of results to read for these times; overlapping windows are merged."""
    reach = MANY * interval
    found: list[Window] = []
    for moment in sorted(moments):
        if found and moment - reach <= found[-1].before:
            found[-1] = Window(found[-1].after, moment + reach)
        else:
            found.append(Window(moment - reach, moment + reach))
    return found
