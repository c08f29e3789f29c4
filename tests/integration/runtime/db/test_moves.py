"""Test a database that moves, refuses logins or has no connections left: a worker waits, and needs no restart."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer
from sqlalchemy.engine import URL, Connection, Engine

from runtime import worker as runtime_worker
from runtime.db import connecting
from runtime.db.engine import open_database, reading, transaction
from runtime.retry import Delays
from runtime.settings import WorkerSettings
from runtime.telemetry import Telemetry
from runtime.worker import Worker, assemble
from testbed.database import temporary_database
from testbed.fixtures.database import SERVERS, DatabaseServer, require
from testbed.tcp_proxy import TcpProxy
from testbed.waiting import PATIENCE, wait_until

NAME = "moves"
"""Name of the database and of the workers' account, which has no right to write to a read-only server."""
HOST = "primary.example"
PASSWORD, ROTATED = "before-the-rotation", "after-the-rotation"  # of an account that the test creates


@pytest.fixture(scope="module")
def _old_mariadb() -> Iterator[DatabaseServer]:
    with temporary_database(SERVERS["mariadb"], buffer_pool="32M") as found:
        yield found


@pytest.fixture(scope="module")
def _old_mysql() -> Iterator[DatabaseServer]:
    require("mysql")
    with temporary_database(SERVERS["mysql"], buffer_pool="32M") as found:
        yield found


@pytest.fixture
def old(request: pytest.FixtureRequest, server: DatabaseServer) -> DatabaseServer:
    """A second server of the same kind as the session-scoped one, which a test may misconfigure."""
    found: DatabaseServer = request.getfixturevalue(f"_old_{server.name}")
    return found


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_worker, "DATABASE_DELAYS", Delays(0.05, 0.05))


