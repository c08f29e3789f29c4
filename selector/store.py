"""Read the input of reviews: one query for all pairs of some servers, with aggregates of 24 h of results.

The query also reads the time of each pair's last move between testing and candidate from the history of moves, since
the pool's tables have no column for it.

The results are read only from the index ``log_scores_review``. Every pair is included, even without a result; the
rows of scorers and pseudo-monitors are excluded. Text is not validated here: `selector.rows` reports invalid values, so
types that would reject a row (enumerations, JSON) are read as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import BulkSelect, as_stored, by_index, stored_day, stored_time
from runtime.db.engine import to_db, to_db_seconds
from runtime.db.monitor_health import read_labels
from schema.health import HealthLabel
from schema.tables import accounts, assignment_changes, log_scores, monitors, server_scores, servers
from selector.monitors import is_gone, is_real, last_present, name_of, with_presence
from selector.rows import RawMonitor

WINDOW: Final = timedelta(hours=24)
"""Period of the results that count."""

_BOTH: Final = ("candidate", "testing")

Pair = tuple[int, int]
"""Ids of server and monitor."""


@dataclass(frozen=True, slots=True)
class ReviewInput:
    """A server with all its monitors, as the ledger has them."""

    server_id: int
    ip: str
    ip_version: str | None
    account_id: int | None
    deletion_on: date | None
    monitors: list[RawMonitor] = field(default_factory=list)

    def deleted(self, now: datetime) -> bool:
        """Return whether the deletion date has been reached."""
        return self.deletion_on is not None and self.deletion_on <= now.date()


class _Row(NamedTuple):
    """A pair of a review with its server; without a monitor, a server without pairs. Dates and times are as stored."""

    server_id: int
    server_ip: str
    server_version: str | None
    server_account: int | None
    deletion_on: Any
    monitor_id: int | None
    tls_name: str | None
    ip: str | None
    ip_version: str | None
    account_id: int | None
    account_flags: str | None
    global_status: str | None
    pair_status: str | None
    violation_type: str | None
    violation_since: Any
    last_constraint_check: Any
    pause_reason: str | None
    results: int | None
    avg_step: float | None
    avg_rtt_ms: float | None
    last_present: Any
    last_move: Any


Labels = Mapping[int, tuple[HealthLabel, ...]]
"""The labels of monitors' health by monitor; one without labels may be missing."""


def read_monitor_labels(connection: Connection) -> Labels:
    """Read the labels of all monitors."""
    return {number: tuple(one.label for one in held) for number, held in read_labels(connection).items()}


def read_inputs(
    connection: Connection, server_ids: Sequence[int], now: datetime, labels: Labels | None = None
) -> dict[int, ReviewInput]:
    """Read the input of these servers' reviews as of ``now`` (aware, UTC). Unknown servers are omitted.

    Args:
        labels: those of :func:`read_monitor_labels`, if the reviews use or show them.
    """
    inputs: dict[int, ReviewInput] = {}
    moment = to_db(now)
    for row in _QUERY.rows(connection, {"server_ids": list(server_ids), "since": to_db_seconds(now - WINDOW)}):
        found = inputs.get(row.server_id)
        if found is None:
            found = inputs[row.server_id] = _without_monitors(row)
        if row.monitor_id is not None:
            its_labels = (labels or {}).get(row.monitor_id, ())
            found.monitors.append(_raw_monitor(row, row.monitor_id, moment, its_labels))
    return inputs


def _without_monitors(row: _Row) -> ReviewInput:
    day = stored_day(row.deletion_on)
    return ReviewInput(row.server_id, row.server_ip, row.server_version, row.server_account, day)


