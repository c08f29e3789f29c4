"""Test long upgrades: they wait for the server, report progress, and can be interrupted and resumed."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from threading import Thread

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import Connection, Engine

from runtime.db import connecting, migrate
from runtime.db.engine import open_database
from runtime.db.migrate import current, newest, upgrade
from schema.tables import log_scores, metadata, servers
from testbed.fixtures.database import DatabaseServer
from testbed.waiting import block_until

DEADLINE = 60.0
INDEX = "CREATE INDEX log_scores_review"
_numbers = itertools.count(1)


@pytest.fixture
def empty(server: DatabaseServer) -> Iterator[Engine]:
    """Create a database without tables."""
    engine = open_database(server.create(f"long{next(_numbers)}"))
    yield engine
    engine.dispose()


def lack_an_index(engine: Engine) -> None:
    """Create all tables except the index of the log that takes long."""
    upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX theirs ON log_scores (server_id, ts)")
        connection.exec_driver_sql("DROP INDEX log_scores_review ON log_scores")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")


@pytest.fixture
def behind(empty: Engine) -> Engine:
    """Create a database whose log lacks an index."""
    lack_an_index(empty)
    return empty


@pytest.fixture(autouse=True)
def _talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "REPORT_EVERY", 0.2)


@contextlib.contextmanager
def reading_the_log(engine: Engine) -> Iterator[Connection]:
    """Keep a transaction open that has read the log, so that the log cannot be altered."""
    with engine.connect() as connection:
        connection.execute(sa.select(log_scores.c.id).limit(1))
        yield connection


def statements(engine: Engine) -> dict[int, str]:
    """Return the statements that the server executes in this database, by connection, except this query."""
    query = "SELECT id, info FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
    with engine.connect() as connection:
        return {id_: info for id_, info in connection.execute(sa.text(query)) if info}


def nothing_runs(engine: Engine) -> None:
    """Check that the server soon executes nothing: it lists a statement a moment longer than it works on it."""
    block_until(lambda: statements(engine) == {}, lambda: f"nothing runs: {statements(engine)}", within=DEADLINE)


LONG = re.compile(r": ([2-9]|[1-9][0-9]+) s")
"""Duration of at least twice the read timeout of the test."""

ALLOWED = {"theirs", "log_scores_monitor"}
"""The pool's own index, and one that InnoDB created for a foreign key before our index on the same column existed."""


def is_complete(engine: Engine) -> bool:
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    return current(engine) == newest() and {d[-1].name for d in found} <= ALLOWED


# ---- long statements ---------------------------------------------------------------------------------------------


def test_migration_statements_are_not_subject_to_the_read_timeout(
    behind: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connecting._TIMEOUTS, "read_timeout", 1.0)
    behind.dispose()
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(reading_the_log(behind))

        def tell(line: str) -> None:
            lines.append(line)
            if line.startswith(INDEX) and LONG.search(line):
                reader.rollback()

        upgrade(behind, tell)
    assert is_complete(behind)
    told = [line for line in lines if line.startswith(INDEX)]
    assert any(LONG.search(line) for line in told), lines
    assert any("metadata lock" in line for line in told), "it must say what it waits for"


def test_migration_is_exempt_from_the_servers_statement_time_limit(
    mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_database(mariadb.create("ends_long_statements"))
    lack_an_index(engine)
    with engine.connect() as administrator:
        administrator.exec_driver_sql("SET GLOBAL max_statement_time = 1")
        # It applies to new connections only.
        hurried = open_database(engine.url)
        began = time.monotonic()
        try:
            with reading_the_log(engine) as reader:

                def tell(line: str) -> None:
                    if time.monotonic() - began > 3.0:
                        reader.rollback()

                upgrade(hurried, tell)
        finally:
            administrator.exec_driver_sql("SET GLOBAL max_statement_time = 0")
    assert is_complete(hurried)
    hurried.dispose()
    engine.dispose()


def fill_log(engine: Engine, rows: int) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(servers).values(id=1, ip="192.0.2.1", created_on=sa.func.now()))
        row = {"server_id": 1, "ts": sa.func.now(), "score": 1.0, "step": 1.0}
        connection.execute(sa.insert(log_scores).values(row))
        columns = [log_scores.c.server_id, log_scores.c.ts, log_scores.c.score, log_scores.c.step]
        for _ in range(rows.bit_length()):
            connection.execute(sa.insert(log_scores).from_select(columns, sa.select(*columns)))


