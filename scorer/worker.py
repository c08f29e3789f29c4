"""The scorer's worker: keeps the scores of all servers up with their results.

It looks into the queue five times a second and is not woken by messages. A look at an empty queue is one read of an
index, less than the messages that would save it; and the pause gathers the results of many servers into one
transaction, where a wake-up for each would commit each alone.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.control import CommandRefused
from runtime.db.engine import from_db, reading, transaction, utc_now
from runtime.db.queue import SCORING, Backlog
from runtime.worker import Worker
from schema.messages import ControlCommand, ScoreComputed
from scorer import store
from scorer.back_off import rest_after
from scorer.metrics import ScorerMetrics
from scorer.model import Scorer
from scorer.rounds import Scored, ServerScored, score_due
from scorer.scorers import all_scorers

log = logging.getLogger(__name__)

POLL: Final = 0.2
"""Seconds between two looks into an empty queue: what a result waits at most, a fifth of what it may."""

COUNT_EVERY: Final = 1.0
"""Seconds between two counts of the servers that wait, while there are more than one transaction takes."""

HEAL_EVERY: Final = 60.0
"""Seconds between two looks for servers that are due in the future."""

_CALM: Final = 1_000
"""Servers that may wait while the live stream is fed; with more, there is better to do."""

_MAX_ID: Final = 2**32 - 1
"""Of a server; SQLite would choke on a much larger number."""

_RESCORE_STEP: Final = 1_000
"""Servers that one transaction of ``rescore`` makes due."""


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Starts scoring, and takes the command ``rescore``."""
    scorers = all_scorers()
    await worker.in_database(partial(add_missing_scorers, worker.engine, scorers))
    worker.status["scorers"] = [scorer.name for scorer in scorers]
    worker.control.add("rescore", partial(_rescore, worker))
    scoring = _Scoring(worker, scorers)
    worker.jobs.add("backlog", COUNT_EVERY, scoring.count_backlog, when=worker.clock.agreed)
    worker.jobs.add("healing", HEAL_EVERY, scoring.heal, at_once=True, when=worker.undisturbed)
    tasks.create_task(scoring.run(), name="scoring")


def add_missing_scorers(engine: Engine, scorers: Sequence[Scorer]) -> None:
    """Makes the rows of the scorers that the ledger does not know yet."""

    def work(connection: Connection) -> None:
        known = {row.tls_name for row in store.scorer_rows(connection)}
        for scorer in scorers:
            if scorer.tls_name not in known:
                store.add_scorer(connection, scorer.name, scorer.tls_name, utc_now())
                log.info("scorer %s is new to the ledger", scorer.name)

    if engine.dialect.name != "sqlite":
        # No key keeps two workers from making the same row, since a scorer belongs to no protocol; reading under
        # locks does. SQLite's transactions follow each other anyway.
        engine = engine.execution_options(isolation_level="SERIALIZABLE")
    transaction(engine, work)


def heal(engine: Engine, now: datetime) -> int:
    """Makes servers due that are so only later than now: their results are there. Returns how many there were."""

    def work(connection: Connection) -> int:
        return SCORING.heal(connection, now, now + timedelta(seconds=30))

    return transaction(engine, work)


class _Scoring:
    """The loop, and its numbers."""

    def __init__(self, worker: Worker, scorers: Sequence[Scorer]) -> None:
        self._worker = worker
        self._scorers = scorers
        self._total = 0
        self._more = False
        """Whether the last round left servers that wait."""
        self._behind = Backlog(0, 0)
        self._metrics = ScorerMetrics(worker.telemetry.meter)

    async def run(self) -> None:
        """Scores what is due, until cancelled."""
        while True:
            # What is due by a wrong clock is not, and what it makes due is not for others.
            await self._worker.clock.agreed()
            with self._worker.rounds.one("scoring"):
                scored, seconds, most = await self._worker.in_database(self._once)
            # Without any that could be dealt with, those that are due are held by others, and will be for a while.
            self._more = scored.claimed > 0 and scored.found >= most
            self._count(scored, seconds)
            if not self._more:
                self._set_backlog(Backlog(0, 0))
            if self._behind.due <= _CALM:
                for score in scored.scores:
                    self._tell(score)
            await asyncio.sleep(rest_after(seconds, self._behind) if self._more else POLL)

    async def count_backlog(self) -> None:
        """Counts the servers that wait, if there are many: a count takes as long as scoring some of them."""
        if self._more:
            self._set_backlog(await self._worker.in_database(self._read_backlog))

    def _set_backlog(self, behind: Backlog) -> None:
        self._behind = behind
        self._metrics.backlog(behind.due)
        self._worker.status["backlog"] = behind.due

    async def heal(self) -> None:
        """Finds servers that a wrong clock has made due in the future."""
        if healed := await self._worker.in_database(partial(heal, self._worker.engine, utc_now())):
            log.warning("%d servers were due in the future: they are scored now", healed)

    def _read_backlog(self) -> Backlog:
        with reading(self._worker.engine) as connection:
            return SCORING.backlog(connection, utc_now())

    def _once(self) -> tuple[Scored, float, int]:
        """One round: what it did, its time (s), and how many servers it may have scored. Blocks on the database."""
        worker, pool = self._worker, self._worker.pool.get()
        most = pool.scorer.batch_size
        with reading(worker.engine) as connection:
            if not store.is_due(connection, utc_now()):
                return Scored(), 0.0, most  # without a span: nothing was done
        began = time.monotonic()
        with worker.telemetry.tracer.start_as_current_span("score") as span:
            scored = score_due(worker.engine, self._scorers, pool.monitors, utc_now(), most)
            span.set_attribute("servers", scored.claimed)
        return scored, time.monotonic() - began, most

    def _count(self, scored: Scored, seconds: float) -> None:
        if not scored.claimed:
            return
        self._total += scored.claimed
        self._metrics.scored(scored, seconds)
        last = {"servers": scored.claimed, "seconds": round(seconds, 3)}
        self._worker.status.update(scored=self._total, last_batch=last)

    def _tell(self, scored: ServerScored) -> None:
        event = ScoreComputed(
            server_id=scored.server_id, scorer=scored.scorer, ts=from_db(scored.ts), score=scored.score
        )
        self._worker.live.offer(self._worker.topics.score_event(scored.server_id), event)


async def _rescore(worker: Worker, order: ControlCommand) -> Mapping[str, Any]:
    """Makes a server, or all, due; their scores follow within moments."""

    async def make_due(which: sa.Select[Any]) -> list[int]:
        return await worker.in_database(lambda: transaction(worker.engine, partial(_make_due, which)))

    if order.server_id is not None:
        if not 0 < order.server_id <= _MAX_ID or not await make_due(store.one_server(order.server_id)):
            raise CommandRefused(f"there is no server {order.server_id}")
        return {"servers": 1}
    last, total = 0, 0
    while ids := await make_due(store.servers_after(last, _RESCORE_STEP)):
        last, total = ids[-1], total + len(ids)
    return {"servers": total}


def _make_due(which: sa.Select[Any], connection: Connection) -> list[int]:
    ids = list(connection.scalars(which))
    now = utc_now()
    SCORING.add(connection, ids, now)
    SCORING.make_due(connection, ids, now)
    return ids
