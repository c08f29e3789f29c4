"""Whether a result comes too soon: how often one monitor may report on one server.

A monitor's results are worth what its diligence costs. If it could send a day's results within a second, it would be
active before anybody has seen how it measures. So a result is refused that comes much faster than the interval of its
pair allows, by the times at which the results of the pair were measured; when and in which order they arrive does not
matter.

Honest agents stay far within the bounds. One process never measures a pair twice within half an interval; a restart, a
second process with the same name and a run by hand may each add one result. The interval is the shortest that the pair
may have been told, since an agent without a connection goes on with what it was told last: that of any status the pair
has had, never a longer one than the pool's default, and a minute at most while results may still come that were
measured before the intervals were changed.
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
"""Results of a pair within less than an interval: one process makes two at most, two processes make four."""

MANY: Final = 8
"""Intervals in which :data:`MOST_OF_MANY` counts."""

MOST_OF_MANY: Final = 21
"""Results of a pair within less than :data:`MANY` intervals: one process makes nine at most, two make 18."""

UNSURE: Final = timedelta(minutes=1)
"""The interval that is demanded at most as long as results may come that were measured at former intervals."""

_DEFAULT: Final = Intervals()
_TOLD: Final[tuple[PairStatus, ...]] = ("active", "testing", "candidate")
"""Statuses in which a pair is measured."""

IntervalOfStatus = Mapping[PairStatus, timedelta]
"""The interval of each status in which a pair is measured."""


class Recent(NamedTuple):
    """What the ledger has of a pair around the times of results that may be too soon."""

    interval: timedelta
    """The shortest that the pair may have been told."""
    times: tuple[datetime, ...]
    """When stored results were measured, in order."""


@dataclass(frozen=True, slots=True)
class Window:
    """Where results of a pair count: both ends are outside."""

    after: datetime
    before: datetime


def intervals_of_status(intervals: Intervals, *, changed: bool = False) -> IntervalOfStatus:
    """The intervals that results are held to. ``changed``: results of former intervals may still come."""
    most = UNSURE.total_seconds() if changed else float("inf")
    return {status: timedelta(seconds=min(intervals.of(status), _DEFAULT.of(status), most)) for status in _TOLD}


def were_changed(created: datetime, modified: datetime, now: datetime) -> bool:
    """Whether agents may still hold results of former intervals, by the times of the row that has the present ones.

    A row that was only made replaces the defaults, which :func:`intervals_of_status` respects anyway.
    """
    return modified > created + UNSURE and modified > now - SPOOL_AGE - UNSURE


def shortest(statuses: Iterable[PairStatus], at: IntervalOfStatus) -> timedelta:
    """The shortest interval of a pair that has had these statuses; of none in which it is measured, of any."""
    return min((at[status] for status in statuses if status in at), default=min(at.values()))


def may_be_too_soon(ts: datetime, newest: datetime | None, status: PairStatus, at: IntervalOfStatus) -> bool:
    """Whether the ledger must be asked: ``newest`` is the time of the pair's newest result.

    A result half an interval later than all others is never too soon; that is what nearly all are.
    """
    return newest is not None and ts - newest < at.get(status, max(at.values())) / 2


def is_too_soon(ts: datetime, newest: datetime | None, interval: timedelta, times: Sequence[datetime]) -> bool:
    """Whether a result measured at ``ts`` is refused: ``times``, in order, are those of the pair's others around it."""
    if newest is None or ts - newest >= interval / 2:
        return False
    return _crowded(times, ts, MOST_NEAR, interval) or _crowded(times, ts, MOST_OF_MANY, MANY * interval)


def _crowded(times: Sequence[datetime], ts: datetime, most: int, within: timedelta) -> bool:
    """Whether with ``ts`` there would be more than ``most`` within a time that is shorter than ``within``."""
    place = bisect_right(times, ts)
    around = [*times[max(0, place - most) : place], ts, *times[place : place + most]]
    return any(last - first < within for first, last in zip(around, around[most:], strict=False))


def windows(moments: Iterable[datetime], interval: timedelta) -> list[Window]:
    """What must be known to judge results of these times: one window where they overlap."""
    reach = MANY * interval
    found: list[Window] = []
    for moment in sorted(moments):
        if found and moment - reach <= found[-1].before:
            found[-1] = Window(found[-1].after, moment + reach)
        else:
            found.append(Window(moment - reach, moment + reach))
    return found
