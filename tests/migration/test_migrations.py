"""Test migrations to the current version: from an empty database, the pool's tables or an interruption, and
concurrent ones."""

import itertools
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import URL, Connection, Engine

from runtime.db import migrate
from runtime.db.engine import open_database
from runtime.db.migrate import MigrationBusy, current, newest, upgrade
from schema.tables import ledger_origin, log_scores, metadata, monitors, server_scores, servers
from schema.tables import pool as pool_tables
from testbed.fixtures.database import SERVERS, DatabaseServer

NOW = datetime(2026, 1, 2, 3, 4, 5)
_numbers = itertools.count(1)


@pytest.fixture(params=["sqlite", *SERVERS])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Create a database without tables."""
    if request.param == "sqlite":
        url = URL.create("sqlite", database=str(tmp_path / "empty.db"))
    else:
        server: DatabaseServer = request.getfixturevalue(request.param)
        url = server.create(f"migration{next(_numbers)}")
    engine = open_database(url)
    yield engine
    engine.dispose()


def differences(engine: Engine) -> list[Any]:
    """Return the differences between the database and the metadata."""

    def same_default(
        context: Any, inspected: Any, column: sa.Column[Any], found: str | None, *rest: Any
    ) -> bool | None:
        # The comparison cannot tell an empty string from no default.
        default = column.server_default
        empty = isinstance(default, sa.DefaultClause) and default.arg == ""
        return found not in ("''", "('')") if empty else None

    options = {"compare_type": True, "compare_server_default": same_default}
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


# ---- from an empty database ----------------------------------------------------------------------------------------


def test_new_database_gets_all_tables_of_the_metadata_and_migrating_again_changes_nothing(empty: Engine) -> None:
    assert current(empty) is None
    upgrade(empty)
    assert current(empty) == newest()
    assert differences(empty) == []
    statements: list[str] = []
    sa.event.listen(empty, "before_cursor_execute", lambda _c, _cursor, statement, *_: statements.append(statement))
    upgrade(empty)
    assert [s for s in statements if re.match(r"\s*(CREATE|ALTER|DROP|INSERT|UPDATE|DELETE)", s, re.IGNORECASE)] == []
    with empty.begin() as connection:
        connection.exec_driver_sql("DROP INDEX scoring_queue_due" + _on(empty, "scoring_queue"))
        connection.exec_driver_sql("ALTER TABLE monitor_presence ADD COLUMN extra INTEGER")
    assert {difference[0] for difference in differences(empty)} == {"add_index", "remove_column"}, (
        "differences are found"
    )


def _on(engine: Engine, table: str) -> str:
    return "" if engine.dialect.name == "sqlite" else f" ON {table}"


POOL_TYPES = {
    ("log_scores", "id"): "bigint unsigned",
    ("log_scores", "ts"): "datetime",
    ("log_scores", "offset"): "double",
    ("log_scores", "rtt"): "mediumint",
    ("log_scores", "attributes"): "text",
    ("monitors", "id"): "int unsigned",
    ("monitors", "type"): "enum('monitor','score')",
    ("monitors", "ip"): "varchar(40)",
    ("monitors", "last_seen"): "datetime(6)",
    ("monitors", "is_current"): "tinyint",
    ("monitors", "config"): "text",
    ("servers", "stratum"): "tinyint unsigned",
    ("servers", "score_raw"): "double",
    ("servers", "deletion_on"): "date",
    ("servers", "flags"): "varchar(4096)",
    ("servers", "updated_on"): "timestamp",
    ("server_scores", "id"): "bigint unsigned",
    ("server_scores", "status"): "enum('candidate','testing','active','paused')",
    ("system_settings", "key"): "varchar(255)",
    ("accounts", "modified_on"): "timestamp",
}


def test_columns_of_the_pool_have_its_types(server_engine: Engine) -> None:
    query = "SELECT table_name, column_name, column_type, extra FROM information_schema.columns"
    with server_engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{query} WHERE table_schema = database()").all()
    # The display width has no effect, and MySQL 8 does not show it.
    found = {(row[0], row[1]): re.sub(r"(int)\(\d+\)", r"\1", row[2]) for row in rows}
    assert {column: found[column] for column in POOL_TYPES} == POOL_TYPES
    extra = {(row[0], row[1]): row[3].lower() for row in rows}
    for table in ("servers", "server_scores", "accounts", "scorer_status", "system_settings", "api_keys"):
        column = "updated_on" if table == "servers" else "modified_on"
        assert "on update current_timestamp" in extra[table, column]
    assert "auto_increment" in extra["log_scores", "id"]
    assert "auto_increment" not in extra["scoring_queue", "server_id"]


def test_view_shows_short_names_of_monitors_without_the_settings(empty: Engine) -> None:
    upgrade(empty)
    rows = [
        {"tls_name": "a-1.test.mon.example", "ip_version": "v4", "type": "monitor"},
        {"tls_name": "settings-v4.system", "ip_version": "v4", "type": "monitor"},
        {"tls_name": "recentmedian.scores.ntp.dev", "ip_version": None, "type": "score", "hostname": "recentmedian"},
    ]
    with empty.begin() as connection:
        for row in rows:
            connection.execute(sa.insert(monitors).values(status="active", config="{}", created_on=NOW, **row))
        names = connection.exec_driver_sql("SELECT name FROM monitors_data ORDER BY id").scalars().all()
    assert names == ["a-1", "recentmedian"]


# ---- from the pool's tables ----------------------------------------------------------------------------------------


def make_pool(connection: Connection) -> None:
    """Create the pool's current tables, with rows."""
    ours = {"log_scores_review": log_scores, "server_scores_monitor_status": server_scores}
    removed = [index for name, table in ours.items() for index in table.indexes if index.name == name]
    for index in removed:
        index.table.indexes.remove(index)
    theirs = sa.Index("log_scores_server_ts", log_scores.c.server_id, log_scores.c.ts)
    try:
        pool_tables.metadata.create_all(
            connection, tables=[pool_tables.metadata.tables[name] for name in pool_tables.NAMES]
        )
    finally:
        log_scores.indexes.remove(theirs)
        for index in removed:
            index.table.indexes.add(index)
    connection.exec_driver_sql(pool_tables.MONITORS_DATA_VIEW)
    connection.exec_driver_sql("ALTER TABLE monitors ADD COLUMN of_the_pool INTEGER")
    connection.execute(sa.insert(servers).values(id=7, ip="192.0.2.7", created_on=NOW, score_raw=19.5))
    connection.execute(sa.insert(log_scores).values(server_id=7, ts=NOW, score=19.5, step=1))
    connection.execute(sa.insert(monitors).values(id=8, status="active", config="{}", created_on=NOW))
    # A row, since the first migration would add all indexes to an empty table.
    connection.execute(sa.insert(server_scores).values(server_id=7, monitor_id=8, created_on=NOW))


