"""Read the ledger for the checker."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ingest.plan import rejections_from_text
from schema.names import IpVersion
from schema.tables import log_scores, monitors, result_batches, server_scores, servers
from scorer.model import PairScore
from testbed.checker.batches import StoredBatch
from testbed.checker.replay import BatchKey, LogRow, Pair

_AT_A_TIME: Final = 5_000
_SERVERS: Final = 200
"""Number of servers whose recent results are read together."""


def log_rows(connection: Connection, *, after: int = 0, of: Collection[int] | None = None) -> Iterator[LogRow]:
    """Read results in the order in which they were stored, with larger ids, of these monitors."""
    log = log_scores.c
    query = (
        sa.select(log_scores)
        .join(monitors, monitors.c.id == log.monitor_id)
        .where(monitors.c.type == "monitor", log.id > after)
        .order_by(log.id)
        .execution_options(yield_per=_AT_A_TIME)
    )
    for row in connection.execute(query):
        if of is None or row.monitor_id in of:
            yield _log_row(row)


def _log_row(row: sa.Row[Any]) -> LogRow:
    attributes: Mapping[str, Any] = json.loads(row.attributes) if row.attributes else {}
    return LogRow(
        server_id=row.server_id,
        monitor_id=row.monitor_id,
        ts=row.ts,
        score=row.score,
        step=row.step,
        offset=row.offset,
        rtt=row.rtt,
        stratum=attributes.get("stratum"),
        leap=attributes.get("leap"),
        error=attributes.get("error"),
        no_response=bool(attributes.get("no_response")),
        id=row.id,
    )


def last_log_id(connection: Connection) -> int:
    """Return the largest id of a log row; 0 if there is none."""
    return connection.scalar(sa.select(sa.func.max(log_scores.c.id))) or 0


def batches(connection: Connection, of: Collection[int] | None = None) -> dict[BatchKey, StoredBatch]:
    """Return the ledger's batches, of these monitors or all."""
    b = result_batches.c
    rows = connection.execute(sa.select(b.monitor_id, b.batch, b.stored, b.rejected))
    return {
        (row.monitor_id, row.batch): StoredBatch(row.stored, rejections_from_text(row.rejected))
        for row in rows
        if of is None or row.monitor_id in of
    }


def pair_scores(connection: Connection) -> dict[Pair, float]:
    """Return the score of each monitor's pair."""
    p = server_scores.c
    query = sa.select(p.server_id, p.monitor_id, p.score_raw).join(monitors, monitors.c.id == p.monitor_id)
    rows = connection.execute(query.where(monitors.c.type == "monitor"))
    return {(row.server_id, row.monitor_id): row.score_raw for row in rows}


def monitor_ids(connection: Connection) -> dict[tuple[str, IpVersion], int]:
    """Return the monitors' ids by full name and protocol."""
    m = monitors.c
    query = sa.select(m.id, m.tls_name, m.ip_version).where(m.type == "monitor", m.ip_version.is_not(None))
    return {(row.tls_name, row.ip_version): row.id for row in connection.execute(query)}


def scorer_ids(connection: Connection) -> dict[str, int]:
    """Return the ids of the active scorers by full name."""
    m = monitors.c
    query = (
        sa.select(m.id, m.tls_name).where(m.type == "score", m.status.in_(("active", "testing"))).order_by(m.id.desc())
    )
    return {row.tls_name: row.id for row in connection.execute(query)}


ServerScore = tuple[datetime | None, float]
"""Time and score; without a time there is none."""


def server_scores_given(connection: Connection) -> dict[int, ServerScore]:
    """Return each server's score in ``servers``."""
    s = servers.c
    return {
        row.id: (row.score_ts, row.score_raw) for row in connection.execute(sa.select(s.id, s.score_ts, s.score_raw))
    }


def scores_by(connection: Connection, scorer_id: int) -> dict[int, ServerScore]:
    """Return each server's score by one scorer, from ``server_scores``."""
    p = server_scores.c
    rows = connection.execute(sa.select(p.server_id, p.score_ts, p.score_raw).where(p.monitor_id == scorer_id))
    return {row.server_id: (row.score_ts, row.score_raw) for row in rows}


def recent_results(connection: Connection, window: timedelta) -> Iterator[tuple[int, datetime, list[PairScore]]]:
    """Return, for each server with results, the newest one's time and all within ``window`` before it."""
    newest = _newest(connection)
    ids = sorted(newest)
    for first in range(0, len(ids), _SERVERS):
        some = ids[first : first + _SERVERS]
        found = _results(connection, some, min(newest[server_id] for server_id in some) - window)
        for server_id in some:
            begin = newest[server_id] - window
            yield server_id, newest[server_id], [result for result in found[server_id] if result.ts >= begin]


def _newest(connection: Connection) -> dict[int, datetime]:
    log = log_scores.c
    query = sa.select(log.server_id, sa.func.max(log.ts).label("ts")).where(_of_monitors()).group_by(log.server_id)
    return {row.server_id: row.ts for row in connection.execute(query)}


def _results(connection: Connection, server_ids: Sequence[int], since: datetime) -> dict[int, list[PairScore]]:
    log, pair = log_scores.c, server_scores.c
    its_pair = sa.and_(pair.server_id == log.server_id, pair.monitor_id == log.monitor_id)
    query = (
        sa.select(log.server_id, log.id, log.monitor_id, pair.status, log.ts, log.score, log.step, log.rtt)
        .select_from(log_scores.outerjoin(server_scores, its_pair))
        .where(log.server_id.in_(server_ids), log.ts >= since, _of_monitors())
    )
    found: dict[int, list[PairScore]] = {server_id: [] for server_id in server_ids}
    for server_id, *result in connection.execute(query):
        found[server_id].append(PairScore(*result))
    return found


def _of_monitors() -> sa.ColumnElement[bool]:
    scorers = sa.select(monitors.c.id).where(monitors.c.type == "score")
    return log_scores.c.monitor_id.not_in(scorers)
