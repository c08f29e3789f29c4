"""Create missing pairs and missing entries of the review queue, since every live monitor is a candidate everywhere.

The loop checks whenever monitors or servers have changed, and publishes the assignments of the pairs that it creates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from runtime.db.bulk import insert_or_ignore
from runtime.db.engine import reading, to_db_seconds, transaction
from runtime.db.queue import REVIEWS
from runtime.wakeup import Wakeup
from runtime.worker import Worker
from schema.names import IpVersion
from schema.tables import server_scores, servers, servers_monitor_review
from selector.metrics import SelectorMetrics
from selector.monitors import MonitorRow
from selector.publisher import Publisher
from selector.review_loop import ReviewLoop
from selector.store import Pair

BATCH: Final = 200
"""Rows per transaction: few, since each row blocks a new score of its server until the commit."""

_OVERTAKEN: Final = (IntegrityError,)
"""Errors after which the transaction is retried: a server or monitor was removed between read and write."""


@dataclass(frozen=True, slots=True)
class Population:
    """Monitors and servers that exist; if they have changed, pairs may be missing."""

    monitors: frozenset[int]
    servers: tuple[tuple[Any, ...], ...]


def read_population(engine: Engine, rows: Sequence[MonitorRow], now: datetime) -> Population:
    """Read the live monitors, and for each protocol the number of servers and the newest server."""
    s = servers.c
    query = (
        sa.select(s.ip_version, sa.func.count(), sa.func.max(s.id))
        .where(_there(now))
        .group_by(s.ip_version)
        .order_by(s.ip_version)
    )
    with reading(engine) as connection:
        counted = tuple(tuple(row) for row in connection.execute(query))
    return Population(frozenset(row.id for row in rows if row.live), counted)


def make_pairs(engine: Engine, monitor: MonitorRow, now: datetime) -> list[Pair]:
    """Create some of this monitor's missing pairs in one transaction; return an empty list if none is missing."""
    if not monitor.live or not monitor.named:
        return []
    return transaction(
        engine, partial(_make_some, monitor_id=monitor.id, ipv=monitor.ipv, now=now), retry_on=_OVERTAKEN
    )


def queue_servers(engine: Engine, now: datetime) -> int:
    """Enqueue servers that are missing from the review queue, due now; return how many."""
    queued = 0
    while made := transaction(engine, partial(_queue_some, now=now), retry_on=_OVERTAKEN):
        queued += made
    return queued


def _make_some(connection: Connection, monitor_id: int, ipv: IpVersion, now: datetime) -> list[Pair]:
    s, pairs = servers.c, server_scores.c
    its_pair = sa.and_(pairs.server_id == s.id, pairs.monitor_id == monitor_id)
    query = (
        sa.select(s.id)
        .select_from(servers.outerjoin(server_scores, its_pair))
        .where(s.ip_version == ipv, _there(now), pairs.id.is_(None))
        .order_by(s.id)
        .limit(BATCH)
    )
    lacking = list(connection.scalars(query))
    # Another selector may insert them meanwhile.
    _ADD_PAIRS.execute(
        connection, map(_Server, lacking), monitor_id=monitor_id, status="candidate", created_on=to_db_seconds(now)
    )
    return [(server_id, monitor_id) for server_id in lacking]


def _queue_some(connection: Connection, now: datetime) -> int:
    queue = servers_monitor_review
    query = (
        sa.select(servers.c.id)
        .select_from(servers.outerjoin(queue, queue.c.server_id == servers.c.id))
        # A server without a next review was deleted at its last review, and the deletion has been reverted.
        .where(_there(now), queue.c.next_review.is_(None))
        .order_by(servers.c.id)
        .limit(BATCH)
    )
    ids = list(connection.scalars(query))
    REVIEWS.add(connection, ids, to_db_seconds(now))
    REVIEWS.make_due(connection, ids, to_db_seconds(now))
    return len(ids)


def _there(now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition that a server is not deleted."""
    return sa.or_(servers.c.deletion_on.is_(None), servers.c.deletion_on > now.date())


class _Server(NamedTuple):
    server_id: int


_ADD_PAIRS: Final = insert_or_ignore(server_scores, _Server, common=["monitor_id", "status", "created_on"])

SWEEP_EVERY: Final = 600.0
"""Seconds between two checks for missing pairs without a change."""


class PairLoop:
    """Loop that creates missing pairs. It runs as its own task, since the pairs of a new pool take minutes."""

    def __init__(self, worker: Worker, review_loop: ReviewLoop, publisher: Publisher, metrics: SelectorMetrics) -> None:
        self._worker = worker
        self._review_loop = review_loop
        self._publisher = publisher
        self._metrics = metrics
        self._rows: Sequence[MonitorRow] = ()
        self._wakeup = Wakeup()
        self._population: Population | None = None

    def set_monitors(self, rows: Sequence[MonitorRow]) -> None:
        """Set the current monitors and check for missing pairs."""
        self._rows = rows
        self._wakeup.set()

    async def sweep(self) -> None:
        """Check for missing pairs even without a change. A periodic job."""
        self._population = None
        self._wakeup.set()

    async def run(self) -> None:
        """Create missing pairs until cancelled."""
        while True:
            await self._wakeup.wait()
            await self._check(self._rows)

    async def _check(self, rows: Sequence[MonitorRow]) -> None:
        worker, now = self._worker, datetime.now(UTC)
        population = await worker.in_database(partial(read_population, worker.engine, rows, now))
        if population == self._population:
            return
        for row in rows:
            await self._make_pairs(row, now)
        # Only now: the first review of a server must see its pairs.
        if await worker.in_database(partial(queue_servers, worker.engine, now)):
            self._review_loop.wake()
        self._population = population

    async def _make_pairs(self, row: MonitorRow, now: datetime) -> None:
        while pairs := await self._worker.in_database(partial(make_pairs, self._worker.engine, row, now)):
            self._metrics.made_pairs(len(pairs))
            await self._publisher.publish_pairs(pairs)