def test_database_with_the_pools_tables_is_adopted_with_its_rows_which_is_recorded(empty: Engine) -> None:
    with empty.begin() as connection:
        make_pool(connection)
    upgrade(empty)
    assert current(empty) == newest()
    assert _names_of(differences(empty)) == ["log_scores_server_ts", "of_the_pool"], "what is the pool's own stays"
    with empty.connect() as connection:
        assert connection.execute(sa.select(servers.c.id, servers.c.score_raw)).all() == [(7, 19.5)]
        assert connection.scalar(sa.select(log_scores.c.score)) == 19.5
    upgrade(empty)
    assert origin(empty) == [True]


def origin(engine: Engine) -> list[bool]:
    with engine.connect() as connection:
        return [bool(adopted) for adopted in connection.scalars(sa.select(ledger_origin.c.adopted))]


def test_ledger_with_empty_tables_does_not_count_as_adopted(empty: Engine) -> None:
    with empty.begin() as connection:
        make_pool(connection)
        connection.execute(sa.delete(log_scores))
        connection.execute(sa.delete(servers))
        connection.execute(sa.delete(monitors))
    upgrade(empty)
    assert origin(empty) == [False]


def test_ledger_of_an_earlier_version_does_not_count_as_adopted(empty: Engine) -> None:
    upgrade(empty)
    with empty.begin() as connection:
        connection.execute(sa.insert(servers).values(id=7, ip="192.0.2.7", created_on=NOW))
        connection.exec_driver_sql("DROP TABLE ledger_origin")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0004'")
    upgrade(empty)
    assert origin(empty) == [False]
    assert differences(empty) == []


def test_only_missing_tables_are_added_to_those_of_the_pool(empty: Engine) -> None:
    with empty.begin() as connection:
        make_pool(connection)
        connection.exec_driver_sql("DROP TABLE api_keys_monitors")
        connection.exec_driver_sql("DROP VIEW monitors_data")
    upgrade(empty)
    assert _names_of(differences(empty)) == ["log_scores_server_ts", "of_the_pool"]
    with empty.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM monitors_data").scalar() == 0


def test_missing_or_renamed_indexes_of_the_pool_are_left_alone(empty: Engine) -> None:
    with empty.begin() as connection:
        make_pool(connection)
        connection.exec_driver_sql("DROP INDEX log_scores_ts" + _on(empty, "log_scores"))
        connection.exec_driver_sql("DROP INDEX server_scores_monitor_ts" + _on(empty, "server_scores"))
        connection.exec_driver_sql("CREATE INDEX theirs ON server_scores (monitor_id, score_ts)")
    upgrade(empty)
    with empty.connect() as connection:
        inspector = sa.inspect(connection)
        assert "log_scores_ts" not in {index["name"] for index in inspector.get_indexes("log_scores")}
        names = {index["name"] for index in inspector.get_indexes("server_scores")}
    assert "theirs" in names
    assert "server_scores_monitor_ts" not in names


