"""Test MySQL's special features: strictness, reserved words, authentication, and limits of size."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import DataError

from ingest.plan import LogRow
from ingest.store import add_log_rows
from ingest.transaction import commit
from runtime.db.dsn import parse_dsn
from runtime.db.engine import open_database, utc_now
from runtime.db.migrate import upgrade
from schema.tables import log_scores, metadata
from testbed.database import administration, mysql_directory
from testbed.fixtures.batches import new_result, new_submission
from testbed.fixtures.database import DatabaseServer
from testbed.fixtures.world import add_monitor, add_pair, add_server
from testbed.tls import LocalCa

USER, PASSWORD = "somebody", 'it\'s "secret" @/:?'
SMALLEST_PACKET = 4 << 20
"""The default of old servers; no current one has a lower default."""


def variable(engine: Engine, name: str) -> str:
    with engine.connect() as connection:
        return str(connection.execute(sa.text("SHOW VARIABLES LIKE :name"), {"name": name}).one()[1])


def test_server_under_test_is_stricter_than_the_mysql_defaults(mysql_engine: Engine) -> None:
    modes = set(variable(mysql_engine, "sql_mode").split(","))
    assert {"ONLY_FULL_GROUP_BY", "STRICT_TRANS_TABLES", "NO_ZERO_DATE"} <= modes
    assert variable(mysql_engine, "sql_require_primary_key") == "ON"
    assert variable(mysql_engine, "collation_database") == "utf8mb4_0900_ai_ci"
    assert variable(mysql_engine, "innodb_flush_log_at_trx_commit") == "1"
    assert variable(mysql_engine, "log_bin") == "ON"


def test_server_runs_with_its_own_libraries_only(mysql: DatabaseServer) -> None:
    """It uses no libraries of this system, which may be years older."""
    maps = Path(f"/proc/{mysql.pid}/maps").read_text().splitlines()
    files = {line.split(maxsplit=5)[5] for line in maps if "x" in line.split()[1] and "/" in line}
    assert len(files) > 10
    assert {str(Path(file).parents[1]) for file in files} == {str(mysql_directory())}


def test_names_reserved_by_mysql_are_quoted(mysql_engine: Engine) -> None:
    """SQLAlchemy quotes the names, but its list of reserved words may be older than the server."""
    with mysql_engine.connect() as connection:
        words = sa.text("SELECT LOWER(`WORD`) FROM `information_schema`.`KEYWORDS` WHERE `RESERVED` = 1")
        reserved = set(connection.scalars(words))
    tables = metadata.tables.values()
    names = {table.name for table in tables} | {column.name for table in tables for column in table.columns}
    quote = mysql_engine.dialect.identifier_preparer.quote
    assert {"key", "offset"} <= names  # at least these
    assert "stored" in reserved & names
    assert [name for name in reserved & names if not quote(name).startswith("`")] == []


@contextmanager
def account(server: DatabaseServer, requires: str = "") -> Iterator[URL]:
    """Create an account with a password and all rights to one database."""
    url = server.create("secured")
    admin = administration(url)

    def run(statement: str, **values: str) -> None:
        with admin.begin() as connection:
            connection.execute(sa.text(statement), values)

    run(
        f"CREATE USER :user IDENTIFIED WITH 'caching_sha2_password' BY :password {requires}",
        user=USER,
        password=PASSWORD,
    )
    try:
        run("GRANT ALL ON `secured`.* TO :user", user=USER)
        yield url.set(username=USER, password=PASSWORD)
    finally:
        run("DROP USER :user", user=USER)


def session_of(url: URL) -> tuple[str, str]:
    """Connect as workers do, and return the user and the cipher of the session."""
    engine = open_database(parse_dsn(url.render_as_string(hide_password=False)))
    try:
        upgrade(engine)
        with engine.connect() as connection:
            user = connection.scalar(sa.text("SELECT SUBSTRING_INDEX(USER(), '@', 1)"))
            return str(user), str(connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").one()[1])
    finally:
        engine.dispose()


@pytest.fixture
def no_tls(mysql: DatabaseServer) -> Iterator[DatabaseServer]:
    """A MySQL server without TLS."""
    with settings(mysql, tls_version=""):
        yield mysql


@pytest.fixture
def tls(mysql: DatabaseServer, tmp_path: Path) -> Iterator[tuple[DatabaseServer, Path]]:
    """A MySQL server with a certificate for its address, and the CA file."""
    ca = LocalCa()
    issued = ca.issue("127.0.0.1")
    for file, text in (("ca.pem", ca.certificate), ("cert.pem", issued.certificate), ("key.pem", issued.key)):
        (tmp_path / file).write_text(text)
    files = {"ssl_ca": "ca.pem", "ssl_cert": "cert.pem", "ssl_key": "key.pem"}
    with settings(mysql, **{name: str(tmp_path / file) for name, file in files.items()}):
        yield mysql, tmp_path / "ca.pem"


@contextmanager
def settings(server: DatabaseServer, **values: str) -> Iterator[None]:
    """Change TLS settings of a server temporarily."""
    engine = server.administration()
    before = {name: variable(engine, name) for name in values}
    with engine.connect() as admin:  # this session is unaffected by the settings for new ones

        def take(given: Mapping[str, str]) -> None:
            for name, value in given.items():
                admin.execute(sa.text(f"SET GLOBAL {name} = :value"), {"value": value})
            admin.execute(sa.text("ALTER INSTANCE RELOAD TLS NO ROLLBACK ON ERROR"))

        take(values)
        try:
            yield
        finally:
            take(before)


def test_login_with_a_password_works_without_tls(no_tls: DatabaseServer) -> None:
    """The password is encrypted with the server's public key, since the server has not cached that of a new account."""
    with account(no_tls) as url:
        assert session_of(url) == (USER, "")


