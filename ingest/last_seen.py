"""When a monitor was last seen and last submitted, and its version: written apart from the results, now and then.

Log rows lock the rows of their monitors (as foreign keys do) until they are committed. Written in the same
transaction, or in another order than ascending, these times would make the workers deadlock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import transaction, utc_now
from schema.limits import CLOCK_AHEAD
from schema.messages import plain_version
from schema.tables import monitors


@dataclass(frozen=True, slots=True)
class Seen:
    """What we heard of a row of ``monitors``; times are UTC without a zone."""

    monitor_id: int
    seen: datetime
    submitted: datetime | None = None
    version: str = ""
    """Empty: unknown."""

    def merged(self, later: "Seen") -> "Seen":
        """This and ``later`` together."""
        submitted = [t for t in (self.submitted, later.submitted) if t is not None]
        return Seen(
            self.monitor_id,
            max(self.seen, later.seen),
            max(submitted, default=None),
            later.version or self.version,
        )


class LastSeen:
    """What is still to be written, one for each monitor."""

    def __init__(self) -> None:
        self._waiting: dict[int, Seen] = {}

    def add(self, last_seen: Iterable[Seen]) -> None:
        """Adds ``last_seen`` to what is known."""
        for each in last_seen:
            before = self._waiting.get(each.monitor_id)
            self._waiting[each.monitor_id] = each if before is None else before.merged(each)

    def pop_all(self) -> list[Seen]:
        """All that wait; they wait no longer."""
        waiting, self._waiting = self._waiting, {}
        return list(waiting.values())


def write_last_seen(engine: Engine, last_seen: Sequence[Seen]) -> None:
    """Writes ``last_seen``; a time never goes back.

    Raises:
        DatabaseUnavailable: it may be called again.
    """
    if last_seen:
        transaction(engine, partial(_write, last_seen=last_seen))


def _write(connection: Connection, last_seen: Sequence[Seen]) -> None:
    rows = [
        {"monitor": s.monitor_id, "seen": s.seen, "submitted": s.submitted, "version": plain_version(s.version)}
        for s in sorted(last_seen, key=lambda s: s.monitor_id)
    ]
    furthest = utc_now() + CLOCK_AHEAD
    connection.execute(_UPDATE, [row | {"furthest": furthest} for row in rows])


def _later(column: sa.Column[Any], name: str) -> sa.ColumnElement[Any]:
    """What is given, unless the column has a later time; one of the future is that of a clock that was ahead."""
    given = sa.bindparam(name, type_=column.type)
    future = sa.and_(given.is_not(None), column > sa.bindparam("furthest", type_=column.type))
    return sa.case((column.is_(None), given), (column < given, given), (future, given), else_=column)


_UPDATE: Final = (
    sa.update(monitors)
    .where(monitors.c.id == sa.bindparam("monitor"))
    .values(
        last_seen=_later(monitors.c.last_seen, "seen"),
        last_submit=_later(monitors.c.last_submit, "submitted"),
        client_version=sa.case(
            (sa.bindparam("version", type_=sa.String()) == "", monitors.c.client_version),
            else_=sa.bindparam("version", type_=sa.String()),
        ),
    )
)
