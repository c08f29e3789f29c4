"""Define the periodic jobs of ingest: presence, last_seen updates, rate limits, worker status and retention."""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC
from functools import partial
from typing import Final

from ingest.commit import Committer
from ingest.last_seen import LastSeen, Seen, write_last_seen
from ingest.messages import Presence
from ingest.metrics import IngestMetrics
from ingest.persist import persist, persist_each
from ingest.presence import PresenceQueue, write_presence
from ingest.queue import SubmissionQueue
from ingest.rate_limit import RateLimiter, Sender, read_rates
from ingest.retention import Retention, expiring, is_adopted, kept_log_scores
from runtime.clock import ClockDoubted
from runtime.db.engine import utc_now
from runtime.log import RateLimitedLog
from runtime.worker import Worker

log = logging.getLogger(__name__)

PRESENCE_EVERY: Final = 1.0
"""Seconds between two writes of presence."""

LAST_SEEN_EVERY: Final = 5.0
"""Seconds between two writes of ``last_seen`` and ``last_submit``."""

RATES_EVERY: Final = 5.0
"""Seconds between two checks for monitors whose rate has to be looked up."""

RATES_VALID_FOR: Final = 300.0
"""Seconds for which a looked-up rate is valid."""

RETENTION_EVERY: Final = 300.0
"""Seconds between two rounds of retention, plus a jitter of up to a fifth, which separates several workers."""

STATUS_EVERY: Final = 1.0
"""Seconds between two updates of the answer to ``status``."""

_REST: Final = 0.05
"""Minimum seconds between two steps of retention; the pause is at least as long as the step."""


def add_jobs(
    worker: Worker,
    *,
    queue: SubmissionQueue,
    committer: Committer,
    rate_limiter: RateLimiter,
    presences: PresenceQueue,
    last_seen: LastSeen,
    metrics: IngestMetrics,
) -> None:
    """Add the periodic jobs of ingest except retention, which first has to read the ledger."""
    add, trusted = worker.jobs.add, worker.clock.agreed
    # Vital jobs have already removed their data from a queue; after an error, a restart of the worker reads it again.
    add("presence", PRESENCE_EVERY, PresenceJob(worker, presences, last_seen).run, vital=True)
    add("last_seen", LAST_SEEN_EVERY, LastSeenJob(worker, last_seen).run, when=trusted, vital=True)
    add("rates", RATES_EVERY, RatesJob(worker, rate_limiter).run)

    async def update_status() -> None:
        """Update the worker's answer to ``status``."""
        worker.status.update(
            paused=committer.paused,
            queued_results=queue.results,
            queued_batches=len(queue),
            rate_limited=rate_limiter.refused(),
            counts=dict(metrics.totals),
        )

    add("status", STATUS_EVERY, update_status, at_once=True)


class PresenceJob:
    """Job that writes the monitors' presence."""

    def __init__(self, worker: Worker, presences: PresenceQueue, last_seen: LastSeen) -> None:
        self._worker = worker
        self._presences = presences
        self._last_seen = last_seen
        self._warning = RateLimitedLog(log)

    async def run(self) -> None:
        """Write the queued presence, unless the clock is doubted."""
        try:
            now = self._worker.clock.now().replace(tzinfo=UTC)
        except ClockDoubted:
            return
        if waiting := self._presences.pop_all(now):
            write = partial(write_presence, self._worker.engine)
            for seen in await persist_each(self._worker, write, waiting, self._lost):
                self._last_seen.add(seen)

    def _lost(self, presence: Presence, why: str) -> None:
        name = presence.name
        self._warning.log(logging.ERROR, name, "presence of %s could not be written: %s", name, why)


class LastSeenJob:
    """Job that writes the last_seen updates."""

    def __init__(self, worker: Worker, last_seen: LastSeen) -> None:
        self._worker = worker
        self._last_seen = last_seen
        self._warning = RateLimitedLog(log)

    async def run(self) -> None:
        """Write the queued updates."""
        if waiting := self._last_seen.pop_all():
            await persist_each(self._worker, partial(write_last_seen, self._worker.engine), waiting, self._lost)

    def _lost(self, seen: Seen, why: str) -> None:
        number = seen.monitor_id
        self._warning.log(logging.ERROR, str(number), "last_seen of monitor %d could not be written: %s", number, why)


class RatesJob:
    """Job that looks up the monitors' rate limits."""

    def __init__(self, worker: Worker, rate_limiter: RateLimiter) -> None:
        self._worker = worker
        self._rate_limiter = rate_limiter
        self._expired = time.monotonic()
        self._warning = RateLimitedLog(log)

    async def run(self) -> None:
        """Look up the rates that are wanted now."""
        if (now := time.monotonic()) - self._expired >= RATES_VALID_FOR:
            self._expired = now
            self._rate_limiter.forget_idle(now)
            self._rate_limiter.expire_rates()
        if wanted := self._rate_limiter.wanting():
            for rates in await persist_each(self._worker, partial(_rates, self._worker), wanted, self._lost):
                self._rate_limiter.rate(rates)

    def _lost(self, sender: Sender, why: str) -> None:
        self._warning.log(logging.ERROR, sender[0], "rate limit of monitor %s/%s could not be read: %s", *sender, why)


def _rates(worker: Worker, senders: Sequence[Sender]) -> dict[Sender, float]:
    return read_rates(worker.engine, senders, worker.pool.get().monitors)


async def begin_retention(worker: Worker, metrics: IngestMetrics) -> None:
    """Log the forecast of retention, and add its job."""
    tables = await _tables(worker)
    await _announce(worker, tables)
    remove = partial(remove_expired, worker, tables, metrics)
    worker.jobs.add("retention", RETENTION_EVERY, remove, jitter_seconds=RETENTION_EVERY / 5)


async def _tables(worker: Worker) -> list[Retention]:
    adopted = await persist(worker, partial(is_adopted, worker.engine))
    kept = kept_log_scores(worker.settings.log_scores_days, adopted=adopted)
    if kept is None:
        log.warning(
            "log_scores: nothing is removed, since this database was adopted with its rows: "
            "set LOG_SCORES_DAYS to the days for which to keep them"
        )
    return [Retention(worker.engine, what) for what in expiring(kept)]


async def _announce(worker: Worker, tables: Sequence[Retention]) -> None:
    await worker.clock.agreed()
    for removing in tables:
        forecast = await persist(worker, partial(removing.forecast, utc_now()))
        log.info("%s", forecast)


async def remove_expired(worker: Worker, tables: Sequence[Retention], metrics: IngestMetrics) -> None:
    """Remove expired rows in steps, pausing for at least half of the time; remove none while the clock is doubted."""
    await worker.compare_clocks()
    for removing in tables:
        if not worker.clock.trusted:
            return
        found = await persist(worker, partial(removing.round, utc_now()))
        while found is not None and worker.clock.trusted:
            began = time.monotonic()
            step = await persist(worker, partial(removing.step, found))
            metrics.expired(removing.what.table.name, step.removed)
            await asyncio.sleep(max(_REST, time.monotonic() - began))
            if not step.more:
                break