@dataclass
class Resolver:
    """Resolve the name to one of two servers, which share an address and differ by port, or to none."""

    port: int | None

    def __call__(self, host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if host != HOST:
            return _getaddrinfo(host, port, *rest, **more)
        if self.port is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return _getaddrinfo("127.0.0.1", self.port, *rest, **more)


_getaddrinfo = socket.getaddrinfo


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    found = Resolver(None)
    monkeypatch.setattr(socket, "getaddrinfo", found)
    return found


def administer(server: DatabaseServer, *statements: str) -> None:
    engine = server.administration()
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def of_account(what: str) -> list[str]:
    """Return the statement ``what`` for each form in which the server may name the account's host."""
    return [what.format(f"'{NAME}'@'{host}'") for host in ("%", "localhost", "127.0.0.1")]


def prepare(server: DatabaseServer) -> URL:
    """Create a database with one empty table, and an account that may write to it."""
    url = server.create(NAME)
    administer(
        server,
        f"CREATE TABLE {NAME}.t (n INT PRIMARY KEY)",
        *of_account("DROP USER IF EXISTS {}"),
        *of_account(f"CREATE USER {{}} IDENTIFIED BY '{PASSWORD}'"),
        *of_account(f"GRANT ALL ON {NAME}.* TO {{}}"),
    )
    return url.set(username=NAME, password=PASSWORD)


@contextlib.contextmanager
def working_on(url: URL, **settings: Any) -> Iterator[Worker]:
    """A worker with a database and nothing else."""
    given = WorkerSettings(database_dsn=url.render_as_string(hide_password=False), **settings)
    worker = assemble("scorer", given, lambda: "", Telemetry(NoOpMeter("test"), NoOpTracer()))
    try:
        yield worker
    finally:
        worker.engine.dispose()


def add(engine: Engine, n: int) -> int:
    """Insert a row unless it exists, and return the port of the server."""

    def work(connection: Connection) -> int:
        if connection.scalar(sa.text("SELECT n FROM t WHERE n = :n"), {"n": n}) is None:
            connection.execute(sa.text("INSERT INTO t VALUES (:n)"), {"n": n})
        return int(connection.scalar(sa.text("SELECT @@port")))

    return transaction(engine, work)


def port(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.scalar(sa.text("SELECT @@port")))


async def in_time(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await work


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await wait_until(lambda: text in caplog.text, lambda: f"{text!r} in: {caplog.text}")


async def waits_then(worker: Worker, caplog: pytest.LogCaptureFixture, warning: str, mend: Callable[[], Any]) -> None:
    """Write while that is impossible, and succeed after ``mend``."""
    task = asyncio.create_task(worker.in_database(lambda: add(worker.engine, 2)))
    try:
        await until_logged(caplog, warning)
        assert not task.done()
        await asyncio.to_thread(mend)
        await in_time(task)
    finally:
        task.cancel()
        await asyncio.wait({task})


# ---- moved primaries -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def only_readable(server: DatabaseServer, variable: str) -> Iterator[None]:
    administer(server, f"SET GLOBAL {variable} = 1")
    try:
        yield
    finally:
        administer(server, f"SET GLOBAL {variable} = 0")


def variable_for_1792(server: DatabaseServer) -> str:
    engine = server.administration()
    with engine.connect() as connection:
        names = connection.execute(sa.text("SHOW VARIABLES LIKE '%_read_only'")).scalars().all()
    return "transaction_read_only" if "transaction_read_only" in names else "tx_read_only"


async def test_worker_follows_a_primary_that_has_moved(
    server: DatabaseServer, old: DatabaseServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "LOOK_AGAIN", 3600.0)  # so that only a refused write can reveal the move
    url = prepare(old).set(host=HOST)
    prepare(server)
    resolver.port = old.port
    with working_on(url) as worker:
        engine = worker.engine
        assert await worker.in_database(lambda: add(engine, 1)) == old.port
        idle = [engine.connect() for _ in range(3)]
        for connection in idle:
            connection.close()
        with only_readable(old, "read_only"):
            resolver.port = server.port
            assert await in_time(worker.in_database(lambda: add(engine, 2))) == server.port
            held = [engine.connect() for _ in range(4)]
            found = {connection.scalar(sa.text("SELECT @@port")) for connection in held}
            for connection in held:
                connection.close()
            assert found == {server.port}, "every connection of the pool must have been given up"


async def test_worker_waits_while_no_primary_is_writable(
    server: DatabaseServer, old: DatabaseServer, resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    """The variable is the default of new sessions, so only a new connection shows that the server is writable again."""
    url = prepare(old).set(host=HOST)
    resolver.port = old.port
    variable = variable_for_1792(old)
    with (
        only_readable(old, variable),
        working_on(url) as worker,
    ):
        await waits_then(worker, caplog, "(1792, ", lambda: administer(old, f"SET GLOBAL {variable} = 0"))


async def test_worker_that_only_reads_follows_a_moved_primary(
    server: DatabaseServer, old: DatabaseServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = prepare(old).set(host=HOST)
    prepare(server)
    resolver.port = old.port
    with working_on(url) as worker:
        assert port(worker.engine) == old.port
        monkeypatch.setattr(connecting, "LOOK_AGAIN", 0.0)
        assert port(worker.engine) == old.port
        with only_readable(old, "read_only"):
            assert port(worker.engine) == old.port, "where there is no other, this one may still be read"
            resolver.port = server.port
            assert port(worker.engine) == server.port


async def test_worker_waits_until_the_name_of_the_database_resolves(
    server: DatabaseServer, resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    with working_on(prepare(server).set(host=HOST)) as worker:
        await waits_then(worker, caplog, "name resolution", lambda: setattr(resolver, "port", server.port))


# ---- secrets -------------------------------------------------------------------------------------------------------


def write_secret(directory: Path, text: str) -> None:
    new = directory / "new"
    new.write_text(text)
    new.replace(directory / "database.yaml")


def secret(password: str) -> str:
    return f"mysql: {{user: {NAME}, pass: {password}}}"


def rotate(server: DatabaseServer) -> None:
    """Change the password, and end every connection that was made with the old one."""
    administer(server, *of_account(f"ALTER USER {{}} IDENTIFIED BY '{ROTATED}'"))
    # Log in once, since MySQL may still have the old password in its cache.
    new = server.url(NAME).set(username=NAME, password=ROTATED)
    sa.create_engine(new, poolclass=sa.NullPool).connect().close()
    engine = server.administration()
    with engine.connect() as connection:
        query = sa.text("SELECT id FROM information_schema.processlist WHERE user = :user")
        for id_ in connection.scalars(query, {"user": NAME}).all():
            connection.exec_driver_sql(f"KILL {id_}")


async def test_rotated_password_is_read_without_a_restart(
    server: DatabaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.chdir(tmp_path)
    url = prepare(server)._replace(username=None, password=None)
    write_secret(tmp_path, secret(PASSWORD))
    with working_on(url) as worker:
        await worker.in_database(lambda: add(worker.engine, 1))
        rotate(server)
        await waits_then(worker, caplog, "(1045, ", lambda: write_secret(tmp_path, secret(ROTATED)))
    assert PASSWORD not in caplog.text
    assert ROTATED not in caplog.text


@pytest.mark.parametrize("spoil", [lambda file: file.write_text(f"mysql: [half of {ROTATED}"), Path.unlink])
async def test_previous_secret_is_used_while_its_file_is_unreadable(
    server: DatabaseServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
) -> None:
    monkeypatch.chdir(tmp_path)
    url = prepare(server)._replace(username=None, password=None)
    write_secret(tmp_path, secret(PASSWORD))
    with working_on(url) as worker:
        spoil(tmp_path / "database.yaml")
        await in_time(worker.in_database(lambda: add(worker.engine, 1)))
    assert "continuing with the previous URL" in caplog.text
    assert ROTATED not in caplog.text


async def test_secret_that_names_another_server_moves_every_connection(
    server: DatabaseServer, old: DatabaseServer
) -> None:
    places = [prepare(old), prepare(server)]
    now = places[0]
    engine = open_database(now, reread=lambda: now)
    with contextlib.closing(engine.connect()), contextlib.closing(engine.connect()):
        pass
    now = places[1]
    first, second = engine.connect(), engine.connect()  # as many connections as before, and one more
    third = engine.connect()
    for connection in (first, second, third):
        connection.close()
    assert {port(engine) for _ in range(4)} == {server.port}
    engine.dispose()


async def test_refused_password_is_not_retried_at_once(server: DatabaseServer) -> None:
    """Servers lock an account after several wrong passwords."""
    good = prepare(server)
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        now = good.set(host=proxy.host, port=proxy.port, password="wrong")
        engine = open_database(now, reread=lambda: now)
        for _ in range(5):
            with pytest.raises(sa.exc.OperationalError, match="1045"):
                await asyncio.to_thread(port, engine)
        assert proxy.connections == 1
        now = now.set(password=PASSWORD)
        assert await asyncio.to_thread(port, engine) == server.port
        engine.dispose()


async def test_worker_waits_until_the_ca_file_is_readable(
    server: DatabaseServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = prepare(server)
    now = good.update_query_dict({"ssl_ca": str(tmp_path / "being-replaced.pem")})
    engine = open_database(now, reread=lambda: now)
    with working_on(good) as worker:
        task = asyncio.create_task(worker.in_database(lambda: add(engine, 1)))
        await until_logged(caplog, "TLS to the database")
        now = good
        await in_time(task)
    engine.dispose()


# ---- refused logins and killed statements --------------------------------------------------------------------------


async def test_worker_waits_while_its_account_is_locked(
    server: DatabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = prepare(server)
    administer(server, *of_account("ALTER USER {} ACCOUNT LOCK"))
    with working_on(url) as worker:
        await waits_then(
            worker, caplog, "locked", lambda: administer(server, *of_account("ALTER USER {} ACCOUNT UNLOCK"))
        )


async def test_worker_waits_while_its_account_has_no_connections_left(
    server: DatabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = prepare(server)
    administer(server, *of_account("ALTER USER {} WITH MAX_USER_CONNECTIONS 1"))
    others = sa.create_engine(url, poolclass=sa.NullPool)
    with working_on(url) as worker, contextlib.closing(others.connect()) as taken:
        await waits_then(worker, caplog, "(1226, ", taken.close)


async def test_worker_waits_while_the_server_has_no_connections_left(
    old: DatabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = prepare(old)
    administer(old, "SET GLOBAL max_connections = 10")
    others = sa.create_engine(url, poolclass=sa.NullPool)
    taken: list[Connection] = []
    try:
        with contextlib.suppress(sa.exc.OperationalError):
            while True:
                taken.append(others.connect())
        with working_on(url) as worker:
            await waits_then(worker, caplog, "(1040, ", taken[0].close)
    finally:
        for connection in taken:
            connection.close()
        administer(old, "SET GLOBAL max_connections = 151")


async def test_killed_statement_is_retried(server: DatabaseServer) -> None:
    url = prepare(server)
    ours = open_database(url)
    add(ours, 1)
    ids: list[int] = []

    def work(connection: Connection) -> None:
        ids.append(connection.scalar(sa.text("SELECT connection_id()")))
        connection.execute(sa.text("UPDATE t SET n = 7 WHERE n = 1"))

    with contextlib.closing(sa.create_engine(url, poolclass=sa.NullPool).connect()) as other:
        other.execute(sa.text("SELECT * FROM t WHERE n = 1 FOR UPDATE"))
        task = asyncio.create_task(asyncio.to_thread(transaction, ours, work))
        await wait_until(lambda: ids and asyncio.to_thread(is_running, server, ids[0], "UPDATE"), "a running UPDATE")
        administer(server, f"KILL QUERY {ids[0]}")
        await wait_until(lambda: len(ids) >= 2 or task.done(), "the statement runs again")
        assert not task.done()
        other.rollback()
        await in_time(task)
    with reading(ours) as connection:
        assert connection.scalars(sa.text("SELECT n FROM t")).all() == [7]
    ours.dispose()


def is_running(server: DatabaseServer, connection_id: int, statement: str) -> bool:
    engine = server.administration()
    query = sa.text("SELECT info FROM information_schema.processlist WHERE id = :id")
    with engine.connect() as connection:
        return str(connection.scalar(query, {"id": connection_id})).startswith(statement)


# ---- COMMIT --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1180, 1205, 1213, 3101])
def test_conflict_at_commit_retries_the_transaction(
    server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    engine = open_database(prepare(server))
    add(engine, 1)
    commit, conflicts = engine.dialect.do_commit, iter([True, True])

    def conflicting(connection: Any) -> None:
        if next(conflicts, False):
            connection.rollback()
            raise engine.dialect.loaded_dbapi.OperationalError(code, "of the test")
        commit(connection)

    monkeypatch.setattr(engine.dialect, "do_commit", conflicting)
    runs: list[int] = []
    transaction(engine, lambda c: runs.append(c.execute(sa.text("UPDATE t SET n = n + 1")).rowcount))
    with reading(engine) as connection:
        assert connection.scalars(sa.text("SELECT n FROM t")).all() == [2]
    assert runs == [1, 1, 1]
    engine.dispose()
