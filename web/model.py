"""Define what the public answers are made of: servers, monitors without addresses, and rows of the log."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

HIDDEN_AFTER: Final = timedelta(days=30)
"""A server is shown for this time after its deletion."""

SYSTEM_SUFFIX: Final = ".system"
"""End of the names of pseudo-monitors, which hold settings and are never shown."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the pool. Times are naive UTC, as in the ledger."""

    id: int
    ip: str
    ip_version: str
    hostname: str | None
    in_pool: bool
    netspeed: int
    score: float
    score_ts: datetime | None
    """Time of its newest result; None if it has not been scored yet."""
    created_on: datetime
    deletion_on: date | None
    stratum: int | None = None


def is_hidden(deletion_on: date | None, today: date) -> bool:
    """Return whether a server was deleted so long ago that it is no longer shown."""
    return deletion_on is not None and deletion_on < today - HIDDEN_AFTER


class Entry(NamedTuple):
    """A row of the log: one result of a monitor, or one score of a scorer."""

    id: int
    monitor_id: int
    ts: datetime
    """Naive UTC."""
    score: float
    step: float
    offset: float | None
    """Seconds."""
    rtt: int | None
    """Microseconds."""
    attributes: str | None
    """JSON, of which see :mod:`web.attributes`."""

    @property
    def epoch(self) -> int:
        """Return its time in seconds since 1970."""
        return epoch(self.ts)

    @property
    def rtt_ms(self) -> float | None:
        """Return the round-trip time in milliseconds."""
        return None if self.rtt is None else self.rtt / 1000


_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  # naive UTC, as in the ledger
_SECOND: Final = timedelta(seconds=1)


def epoch(ts: datetime) -> int:
    """Return a naive UTC time in seconds since 1970."""
    return (ts - _EPOCH) // _SECOND


def from_epoch(seconds: int) -> datetime:
    """Return a time since 1970 as naive UTC; the first or last one of the calendar if it is beyond."""
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min if seconds < 0 else datetime.max.replace(microsecond=0)  # noqa: DTZ901


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor, or a scorer, as one server sees it. It has no address, and no name of a host."""

    id: int
    name: str
    """The public part of its name."""
    type: str
    """``monitor`` or ``score``."""
    status: str
    """Of the pair with the server; without a pair, of the monitor itself."""
    score: float
    ts: datetime | None
    """Time of its newest result of the server, naive UTC."""


def newest_first(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries by time; of the same second, by the order in which they were stored."""
    return sorted(entries, key=lambda entry: (entry.ts, entry.id), reverse=True)


def oldest_first(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries in the opposite order of :func:`newest_first`."""
    return sorted(entries, key=lambda entry: (entry.ts, entry.id))