def _raw_monitor(row: _Row, monitor_id: int, now: datetime, labels: tuple[HealthLabel, ...]) -> RawMonitor:
    return RawMonitor(
        id=monitor_id,
        name=name_of(row.tls_name, monitor_id),
        ip=row.ip,
        ip_version=row.ip_version,
        account_id=row.account_id,
        account_flags=row.account_flags,
        global_status=row.global_status or "",
        pair_status=row.pair_status,
        count=row.results or 0,
        avg_step=row.avg_step,
        avg_rtt_ms=row.avg_rtt_ms,
        gone=is_gone(stored_time(row.last_present), now),
        violation_type=row.violation_type,
        violation_since=stored_time(row.violation_since),
        last_constraint_check=stored_time(row.last_constraint_check),
        pause_reason=row.pause_reason,
        last_move=stored_time(row.last_move),
        labels=labels,
    )


def _results() -> sa.Subquery:
    """Build the subquery with each pair's number of results, average step, and average rtt (ms) if there is one."""
    log = log_scores.c
    query = (
        sa.select(
            log.server_id,
            log.monitor_id,
            sa.func.count().label("results"),
            sa.func.avg(log.step).label("avg_step"),
            # The rtt of a timeout is 0 in the pool's rows, and NULL in some older ones.
            sa.func.avg(sa.func.nullif(log.rtt, 0) * sa.literal_column("1e-3", sa.Double)).label("avg_rtt_ms"),
        )
        .where(log.server_id.in_(sa.bindparam("server_ids", expanding=True)), log.ts > sa.bindparam("since"))
        .group_by(log.server_id, log.monitor_id)
    )
    # With another index, every result needs a lookup in the table.
    return by_index(query, log_scores, "log_scores_review").subquery("results")


def _moves() -> sa.Subquery:
    """Build the subquery with the time of each pair's last move from candidate to testing or back, if any."""
    moved = assignment_changes.c
    query = (
        sa.select(moved.server_id, moved.monitor_id, sa.func.max(moved.changed_on).label("last_move"))
        .where(
            moved.server_id.in_(sa.bindparam("server_ids", expanding=True)),
            moved.before_status.in_(_BOTH),
            moved.after_status.in_(_BOTH),
        )
        .group_by(moved.server_id, moved.monitor_id)
    )
    return query.subquery("moves")


def _query() -> sa.Select[Any]:
    m, ss, s, results, moves = monitors.c, server_scores.c, servers.c, _results(), _moves()
    pairs = server_scores.join(monitors, sa.and_(m.id == ss.monitor_id, is_real()))
    source = servers.outerjoin(pairs, ss.server_id == s.id).outerjoin(accounts, accounts.c.id == m.account_id)
    source = with_presence(source).outerjoin(
        results, sa.and_(results.c.server_id == s.id, results.c.monitor_id == ss.monitor_id)
    )
    source = source.outerjoin(moves, sa.and_(moves.c.server_id == s.id, moves.c.monitor_id == ss.monitor_id))
    columns: dict[str, sa.ColumnElement[Any]] = {
        "server_id": s.id,
        "server_ip": s.ip,
        "server_version": as_stored(s.ip_version),
        "server_account": s.account_id,
        "deletion_on": s.deletion_on,
        "monitor_id": m.id,
        "tls_name": m.tls_name,
        "ip": m.ip,
        "ip_version": as_stored(m.ip_version),
        "account_id": m.account_id,
        # As text even if the column is JSON, which JSON_ARRAY would embed as a JSON value.
        "account_flags": sa.cast(accounts.c.flags, sa.Text),
        "global_status": as_stored(m.status),
        "pair_status": as_stored(ss.status),
        "violation_type": ss.constraint_violation_type,
        "violation_since": ss.constraint_violation_since,
        "last_constraint_check": ss.last_constraint_check,
        "pause_reason": ss.pause_reason,
        "results": results.c.results,
        "avg_step": results.c.avg_step,
        "avg_rtt_ms": results.c.avg_rtt_ms,
        "last_present": last_present(),
        "last_move": moves.c.last_move,
    }
    query = sa.select(*(columns[name].label(name) for name in _Row._fields)).select_from(source)
    return query.where(s.id.in_(sa.bindparam("server_ids", expanding=True)))


_QUERY: Final = BulkSelect(_query(), _Row)
