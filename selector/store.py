"""What a review is told: one query for all pairs of some servers, with 24 h of results added up by the database.

The results are read from the index ``log_scores_review`` alone. Every pair is there, also without any result; scorers'
rows and the pseudo-monitors of settings are not. Text goes on as it stands: what is broken is for `selector.parse` to
say, so types that would refuse a row (enumerations, JSON) are read as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from runtime.database import to_db, to_db_seconds
from schema.tables import accounts, log_scores, monitors, server_scores, servers
from selector.parse import RawMonitor
from selector.presence import is_gone, is_real, last_present, name_of, with_presence

WINDOW: Final = timedelta(hours=24)
"""How much of the past counts."""

Pair = tuple[int, int]
"""Server and monitor."""


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
        """Whether its day has come."""
        return self.deletion_on is not None and self.deletion_on <= now.date()


def read_inputs(connection: Connection, server_ids: Sequence[int], now: datetime) -> dict[int, ReviewInput]:
    """What a review of each of these servers needs, as of ``now`` (aware, UTC). Unknown servers are left out."""
    inputs: dict[int, ReviewInput] = {}
    moment = to_db(now)
    bound = {"server_ids": list(server_ids), "since": to_db_seconds(now - WINDOW)}
    for row in connection.execute(_QUERY, bound):
        found = inputs.get(row.server_id)
        if found is None:
            found = ReviewInput(row.server_id, row.server_ip, row.server_version, row.server_account, row.deletion_on)
            inputs[row.server_id] = found
        if row.monitor_id is not None:
            found.monitors.append(_raw_monitor(row, moment))
    return inputs


def text(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """The column as it is stored, without a type that would refuse what should not be there."""
    return sa.type_coerce(column, sa.Text)


def _raw_monitor(row: Row[Any], now: datetime) -> RawMonitor:
    return RawMonitor(
        id=row.monitor_id,
        name=name_of(row.tls_name, row.monitor_id),
        ip=row.ip,
        ip_version=row.ip_version,
        account_id=row.account_id,
        account_flags=row.flags,
        global_status=row.global_status,
        pair_status=row.pair_status,
        count=row.results or 0,
        avg_step=row.avg_step,
        avg_rtt_ms=row.avg_rtt_ms,
        gone=is_gone(row.last_present, now),
        violation_type=row.constraint_violation_type,
        violation_since=row.constraint_violation_since,
        last_constraint_check=row.last_constraint_check,
        pause_reason=row.pause_reason,
    )


def _results() -> sa.Subquery:
    """Per pair: how many results, their average step, and the average rtt (ms) of those that have one."""
    log = log_scores.c
    query = (
        sa.select(
            log.server_id,
            log.monitor_id,
            sa.func.count().label("results"),
            sa.func.avg(log.step).label("avg_step"),
            sa.func.avg(log.rtt * sa.literal_column("1e-3", sa.Double)).label("avg_rtt_ms"),
        )
        .where(log.server_id.in_(sa.bindparam("server_ids", expanding=True)), log.ts > sa.bindparam("since"))
        .group_by(log.server_id, log.monitor_id)
    )
    # Its statistics may be old, and with another index every result is a look-up in the table.
    for dialect in ("mysql", "mariadb"):
        query = query.with_hint(log_scores, "FORCE INDEX (log_scores_review)", dialect)
    return query.subquery("results")


def _query() -> sa.Select[Any]:
    m, ss, s, results = monitors.c, server_scores.c, servers.c, _results()
    pairs = server_scores.join(monitors, sa.and_(m.id == ss.monitor_id, is_real()))
    source = servers.outerjoin(pairs, ss.server_id == s.id).outerjoin(accounts, accounts.c.id == m.account_id)
    source = with_presence(source).outerjoin(
        results, sa.and_(results.c.server_id == s.id, results.c.monitor_id == ss.monitor_id)
    )
    return (
        sa.select(
            s.id.label("server_id"),
            s.ip.label("server_ip"),
            text(s.ip_version).label("server_version"),
            s.account_id.label("server_account"),
            s.deletion_on,
            m.id.label("monitor_id"),
            m.tls_name,
            m.ip,
            text(m.ip_version).label("ip_version"),
            m.account_id,
            text(accounts.c.flags).label("flags"),
            text(m.status).label("global_status"),
            text(ss.status).label("pair_status"),
            ss.constraint_violation_type,
            ss.constraint_violation_since,
            ss.last_constraint_check,
            ss.pause_reason,
            results.c.results,
            results.c.avg_step,
            results.c.avg_rtt_ms,
            last_present(),
        )
        .select_from(source)
        .where(s.id.in_(sa.bindparam("server_ids", expanding=True)))
    )


_QUERY: Final = _query()
