"""Run the scorer's worker, which updates the scores of all servers after their results.

It polls the queue five times per second and is not woken by messages. A poll of an empty queue is one read of an index,
which costs less than messages would; and the interval collects many servers into one transaction, instead of one
commit per message.
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
from runtime.db.locks import lock_scorers
from runtime.db.queue import SCORING, Backlog
from runtime.worker import Worker
from schema.messages import ControlCommand, ScoreComputed
from scorer import store
from scorer.back_off import rest_after
from scorer.metrics import ScorerMetrics
from scorer.model import Scorer
from scorer.rounds import Scored, ServerScored, score_due
from scorer.scorers import all_scorers
from scorer.tracing import record_round

log = logging.getLogger(__name__)

POLL: Final = 0.2
"""Seconds between two polls of an empty queue, the maximum delay of a score; a fifth of the promised one."""

COUNT_EVERY: Final = 1.0
"""Seconds between two counts of the backlog, while it exceeds one transaction."""

HEAL_EVERY: Final = 60.0
"""Seconds between two checks for servers that are due in the future."""

_CALM: Final = 1_000
"""Maximum backlog with which events are published to the live stream; with more, scoring has priority."""

_MAX_ID: Final = 2**32 - 1
"""Maximum id of a server; SQLite fails on much larger numbers."""

_RESCORE_STEP: Final = 1_000
"""Servers that ``rescore`` makes due per transaction."""


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Start scoring, and add the command ``rescore``."""
    scorers = all_scorers()
    await worker.in_database(partial(add_missing_scorers, worker.engine, scorers))
    worker.status["scorers"] = [scorer.name for scorer in scorers]
    worker.control.add("rescore", partial(_rescore, worker))
    scoring = _Scoring(worker, scorers)
    worker.jobs.add("backlog", COUNT_EVERY, scoring.count_backlog, when=worker.clock.agreed)
    worker.jobs.add("healing", HEAL_EVERY, scoring.heal, at_once=True, when=worker.undisturbed)
    tasks.create_task(scoring.run(), name="scoring")


def add_missing_scorers(engine: Engine, scorers: Sequence[Scorer]) -> None:
    """Insert rows for the scorers that are missing from the ledger."""

    def work(connection: Connection) -> None:
        # No unique key prevents two workers from inserting the same row, since a scorer has no protocol.
        lock_scorers(connection)
        known = {row.tls_name for row in store.scorer_rows(connection)}
        for scorer in scorers:
            if scorer.tls_name not in known:
                store.add_scorer(connection, scorer.name, scorer.tls_name, utc_now())
                log.info("scorer %s added to the ledger", scorer.name)

    transaction(engine, work)


def heal(engine: Engine, now: datetime) -> int:
    """Make servers due now that are due in the future, since their results are stored; return their number."""

    def work(connection: Connection) -> int:
        return SCORING.heal(connection, now, now + timedelta(seconds=30))

    return transaction(engine, work)


class _Scoring:
    """The scoring loop and its metrics."""

    def __init__(self, worker: Worker, scorers: Sequence[Scorer]) -> None:
        self._worker = worker
        self._scorers = scorers
        self._total = 0
        self._more = False
        """True if the last round left due servers."""
        self._behind = Backlog(0, 0)
        self._metrics = ScorerMetrics(worker.telemetry.meter)

    async def run(self) -> None:
        """Score due servers until cancelled."""
        while True:
            # With a wrong clock, both the due times that are read and those that are written would be wrong.
            await self._worker.clock.agreed()
            with self._worker.rounds.one("scoring"):
                scored, seconds, most = await self._worker.in_database(self._once)
            # If none could be processed, other workers have locked all due servers, and will for a while.
            self._more = scored.claimed > 0 and scored.found >= most
            self._count(scored, seconds)
            if not self._more:
                self._set_backlog(Backlog(0, 0))
            if self._behind.due <= _CALM:
                for score in scored.scores:
                    self._publish(score, scored.traces.get(score.server_id))
            await asyncio.sleep(rest_after(seconds, self._behind) if self._more else POLL)

    async def count_backlog(self) -> None:
        """Count the backlog if it is large; a count takes as long as scoring some servers."""
        if self._more:
            self._set_backlog(await self._worker.in_database(self._read_backlog))

    def _set_backlog(self, behind: Backlog) -> None:
        self._behind = behind
        self._metrics.backlog(behind.due)
        self._worker.status["backlog"] = behind.due

    async def heal(self) -> None:
        """Make servers due now that a wrong clock has made due in the future."""
        if healed := await self._worker.in_database(partial(heal, self._worker.engine, utc_now())):
            log.warning("%d servers were due in the future: they are scored now", healed)

    def _read_backlog(self) -> Backlog:
        with reading(self._worker.engine) as connection:
            return SCORING.backlog(connection, utc_now())

    def _once(self) -> tuple[Scored, float, int]:
        """Run one round; return its outcome, duration (s) and limit of servers. Blocks on the database."""
        worker, pool = self._worker, self._worker.pool.get()
        most = pool.scorer.batch_size
        with reading(worker.engine) as connection:
            if not store.is_due(connection, utc_now()):
                return Scored(), 0.0, most
        began, began_at = time.monotonic(), time.time_ns()
        traced = worker.telemetry.tracing
        scored = score_due(worker.engine, self._scorers, pool.monitors, utc_now(), most, traced=traced)
        if scored.traces:
            scored = record_round(worker.telemetry.tracer, scored, began_at)
        return scored, time.monotonic() - began, most

    def _count(self, scored: Scored, seconds: float) -> None:
        if not scored.claimed:
            return
        self._total += scored.claimed
        self._metrics.scored(scored, seconds)
        last = {"servers": scored.claimed, "seconds": round(seconds, 3)}
        self._worker.status.update(scored=self._total, last_batch=last)

    def _publish(self, scored: ServerScored, trace: str | None) -> None:
        event = ScoreComputed(
            server_id=scored.server_id, scorer=scored.scorer, ts=from_db(scored.ts), score=scored.score
        )
        self._worker.live.offer(self._worker.topics.score_event(scored.server_id), event, trace)


async def _rescore(worker: Worker, command: ControlCommand) -> Mapping[str, Any]:
    """Make one server, or all of them, due for scoring."""

    async def make_due(which: sa.Select[Any]) -> list[int]:
        return await worker.in_database(lambda: transaction(worker.engine, partial(_make_due, which)))

    if command.server_id is not None:
        if not 0 < command.server_id <= _MAX_ID or not await make_due(store.one_server(command.server_id)):
            raise CommandRefused(f"server {command.server_id}: no such server")
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
