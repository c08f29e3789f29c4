"""A queue of servers inside the database: one row per server, due at a time, taken without waiting for others.

It serves the scorer (due as soon as a result was stored) and the selector (due for review). A claim is the row lock
itself: it lasts until the transaction ends, is released when the worker dies, and keeps others from the same server.
MQTT only wakes a worker earlier than its next look.
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
"""Servers of one statement."""

_CHOICE: Final = 4
"""Times as many servers as are wanted, of which they are chosen."""


class Backlog(NamedTuple):
    """How much of a queue waits."""

    due: int
    """Servers that are due."""
    servers: int
    """All that have a row."""


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A table with a row per server and the column that says when it is due; null: not."""

    table: sa.Table
    due: sa.Column[Any]

    def claim(self, connection: Connection, now: datetime, limit: int) -> list[int]:
        """Up to ``limit`` servers that are due, longest due first, locked until the transaction ends.

        Servers that another worker holds are passed over.
        """
        return list(connection.scalars(_claiming(self), {"now": now, "limit": limit}))

    def hold(self, connection: Connection, server_ids: Iterable[int]) -> None:
        """Locks the rows of these servers, in the order of their ids, waiting for who holds them.

        Rows that are missing are made, so that there is something to hold; not of servers that do not exist.
        """
        for some in _chunks(server_ids):
            query = sa.select(self.table.c.server_id).where(self.table.c.server_id.in_(some))
            locking = query.order_by(self.table.c.server_id).with_for_update()
            if len(connection.scalars(locking).all()) < len(some) and self._add_missing(connection, some):
                connection.execute(locking).all()

    def _add_missing(self, connection: Connection, server_ids: Sequence[int]) -> bool:
        """Makes the rows that are missing of servers that exist; whether there was any."""
        has_row = sa.select(self.table.c.server_id).where(self.table.c.server_id == servers.c.id).exists()
        missing = connection.scalars(sa.select(servers.c.id).where(servers.c.id.in_(server_ids), ~has_row)).all()
        self.add(connection, missing, None)
        return bool(missing)

    def make_due(self, connection: Connection, server_ids: Iterable[int], at: datetime) -> None:
        """Due at ``at``, unless they are due earlier already. Rows must exist (see :meth:`hold`, :meth:`add`)."""
        for some in _chunks(server_ids):
            connection.execute(
                sa.update(self.table)
                .where(self.table.c.server_id.in_(some), sa.or_(self.due.is_(None), self.due > at))
                .values({self.due: at})
            )

    def done(self, connection: Connection, server_ids: Sequence[int], next_due: datetime | None = None) -> None:
        """The claimed servers are dealt with, until ``next_due`` or until something makes them due again."""
        if server_ids:
            connection.execute(
                sa.update(self.table).where(self.table.c.server_id.in_(server_ids)).values({self.due: next_due})
            )

    def add(self, connection: Connection, server_ids: Iterable[int], due: datetime | None) -> None:
        """Makes rows for servers that have none."""
        rows = [_Server(server_id) for server_id in sorted(set(server_ids))]
        _adding(self).execute(connection, rows, **{self.due.name: due})

    def heal(self, connection: Connection, now: datetime, furthest: datetime) -> int:
        """Makes servers due now that would be due later than anybody means: a clock that was ahead has written it.

        Returns how many there were.
        """
        late = sa.select(self.table.c.server_id).where(self.due > furthest).order_by(self.table.c.server_id)
        ids = list(connection.scalars(late.limit(_TOGETHER).with_for_update(skip_locked=True)))
        self.done(connection, ids, now)
        return len(ids)

    def backlog(self, connection: Connection, now: datetime) -> Backlog:
        """How many servers are due, and of how many."""
        count = sa.select(sa.func.count()).select_from(self.table)
        due, servers = count.where(self.due <= now).scalar_subquery(), count.scalar_subquery()
        return Backlog(*connection.execute(sa.select(due, servers)).one())


