"""What ingest does beside the results: presence and last seen, the monitors' rates, its own status, old rows."""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, timedelta
from functools import partial
from typing import Final, NoReturn

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from ingest.committer import Committer
from ingest.decode import Presence
from ingest.intake import Intake
from ingest.numbers import Numbers
from ingest.patience import persist, persist_each
from ingest.presence import PresenceBook, write_presence
from ingest.rates import read_rates
from ingest.retention import Removing, expiring, is_adopted, kept_log_scores
from ingest.sightings import Sighting, Sightings, write_sightings
from ingest.throttle import Sender, Throttle
from runtime.clock import ClockDoubted
from runtime.database import utc_now
from runtime.log import Sparing
from runtime.worker import Worker

log = logging.getLogger(__name__)

PRESENCE: Final = 1.0
"""Seconds between two looks for presence to write."""

SIGHTINGS: Final = 5.0
"""Seconds between two times that ``last_seen`` and ``last_submit`` are written."""

RATES: Final = 5.0
"""Seconds between two looks for monitors whose rate matters."""

DOUBT_RATES: Final = 300.0
"""Seconds until a rate that was looked up is looked up again, if it still matters."""

RETENTION: Final = timedelta(minutes=5)

_REST: Final = 0.05
"""Seconds between two steps of removing, at least; and at least as long as the step took."""


async def keep_presence(worker: Worker, book: PresenceBook, sightings: Sightings) -> NoReturn:
    """Writes the monitors' presence."""
    complaint = Sparing(log)

    def lost(presence: Presence, why: str) -> None:
        complaint.say(logging.ERROR, presence.name, "presence of %s could not be written: %s", presence.name, why)

    while True:
        await asyncio.sleep(PRESENCE)
        try:
            now = worker.clock.now().replace(tzinfo=UTC)
        except ClockDoubted:
            continue
        if waiting := book.take(now):
            for seen in await persist_each(worker, partial(write_presence, worker.engine), waiting, lost):
                sightings.note(seen)


async def keep_sightings(worker: Worker, sightings: Sightings) -> NoReturn:
    """Writes when monitors were seen."""
    complaint = Sparing(log)

    def lost(sighting: Sighting, why: str) -> None:
        number = sighting.monitor_id
        complaint.say(logging.ERROR, str(number), "last_seen of monitor %d could not be written: %s", number, why)

    while True:
        await asyncio.sleep(SIGHTINGS)
        await worker.clock.agreed()
        if waiting := sightings.take():
            await persist_each(worker, partial(write_sightings, worker.engine), waiting, lost)


async def keep_rates(worker: Worker, throttle: Throttle) -> NoReturn:
    """Looks up how much monitors may send."""
    doubted, complaint = time.monotonic(), Sparing(log)

    def lost(sender: Sender, why: str) -> None:
        complaint.say(logging.ERROR, sender[0], "what monitor %s/%s may send is not known: %s", *sender, why)

    while True:
        await asyncio.sleep(RATES)
        if time.monotonic() - doubted >= DOUBT_RATES:
            doubted = time.monotonic()
            throttle.forget_idle(doubted)
            throttle.doubt_rates()
        if wanted := throttle.wanting():
            for rates in await persist_each(worker, partial(_rates, worker), wanted, lost):
                throttle.rate(rates)


def _rates(worker: Worker, senders: Sequence[Sender]) -> dict[Sender, float]:
    return read_rates(worker.engine, senders, worker.pool.get().monitors)


async def keep_status(
    worker: Worker, intake: Intake, throttle: Throttle, committer: Committer, numbers: Numbers
) -> NoReturn:
    """Keeps up to date what the worker answers to ``status``."""
    while True:
        worker.status.update(
            paused=committer.paused,
            intake_results=intake.results,
            intake_batches=len(intake),
            throttled=throttle.refused(),
            counts=dict(numbers.totals),
        )
        await asyncio.sleep(1.0)


async def keep_retention(worker: Worker, numbers: Numbers) -> None:
    """Removes what is old, every few minutes, and says in advance what that is."""
    tables = await _tables(worker)
    await _announce(worker, tables)
    scheduler = AsyncIOScheduler(timezone=UTC)
    # The jitter keeps several workers apart; a round that takes longer than the interval is not doubled.
    jitter = int(RETENTION.total_seconds() / 5)
    scheduler.add_job(
        remove_expired,
        "interval",
        args=(worker, tables, numbers),
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


async def _tables(worker: Worker) -> list[Removing]:
    adopted = await persist(worker, partial(is_adopted, worker.engine))
    kept = kept_log_scores(worker.settings.log_scores_days, adopted=adopted)
    if kept is None:
        log.warning(
            "log_scores: nothing is removed, since this database was adopted with its rows: "
            "LOG_SCORES_DAYS says for how many days they are to be kept"
        )
    return [Removing(worker.engine, what) for what in expiring(kept)]


async def _announce(worker: Worker, tables: Sequence[Removing]) -> None:
    await worker.clock.agreed()
    for removing in tables:
        outlook = await persist(worker, partial(removing.outlook, utc_now()))
        log.info("%s", outlook)


async def remove_expired(worker: Worker, tables: Sequence[Removing], numbers: Numbers) -> None:
    """Removes what is old, step by step, at rest for half of the time or more; nothing by a clock that is doubted."""
    await worker.compare_clocks()
    for removing in tables:
        if not worker.clock.trusted:
            return
        found = await persist(worker, partial(removing.round, utc_now()))
        while found is not None and worker.clock.trusted:
            began = time.monotonic()
            step = await persist(worker, partial(removing.step, found))
            numbers.expired(removing.what.table.name, step.removed)
            await asyncio.sleep(max(_REST, time.monotonic() - began))
            if not step.more:
                break