def test_progress_of_an_index_is_reported(mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """MariaDB always measures the progress, MySQL only if an administrator has enabled it."""
    monkeypatch.setattr(migrate, "REPORT_EVERY", 0.02)
    engine = open_database(mariadb.create("told"))
    lack_an_index(engine)
    fill_log(engine, 200_000)
    lines: list[str] = []
    upgrade(engine, lines.append)
    engine.dispose()
    assert any(line.startswith(INDEX) and line.endswith(" %") for line in lines), lines


# ---- interrupted and resumed -------------------------------------------------------------------------------------


def test_interrupted_upgrade_leaves_nothing_running_and_can_be_resumed(behind: Engine) -> None:
    def tell(line: str) -> None:
        if line.startswith(INDEX):
            raise KeyboardInterrupt

    with reading_the_log(behind):
        with pytest.raises(KeyboardInterrupt):
            upgrade(behind, tell)
        nothing_runs(behind)
        assert current(behind) == "0001"
    upgrade(behind)
    assert is_complete(behind)


def test_upgrade_of_sqlite_can_be_interrupted(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX log_scores_review")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600000)"
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.execute(sa.insert(servers).values(id=1, ip="192.0.2.1", created_on=sa.func.now()))
        connection.exec_driver_sql(
            f"{numbers} INSERT INTO log_scores (server_id, ts, score, step) SELECT 1, '2026-01-01', i, 1 FROM n"
        )

    def tell(line: str) -> None:
        if line.startswith(INDEX):
            raise KeyboardInterrupt

    monkeypatch.setattr(migrate, "REPORT_EVERY", 0.02)
    with pytest.raises(KeyboardInterrupt):
        upgrade(sqlite_engine, tell)
    assert current(sqlite_engine) == "0001"
    upgrade(sqlite_engine)
    assert current(sqlite_engine) == newest()


@contextlib.contextmanager
def command(engine: Engine) -> "Iterator[subprocess.Popen[str]]":
    """Run ``ntppool-monitor db upgrade`` on this database."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MQTT_", "JWT_", "DATABASE_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "ops", "db", "upgrade"],
        env={**inherited, "DATABASE_DSN": engine.url.render_as_string(hide_password=False)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stderr.close()


def wait_for_index(engine: Engine, beside: Collection[int] = ()) -> set[int]:
    """Wait until the index is being created, and return the connections that do so, except those in ``beside``."""

    def making() -> set[int]:
        return {id_ for id_, statement in statements(engine).items() if INDEX in statement} - set(beside)

    found: set[int] = block_until(making, lambda: f"the making of the index; {statements(engine)}", within=DEADLINE)
    return found


def test_command_ends_on_a_signal(behind: Engine) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with reading_the_log(behind), command(behind) as process:
            wait_for_index(behind)
            process.send_signal(number)
            _, warning = process.communicate(timeout=DEADLINE)
            assert process.returncode == 1
            assert "run 'ntppool-monitor db upgrade' again" in warning
            nothing_runs(behind)
    with command(behind) as process:
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
    assert is_complete(behind)


def test_killed_command_does_not_block_the_next(behind: Engine) -> None:
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(reading_the_log(behind))
        first = stack.enter_context(command(behind))
        begun = wait_for_index(behind)
        first.kill()
        first.wait()
        second = stack.enter_context(command(behind))
        wait_for_index(behind, begun)
        reader.rollback()
        _, warning = second.communicate(timeout=DEADLINE)
        assert second.returncode == 0, warning
    assert is_complete(behind)


def test_next_command_waits_for_an_index_that_is_still_being_created(behind: Engine) -> None:
    """A server that is creating an index does not notice that its client has gone."""

    def make() -> None:
        with behind.connect() as connection:
            connection.exec_driver_sql(f"{INDEX} ON log_scores (server_id, ts, monitor_id, step, rtt, score)")

    left = Thread(target=make)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(reading_the_log(behind))
        left.start()
        begun = wait_for_index(behind)
        process = stack.enter_context(command(behind))
        wait_for_index(behind, begun)
        reader.rollback()
        left.join(DEADLINE)
        _, warning = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, warning
    assert is_complete(behind)


def tables(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(sa.inspect(connection).get_table_names())


def test_repeatedly_killed_command_makes_progress_each_time(empty: Engine) -> None:
    for wanted in (1, 8, 15):
        with command(empty) as process:
            far_enough = lambda: tables(empty) >= wanted or process.poll() is not None  # noqa: B023, E731
            block_until(far_enough, f"{wanted} tables", within=DEADLINE)
    with command(empty) as process:
        _, warning = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, warning
    assert is_complete(empty)


# ---- a server with other defaults --------------------------------------------------------------------------------


def test_keys_fit_on_a_server_with_compact_rows_by_default(server: DatabaseServer, empty: Engine) -> None:
    with empty.connect() as connection:
        before = connection.scalar(sa.text("SELECT @@global.innodb_default_row_format"))
        connection.execute(sa.text("SET GLOBAL innodb_default_row_format = compact"))
        try:
            upgrade(empty)
        finally:
            connection.execute(sa.text(f"SET GLOBAL innodb_default_row_format = {before}"))
        query = "SELECT table_name, row_format FROM information_schema.tables WHERE table_schema = database()"
        formats = dict(connection.execute(sa.text(f"{query} AND engine IS NOT NULL")).all())
    assert is_complete(empty)
    assert {name for name, found in formats.items() if found != "Dynamic"} == {"alembic_version"}
