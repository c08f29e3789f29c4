"""Write results in two other ways for comparison with ingest: the simplest way, and the minimum.

Both receive decoded results, have no broker, send no acks, and use the driver directly: they are as fast as such
writers can be in Python.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Final

from sqlalchemy.engine import Engine

from agent.delivery.ulid import new_ulid
from runtime.db.engine import to_db_seconds, utc_now
from schema.messages import Result
from scorer.formula import next_score, step
from testbed.load.record import Sent

ROWS: Final = 1_000
"""Rows of one insert."""

_MONITOR: Final = "SELECT `id`, `status` FROM `monitors` WHERE `tls_name` = %s AND `ip_version` = %s"
_SERVER: Final = "SELECT `ip` FROM `servers` WHERE `id` = %s"
_PAIR: Final = (
    "SELECT `id`, `status`, `score_raw`, `score_ts` FROM `server_scores` "
    "WHERE `server_id` = %s AND `monitor_id` = %s FOR UPDATE"
)
_LOG: Final = (
    "INSERT INTO `log_scores` (`monitor_id`, `server_id`, `ts`, `score`, `step`, `offset`, `rtt`, `attributes`) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)
_MOVE: Final = "UPDATE `server_scores` SET `score_raw` = %s, `score_ts` = %s, `stratum` = %s WHERE `id` = %s"
_BATCH: Final = "INSERT INTO `result_batches` (`monitor_id`, `batch`, `received_on`, `stored`) VALUES (%s, %s, %s, %s)"


def row_at_a_time(engine: Engine, batches: Sequence[Sent], seconds: float) -> float:
    """Return the results per second of a writer with five statements per result and a transaction per batch."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        began, written = time.perf_counter(), 0
        for sent in cycle(batches):
            for result in sent.results:
                monitor_id = _write(cursor, sent, result)
            cursor.execute(_BATCH, (monitor_id, new_ulid(time.time_ns()), utc_now(), len(sent.results)))
            connection.commit()
            written += len(sent.results)
            if time.perf_counter() - began >= seconds:
                break
        return written / (time.perf_counter() - began)
    finally:
        connection.close()


def _write(cursor: Any, sent: Sent, result: Result) -> int:
    """Execute the five statements per result; return the monitor's id."""
    cursor.execute(_MONITOR, (sent.monitor, sent.ipv))
    monitor_id: int = cursor.fetchone()[0]
    cursor.execute(_SERVER, (result.server_id,))
    cursor.fetchone()
    cursor.execute(_PAIR, (result.server_id, monitor_id))
    pair_id, _, score, _ = cursor.fetchone()
    taken = step(result)
    moved = next_score(score, taken)
    cursor.execute(_LOG, _row(monitor_id, result, moved, taken.step))
    cursor.execute(_MOVE, (moved, to_db_seconds(result.ts), result.stratum, pair_id))
    return monitor_id


def multi_row(engine: Engine, batches: Sequence[Sent], seconds: float) -> float:
    """Return the results per second of a writer that only inserts log rows, a thousand per statement and commit."""
    connection = engine.raw_connection()
    rows = _rows(batches)
    try:
        cursor = connection.cursor()
        began, written = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            cursor.executemany(_LOG, list(islice(rows, ROWS)))
            connection.commit()
            written += ROWS
        return written / (time.perf_counter() - began)
    finally:
        connection.close()


def _rows(batches: Sequence[Sent]) -> Iterator[tuple[Any, ...]]:
    """Repeat the rows of the batches; made in advance, since making them is not part of inserting them."""
    made = [
        _row(int(sent.monitor.partition(".")[0].removeprefix("bench")), result, 1.0, 1.0)
        for sent in batches
        for result in sent.results
    ]
    return cycle(made)


def _row(monitor_id: int, result: Result, score: float, step: float) -> tuple[Any, ...]:
    rtt = None if result.rtt is None else round(result.rtt * 1e6)
    attributes = '{"leap":0,"stratum":2}'
    return monitor_id, result.server_id, to_db_seconds(result.ts), score, step, result.offset, rtt, attributes
