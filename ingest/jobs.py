"""What ingest does beside the results: presence and last seen, the monitors' rates, its own status, old rows."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NoReturn

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from ingest.commit import Committer
from ingest.last_seen import LastSeen, Seen, write_last_seen
from ingest.messages import Presence
from ingest.metrics import IngestMetrics
from ingest.persist import persist, persist_each
from ingest.presence import PresenceQueue, write_presence
from ingest.queue import SubmissionQueue
from ingest.rate_limit import RateLimiter, Sender, read_rates
from ingest.retention import Retention, expiring, is_adopted, kept_log_scores
from runtime.db.engine import utc_now
from runtime.log import RateLimitedLog
from runtime.worker import Worker

log = logging.getLogger(__name__)

PRESENCE_EVERY: Final = 1.0
"""Seconds between two looks for presence to write."""

LAST_SEEN_EVERY: Final = 5.0
"""Seconds between two times that ``last_seen`` and ``last_submit`` are written."""

RATES_EVERY: Final = 5.0
"""Seconds between two looks for monitors whose rate matters."""

RATES_VALID_FOR: Final = 300.0
"""Seconds until a rate that was looked up is looked up again, if it still matters."""

RETENTION: Final = timedelta(minutes=5)

_REST: Final = 0.05
"""Seconds between two steps of removing, at least; and at least as long as the step took."""


async def keep_presence(worker: Worker, presences: PresenceQueue, last_seen: LastSeen) -> NoReturn:
    """Writes the monitors' presence."""
    warning = RateLimitedLog(log)
    doubted = False

    def lost(presence: Presence, why: str) -> None:
        warning.say(logging.ERROR, presence.name, "presence of %s could not be written: %s", presence.name, why)

    while True:
        await asyncio.sleep(PRESENCE_EVERY)
        if not worker.clock.trusted:
            doubted = True
        elif waiting := presences.pop_all():
            if doubted:
                waiting = [replace(presence, arrived=datetime.now(UTC)) for presence in waiting]
                doubted = False
            for seen in await persist_each(worker, partial(write_presence, worker.engine), waiting, lost):
                last_seen.add(seen)


async def keep_last_seen(worker: Worker, last_seen: LastSeen) -> NoReturn:
    """Writes when monitors were seen."""
    warning = RateLimitedLog(log)

    def lost(sighting: Seen, why: str) -> None:
        number = sighting.monitor_id
        warning.say(logging.ERROR, str(number), "last_seen of monitor %d could not be written: %s", number, why)

    while True:
        await asyncio.sleep(LAST_SEEN_EVERY)
        await worker.clock.agreed()
        if waiting := last_seen.pop_all():
            await persist_each(worker, partial(write_last_seen, worker.engine), waiting, lost)


async def keep_rates(worker: Worker, rate_limiter: RateLimiter) -> NoReturn:
    """Looks up how much monitors may send."""
    doubted, warning = time.monotonic(), RateLimitedLog(log)

    def lost(sender: Sender, why: str) -> None:
        warning.say(logging.ERROR, sender[0], "what monitor %s/%s may send is not known: %s", *sender, why)

    while True:
        await asyncio.sleep(RATES_EVERY)
        if time.monotonic() - doubted >= RATES_VALID_FOR:
            doubted = time.monotonic()
            rate_limiter.forget_idle(doubted)
            rate_limiter.expire_rates()
        if wanted := rate_limiter.wanting():
            for rates in await persist_each(worker, partial(_rates, worker), wanted, lost):
                rate_limiter.rate(rates)


def _rates(worker: Worker, senders: Sequence[Sender]) -> dict[Sender, float]:
    return read_rates(worker.engine, senders, worker.pool.get().monitors)


async def keep_status(
    worker: Worker, queue: SubmissionQueue, rate_limiter: RateLimiter, committer: Committer, metrics: IngestMetrics
) -> NoReturn:
    """Keeps up to date what the worker answers to ``status``."""
    while True:
        worker.status.update(
            paused=committer.paused,
            intake_results=queue.results,
            intake_batches=len(queue),
            throttled=rate_limiter.refused(),
            counts=dict(metrics.totals),
        )
        await asyncio.sleep(1.0)


async def keep_retention(worker: Worker, metrics: IngestMetrics) -> None:
    """Removes what is old, every few minutes, and says in advance what that is."""
    tables = await _tables(worker)
    await _announce(worker, tables)
    scheduler = AsyncIOScheduler(timezone=UTC)
    # The jitter keeps several workers apart; a round that takes longer than the interval is not doubled.
    jitter = int(RETENTION.total_seconds() / 5)
    scheduler.add_job(
        remove_expired,
        "interval",
        args=(worker, tables, metrics),
        seconds=RETENTION.total_seconds(),
        jitter=jitter,
        max_instances=1,
        coalesce=True,
    )
    scheduler.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        scheduler.shutdown(wait=False)


async def _tables(worker: Worker) -> list[Retention]:
    adopted = await persist(worker, partial(is_adopted, worker.engine))
    kept = kept_log_scores(worker.settings.log_scores_days, adopted=adopted)
    if kept is None:
        log.warning(
            "log_scores: nothing is removed, since this database was adopted with its rows: "
            "LOG_SCORES_DAYS says for how many days they are to be kept"
        )
    return [Retention(worker.engine, what) for what in expiring(kept)]


async def _announce(worker: Worker, tables: Sequence[Retention]) -> None:
    await worker.clock.agreed()
    for removing in tables:
        forecast = await persist(worker, partial(removing.forecast, utc_now()))
        log.info("%s", forecast)


async def remove_expired(worker: Worker, tables: Sequence[Retention], metrics: IngestMetrics) -> None:
    """Removes what is old, step by step, at rest for half of the time or more; nothing by a clock that is doubted."""
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