def test_unique_key_of_the_pool_replaces_an_index_on_the_same_columns(empty: Engine) -> None:
    reviews = pool_tables.metadata.tables["servers_monitor_review"]
    with empty.begin() as connection:
        make_pool(connection)
        reviews.drop(connection)
        copied = [sa.Column(column.name, column.type, primary_key=column.primary_key) for column in reviews.columns]
        theirs = sa.UniqueConstraint("next_review", name="theirs")
        sa.Table(reviews.name, sa.MetaData(), *copied, theirs).create(connection)
    upgrade(empty)
    with empty.connect() as connection:
        assert "servers_monitor_review_next" not in {
            i["name"] for i in sa.inspect(connection).get_indexes(reviews.name)
        }


def test_pool_without_required_columns_is_refused_and_left_unchanged(empty: Engine) -> None:
    with empty.begin() as connection:
        make_pool(connection)
        connection.exec_driver_sql("ALTER TABLE server_scores DROP COLUMN pause_reason") if _is_server(
            empty
        ) else connection.exec_driver_sql("ALTER TABLE server_alerts DROP COLUMN last_email_time")
    lacks = (
        "server_scores exists but lacks pause_reason"
        if _is_server(empty)
        else "server_alerts exists but lacks .*last_email"
    )
    with pytest.raises(RuntimeError, match=lacks):
        upgrade(empty)
    assert current(empty) is None
    with empty.connect() as connection:
        assert "result_batches" not in sa.inspect(connection).get_table_names()


def _names_of(found: list[Any]) -> list[str]:
    """Return the names of the columns and indexes in the result of :func:`differences`."""
    return sorted(difference[-1].name for difference in found)


def _is_server(engine: Engine) -> bool:
    return engine.dialect.name != "sqlite"


# ---- interrupted and concurrent ------------------------------------------------------------------------------------


class PowerCut(Exception):
    """Simulated end of the process."""


def test_migration_interrupted_after_any_statement_can_be_resumed(empty: Engine) -> None:
    """Each run gets one statement further, and continues from where the one before left the database."""
    allowed = [0]

    def cut(connection: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if re.match(r"\s*(CREATE|ALTER|INSERT|UPDATE)", statement, re.IGNORECASE):
            if allowed[0] == 0:
                raise PowerCut
            allowed[0] -= 1

    sa.event.listen(empty, "before_cursor_execute", cut)
    for statements in range(1, 200):
        # SQLite rolls back the whole run; MySQL only the version, unless a further statement has committed it. Two
        # migrations in a row change nothing here but the version, so some run must get three statements further.
        allowed[0] = statements if empty.dialect.name == "sqlite" else 1 + statements % 3
        try:
            upgrade(empty)
            break
        except PowerCut:
            assert current(empty) != newest()
    sa.event.remove(empty, "before_cursor_execute", cut)
    assert statements > 20, "it must have been cut off often"
    assert current(empty) == newest()
    assert origin(empty) == [False]
    # InnoDB creates an index for a foreign key that has none, which replaces ours on the same column.
    assert [d for d in differences(empty) if d[:1] != ("add_index",) or d[1].name != "log_scores_monitor"] == []


def test_concurrent_migrations_run_one_after_the_other(server: DatabaseServer) -> None:
    url = server.create(f"migration{next(_numbers)}")
    start = Barrier(3)
    errors: list[Exception] = []

    def work() -> None:
        engine = open_database(url)
        engine.connect().close()
        start.wait()
        try:
            upgrade(engine)
        except Exception as error:
            errors.append(error)
        engine.dispose()

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    engine = open_database(url)
    assert errors == []
    assert current(engine) == newest()
    assert differences(engine) == []
    engine.dispose()


def test_lock_is_held_until_the_last_migration_is_committed(server: DatabaseServer) -> None:
    engine = open_database(server.create(f"migration{next(_numbers)}"))
    free: list[bool] = []

    def look(connection: Connection) -> None:
        with engine.connect() as other:
            free.append(bool(other.scalar(sa.text("SELECT IS_FREE_LOCK('ntppool_monitor_migrations')"))))

    with engine.begin() as connection:
        sa.event.listen(connection, "commit", look)  # checks that the listener is called
    assert free == [True]
    sa.event.listen(engine, "commit", look)
    upgrade(engine)
    engine.dispose()
    assert len(free) > 1 and not any(free[1:])


def test_waiting_too_long_for_another_migration_fails(server: DatabaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_LOCK_WAIT", 0)
    first, second = (open_database(server.create(f"migration{next(_numbers)}")) for _ in range(2))
    try:
        upgrade(first)  # its connections stay open
        upgrade(second)
        with first.connect() as connection:
            connection.execute(sa.text("SELECT GET_LOCK('ntppool_monitor_migrations', 0)"))
            with pytest.raises(MigrationBusy, match="another process has been migrating"):
                upgrade(second)
            connection.execute(sa.text("SELECT RELEASE_LOCK('ntppool_monitor_migrations')"))
        upgrade(second)
    finally:
        first.dispose()
        second.dispose()
