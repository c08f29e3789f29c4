"""Read the history of a server's monitors and of its score, in order of time."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from schema.tables import assignment_changes, log_scores, monitors, servers
from scorer.policy import HANDED_OUT_ABOVE

_ROW_AT_LEAST_EVERY: Final = timedelta(days=1)
"""A scorer writes rows at shorter intervals than this while any monitor measures the server."""

SERVER_COLUMNS: Final = ("at", "monitor", "change", "reason")
MONITOR_COLUMNS: Final = ("at", "server", "change", "reason")

Row = tuple[datetime, str | None, str, str]
"""Time, name, change and reason."""


def server_history(connection: Connection, server_id: int, since: datetime, limit: int) -> list[Row]:
    """Return the last changes of a server, oldest first: of its monitors, and its score crossing 10."""
    c, m = assignment_changes.c, monitors.c
    query = (
        sa.select(c.changed_on, m.tls_name, c.before_status, c.after_status, c.reason)
        .select_from(assignment_changes.outerjoin(monitors, m.id == c.monitor_id))
        .where(c.server_id == server_id, c.changed_on >= since)
    )
    moves = _moves(connection, query, limit)
    return sorted([*moves, *_crossings(connection, server_id, since)], key=lambda row: row[0])[-limit:]


def monitor_history(connection: Connection, monitor_id: int, since: datetime, limit: int) -> list[Row]:
    """Return the last status changes of a monitor's pairs, oldest first."""
    c, s = assignment_changes.c, servers.c
    query = (
        sa.select(c.changed_on, s.ip, c.before_status, c.after_status, c.reason)
        .select_from(assignment_changes.outerjoin(servers, s.id == c.server_id))
        .where(c.monitor_id == monitor_id, c.changed_on >= since)
    )
    return _moves(connection, query, limit)


def _moves(connection: Connection, query: sa.Select[Any], limit: int) -> list[Row]:
    newest = query.order_by(assignment_changes.c.changed_on.desc(), assignment_changes.c.id.desc()).limit(limit)
    rows: Sequence[Any] = connection.execute(newest).all()
    return [(at, who, f"{before or 'new'} -> {after}", reason) for at, who, before, after, reason in reversed(rows)]


def _crossings(connection: Connection, server_id: int, since: datetime) -> list[Row]:
    """Return the times when a scorer's score of the server crossed 10, as far as log rows are kept."""
    log, m = log_scores.c, monitors.c
    query = (
        sa.select(log.ts, log.score, m.tls_name)
        .select_from(log_scores.join(monitors, m.id == log.monitor_id))
        .where(log.server_id == server_id, log.ts >= since - _ROW_AT_LEAST_EVERY, m.type == "score")
        .order_by(log.ts, log.id)
    )
    found: list[Row] = []
    before: dict[str, float] = {}
    for ts, score, scorer in connection.execute(query):
        last = before.get(scorer)
        before[scorer] = score
        if last is not None and ts >= since and (last > HANDED_OUT_ABOVE) != (score > HANDED_OUT_ABOVE):
            what = "handed out from now on" if score > HANDED_OUT_ABOVE else "no longer handed out"
            found.append((ts, scorer, f"score {last:.1f} -> {score:.1f}", what))
    return found
