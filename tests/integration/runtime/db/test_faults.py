"""Test a failing database: it is reported as unavailable, and the pool leaks no connection."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError

from runtime.db.engine import open_database, reading, transaction
from runtime.db.retry import DatabaseUnavailable, Reaction, reaction_to
from testbed.fixtures.database import DatabaseServer
from testbed.tcp_proxy import Direction, TcpProxy
from testbed.waiting import wait_until


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Engine]:
    """An SQLite database that cannot grow."""
    engine = open_database(sa.URL.create("sqlite", database=str(tmp_path / "full.db")))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (text TEXT)")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 2")
    yield engine
    engine.dispose()


def driver_error(kind: type[pymysql.err.Error], code: int, text: str) -> DBAPIError:
    wrapped = InternalError if kind is pymysql.err.InternalError else OperationalError
    return wrapped("INSERT ...", {}, kind(code, text))


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        (pymysql.err.OperationalError, 1021, "Disk got full writing 't' (Errcode: 28)"),
        (pymysql.err.OperationalError, 1114, "The table 't' is full"),
        (pymysql.err.InternalError, 3, "Error writing file './t' (Errcode: 28)"),
        (pymysql.err.OperationalError, 1030, 'Got error 28 "No space left on device" from storage engine InnoDB'),
        (pymysql.err.OperationalError, 1290, "The MariaDB server is running with the --read-only option"),
        (pymysql.err.OperationalError, 2013, "Lost connection to MySQL server during query"),
    ],
)
def test_errors_of_a_server_that_accepts_no_writes_cause_a_reconnect(
    kind: type[pymysql.err.Error], code: int, text: str
) -> None:
    assert reaction_to(driver_error(kind, code, text)) is Reaction.RECONNECT


@pytest.mark.parametrize(
    ("code", "text"), [(1030, 'Got error 122 "Internal error" from storage engine'), (1054, "Unknown column 'x'")]
)
def test_other_database_errors_are_defects(code: int, text: str) -> None:
    assert reaction_to(driver_error(pymysql.err.OperationalError, code, text)) is Reaction.DEFECT


def test_full_sqlite_database_is_unavailable(limited: Engine) -> None:
    with pytest.raises(DatabaseUnavailable, match="full"):
        transaction(limited, lambda c: c.exec_driver_sql("INSERT INTO t VALUES (?)", ("x" * 100_000,)))


async def test_connection_lost_at_any_byte_means_unavailable_and_leaks_nothing(
    server: DatabaseServer,
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        engine = open_database(server.create("lost").set(host=proxy.host, port=proxy.port))

        def read() -> None:
            with reading(engine) as connection:
                connection.execute(sa.text("SELECT 1")).all()

        def write() -> None:
            transaction(engine, lambda connection: connection.execute(sa.text("SELECT 1")).all())

        for octets in range(1, 160, 12):
            for direction in Direction:
                with contextlib.suppress(DatabaseUnavailable, OperationalError):
                    await asyncio.to_thread(read)  # so that there is a connection to lose
                proxy.cut_after(octets, direction)
                for work in (read, write):
                    try:
                        await asyncio.to_thread(work)
                    except DatabaseUnavailable:
                        pass
                    except DBAPIError as error:
                        assert reaction_to(error) is Reaction.RECONNECT
        await asyncio.to_thread(read)
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # this kind of pool has it
        engine.dispose()


async def test_insert_killed_while_it_waits_for_its_id_is_retried(mariadb: DatabaseServer) -> None:
    """A shutdown kills statements, too, and reports another error for this wait than for all others."""
    engine = open_database(mariadb.create("kill"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n INT) ENGINE=InnoDB")
    attempts: list[int] = []

    def hold() -> None:
        # The lock of AUTO_INCREMENT lasts from the first row to the end of the statement.
        with contextlib.suppress(DBAPIError), engine.connect() as connection:
            connection.exec_driver_sql(
                "INSERT INTO t (n) SELECT IF(n = 2, SLEEP(600), n) FROM (SELECT 1 n UNION SELECT 2) _"
            )

    def insert() -> None:
        def work(connection: Connection) -> None:
            attempts.append(connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())
            connection.exec_driver_sql("INSERT INTO t (n) SELECT 3")

        transaction(engine, work)

    def statement_of(condition: str) -> int | None:
        with engine.connect() as connection:
            return connection.exec_driver_sql(
                f"SELECT trx_mysql_thread_id FROM information_schema.innodb_trx WHERE {condition}"
            ).scalar()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(hold))
        holder = await wait_until(lambda: asyncio.to_thread(statement_of, "trx_rows_modified > 0"))
        tasks.create_task(asyncio.to_thread(insert))
        waiting = await wait_until(lambda: asyncio.to_thread(statement_of, "trx_state = 'LOCK WAIT'"))
        with engine.connect() as connection:
            connection.exec_driver_sql(f"KILL QUERY {waiting}")
            await wait_until(lambda: len(attempts) > 1)
            connection.exec_driver_sql(f"KILL {holder}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT n FROM t").scalars().all() == [3]
    engine.dispose()
