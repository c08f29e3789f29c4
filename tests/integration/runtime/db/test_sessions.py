"""Test the properties of every database session explicitly: no other test would notice a change."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from runtime.db.engine import open_database, reading, transaction
from runtime.db.retry import DatabaseUnavailable
from schema.tables import servers
from testbed.fixtures.world import add_server


def test_a_session_with_a_server_is_as_it_must_be(server_engine: Engine) -> None:
    mariadb = getattr(server_engine.dialect, "is_mariadb", False)
    isolation = "tx_isolation" if mariadb else "transaction_isolation"
    names = ("time_zone", isolation, "innodb_lock_wait_timeout", "group_concat_max_len", "character_set_client")
    with reading(server_engine) as connection:
        found = {name: connection.exec_driver_sql(f"SELECT @@session.{name}").scalar() for name in names}
    assert found == {
        "time_zone": "+00:00",
        isolation: "READ-COMMITTED",
        "innodb_lock_wait_timeout": 20,
        "group_concat_max_len": 1_073_741_824,
        "character_set_client": "utf8mb4",
    }


def test_times_that_a_server_writes_are_utc_whatever_its_zone_is(server_engine: Engine) -> None:
    other = open_database(server_engine.url)
    with server_engine.connect() as connection:
        zone = connection.exec_driver_sql("SELECT @@global.time_zone").scalar()
        connection.exec_driver_sql("SET GLOBAL time_zone = '-11:00'")
        try:
            with other.begin() as writing:
                server = add_server(writing)
                updated = writing.scalar(sa.select(servers.c.updated_on).where(servers.c.id == server))
                now = writing.exec_driver_sql("SELECT NOW()").scalar()
        finally:
            connection.exec_driver_sql("SET GLOBAL time_zone = %s", (zone,))
    other.dispose()
    for moment in (updated, now):
        assert abs(moment - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=5)


def test_a_session_with_sqlite_is_as_it_must_be(sqlite_engine: Engine) -> None:
    names = ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
    with reading(sqlite_engine) as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
    # 2 is FULL: what was committed survives a power cut.
    assert found == {"synchronous": 2, "journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_ledger_that_vanished_takes_nothing_and_is_found_again(sqlite_engine: Engine) -> None:
    """An open file outlives its name: what is written into it would be lost when the process ends."""
    path = Path(str(sqlite_engine.url.database))

    def count() -> int:
        with reading(sqlite_engine) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(servers)) or 0

    transaction(sqlite_engine, add_server)
    with sqlite_engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    away = path.with_suffix(".away")
    path.rename(away)
    for work in (lambda: transaction(sqlite_engine, add_server), count):
        with pytest.raises((DatabaseUnavailable, sa.exc.OperationalError), match="disk I/O error"):
            work()
    assert not path.exists(), "no empty ledger is made in its place"
    away.rename(path)
    assert count() == 1
    transaction(sqlite_engine, add_server)
    assert count() == 2


def test_a_ledger_that_was_replaced_is_the_new_one(sqlite_engine: Engine, tmp_path: Path) -> None:
    path = Path(str(sqlite_engine.url.database))
    transaction(sqlite_engine, add_server)
    sqlite_engine.dispose()
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    transaction(sqlite_engine, add_server)
    copy.replace(path)
    for rest in ("-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    with reading(sqlite_engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(servers)) == 1


def test_a_new_ledger_is_made_where_there_is_none(tmp_path: Path) -> None:
    engine = open_database(URL.create("sqlite", database=str(tmp_path / "new.db")))
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()
