"""Define the SQL that stores batches, results and scores, for a thousand rows at a time (:mod:`runtime.db.bulk`)."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ingest.plan import LogRow
from runtime.db.bulk import BulkInsert, BulkSelect, BulkUpdate, by_index, in_this_order, json_rows, rows_table
from schema.messages import PairStatus
from schema.tables import log_scores, result_batches, scoring_queue, server_scores, servers

_WINDOWS: Final = 200
"""Windows per statement."""


class PairRow(NamedTuple):
    """A row of ``server_scores``, with its server."""

    id: int
    server_id: int
    monitor_id: int
    status: PairStatus
    score_raw: float
    score_ts: datetime | None
    stratum: int | None
    ip: str
    """Address of the server."""
    stored: int | None
    """Version counter of the server; None if it has no row in the queue."""


class MovedPair(NamedTuple):
    """A row of ``server_scores`` with its new score."""

    id: int
    score_raw: float
    score_ts: datetime | None
    stratum: int | None


class BatchRow(NamedTuple):
    """A row of ``result_batches``, without the time at which it was received."""

    monitor_id: int
    batch: str
    stored: int
    rejected: str | None


def read_pairs(connection: Connection, wanted: Iterable[tuple[int, int]]) -> Sequence[PairRow]:
    """Read the existing pairs of these (server, monitor)."""
    return _PAIRS.rows(connection, {"wanted": json_rows(wanted)})


def read_times(
    connection: Connection, wanted: Sequence[tuple[int, int, datetime, datetime]]
) -> Iterable[tuple[int, int, datetime]]:
    """Read server, monitor and time of the stored results in these windows (server, monitor, after, before).

    The values are literals in the statement, since a join with JSON rows would read all results of a server.
    """
    for first in range(0, len(wanted), _WINDOWS):
        where = " OR ".join(
            f"(`server_id` = {server:d} AND `monitor_id` = {monitor:d} AND `ts` > '{after}' AND `ts` < '{before}')"
            for server, monitor, after, before in wanted[first : first + _WINDOWS]
        )
        found = connection.execute(_TIMES.where(sa.text(where.replace(":", "\\:"))))
        yield from ((row.server_id, row.monitor_id, row.ts) for row in found)


def read_batches(connection: Connection, wanted: Iterable[tuple[int, str]]) -> Sequence[BatchRow]:
    """Read the stored outcomes of these batches (monitor, ULID)."""
    rows = connection.execute(_BATCHES, {"wanted": json_rows(wanted)})
    return [BatchRow._make(row) for row in rows]


def add_batches(connection: Connection, rows: Sequence[BatchRow], received_on: datetime) -> None:
    """Insert batches in the order of ``rows``."""
    _ADD_BATCHES.execute(connection, rows, received_on=received_on)


def add_log_rows(connection: Connection, rows: Sequence[LogRow]) -> None:
    """Insert rows into ``log_scores``; their ids are in the order of ``rows``."""
    _ADD_LOG_ROWS.execute(connection, rows)


def move_pairs(connection: Connection, moved: Sequence[MovedPair]) -> None:
    """Update the scores of pairs."""
    _MOVE_PAIRS.execute(connection, moved)


def _pairs() -> sa.Select[Any]:
    pair, queue = server_scores.c, scoring_queue.c
    wanted = rows_table("wanted", pair.server_id, pair.monitor_id)
    same = sa.and_(pair.server_id == wanted.c.server_id, pair.monitor_id == wanted.c.monitor_id)
    source = wanted.join(server_scores, same).join(servers, servers.c.id == pair.server_id)
    of_pair = (pair.id, pair.server_id, pair.monitor_id, pair.status, pair.score_raw, pair.score_ts, pair.stratum)
    return in_this_order(
        sa.select(*of_pair, servers.c.ip, queue.stored).select_from(
            source.outerjoin(scoring_queue, queue.server_id == pair.server_id)
        )
    )


def _batches() -> sa.Select[Any]:
    batch = result_batches.c
    wanted = rows_table("wanted", batch.monitor_id, batch.batch)
    same = sa.and_(batch.monitor_id == wanted.c.monitor_id, batch.batch == wanted.c.batch)
    return in_this_order(
        sa.select(batch.monitor_id, batch.batch, batch.stored, batch.rejected).select_from(
            wanted.join(result_batches, same)
        )
    )


_PAIRS: Final = BulkSelect(_pairs(), PairRow)
_BATCHES: Final = _batches()
_log = log_scores.c
_TIMES: Final = by_index(sa.select(_log.server_id, _log.monitor_id, _log.ts), log_scores, "log_scores_review")
_ADD_BATCHES: Final = BulkInsert(result_batches, BatchRow, common=["received_on"])
_ADD_LOG_ROWS: Final = BulkInsert(log_scores, LogRow)
# queue_ts is maintained as by the pool's former API, since readers of the table order by it.
_MOVE_PAIRS: Final = BulkUpdate(server_scores, MovedPair, key=["id"], also={"queue_ts": "score_ts"})
