"""Statements for a thousand rows each, which travel as one JSON text (:mod:`runtime.db.json_rows`)."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ingest.plan import LogRow
from runtime.db.json_rows import json_rows, rows_of
from runtime.db.sql import column_list
from schema.messages import PairStatus
from schema.tables import log_scores, result_batches, scoring_queue, server_scores, servers

_pair = server_scores.c
_batch = result_batches.c
_PAIR_COLUMNS: Final = [
    _pair.id,
    _pair.server_id,
    _pair.monitor_id,
    _pair.status,
    _pair.score_raw,
    _pair.score_ts,
    _pair.stratum,
]
_PAIR_NAMES: Final = column_list("pair", [column.name for column in _PAIR_COLUMNS])
_STORED: Final = scoring_queue.c.stored
_BATCH_COLUMNS: Final = [_batch.monitor_id, _batch.batch, _batch.stored, _batch.rejected]
_BATCH_NAMES: Final = column_list("batch", [column.name for column in _BATCH_COLUMNS])

# The joins name their order: the wanted rows are few, the tables are large.
_READ_PAIRS_MYSQL: Final = sa.text(f"""
    SELECT JSON_ARRAYAGG(JSON_ARRAY({_PAIR_NAMES}, `server`.`ip`, `queue`.`stored`))
    FROM JSON_TABLE(:wanted, '$[*]' COLUMNS (
             `server_id` INT UNSIGNED PATH '$[0]',
             `monitor_id` INT UNSIGNED PATH '$[1]')) AS `wanted`
    STRAIGHT_JOIN `server_scores` AS `pair`
        ON `pair`.`server_id` = `wanted`.`server_id` AND `pair`.`monitor_id` = `wanted`.`monitor_id`
    STRAIGHT_JOIN `servers` AS `server` ON `server`.`id` = `pair`.`server_id`
    LEFT JOIN `scoring_queue` AS `queue` ON `queue`.`server_id` = `pair`.`server_id`
""")  # noqa: S608  # made of our own column names

_READ_PAIRS_SQLITE: Final = sa.text(f"""
    SELECT {_PAIR_NAMES}, `server`.`ip`, `queue`.`stored`
    FROM JSON_EACH(:wanted) AS `wanted`
    CROSS JOIN `server_scores` AS `pair`
        ON `pair`.`server_id` = JSON_EXTRACT(`wanted`.`value`, '$[0]')
        AND `pair`.`monitor_id` = JSON_EXTRACT(`wanted`.`value`, '$[1]')
    CROSS JOIN `servers` AS `server` ON `server`.`id` = `pair`.`server_id`
    LEFT JOIN `scoring_queue` AS `queue` ON `queue`.`server_id` = `pair`.`server_id`
""").columns(*_PAIR_COLUMNS, servers.c.ip, _STORED)  # noqa: S608  # made of our own column names

_READ_BATCHES_MYSQL: Final = sa.text(f"""
    SELECT {_BATCH_NAMES}
    FROM JSON_TABLE(:wanted, '$[*]' COLUMNS (
             `monitor_id` INT UNSIGNED PATH '$[0]',
             `batch` CHAR(26) CHARACTER SET ASCII COLLATE ASCII_BIN PATH '$[1]')) AS `wanted`
    STRAIGHT_JOIN `result_batches` AS `batch`
        ON `batch`.`monitor_id` = `wanted`.`monitor_id` AND `batch`.`batch` = `wanted`.`batch`
""").columns(*_BATCH_COLUMNS)  # noqa: S608  # made of our own column names

_READ_BATCHES_SQLITE: Final = sa.text(f"""
    SELECT {_BATCH_NAMES}
    FROM JSON_EACH(:wanted) AS `wanted`
    CROSS JOIN `result_batches` AS `batch`
        ON `batch`.`monitor_id` = JSON_EXTRACT(`wanted`.`value`, '$[0]')
        AND `batch`.`batch` = JSON_EXTRACT(`wanted`.`value`, '$[1]')
""").columns(*_BATCH_COLUMNS)  # noqa: S608  # made of our own column names

_ADD_BATCHES_MYSQL: Final = sa.text("""
    INSERT INTO `result_batches` (`monitor_id`, `batch`, `received_on`, `stored`, `rejected`)
    SELECT `monitor_id`, `batch`, :received_on, `stored`, `rejected`
    FROM JSON_TABLE(:rows, '$[*]' COLUMNS (
             `monitor_id` INT UNSIGNED PATH '$[0]' ERROR ON ERROR,
             `batch` CHAR(26) CHARACTER SET ASCII COLLATE ASCII_BIN PATH '$[1]' ERROR ON ERROR,
             `stored` INT PATH '$[2]' ERROR ON ERROR,
             `rejected` TEXT PATH '$[3]' ERROR ON ERROR)) AS `added`
""")

_MOVE_MYSQL: Final = sa.text("""
    UPDATE JSON_TABLE(:moved, '$[*]' COLUMNS (
               `id` BIGINT UNSIGNED PATH '$[0]' ERROR ON ERROR,
               `score` DOUBLE PATH '$[1]' ERROR ON ERROR,
               `score_ts` DATETIME PATH '$[2]' ERROR ON ERROR,
               `stratum` INT PATH '$[3]' ERROR ON ERROR)) AS `moved`
    STRAIGHT_JOIN `server_scores` AS `pair` ON `pair`.`id` = `moved`.`id`
    SET `pair`.`score_raw` = `moved`.`score`,
        `pair`.`score_ts` = `moved`.`score_ts`,
        `pair`.`queue_ts` = `moved`.`score_ts`,
        `pair`.`stratum` = `moved`.`stratum`