@dataclass(frozen=True, slots=True)
class CountingQueue(WorkQueue):
    """A queue that also counts what makes a server due, for those who look at servers before they lock them."""

    stored: sa.Column[Any]

    def look(self, connection: Connection, now: datetime, limit: int) -> dict[int, int]:
        """Some of the servers that are due longest, without locking them: for :meth:`claim_unchanged`.

        Which ones, is left to chance, so that several workers rarely do the same work.
        """
        query = sa.select(self.table.c.server_id, self.stored.label("stored")).where(self.due <= now)
        due = query.order_by(self.due, self.table.c.server_id).limit(limit * _CHOICE).subquery()
        chosen = connection.execute(sa.select(due).order_by(sa.func.random()).limit(limit))
        return {row.server_id: row.stored for row in chosen}

    def claim_unchanged(self, connection: Connection, looked: Mapping[int, int], now: datetime) -> list[int]:
        """Those of the servers looked at that are as they were, locked until the transaction ends.

        Servers that another worker holds, or has dealt with, or made due once more, are passed over.
        """
        c = self.table.c
        claimed: list[int] = []
        for some in _chunks(looked):
            query = sa.select(c.server_id, self.due, self.stored).where(c.server_id.in_(some))
            rows = connection.execute(query.order_by(c.server_id).with_for_update(skip_locked=True))
            claimed += [id_ for id_, due, stored in rows if due is not None and due <= now and stored == looked[id_]]
        return claimed

    def hold_due(self, connection: Connection, server_ids: Iterable[int], at: datetime) -> None:
        """As :meth:`hold`, and :meth:`make_due` at the same time, which nobody sees before the transaction ends.

        Who had a look at one of these servers before knows that it was not the last (:meth:`claim_unchanged`).
        """
        ids = sorted(set(server_ids))
        if ids and self._hold_due(connection, ids, at) < len(ids) and self._add_missing(connection, ids):
            self._hold_due(connection, ids, at)

    def only_ours(self, connection: Connection, looked: Mapping[int, int]) -> bool:
        """Whether nobody but us made these servers due since we looked, now that we hold them due.

        ``looked``: how often they had been made due; a server without a row counts as never.
        """
        unchanged = connection.scalar(_counting_unchanged(self), {"held": json_rows(looked.items())}) if looked else 0
        return unchanged == len(looked)

    def _hold_due(self, connection: Connection, server_ids: Iterable[int], at: datetime) -> int:
        # As rows in the order in which they are locked. Each as a parameter takes as long as the update itself.
        return _holding_due(self).execute(connection, map(_Server, server_ids), at=at)


class _Server(NamedTuple):
    server_id: int


@lru_cache
def _claiming(queue: WorkQueue) -> sa.Select[tuple[int]]:
    """Made once: to make it takes longer than to ask it."""
    return (
        sa.select(queue.table.c.server_id)
        .where(queue.due <= sa.bindparam("now"))
        .order_by(queue.due, queue.table.c.server_id)
        .limit(sa.bindparam("limit"))
        .with_for_update(skip_locked=True)
    )


def _chunks(server_ids: Iterable[int]) -> Iterator[list[int]]:
    """In order, and few enough for one statement: MariaDB plans a list of a thousand as a join."""
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
    once_more = queue.stored + sa.literal_column("1")
    return BulkUpdate(queue.table, _Server, key=["server_id"], also={due.name: earlier, queue.stored.name: once_more})


@lru_cache
def _counting_unchanged(queue: CountingQueue) -> sa.Select[tuple[int]]:
    """How many of the servers ``held`` were made due once since we looked, and so by us alone."""
    held = rows_table("held", queue.table.c.server_id, queue.stored)
    source = held.join(queue.table, queue.table.c.server_id == held.c.server_id)
    count = sa.select(sa.func.count()).select_from(source)
    return in_this_order(count.where(queue.stored == held.c[queue.stored.name] + 1))


SCORING = CountingQueue(scoring_queue, scoring_queue.c.due_on, scoring_queue.c.stored)
"""Servers whose score was overtaken by a result."""

REVIEWS = WorkQueue(servers_monitor_review, servers_monitor_review.c.next_review)
"""Servers whose monitors are to be reviewed."""
