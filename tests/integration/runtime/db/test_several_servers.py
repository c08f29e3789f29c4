"""Test a DSN with several servers: one that cannot be used is passed over, and all connections are to one server."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from ops.__main__ import main
from runtime.db import connecting
from runtime.db.dsn import dsn_text
from runtime.db.engine import open_database, reading
from runtime.db.retry import Reaction, reaction_to
from testbed.fixtures.database import DatabaseServer
from testbed.galera import several
from testbed.tcp_proxy import TcpProxy

NAME = "several"
PASSWORD = "Never-shown"
USER = "several"


@dataclass
class Server:
    """A server and the proxy through which the DSN reaches it."""

    real: DatabaseServer
    proxy: TcpProxy

    def administer(self, statement: str) -> None:
        with self.real.administration().connect() as connection:
            connection.execute(sa.text(statement))

    @contextmanager
    def read_only(self) -> Iterator[None]:
        self.administer("SET GLOBAL read_only = 1")
        try:
            yield
        finally:
            self.administer("SET GLOBAL read_only = 0")

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"


@pytest.fixture
async def both(mariadb: DatabaseServer, mysql: DatabaseServer) -> AsyncIterator[tuple[Server, Server]]:
    """Two servers, with the same account and the same database."""
    async with TcpProxy("127.0.0.1", mariadb.port) as one, TcpProxy("127.0.0.1", mysql.port) as other:
        found = Server(mariadb, one), Server(mysql, other)
        for server in found:
            await asyncio.to_thread(_prepare, server)
        yield found


def _prepare(server: Server) -> None:
    server.real.create(NAME)
    for host in ("%", "localhost", "127.0.0.1"):
        server.administer(f"DROP USER IF EXISTS '{USER}'@'{host}'")
        server.administer(f"CREATE USER '{USER}'@'{host}' IDENTIFIED BY '{PASSWORD}'")
        server.administer(f"GRANT ALL ON `{NAME}`.* TO '{USER}'@'{host}'")


def dsn(*servers: Server) -> URL:
    one = URL.create("mysql+pymysql", USER, PASSWORD, "127.0.0.1", database=NAME)
    return several([one.set(port=server.proxy.port) for server in servers])


@pytest.fixture
def engine(both: tuple[Server, Server]) -> Iterator[Engine]:
    found = open_database(dsn(*both))
    yield found
    found.dispose()


def _kind(engine: Engine) -> str:
    with reading(engine) as connection:
        return "mariadb" if "MariaDB" in str(connection.scalar(sa.text("SELECT VERSION()"))) else "mysql"


async def used(engine: Engine) -> str:
    """Return the kind of the server that a query reaches."""
    return await asyncio.to_thread(_kind, engine)


async def test_server_that_refuses_is_passed_over_and_not_returned_to(
    both: tuple[Server, Server], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = both
    first.proxy.refuse()
    assert await used(engine) == "mysql"
    await first.proxy.accept()
    engine.dispose()
    assert await used(engine) == "mysql", "the chosen server works: a move would cost all connections"
    [record] = [record for record in caplog.records if "is used from now on" in record.message]
    assert record.levelno == logging.WARNING
    assert f"{second.place} is used from now on; {first.place}: Can't connect" in record.message
    assert PASSWORD not in caplog.text


async def test_all_connections_follow_when_the_used_server_is_gone(both: tuple[Server, Server], engine: Engine) -> None:
    first, _ = both
    idle = await asyncio.to_thread(lambda: [engine.connect() for _ in range(3)])
    for connection in idle:
        await asyncio.to_thread(connection.close)
    assert await used(engine) == "mariadb"
    first.proxy.refuse()
    await first.proxy.cut()
    assert {await used(engine) for _ in range(4)} == {"mysql"}
    assert first.proxy.active == 0


async def test_idle_connections_to_a_server_that_is_no_longer_used_are_closed(
    both: tuple[Server, Server], engine: Engine
) -> None:
    first, _ = both
    kept, lost = await asyncio.to_thread(lambda: (engine.connect(), engine.connect()))
    await asyncio.to_thread(kept.close)
    first.proxy.refuse()
    await asyncio.to_thread(lost.invalidate)
    assert await asyncio.to_thread(lambda: lost.scalar(sa.text("SELECT VERSION()"))) is not None
    await asyncio.to_thread(lost.close)
    assert {await used(engine) for _ in range(4)} == {"mysql"}, "or a process would not see its own commits"


async def test_server_that_is_silent_costs_its_time_limit_once(
    both: tuple[Server, Server], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = both
    limit = 1.0
    monkeypatch.setattr(connecting, "_TIMEOUTS_OF_SEVERAL", dict.fromkeys(connecting._TIMEOUTS_OF_SEVERAL, limit))
    first.proxy.pause()
    assert await used(engine) == "mysql"
    assert first.proxy.connections == 1
    engine.dispose()
    began = time.monotonic()
    assert await used(engine) == "mysql"
    assert first.proxy.connections == 1, f"tried again, {time.monotonic() - began:.1f} s"


async def test_read_only_server_is_used_only_where_there_is_no_other(
    both: tuple[Server, Server], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "LOOK_AGAIN", 0.0)
    first, second = both
    assert await used(engine) == "mariadb"
    with first.read_only():
        assert await used(engine) == "mysql"
        second.proxy.refuse()
        await second.proxy.cut()
        assert await used(engine) == "mariadb"
        await second.proxy.accept()
        assert await used(engine) == "mysql", "as soon as there is one that can be written"


async def test_error_names_every_server_and_no_password(both: tuple[Server, Server], engine: Engine) -> None:
    for server in both:
        server.proxy.refuse()
    with pytest.raises(sa.exc.OperationalError) as failed:
        await used(engine)
    assert reaction_to(failed.value) is Reaction.RECONNECT
    assert all(f"{server.place}: Can't connect" in str(failed.value) for server in both)
    assert PASSWORD not in f"{failed.value!r} {failed.value.orig!r} {engine!r}"


async def test_error_that_no_other_server_would_mend_is_raised_at_once(both: tuple[Server, Server]) -> None:
    first, second = both
    engine = open_database(dsn(first, second).set(database="of_nobody"))
    first.administer(f"GRANT ALL ON `of_nobody`.* TO '{USER}'@'%'")
    for host in ("localhost", "127.0.0.1"):
        first.administer(f"GRANT ALL ON `of_nobody`.* TO '{USER}'@'{host}'")
    with pytest.raises(sa.exc.OperationalError, match="Unknown database"):
        await used(engine)
    assert second.proxy.connections == 0
    engine.dispose()


async def test_command_uses_the_next_server_and_says_so(
    both: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = both
    first.proxy.refuse()
    monkeypatch.setenv("DATABASE_DSN", dsn_text(dsn(first, second), hide_password=False))
    assert await asyncio.to_thread(main, ["db", "status"]) == 1
    out, err = capfd.readouterr()
    assert f"@{first.place},{second.place}/{NAME}: at version none, " in out
    assert f"{second.place} is used from now on" in err
    assert PASSWORD not in out + err
