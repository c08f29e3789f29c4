"""Define work queues of servers in the database: one row per server with a due time, claimed without blocking.

The scorer uses one (a server is due after a result was stored), and so does the selector (due for review). A claim is
the row lock: it lasts until the end of the transaction, is released if the worker dies, and excludes other workers from
the server.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import BulkInsert, BulkUpdate, in_this_order, insert_or_ignore, json_rows, rows_table
from schema.tables import scoring_queue, servers, servers_monitor_review

_TOGETHER: Final = 500
"""Servers per statement."""

_CHOICE: Final = 4
"""Factor of the limit; servers are chosen at random from so many of the longest due."""


class Backlog(NamedTuple):
    """Backlog of a queue."""

    due: int
    """Number of due servers."""
    servers: int
    """Number of all servers in the queue."""


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """Table with a row per server and a column with the due time; null if it is not due."""

    table: sa.Table
    due: sa.Column[Any]

    def claim(self, connection: Connection, now: datetime, limit: int) -> list[int]:
        """Claim up to ``limit`` due servers, longest due first, with row locks until the end of the transaction.

        Servers that another worker has locked are skipped.
        """
        return list(connection.scalars(_claiming(self), {"now": now, "limit": limit}))

    def hold(self, connection: Connection, server_ids: Iterable[int]) -> None:
        """Lock the rows of these servers in the order of their ids, and wait for other holders.

        Missing rows of existing servers are inserted, so that they can be locked.
        """
        for some in _chunks(server_ids):
            query = sa.select(self.table.c.server_id).where(self.table.c.server_id.in_(some))
            locking = query.order_by(self.table.c.server_id).with_for_update()
            if len(connection.scalars(locking).all()) < len(some) and self._add_missing(connection, some):
                connection.execute(locking).all()

    def _add_missing(self, connection: Connection, server_ids: Sequence[int]) -> bool:
        """Insert missing rows of existing servers; return whether there were any."""
        has_row = sa.select(self.table.c.server_id).where(self.table.c.server_id == servers.c.id).exists()
        missing = connection.scalars(sa.select(servers.c.id).where(servers.c.id.in_(server_ids), ~has_row)).all()
        self.add(connection, missing, None)
        return bool(missing)

    def make_due(self, connection: Connection, server_ids: Iterable[int], at: datetime) -> None:
        """Make servers due at ``at`` unless they are due earlier. Rows must exist (see :meth:`hold`, :meth:`add`)."""
        for some in _chunks(server_ids):
            connection.execute(
                sa.update(self.table)
                .where(self.table.c.server_id.in_(some), sa.or_(self.due.is_(None), self.due > at))
                .values({self.due: at})
            )

    def done(self, connection: Connection, server_ids: Sequence[int], next_due: datetime | None = None) -> None:
        """Complete the claimed servers; they are due again at ``next_due``, or when they are made due."""
        if server_ids:
            connection.execute(
                sa.update(self.table).where(self.table.c.server_id.in_(server_ids)).values({self.due: next_due})
            )

    def add(self, connection: Connection, server_ids: Iterable[int], due: datetime | None) -> None:
        """Insert rows for servers that have none."""
        rows = [_Server(server_id) for server_id in sorted(set(server_ids))]
        _adding(self).execute(connection, rows, **{self.due.name: due})

    def heal(self, connection: Connection, now: datetime, furthest: datetime) -> int:
        """Make servers due now that are due implausibly late, since a clock was ahead; return their number."""
        late = sa.select(self.table.c.server_id).where(self.due > furthest).order_by(self.table.c.server_id)
        ids = list(connection.scalars(late.limit(_TOGETHER).with_for_update(skip_locked=True)))
        self.done(connection, ids, now)
        return len(ids)

    def backlog(self, connection: Connection, now: datetime) -> Backlog:
        """Count the due servers and all servers."""
        count = sa.select(sa.func.count()).select_from(self.table)
        due, servers = count.where(self.due <= now).scalar_subquery(), count.scalar_subquery()
        return Backlog(*connection.execute(sa.select(due, servers)).one())


@dataclass(frozen=True, slots=True)
class CountingQueue(WorkQueue):
    """Queue with version counters (optimistic locking), for workers that read servers before they lock them.

    ``stored`` counts how often results of a server were stored.
    """

    stored: sa.Column[Any]

    def look(self, connection: Connection, now: datetime, limit: int) -> dict[int, int]:
        """Read some of the longest due servers and their version counters without locks, for :meth:`claim_unchanged`.

        They are chosen at random, so that several workers rarely do the same work.
        """
        query = sa.select(self.table.c.server_id, self.stored.label("stored")).where(self.due <= now)
        due = query.order_by(self.due, self.table.c.server_id).limit(limit * _CHOICE).subquery()
        chosen = connection.execute(sa.select(due).order_by(sa.func.random()).limit(limit))
        return {row.server_id: row.stored for row in chosen}

    def claim_unchanged(self, connection: Connection, looked: Mapping[int, int], now: datetime) -> list[int]:
        """Claim those of these servers whose version counter is unchanged, until the end of the transaction.

        Servers that another worker has locked, completed or made due again are skipped.
        """
        c = self.table.c
        claimed: list[int] = []
        for some in _chunks(looked):
            query = sa.select(c.server_id, self.due, self.stored).where(c.server_id.in_(some))
            rows = connection.execute(query.order_by(c.server_id).with_for_update(skip_locked=True))
            claimed += [id_ for id_, due, stored in rows if due is not None and due <= now and stored == looked[id_]]
        return claimed

    def hold_due(self, connection: Connection, server_ids: Iterable[int], at: datetime) -> None:
        """Lock these servers and make them due, as by :meth:`hold` and :meth:`make_due`, and increment their counters.

        A worker that has read one of them before detects the change (:meth:`claim_unchanged`).
        """
        ids = sorted(set(server_ids))
        if ids and self._hold_due(connection, ids, at) < len(ids) and self._add_missing(connection, ids):
            self._hold_due(connection, ids, at)

    def only_ours(self, connection: Connection, looked: Mapping[int, int]) -> bool:
        """Return whether only this transaction, which holds these servers, has changed their counters since the read.

        ``looked`` has the counters that were read; 0 for a server without a row.
        """
        unchanged = connection.scalar(_counting_unchanged(self), {"held": json_rows(looked.items())}) if looked else 0
        return unchanged == len(looked)

    def _hold_due(self, connection: Connection, server_ids: Iterable[int], at: datetime) -> int:
        # As JSON rows in the order of the locks. One parameter per server takes as long as the update itself.
        return _holding_due(self).execute(connection, map(_Server, server_ids), at=at)


class _Server(NamedTuple):
    server_id: int


@lru_cache
def _claiming(queue: WorkQueue) -> sa.Select[tuple[int]]:
    """Build the statement once, since this takes longer than executing it."""
    return (
        sa.select(queue.table.c.server_id)
        .where(queue.due <= sa.bindparam("now"))
        .order_by(queue.due, queue.table.c.server_id)
        .limit(sa.bindparam("limit"))
        .with_for_update(skip_locked=True)
    )


def _chunks(server_ids: Iterable[int]) -> Iterator[list[int]]:
    """Split the sorted ids into chunks for one statement each, since MariaDB plans a list of a thousand as a join."""
    ids = sorted(set(server_ids))
    for start in range(0, len(ids), _TOGETHER):
        yield ids[start : start + _TOGETHER]


@lru_cache
def _adding(queue: WorkQueue) -> BulkInsert[_Server]:
    return insert_or_ignore(queue.table, _Server, common=[queue.due.name])


@lru_cache
def _holding_due(queue: CountingQueue) -> BulkUpdate[_Server]:
    due, at = queue.due, sa.bindparam("at", type_=queue.due.type)
    earlier = sa.case((sa.or_(due.is_(None), due > at), at), else_=due)
    incremented = queue.stored + sa.literal_column("1")
    return BulkUpdate(queue.table, _Server, key=["server_id"], also={due.name: earlier, queue.stored.name: incremented})


@lru_cache
def _counting_unchanged(queue: CountingQueue) -> sa.Select[tuple[int]]:
    """Build the query for the number of servers in ``held`` whose counter was incremented exactly once."""
    held = rows_table("held", queue.table.c.server_id, queue.stored)
    source = held.join(queue.table, queue.table.c.server_id == held.c.server_id)
    count = sa.select(sa.func.count()).select_from(source)
    return in_this_order(count.where(queue.stored == held.c[queue.stored.name] + 1))


SCORING = CountingQueue(scoring_queue, scoring_queue.c.due_on, scoring_queue.c.stored)
"""Servers with results that are newer than their score."""

REVIEWS = WorkQueue(servers_monitor_review, servers_monitor_review.c.next_review)
"""Servers to review."""
