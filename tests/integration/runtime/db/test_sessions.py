"""Test the settings of every database session: no other test would detect a change."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from runtime.db.engine import open_database, reading, transaction
from runtime.db.retry import DatabaseUnavailable
from schema.tables import servers
from testbed.fixtures.database import DatabaseServer
from testbed.fixtures.world import add_server


def test_server_session_has_the_required_settings(server_engine: Engine) -> None:
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


def test_connection_without_tls_parameters_is_encrypted_without_loading_certificates(
    mysql: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object) -> None:
        raise AssertionError("loads the system's certificates, which takes 50 ms, to verify nothing")

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    engine = open_database(mysql.create("encrypted"))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Ssl_cipher'").one()[1] != ""
    engine.dispose()


def test_times_written_by_a_server_are_utc_whatever_its_time_zone(server_engine: Engine) -> None:
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


def test_sqlite_session_has_the_required_settings(sqlite_engine: Engine) -> None:
    names = ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
    with reading(sqlite_engine) as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
    # 2 is FULL: commits survive a power cut.
    assert found == {"synchronous": 2, "journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


def test_moved_sqlite_file_is_not_written_to_and_is_found_again(sqlite_engine: Engine) -> None:
    """An open file outlives its name: rows written to it would be lost when the process ends."""
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


def test_replaced_sqlite_file_is_opened_again(sqlite_engine: Engine, tmp_path: Path) -> None:
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


def test_missing_sqlite_file_is_created(tmp_path: Path) -> None:
    engine = open_database(URL.create("sqlite", database=str(tmp_path / "new.db")))
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()
