"""Limit the rate of results per monitor: one that sends more than its assignments justify does not starve others.

Each sender has a token bucket, whose rate follows from its pairs in the ledger and the intervals of the pool.
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
"""Factor by which a monitor may send faster than it measures, so that it drains a day's spool in little over an
hour."""

LEAST_RATE: Final = 20.0
"""Minimum rate limit of any monitor in results per second, also of one that has just lost its assignments."""

BURST: Final = 60.0
"""Size of the bucket in seconds of the rate limit: 20 min of measurements."""

REMEMBERED: Final = 3600.0
"""Seconds after which an idle sender is forgotten."""

MOST_SENDERS: Final = 10_000
"""Maximum senders in memory. The broker lets only registered monitors publish, so this is never reached."""


def allowed_rate(measured_rate: float) -> float:
    """Return the rate limit of a monitor that measures at this rate, both in results per second."""
    return max(LEAST_RATE, DRAINING * measured_rate)


@dataclass(slots=True)
class Bucket:
    """Token bucket, one token per result. One message may overdraw it, so that no message is too large."""

    rate: float
    """Results per second."""
    level: float
    at: float
    """Time of ``level`` in seconds of a monotonic clock."""

    def fill(self, now: float) -> None:
        """Refill up to ``now``."""
        self.level = min(self.rate * BURST, self.level + self.rate * max(0.0, now - self.at))
        self.at = now

    @property
    def full(self) -> bool:
        """Return whether the bucket is full."""
        return self.level >= self.rate * BURST

    @property
    def low(self) -> bool:
        """Return whether less than half of the tokens are left."""
        return self.level < self.rate * BURST / 2


@dataclass(slots=True)
class _Sender:
    bucket: Bucket
    rated: bool = False
    refused: int = 0


class RateLimiter:
    """Rate limiter with a token bucket per sender. ``now`` is the time of a monotonic clock in seconds."""

    def __init__(self) -> None:
        self._senders: dict[Sender, _Sender] = {}
        self._warning = RateLimitedLog(log)

    def admits(self, sender: Sender, now: float) -> bool:
        """Return whether a message of ``sender`` is accepted now, and count a refusal."""
        known = self._known(sender, now)
        known.bucket.fill(now)
        if known.bucket.level > 0:
            return True
        known.refused += 1
        text = "monitor %s/%s exceeds its rate limit of %.0f results/s: its batches are delayed"
        self._warning.log(logging.WARNING, sender[0], text, *sender, known.bucket.rate)
        return False

    def charge(self, sender: Sender, results: int, now: float) -> None:
        """Remove tokens for a message of ``sender`` with so many results; one without results counts as one."""
        self._known(sender, now).bucket.level -= max(1, results)

    def rate(self, rates: Mapping[Sender, float]) -> None:
        """Set the rate limits of senders in results per second."""
        for sender, rate in rates.items():
            if known := self._senders.get(sender):
                # The size of the bucket follows the rate, and a full bucket stays full.
                full, known.bucket.rate, known.rated = known.bucket.full, rate, True
                known.bucket.level = rate * BURST if full else min(known.bucket.level, rate * BURST)

    def senders(self) -> list[Sender]:
        """Return all senders in memory."""
        return list(self._senders)

    def wanting(self) -> list[Sender]:
        """Return the senders whose rate has to be looked up: it is unknown, and half of their tokens are used up."""
        return [sender for sender, known in self._senders.items() if not known.rated and known.bucket.low]

    def expire_rates(self) -> None:
        """Mark all rates as unknown, since they may have changed; each stays in force until the next lookup."""
        for known in self._senders.values():
            known.rated = False

    def forget_idle(self, now: float) -> None:
        """Forget senders that have been idle for :data:`REMEMBERED`; their buckets are full again."""
        self._senders = {s: known for s, known in self._senders.items() if now - known.bucket.at < REMEMBERED}

    def refused(self) -> dict[str, int]:
        """Return the numbers of refused messages by ``name/protocol``, without zeros."""
        return {f"{name}/{ipv}": known.refused for (name, ipv), known in self._senders.items() if known.refused}

    def _known(self, sender: Sender, now: float) -> _Sender:
        if sender not in self._senders:
            if len(self._senders) >= MOST_SENDERS:
                self._senders.pop(next(iter(self._senders)))
            self._senders[sender] = _Sender(Bucket(LEAST_RATE, LEAST_RATE * BURST, now))
        return self._senders[sender]


_TOGETHER: Final = 20
"""Monitors per query; each has some thousand pairs at most."""


def read_rates(engine: Engine, senders: Sequence[Sender], intervals: Intervals) -> dict[Sender, float]:
    """Read the rate limits of ``senders`` in results per second; one that is not in the ledger gets the minimum.

    Raises:
        sqlalchemy.exc.DBAPIError: the database failed.
    """
    measured_rates = dict.fromkeys(senders, 0.0)
    names = sorted({name for name, _ in senders})
    with reading(engine) as connection:
        for some in _chunks(names):
            for row in connection.execute(_pairs_of(some)):
                sender = (row.tls_name, row.ip_version)
                if sender in measured_rates:
                    measured_rates[sender] += row.pairs / intervals.of(row.status)
    return {sender: allowed_rate(rate) for sender, rate in measured_rates.items()}


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
