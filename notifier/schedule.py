"""Decide what a channel is told now: quiet hours, one message per interval, and the time of the next attempt. Pure."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from notifier.model import Key
from runtime.retry import Delays

NEVER_LATER: Final = timedelta(minutes=30)
"""Time in which every message is due again, twice the longest delay. One beyond was written before the clock was set
back, and would wait until it has caught up."""

KEEP_TRYING: Final = timedelta(days=7)
"""Time for which a message is tried, and a change waits for its message."""

RETRY: Final = Delays(first_seconds=30.0, longest_seconds=900.0, jitter=0.2)
"""Delays between attempts: a channel that works again gets its message within a quarter of an hour."""

_QUIET: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Hours of each day in local time, from the first to before the last; they may span midnight."""

    begin: time
    end: time
    zone: ZoneInfo

    def contain(self, moment: datetime) -> bool:
        """Return whether ``moment`` (naive UTC) is within them."""
        local = moment.replace(tzinfo=UTC).astimezone(self.zone).time()
        if self.begin < self.end:
            return self.begin <= local < self.end
        return local >= self.begin or local < self.end


def parse_quiet(text: str, zone: ZoneInfo) -> QuietHours:
    """Parse hours such as ``22:00-07:00``.

    Raises:
        ValueError: they have another form, or are empty.
    """
    match = _QUIET.fullmatch(text)
    if match is None:
        raise ValueError("must be hours such as 22:00-07:00")
    hours = [int(part) for part in match.groups()]
    found = QuietHours(time(hours[0], hours[1]), time(hours[2], hours[3]), zone)
    if found.begin == found.end:
        raise ValueError("must begin and end at different times")
    return found


@dataclass(frozen=True, slots=True)
class Pending:
    """A change that waits for a message to a channel."""

    id: int
    key: Key
    raised: bool
    title: str
    text: str
    changed_on: datetime


@dataclass(frozen=True, slots=True)
class Due:
    """What to do with the pending changes of a channel now."""

    send: tuple[Pending, ...] = ()
    """Changes for the message of now, in their order."""
    drop: tuple[Pending, ...] = ()
    """Changes that are never sent."""


def due_now(
    pending: Sequence[Pending],
    now: datetime,
    *,
    quiet: QuietHours | None,
    every: timedelta,
    sent_on: datetime | None,
) -> Due:
    """Return what to send now, and what not at all.

    Args:
        pending: in the order of the changes.
        every: minimum time between two messages.
        sent_on: time of the previous message.
    """
    stale = [one for one in pending if now - one.changed_on > KEEP_TRYING]
    fresh = [one for one in pending if now - one.changed_on <= KEEP_TRYING]
    if quiet is not None and quiet.contain(now):
        return Due(drop=tuple(stale))
    # A clock that was set back must not silence a channel.
    if sent_on is not None and timedelta(0) <= now - sent_on < every:
        return Due(drop=tuple(stale))
    unneeded = [] if quiet is None else list(_undone(fresh, quiet))
    return Due(tuple(one for one in fresh if one not in unneeded), (*stale, *unneeded))


def _undone(pending: Sequence[Pending], quiet: QuietHours) -> Iterable[Pending]:
    """Yield changes within quiet hours that later ones have undone.

    Changes of an alert alternate. After an even number of them all is as it was before, so none is sent; of an odd
    number, only the last one is news.
    """
    by_alert = sorted(pending, key=lambda one: one.key)  # stable: the changes of an alert stay in order
    for (_, in_quiet), group in itertools.groupby(by_alert, lambda one: (one.key, quiet.contain(one.changed_on))):
        changes = list(group)
        if in_quiet:
            yield from changes if len(changes) % 2 == 0 else changes[:-1]


def next_attempt(now: datetime, attempts: int) -> datetime:
    """Return when a message is tried again after so many failed attempts."""
    return now + timedelta(seconds=RETRY.after(attempts))
