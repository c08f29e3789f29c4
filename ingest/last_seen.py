"""Write the monitors' ``last_seen``, ``last_submit`` and version periodically, in transactions without results.

Log rows lock the rows of their monitors (through foreign keys) until the commit. If these times were written in the
same transaction, or not in the order of the monitors' ids, the workers would deadlock.
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
    """Update of a row of ``monitors``; times are naive UTC."""

    monitor_id: int
    seen: datetime
    submitted: datetime | None = None
    version: str = ""
    """Empty: unknown."""

    def merged(self, later: "Seen") -> "Seen":
        """Return this update merged with ``later``."""
        submitted = [t for t in (self.submitted, later.submitted) if t is not None]
        return Seen(
            self.monitor_id,
            max(self.seen, later.seen),
            max(submitted, default=None),
            later.version or self.version,
        )


class LastSeen:
    """Queue of updates, merged to one per monitor."""

    def __init__(self) -> None:
        self._waiting: dict[int, Seen] = {}

    def add(self, last_seen: Iterable[Seen]) -> None:
        """Enqueue or merge ``last_seen``."""
        for each in last_seen:
            before = self._waiting.get(each.monitor_id)
            self._waiting[each.monitor_id] = each if before is None else before.merged(each)

    def pop_all(self) -> list[Seen]:
        """Remove and return all updates."""
        waiting, self._waiting = self._waiting, {}
        return list(waiting.values())


def write_last_seen(engine: Engine, last_seen: Sequence[Seen]) -> None:
    """Write ``last_seen``; a time never decreases.

    Raises:
        DatabaseUnavailable: the call may be retried.
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
    """Return the later of column and parameter; a column in the future is overwritten, since a clock was ahead."""
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
