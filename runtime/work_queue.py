"""A queue of servers inside the database: one row per server, due at a time, taken without waiting for others.

It serves the scorer (due as soon as a result was stored) and the selector (due for review). A claim is the row lock
itself: it lasts until the transaction ends, is released when the worker dies, and keeps others from the same server.
MQTT only wakes a worker earlier than its next look.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import Connection

from schema.tables import scoring_queue, servers, servers_monitor_review


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A table with a row per server and the column that says when it is due; null: not."""

    table: sa.Table
    due: sa.Column[Any]

    def claim(self, connection: Connection, now: datetime, limit: int) -> list[int]:
        """Up to ``limit`` servers that are due, longest due first, locked until the transaction ends.

        Servers that another worker holds are passed over.
        """
        query = (
            sa.select(self.table.c.server_id)
            .where(self.due <= now)
            .order_by(self.due, self.table.c.server_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return list(connection.scalars(query))

    def hold(self, connection: Connection, server_ids: Iterable[int]) -> None:
        """Locks the rows of these servers, in the order of their ids, waiting for who holds them.

        Rows that are missing are made, so that there is something to hold; not of servers that do not exist.
        """
        wanted = sorted(set(server_ids))
        if not wanted:
            return
        query = sa.select(self.table.c.server_id).where(self.table.c.server_id.in_(wanted))
        locking = query.order_by(self.table.c.server_id).with_for_update()
        missing = set(wanted) - set(connection.scalars(locking))
        if missing:
            existing = connection.scalars(sa.select(servers.c.id).where(servers.c.id.in_(missing))).all()
            if existing:
                self.add(connection, existing, None)
                connection.execute(locking).all()

    def make_due(self, connection: Connection, server_ids: Iterable[int], at: datetime) -> None:
        """Due at ``at``, unless they are due earlier already. Rows must exist (see :meth:`hold`, :meth:`add`)."""
        ids = sorted(set(server_ids))
        if ids:
            connection.execute(
                sa.update(self.table)
                .where(self.table.c.server_id.in_(ids), sa.or_(self.due.is_(None), self.due > at))
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
        rows = [{"server_id": server_id, self.due.name: due} for server_id in sorted(set(server_ids))]
        if rows:
            connection.execute(_insert_ignore(connection, self.table), rows)

    def backlog(self, connection: Connection, now: datetime) -> int:
        """How many servers are due."""
        return connection.scalar(sa.select(sa.func.count()).select_from(self.table).where(self.due <= now)) or 0


def _insert_ignore(connection: Connection, table: sa.Table) -> sa.Insert:
    """An insert that leaves rows alone that are there already."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    insert = mysql.insert(table)
    return insert.on_duplicate_key_update(server_id=insert.inserted.server_id)


SCORING = WorkQueue(scoring_queue, scoring_queue.c.due_on)
"""Servers whose score was overtaken by a result."""

REVIEWS = WorkQueue(servers_monitor_review, servers_monitor_review.c.next_review)
"""Servers whose monitors are to be reviewed."""
