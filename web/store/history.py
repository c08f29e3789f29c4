"""Read the log of one server: its newest rows, those after a time, those of a range, and sums of a day.

All queries read the index ``log_scores_review``, which begins with server and time, in the order of time. Those of all
monitors end after as many rows as they return. Those of one monitor skip the rows of others, and so look back
:data:`OLDEST` at most.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import BulkSelect, by_index, in_this_order, stored_time
from schema.tables import log_scores
from web.model import Entry
from web.parameters import LONGEST_RANGE

OLDEST: Final = timedelta(seconds=LONGEST_RANGE)
"""Age of the oldest rows of one monitor that are looked for."""

_INDEX: Final = "log_scores_review"
_L: Final = log_scores.c


class _Stored(NamedTuple):
    """A row as JSON has it."""

    id: int
    monitor_id: int | None
    ts: str
    score: float
    step: float
    offset: float | None
    rtt: int | None
    attributes: str | None


_COLUMNS: Final = (_L.id, _L.monitor_id, _L.ts, _L.score, _L.step, _L.offset, _L.rtt, _L.attributes)


def _first(columns: Sequence[sa.Column[Any]], where: Sequence[sa.ColumnElement[bool]], ascending: bool) -> sa.Subquery:
    """Build the query for the first ``limit`` rows of a server in the order of time."""
    page = (
        sa.select(*columns)
        .where(_L.server_id == sa.bindparam("server_id"), *where)
        .order_by(_L.ts.asc() if ascending else _L.ts.desc())
        .limit(sa.bindparam("limit", type_=sa.Integer))
    )
    return by_index(page, log_scores, _INDEX).subquery("page")


def _of_all(*where: sa.ColumnElement[bool], ascending: bool = False) -> BulkSelect[_Stored]:
    return BulkSelect(sa.select(_first(_COLUMNS, where, ascending)), _Stored)


def _of_one(*where: sa.ColumnElement[bool], ascending: bool = False) -> BulkSelect[_Stored]:
    """Build the query for rows of one monitor.

    Those of others are skipped in the index. Otherwise, MariaDB would read each of them to see its monitor: it cannot
    check other columns of an index that it reads backwards.
    """
    page = _first([_L.id], (_L.monitor_id == sa.bindparam("monitor_id"), *where), ascending)
    query = sa.select(*_COLUMNS).select_from(page.join(log_scores, _L.id == page.c.id))
    return BulkSelect(in_this_order(query), _Stored)


_AFTER: Final = _L.ts > sa.bindparam("since", type_=sa.DateTime)
_UNTIL: Final = _L.ts <= sa.bindparam("until", type_=sa.DateTime)

NEWEST: Final = _of_all()
NEWEST_OF_ONE: Final = _of_one(_AFTER)
SINCE: Final = _of_all(_AFTER, ascending=True)
SINCE_OF_ONE: Final = _of_one(_AFTER, ascending=True)
RANGE: Final = _of_all(_AFTER, _UNTIL, ascending=True)
RANGE_OF_ONE: Final = _of_one(_AFTER, _UNTIL, ascending=True)


def newest(connection: Connection, server_id: int, limit: int, now: datetime, monitor_id: int | None) -> list[Entry]:
    """Return the newest rows, of all monitors or of one, unordered."""
    parameters: dict[str, Any] = {"server_id": server_id, "limit": limit}
    if monitor_id is None:
        return _entries(NEWEST, connection, parameters)
    return _entries(NEWEST_OF_ONE, connection, parameters | {"monitor_id": monitor_id, "since": now - OLDEST})


def since(
    connection: Connection, server_id: int, limit: int, after: datetime, now: datetime, monitor_id: int | None
) -> list[Entry]:
    """Return the first rows after a time, of all monitors or of one, unordered."""
    parameters: dict[str, Any] = {"server_id": server_id, "limit": limit, "since": after}
    if monitor_id is None:
        return _entries(SINCE, connection, parameters)
    bounded = {"monitor_id": monitor_id, "since": max(after, now - OLDEST)}
    return _entries(SINCE_OF_ONE, connection, parameters | bounded)


def in_range(
    connection: Connection, server_id: int, limit: int, begin: datetime, end: datetime, monitor_id: int | None
) -> list[Entry]:
    """Return the first rows from ``begin`` to ``end``, of all monitors or of one, unordered."""
    parameters: dict[str, Any] = {
        "server_id": server_id,
        "limit": limit,
        "since": begin - timedelta(seconds=1),  # the log has whole seconds
        "until": end,
    }
    if monitor_id is None:
        return _entries(RANGE, connection, parameters)
    return _entries(RANGE_OF_ONE, connection, parameters | {"monitor_id": monitor_id})


def _entries(query: BulkSelect[_Stored], connection: Connection, parameters: Mapping[str, Any]) -> list[Entry]:
    return [
        Entry(row.id, row.monitor_id, ts.replace(microsecond=0), *row[3:])
        for row in query.rows(connection, parameters)
        if row.monitor_id is not None and (ts := stored_time(row.ts)) is not None
    ]


class Sums(NamedTuple):
    """The results of one monitor in some time."""

    results: int
    lost: int
    """Results without an answer."""
    rtt: float | None
    """Average, microseconds."""


SUMS: Final = by_index(
    sa.select(
        _L.monitor_id,
        sa.func.count().label("results"),
        sa.func.count(_L.rtt).label("answered"),
        sa.func.avg(_L.rtt).label("rtt"),
    )
    .where(_L.server_id == sa.bindparam("server_id"), _AFTER)
    .group_by(_L.monitor_id),
    log_scores,
    _INDEX,
)
"""Reads only the index."""


def sums(connection: Connection, server_id: int, after: datetime) -> dict[int, Sums]:
    """Return the sums of all monitors since a time, by id."""
    return {
        row.monitor_id: Sums(row.results, row.results - row.answered, None if row.rtt is None else float(row.rtt))
        for row in connection.execute(SUMS, {"server_id": server_id, "since": after})
        if row.monitor_id is not None
    }
