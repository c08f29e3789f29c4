"""Test that every query of the log reads its index in the order of time, and no more rows than it returns."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.db.bulk import BulkSelect
from testbed.fixtures.web import NOW, V4, fill
from testbed.fixtures.world import add_server
from web.store import history, monitors, pool, servers

PARAMETERS: dict[str, Any] = {
    "server_id": 1,
    "monitor_id": 1,
    "limit": 100,
    "id": 1,
    "ip": V4,
    "hostname": "x",
    "prefix": "x.%",
    "since": NOW - timedelta(days=1),
    "until": NOW,
    "now": NOW,
    "ids": [1, 2],
}
LOG = {
    "newest": history.NEWEST,
    "newest of one": history.NEWEST_OF_ONE,
    "since": history.SINCE,
    "since of one": history.SINCE_OF_ONE,
    "range": history.RANGE,
    "range of one": history.RANGE_OF_ONE,
}
INDEXES: dict[str, tuple[sa.Select[Any], dict[str, set[str]]]] = {
    "server by id": (servers.BY_ID, {"servers": {"PRIMARY"}}),
    "server by address": (servers.BY_IP, {"servers": {"ip"}}),
    "sums": (history.SUMS, {"log_scores": {"log_scores_review"}}),
    "monitors of a server": (
        monitors.OF_SERVER,
        {"server_scores": {"server_scores_pair"}, "monitors": {"PRIMARY"}},
    ),
    "monitors by id": (monitors.BY_IDS, {"server_scores": {"server_scores_pair", "server_scores_monitor_server"}}),
    "changes": (monitors.CHANGES, {"assignment_changes": {"assignment_changes_server"}, "monitors": {"PRIMARY"}}),
    "servers by status": (
        monitors.SERVERS_BY_STATUS,
        {"server_scores": {"server_scores_monitor_status", "server_scores_monitor_server", "server_scores_monitor_ts"}},
    ),
    "hours": (monitors.HOURS, {"monitor_hours": {"PRIMARY"}}),
    "results": (pool.RESULTS, {"result_batches": {"result_batches_received"}}),
    "waiting": (pool.WAITING, {"scoring_queue": {"scoring_queue_due"}}),
    "reviews": (pool.REVIEWS, {"servers_monitor_review": {"servers_monitor_review_next"}}),
    "undecodable": (pool.UNDECODABLE, {"rejected_messages": {"rejected_messages_seen"}}),
}
"""The indexes by which each query can read its tables. All others read tables of a few thousand rows."""


def _plan(connection: Connection, query: Any) -> list[dict[str, Any]]:
    """Return the plan of a query, as it is sent to the database."""
    sent: list[tuple[str, Any]] = []

    def record(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        sent.append((statement, parameters))

    given = {name: PARAMETERS[name] for name in query.compile().params if name in PARAMETERS}
    sa.event.listen(connection, "before_cursor_execute", record)
    connection.execute(query, given).all()
    sa.event.remove(connection, "before_cursor_execute", record)
    [(text, values)] = sent
    form = "" if connection.engine.dialect.name == "mariadb" else "FORMAT=TRADITIONAL "
    rows = connection.exec_driver_sql(f"EXPLAIN {form}{text}", values).mappings()
    return [{name.lower(): value for name, value in row.items()} for row in rows]


def _fill_up(engine: Engine) -> int:
    """Add two servers with 20 000 rows each, of 20 monitors."""
    ids = fill(engine)
    with engine.begin() as connection:
        other = add_server(connection, "192.0.2.200")
        for server in (ids.server, other):
            connection.execute(
                sa.text(
                    "INSERT INTO `log_scores` (`server_id`, `monitor_id`, `ts`, `score`, `step`, `rtt`) "
                    "WITH RECURSIVE `n` AS (SELECT 1 AS `i` UNION ALL SELECT `i` + 1 FROM `n` WHERE `i` < 900) "
                    "SELECT :server, :monitor + MOD(`a`.`i`, 3), :now - INTERVAL (`a`.`i` * 20 + `b`.`i`) SECOND, "
                    "20, 1, 20000 FROM `n` AS `a` CROSS JOIN (SELECT `i` FROM `n` WHERE `i` <= 20) AS `b`"
                ),
                {"server": server, "monitor": ids.good, "now": NOW},
            )
        connection.exec_driver_sql("ANALYZE TABLE `log_scores`")
    return ids.server


@pytest.fixture
def server_id(server_engine: Engine) -> int:
    return _fill_up(server_engine)


def _rows_read(connection: Connection) -> int:
    rows = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
    return sum(int(value) for _, value in rows)


def test_the_log(server_engine: Engine, server_id: int) -> None:
    for name, query in LOG.items():
        with server_engine.connect() as connection:
            plans = _plan(connection, query.mysql)
            log = next(row for row in plans if row["key"] == "log_scores_review")
            assert "filesort" not in (log["extra"] or ""), (name, plans)
            assert "of one" not in name or "Using index" in log["extra"].split("; "), (name, plans)
            _check_reads(connection, name, query, server_id)


def _check_reads(connection: Connection, name: str, query: BulkSelect[Any], server_id: int) -> None:
    given = PARAMETERS | {"server_id": server_id, "monitor_id": 1, "since": NOW - timedelta(days=90)}
    needed = {key: given[key] for key in query.mysql.compile().params if key in given}
    connection.exec_driver_sql("SELECT 1")
    before = _rows_read(connection)
    found = query.rows(connection, needed)
    read = _rows_read(connection) - before
    if "of one" not in name:
        # The rows, those of the derived table, and the status itself.
        assert len(found) == 100 and read < 100 * 3 + 1000, (name, read)


@pytest.mark.parametrize("name", INDEXES)
def test_other_queries(server_engine: Engine, name: str) -> None:
    fill(server_engine)
    query, indexes = INDEXES[name]
    with server_engine.connect() as connection:
        plans = _plan(connection, query)
    for table, keys in indexes.items():
        # A table of a few rows is read as a whole, and a row that does not exist has no plan.
        rows = [row for row in plans if row["table"] == table]
        assert all(keys & set((row["possible_keys"] or "").split(",")) for row in rows), plans