@pytest.mark.parametrize("query", [{}, {"ssl_verify_cert": "true"}, {"ssl_verify_identity": "true"}])
def test_login_with_a_password_works_over_tls(tls: tuple[DatabaseServer, Path], query: dict[str, str]) -> None:
    server, ca = tls
    with account(server, "REQUIRE SSL") as url:
        user, cipher = session_of(url.set(query={"ssl_ca": str(ca), **query}))
    assert (user, cipher.startswith("TLS_")) == (USER, True)


def test_server_with_an_untrusted_certificate_is_refused(tls: tuple[DatabaseServer, Path]) -> None:
    with account(tls[0]) as url, pytest.raises(sa.exc.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        session_of(url.set(query={"ssl_verify_cert": "true"}))


@pytest.fixture
def small_packets(server_engine: Engine) -> Iterator[Engine]:
    """An engine whose server has the smallest supported packet size."""
    before = int(variable(server_engine, "max_allowed_packet"))

    def allow(size: int) -> None:
        with server_engine.begin() as connection:
            connection.execute(sa.text("SET GLOBAL max_allowed_packet = :size"), {"size": size})

    allow(SMALLEST_PACKET)
    engine = open_database(server_engine.url)
    try:
        yield engine
    finally:
        engine.dispose()
        allow(before)


def test_largest_ingest_transaction_fits_into_the_smallest_packet(small_packets: Engine) -> None:
    with small_packets.begin() as connection:
        monitor, server = add_monitor(connection, "a.test.mon.example"), add_server(connection, "192.0.2.1")
        add_pair(connection, server, monitor)
    assert int(variable(small_packets, "max_allowed_packet")) == SMALLEST_PACKET
    good = [new_result(server, "192.0.2.1", age=250.0 * i) for i in range(1000)]
    bad = [new_result(2**32 - 1 - i, "192.0.2.1", error="x" * 5000) for i in range(1000)]
    submissions = [new_submission("a.test.mon.example", *results) for results in (good, bad)]
    plan = commit(small_packets, submissions, utc_now())
    assert [ack.stored for _, ack in plan.acks] == [1000, 0]


def test_out_of_range_number_is_refused_rather_than_omitted(server_engine: Engine) -> None:
    with server_engine.begin() as connection:
        monitor, server = add_monitor(connection, "a.test.mon.example"), add_server(connection)
    ts = utc_now().replace(microsecond=0)
    row = LogRow(monitor, server, ts, score=1.0, step=1.0, offset=0.0, rtt=2**40, attributes=None)
    with pytest.raises(DataError), server_engine.begin() as connection:
        add_log_rows(connection, [row])
    with server_engine.connect() as connection:
        assert connection.execute(sa.select(log_scores)).all() == []
