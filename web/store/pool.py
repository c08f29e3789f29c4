"""Read how the pool itself is doing: its results, its workers' backlog, and its monitors."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from schema.tables import (
    monitor_presence,
    monitors,
    rejected_messages,
    result_batches,
    scoring_queue,
    servers_monitor_review,
)
from web.model import SYSTEM_SUFFIX
from web.store.servers import count_by_score

MINUTES: Final = 5
"""Minutes of which the results are counted."""

_B, _Q, _R = result_batches.c, scoring_queue.c, servers_monitor_review.c
_PRESENCE, _M, _U = monitor_presence.c, monitors.c, rejected_messages.c

RESULTS: Final = sa.select(sa.func.sum(_B.stored).label("stored"), sa.func.max(_B.received_on).label("newest")).where(
    _B.received_on > sa.bindparam("since", type_=sa.DateTime)
)
WAITING: Final = sa.select(sa.func.count().label("servers"), sa.func.min(_Q.due_on).label("oldest")).where(
    _Q.due_on <= sa.bindparam("now", type_=sa.DateTime)
)
REVIEWS: Final = sa.select(sa.func.count().label("servers"), sa.func.min(_R.next_review).label("oldest")).where(
    _R.next_review <= sa.bindparam("now", type_=sa.DateTime)
)
PRESENT: Final = (
    sa.select(_PRESENCE.online, sa.func.count(sa.distinct(_M.tls_name)).label("hosts"))
    .select_from(monitors.outerjoin(monitor_presence, _PRESENCE.tls_name == _M.tls_name))
    .where(_M.type == "monitor", _M.status.in_(("active", "testing")), _M.tls_name.not_like(f"%{SYSTEM_SUFFIX}"))
    .group_by(_PRESENCE.online)
)
UNDECODABLE: Final = sa.select(sa.func.count()).where(_U.last_seen > sa.bindparam("since", type_=sa.DateTime))


@dataclass(frozen=True, slots=True)
class Backlog:
    """Servers that wait for a worker."""

    servers: int
    oldest: datetime | None
    """Since when the first of them has been due."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The state of the pool at a time."""

    read_on: datetime
    by_score: dict[str, int]
    results_a_minute: float
    newest: datetime | None
    """Arrival of the newest results of the last minutes."""
    online: int
    away: int
    """Monitors that shall measure, and are not connected."""
    scoring: Backlog
    reviews: Backlog
    undecodable: int
    """Messages of the last hour that could not be understood."""


def read_pool(connection: Connection, now: datetime) -> Pool:
    """Return the state of the pool."""
    results = connection.execute(RESULTS, {"since": now - timedelta(minutes=MINUTES)}).one()
    present: dict[bool | None, int] = {row.online: row.hosts for row in connection.execute(PRESENT)}
    hour = {"since": now - timedelta(hours=1)}
    return Pool(
        read_on=now,
        by_score=count_by_score(connection, now.date()),
        results_a_minute=float(results.stored or 0) / MINUTES,
        newest=results.newest,
        online=present.get(True, 0),
        away=present.get(False, 0) + present.get(None, 0),
        scoring=_backlog(connection, WAITING, now),
        reviews=_backlog(connection, REVIEWS, now),
        undecodable=connection.scalar(UNDECODABLE, hour) or 0,
    )


def _backlog(connection: Connection, query: sa.Select[int, Any], now: datetime) -> Backlog:
    row = connection.execute(query, {"now": now}).one()
    return Backlog(row.servers, row.oldest)
