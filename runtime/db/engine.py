"""Open each kind of database as the ledger needs it, and run transactions (:mod:`runtime.db.retry` repeats them)."""

import logging
import sqlite3
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import pymysql
import sqlalchemy as sa
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions, convert_datetime
from sqlalchemy.engine import URL, Connection, Dialect, Engine, ExceptionContext
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from runtime.db.bulk import JsonText, mysql_literal, stored_day
from runtime.db.retry import Reaction, reaction_to, repeat_after_conflicts
from runtime.log import OngoingWarning
from runtime.settings import ConfigurationError

log = logging.getLogger(__name__)
T = TypeVar("T")

_BUSY_TIMEOUT: Final = 30.0
"""Maximum seconds for which SQLite waits for another writer."""

ANSWER_WITHIN: Final = 60.0
"""Maximum seconds for each answer of a server; statements that may take longer use :func:`wait_without_end`."""

LOOK_AGAIN: Final = 10.0
"""Seconds after which a connection is checked for a server that has become read-only."""

SIGN_IN_AGAIN: Final = 5.0
"""Seconds until a refused password is retried: servers lock accounts after repeated failures, and a worker has many
connections. A different password is tried at once."""

_WRONG_PASSWORD: Final = frozenset({1045, 1698})

_NO_TLS: Final = 2026
"""The driver's error number for a failed TLS setup."""


def open_database(url: URL, *, reread: Callable[[], URL] | None = None) -> Engine:
    """Return the engine for ``url``. It does not connect yet.

    MySQL and MariaDB run at READ COMMITTED: with REPEATABLE READ, gap locks block others, and the snapshot can miss
    the rows for which a worker was woken. SQLite runs in WAL mode, and its transactions begin as writers.

    Args:
        url: the current URL, with the password.
        reread: called before each connection to read the URL again, since passwords are rotated and primaries move.
    """
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    engine = sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_size=4,
        max_overflow=4,
    )
    _Connecting(url, reread or (lambda: url)).attach(engine)

    @sa.event.listens_for(engine, "handle_error")
    def _give_up(context: ExceptionContext) -> None:
        # SQLAlchemy then closes this connection now, and all others before their next use.
        if reaction_to(context.original_exception) is Reaction.RECONNECT:
            context.is_disconnect = True

    return engine


@dataclass(frozen=True, slots=True)
class _Refused:
    """Credentials that the server refused, and its error."""

    url: URL
    since: float
    error_args: tuple[Any, ...]

    def holds(self, url: URL) -> bool:
        """Return whether the same credentials should not be tried now."""
        return url == self.url and time.monotonic() - self.since < SIGN_IN_AGAIN


class _Connecting:
    """Hooks that open connections, and invalidate them after a move of the primary.

    After a move, the name resolves to another server, or ``database.yaml`` names another one. The old server may stay
    readable, so a process that only reads would never get an error.
    """

    def __init__(self, url: URL, reread: Callable[[], URL]) -> None:
        self._url = url
        self._reread = reread
        self._warning = OngoingWarning(log)
        self._refused: _Refused | None = None

    def attach(self, engine: Engine) -> None:
        """Register the hooks that open, set up and check the connections of ``engine``."""
        sa.event.listen(engine, "do_connect", self._connect)
        sa.event.listen(engine, "connect", _set_up)
        sa.event.listen(engine, "checkout", self._check)

    def _connect(
        self, dialect: Dialect, record: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]
    ) -> Any:
        url = self._url = self._read()
        record.info["url"] = url
        if self._refused is not None and self._refused.holds(url):
            raise pymysql.OperationalError(*self._refused.error_args)
        of_url = dialect.create_connect_args(url.update_query_dict({"charset": "utf8mb4"}))[1]
        if url.password is not None:
            # The driver would encode Latin-1, and on failure show the password in its error.
            of_url["password"] = str(url.password).encode("utf-8", "surrogateescape")
        try:
            return _MySqlConnection(**{**of_url, **_TIMEOUTS, "conv": _CONVERSIONS})
        except pymysql.OperationalError as error:
            if error.args[0] in _WRONG_PASSWORD:
                self._refused = _Refused(url, time.monotonic(), error.args)
            raise
        except OSError as error:
            # For a certificate that is not readable now; later failures are errors of the driver already.
            raise pymysql.OperationalError(_NO_TLS, f"TLS to the database: {error}") from error

    def _read(self) -> URL:
        try:
            url = self._reread()
            if url.get_backend_name() == "sqlite":
                raise ConfigurationError("DATABASE_DSN: is SQLite now, which requires a restart")
            if url.username is None and self._url.username is not None:
                raise ConfigurationError("DATABASE_DSN: its user is no longer in a file or in Vault")
        except ConfigurationError as error:
            # The file is being replaced, or Vault is unavailable: the previous URL may still be valid.
            self._warning.warning("%s; continuing with the previous URL", error)
            return self._url
        self._warning.over()
        return url

    def _check(self, connection: Any, record: ConnectionPoolEntry, fairy: object) -> None:
        now = time.monotonic()
        if "checked" not in record.info:
            # A new connection is not checked, since there may be only a read-only server.
            record.info["checked"] = now
            return
        if record.info["url"] != self._url:
            raise InvalidatePoolError("the database's URL has changed")
        if now - record.info["checked"] >= LOOK_AGAIN:
            record.info["checked"] = now
            if not _may_write(connection):
                raise InvalidatePoolError("the server is read-only or unreachable")


