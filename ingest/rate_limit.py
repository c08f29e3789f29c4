"""Limits how much one monitor may send: far more than its assignments allow must not take the ledger from the others.

A token bucket for each sender, filled at the rate that its pairs in the ledger and the intervals of the pool allow.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.engine import reading
from runtime.db.system_settings import Intervals
from runtime.log import RateLimitedLog
from schema.tables import monitors, server_scores

log = logging.getLogger(__name__)

Sender = tuple[str, str]
"""Name and protocol of a monitor."""

DRAINING: Final = 20.0
"""How many times faster than it measures a monitor may send: a day's spool is drained in a little over an hour."""

LEAST_RATE: Final = 20.0
"""Results a second that any monitor may send, also one that has just lost its assignments."""

BURST: Final = 60.0
"""Seconds of its rate that a monitor may send at once: 20 min of measuring."""

REMEMBERED: Final = 3600.0
"""Seconds for which a sender is remembered that is not heard of."""

MOST_SENDERS: Final = 10_000
"""Senders that are remembered. The broker lets only registered monitors publish, so there are never that many."""


def allowed_rate(pace: float) -> float:
    """Results a second that a monitor may send which measures ``pace`` results a second."""
    return max(LEAST_RATE, DRAINING * pace)


@dataclass(slots=True)
class Bucket:
    """Results that may still be sent. It may be overdrawn by one message, so that none is too large for it."""

    rate: float
    """Results a second."""
    level: float
    at: float
    """When ``level`` was right: seconds of a monotonic clock."""

    def fill(self, now: float) -> None:
        """Brings ``level`` up to ``now``."""
        self.level = min(self.rate * BURST, self.level + self.rate * max(0.0, now - self.at))
        self.at = now

    @property
    def full(self) -> bool:
        """Whether nothing was taken from it lately."""
        return self.level >= self.rate * BURST

    @property
    def low(self) -> bool:
        """Whether less than half of it is left."""
        return self.level < self.rate * BURST / 2


@dataclass(slots=True)
class _Sender:
    bucket: Bucket
    rated: bool = False
    refused: int = 0


class RateLimiter:
    """The buckets of all senders. ``now`` is the time of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._senders: dict[Sender, _Sender] = {}
        self._warning = RateLimitedLog(log)

    def admits(self, sender: Sender, now: float) -> bool:
        """Whether a message of ``sender`` is taken now; a refusal is counted."""
        known = self._known(sender, now)
        known.bucket.fill(now)
        if known.bucket.level > 0:
            return True
        known.refused += 1
        text = "monitor %s/%s sends more than %.0f results/s: its batches wait"
        self._warning.say(logging.WARNING, sender[0], text, *sender, known.bucket.rate)
        return False

    def charge(self, sender: Sender, results: int, now: float) -> None:
        """``sender`` sent so many results; a message without any counts as one."""
        self._known(sender, now).bucket.level -= max(1, results)

    def rate(self, rates: Mapping[Sender, float]) -> None:
        """Sets the rates of senders, in results a second."""
        for sender, rate in rates.items():
            if known := self._senders.get(sender):
                # Bursts grow with the rate: what was there as a full bucket is a full one still.
                full, known.bucket.rate, known.rated = known.bucket.full, rate, True
                known.bucket.level = rate * BURST if full else min(known.bucket.level, rate * BURST)

    def senders(self) -> list[Sender]:
        """All that are remembered."""
        return list(self._senders)

    def wanting(self) -> list[Sender]:
        """Those whose rate is to be looked up: it is not known, and they have used up half of their bucket."""
        return [sender for sender, known in self._senders.items() if not known.rated and known.bucket.low]

    def expire_rates(self) -> None:
        """What was looked up so far may have changed; it holds until it is looked up again."""
        for known in self._senders.values():
            known.rated = False

    def forget_idle(self, now: float) -> None:
        """Forgets senders that were not heard of for :data:`REMEMBERED`; their buckets are full long since."""
        self._senders = {s: known for s, known in self._senders.items() if now - known.bucket.at < REMEMBERED}

    def refused(self) -> dict[str, int]:
        """Messages not taken, by ``name/protocol``, of those who had any."""
        return {f"{name}/{ipv}": known.refused for (name, ipv), known in self._senders.items() if known.refused}

    def _known(self, sender: Sender, now: float) -> _Sender:
        if sender not in self._senders:
            if len(self._senders) >= MOST_SENDERS:
                self._senders.pop(next(iter(self._senders)))
            self._senders[sender] = _Sender(Bucket(LEAST_RATE, LEAST_RATE * BURST, now))
        return self._senders[sender]


_TOGETHER: Final = 20
"""Monitors of one query; each has some thousand pairs at most."""


def read_rates(engine: Engine, senders: Sequence[Sender], intervals: Intervals) -> dict[Sender, float]:
    """Results a second that each of ``senders`` may send; one that is not in the ledger gets the least.

    Raises:
        sqlalchemy.exc.DBAPIError: the database failed.
    """
    intervals_of_status = dict.fromkeys(senders, 0.0)
    names = sorted({name for name, _ in senders})
    with reading(engine) as connection:
        for some in _chunks(names):
            for row in connection.execute(_pairs_of(some)):
                sender = (row.tls_name, row.ip_version)
                if sender in intervals_of_status:
                    intervals_of_status[sender] += row.pairs / intervals.of(row.status)
    return {sender: allowed_rate(pace) for sender, pace in intervals_of_status.items()}


def _pairs_of(names: Sequence[str]) -> sa.Select[tuple[str, str, str, int]]:
    m, p = monitors.c, server_scores.c
    return (
        sa.select(m.tls_name, m.ip_version, p.status, sa.func.count().label("pairs"))
        .select_from(monitors.join(server_scores, p.monitor_id == m.id))
        .where(m.tls_name.in_(names), p.status != "paused")
        .group_by(m.tls_name, m.ip_version, p.status)
    )


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _TOGETHER):
        yield names[start : start + _TOGETHER]