""")

_LOG_MYSQL: Final = sa.text("""
    INSERT INTO `log_scores` (`monitor_id`, `server_id`, `ts`, `score`, `step`, `offset`, `rtt`, `attributes`)
    SELECT `monitor_id`, `server_id`, `ts`, `score`, `step`, `offset`, `rtt`, `attributes`
    FROM JSON_TABLE(:rows, '$[*]' COLUMNS (
             `monitor_id` INT UNSIGNED PATH '$[0]' ERROR ON ERROR,
             `server_id` INT UNSIGNED PATH '$[1]' ERROR ON ERROR,
             `ts` DATETIME PATH '$[2]' ERROR ON ERROR,
             `score` DOUBLE PATH '$[3]' ERROR ON ERROR,
             `step` DOUBLE PATH '$[4]' ERROR ON ERROR,
             `offset` DOUBLE PATH '$[5]' ERROR ON ERROR,
             `rtt` INT PATH '$[6]' ERROR ON ERROR,
             `attributes` TEXT PATH '$[7]' ERROR ON ERROR)) AS `added`
""")

_MOVE_ONE: Final = (
    sa.update(server_scores)
    .where(_pair.id == sa.bindparam("pair"))
    .values(
        score_raw=sa.bindparam("score"),
        score_ts=sa.bindparam("ts"),
        # When the pair was last in turn, as the former API kept it: its readers order by this.
        queue_ts=sa.bindparam("ts"),
        stratum=sa.bindparam("new_stratum"),
    )
)

_WINDOWS: Final = 200
"""Windows of one statement."""

MovedPair = tuple[int, float, datetime | None, int | None]
"""Id of a row of ``server_scores``, and its new score, time and stratum."""


PairRow = tuple[int, int, int, PairStatus, float, datetime | None, int | None, str, int | None]
"""A row of ``server_scores`` (id, server, monitor, status, score, its time, stratum), the server's address, and how
often results of the server were stored; None when it has no row in the queue."""

BatchRow = tuple[int, str, int, str | None]
"""Monitor, ULID, number of stored results, and the rejections as text."""


_PAIR_ROWS: Final = msgspec.json.Decoder(list[PairRow])


def read_pairs(connection: Connection, wanted: Iterable[tuple[int, int]]) -> Sequence[PairRow]:
    """The pairs of these (server, monitor), as far as there are any."""
    asked = {"wanted": json_rows(wanted)}
    if connection.dialect.name == "sqlite":
        rows: Sequence[Any] = connection.execute(_READ_PAIRS_SQLITE, asked).all()
        return rows
    return rows_of(connection.scalar(_READ_PAIRS_MYSQL, asked), _PAIR_ROWS)


def read_times(
    connection: Connection, wanted: Sequence[tuple[int, int, datetime, datetime]]
) -> Iterable[tuple[int, int, datetime]]:
    """Server, monitor and time of the results stored of these (server, monitor, after, before), both times outside.

    The values stand in the statement: joined with a text of them, a server would read all results of a server.
    """
    log = log_scores.c
    for first in range(0, len(wanted), _WINDOWS):
        where = " OR ".join(
            f"(`server_id` = {server:d} AND `monitor_id` = {monitor:d} AND `ts` > '{after}' AND `ts` < '{before}')"
            for server, monitor, after, before in wanted[first : first + _WINDOWS]
        )
        hint = "" if connection.dialect.name == "sqlite" else "FORCE INDEX (`log_scores_review`)"
        query = f"SELECT `server_id`, `monitor_id`, `ts` FROM `log_scores` {hint} WHERE {where}"  # noqa: S608  # metrics and times
        found = connection.execute(sa.text(query.replace(":", "\\:")).columns(log.server_id, log.monitor_id, log.ts))
        yield from ((row.server_id, row.monitor_id, row.ts) for row in found)


def read_batches(connection: Connection, wanted: Iterable[tuple[int, str]]) -> Sequence[BatchRow]:
    """What is remembered of these (monitor, ULID)."""
    query = _READ_BATCHES_SQLITE if connection.dialect.name == "sqlite" else _READ_BATCHES_MYSQL
    rows: Sequence[Any] = connection.execute(query, {"wanted": json_rows(wanted)}).all()
    return rows


def add_batches(connection: Connection, rows: Sequence[BatchRow], received_on: datetime) -> None:
    """Remembers batches, in the order of ``rows``."""
    if connection.dialect.name == "sqlite":
        names = ("monitor_id", "batch", "stored", "rejected")
        added = [{"received_on": received_on, **dict(zip(names, row, strict=True))} for row in rows]
        connection.execute(sa.insert(result_batches), added)
    else:
        connection.execute(_ADD_BATCHES_MYSQL, {"rows": json_rows(rows), "received_on": received_on})


def add_log_rows(connection: Connection, rows: Sequence[LogRow]) -> None:
    """Adds rows to ``log_scores``; their ids are in the order of ``rows``."""
    if connection.dialect.name == "sqlite":
        connection.execute(sa.insert(log_scores), [row._asdict() for row in rows])
    else:
        connection.execute(_LOG_MYSQL, {"rows": json_rows(rows)})


def move_pairs(connection: Connection, moved: Sequence[MovedPair]) -> None:
    """Gives pairs their new scores."""
    if connection.dialect.name == "sqlite":
        names = ("pair", "score", "ts", "new_stratum")
        connection.execute(_MOVE_ONE, [dict(zip(names, row, strict=True)) for row in moved])
    else:
        connection.execute(_MOVE_MYSQL, {"moved": json_rows(moved)})