class _MySqlConnection(pymysql.Connection):
    """Connection that does not load the system's CA certificates for TLS that verifies none.

    Without TLS parameters, the driver uses TLS if the server offers it, and accepts any certificate. Yet it loads all
    certificates for each connection, which takes 50 ms of CPU time and blocks all threads: a worker that opens its
    connections again after an outage would stall for half a second.
    """

    def _create_ssl_ctx(self, parameters: dict[str, Any]) -> ssl.SSLContext:
        if not parameters:
            return _unverified_tls()
        context: ssl.SSLContext = super()._create_ssl_ctx(parameters)  # type: ignore[misc]  # not in the stubs
        return context


@cache
def _unverified_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _may_write(connection: Any) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@global.read_only")
            return cursor.fetchone()[0] in (0, "OFF")  # a number, or text since MariaDB 12
    except pymysql.MySQLError:
        return False


def _set_up(connection: Any, record: ConnectionPoolEntry) -> None:
    # TIMESTAMP columns are converted to the session's zone, which must be UTC. And MariaDB would truncate the text of
    # JSON_ARRAYAGG.
    with connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00', innodb_lock_wait_timeout = 20, group_concat_max_len = 1073741824")


def _open_sqlite(url: URL) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT})
    known: deque[tuple[int, int] | None] = deque(maxlen=1)

    def gone() -> sqlite3.OperationalError:
        return sqlite3.OperationalError(f"disk I/O error: {url.database} is gone")

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        record.info["file"] = _file(url)
        known.append(record.info["file"])

    @sa.event.listens_for(engine, "do_connect")
    def _connect(dialect: Dialect, record: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]) -> None:
        if any(known) and _file(url) is None:
            raise gone()  # otherwise SQLite would create an empty file

    @sa.event.listens_for(engine, "checkout")
    def _look(connection: Any, record: Any, fairy: object) -> None:
        if record.info["file"] != (found := _file(url)):
            if found is None:
                raise gone()  # writes to an unlinked file are lost
            raise InvalidatePoolError("the ledger is another file now")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that begins as a reader cannot wait when it becomes a writer; it fails at once.
        # Read-only connections (see reading) acquire no lock, so they neither wait for a writer nor block one.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _file(url: URL) -> tuple[int, int] | None:
    """Return the identity of the ledger's file; None if there is no file."""
    try:
        stat = Path(str(url.database)).stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _read_datetime(text: str) -> datetime | str | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return convert_datetime(text)  # an invalid date such as 0000-00-00


_CONVERSIONS: Final = {
    **conversions,
    # Rows of scores are mostly times, and the driver's conversion takes as long as the rest of a row.
    FIELD_TYPE.DATETIME: _read_datetime,
    FIELD_TYPE.TIMESTAMP: _read_datetime,
    FIELD_TYPE.DATE: stored_day,
    JsonText: mysql_literal,
}
sqlite3.register_adapter(JsonText, str)

_TIMEOUTS: Final = {"connect_timeout": 5, "read_timeout": ANSWER_WITHIN, "write_timeout": ANSWER_WITHIN}


ON_RETRY: Final = "ntppool_on_retry"
"""Option of an engine: a function that is called with the error before a transaction is retried."""


def transaction(
    engine: Engine, work: Callable[[Connection], T], *, attempts: int = 10, retry_on: tuple[type[Exception], ...] = ()
) -> T:
    """Run and commit ``work``, and return its value. After a conflict, ``work`` is retried from its beginning.

    Args:
        attempts: maximum attempts.
        retry_on: errors of ``work`` after which its data are outdated, such as a key that another process inserted.

    Raises:
        DatabaseUnavailable: the connection failed. The caller decides whether and when to retry; since a lost
            connection may have committed, ``work`` must be idempotent.
    """

    def once() -> T:
        with engine.begin() as connection:
            return work(connection)

    return repeat_after_conflicts(once, attempts, retry_on, engine.get_execution_options().get(ON_RETRY))


def reading(engine: Engine) -> AbstractContextManager[Connection]:
    """Return a connection for queries without a common transaction; each sees the rows committed when it begins."""
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        return connection.execution_options(isolation_level="AUTOCOMMIT")
    # READ COMMITTED without locks is sufficient. Setting a connection to autocommit and back takes two round trips, and
    # if it is lost in one of them, SQLAlchemy raises the driver's error unwrapped, and keeps the slot in its pool.
    return connection


def wait_without_end(connection: Connection) -> None:
    """Remove the time limit for answers of the server, for example to create an index of a large table.

    The connection is detached from the pool, and is closed instead of returned.
    """
    if connection.dialect.name != "sqlite":
        connection.detach()
        driver: Any = connection.connection.dbapi_connection
        driver._read_timeout = None  # the driver sets it when connecting, and reads it for each answer


def utc_now() -> datetime:
    """Return the current time in the database's form: naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


def to_db(moment: datetime) -> datetime:
    """Convert ``moment`` for a column with microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def to_db_seconds(moment: datetime) -> datetime:
    """Convert ``moment`` for a column with whole seconds, truncated, since MySQL would round it into the future."""
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0)


def from_db(moment: datetime) -> datetime:
    """Convert a time of the database to an aware one."""
    return moment.replace(tzinfo=UTC)
