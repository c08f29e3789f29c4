"""Open each kind of database as the ledger needs it, and run transactions (:mod:`runtime.db.retry` repeats them)."""

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
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
"""Seconds that SQLite waits for another writer."""

ANSWER_WITHIN: Final = 60.0
"""Seconds that a server has for each answer; what may take longer says so (:func:`wait_without_end`)."""

LOOK_AGAIN: Final = 10.0
"""Seconds after which a connection is asked whether its server may still be written to."""

SIGN_IN_AGAIN: Final = 5.0
"""Seconds until a password that the server has refused is tried again: servers lock accounts that often give a wrong
one, and a worker has many connections. Another password is tried at once."""

_WRONG_PASSWORD: Final = frozenset({1045, 1698})

_NO_TLS: Final = 2026
"""The driver's number for TLS that cannot be set up."""


def open_database(url: URL, *, reread: Callable[[], URL] | None = None) -> Engine:
    """The engine for ``url``. Connects to nothing yet.

    MySQL and MariaDB run at READ COMMITTED: with REPEATABLE READ, locks on gaps stop others, and the snapshot can miss
    the rows a worker was woken for. SQLite runs in WAL mode, its transactions begin as writers.

    Args:
        url: where the ledger is now, and with which password.
        reread: says so again, before each connection: passwords are rotated, and primaries move.
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
        # SQLAlchemy then closes this connection now, and each other one before it is used again.
        if reaction_to(context.original_exception) is Reaction.RECONNECT:
            context.is_disconnect = True

    return engine


@dataclass(frozen=True, slots=True)
class _Refused:
    """A name and password that the server did not take, and what it said."""

    url: URL
    since: float
    told: tuple[Any, ...]

    def holds(self, url: URL) -> bool:
        """Whether the same need not be tried now."""
        return url == self.url and time.monotonic() - self.since < SIGN_IN_AGAIN


class _Connecting:
    """How connections are made, and when they are given up although nothing failed.

    A primary moves: its name leads to another server, or ``database.yaml`` names another one. The old one stays, and
    may be read. Whoever only reads would never be told.
    """

    def __init__(self, url: URL, reread: Callable[[], URL]) -> None:
        self._url = url
        self._reread = reread
        self._warning = OngoingWarning(log)
        self._refused: _Refused | None = None

    def attach(self, engine: Engine) -> None:
        """Has the connections of ``engine`` made, set up and looked at here."""
        sa.event.listen(engine, "do_connect", self._connect)
        sa.event.listen(engine, "connect", _set_up)
        sa.event.listen(engine, "checkout", self._look)

    def _connect(
        self, dialect: Dialect, record: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]
    ) -> Any:
        url = self._url = self._read()
        record.info["url"] = url
        if self._refused is not None and self._refused.holds(url):
            raise pymysql.OperationalError(*self._refused.told)
        of_url = dialect.create_connect_args(url.update_query_dict({"charset": "utf8mb4"}))[1]
        if url.password is not None:
            # The driver would take Latin-1, and repeat the password in its error where that does not do.
            of_url["password"] = str(url.password).encode("utf-8", "surrogateescape")
        try:
            return dialect.connect(**{**of_url, **_TIMEOUTS, "conv": _CONVERSIONS})
        except pymysql.OperationalError as error:
            if error.args[0] in _WRONG_PASSWORD:
                self._refused = _Refused(url, time.monotonic(), error.args)
            raise
        except OSError as error:
            # Of a certificate that cannot be read just now; what fails later is an error of the driver already.
            raise pymysql.OperationalError(_NO_TLS, f"TLS to the database: {error}") from error

    def _read(self) -> URL:
        try:
            url = self._reread()
            if url.get_backend_name() == "sqlite":
                raise ConfigurationError("DATABASE_DSN: leads to SQLite now, which needs a restart")
            if url.username is None and self._url.username is not None:
                raise ConfigurationError("DATABASE_DSN: its user is in no file and no Vault any more")
        except ConfigurationError as error:
            # A file that is being replaced, a Vault that is away: what was right until now may still be.
            self._warning.warning("%s; going on with what was read before", error)
            return self._url
        self._warning.over()
        return url

    def _look(self, connection: Any, record: ConnectionPoolEntry, fairy: object) -> None:
        now = time.monotonic()
        if "looked" not in record.info:
            # A new connection is taken as it is: there may be none but a server that is read only.
            record.info["looked"] = now
            return
        if record.info["url"] != self._url:
            raise InvalidatePoolError("the database is to be reached otherwise now")
        if now - record.info["looked"] >= LOOK_AGAIN:
            record.info["looked"] = now
            if not _may_write(connection):
                raise InvalidatePoolError("the server is read only, or gone")


def _may_write(connection: Any) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@global.read_only")
            return cursor.fetchone()[0] in (0, "OFF")  # a number, or a word since MariaDB 12
    except pymysql.MySQLError:
        return False


def _set_up(connection: Any, record: ConnectionPoolEntry) -> None:
    # TIMESTAMP columns are converted to the session's zone; ours is UTC, whatever the server's is. And where MariaDB
    # puts rows into one text, it would cut it off.
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
            raise gone()  # or SQLite would make an empty one in its place

    @sa.event.listens_for(engine, "checkout")
    def _look(connection: Any, record: Any, fairy: object) -> None:
        if record.info["file"] != (found := _file(url)):
            if found is None:
                raise gone()  # what is written into a file without a name is lost
            raise InvalidatePoolError("the ledger is another file now")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that begins as a reader cannot wait when it becomes a writer: it fails at once.
        # Those who only read (see reading) take no lock, and so neither wait for a writer nor stop one.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _file(url: URL) -> tuple[int, int] | None:
    """Which file the ledger is, whatever its name; None without one."""
    try:
        stat = Path(str(url.database)).stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _read_datetime(text: str) -> datetime | str | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return convert_datetime(text)  # a date that is none, as 0000-00-00


_CONVERSIONS: Final = {
    **conversions,
    # Rows of scores are mostly times, and the driver's way to read one takes as long as all else that a row takes.
    FIELD_TYPE.DATETIME: _read_datetime,
    FIELD_TYPE.TIMESTAMP: _read_datetime,
    FIELD_TYPE.DATE: stored_day,
    JsonText: mysql_literal,
}
sqlite3.register_adapter(JsonText, str)

_TIMEOUTS: Final = {"connect_timeout": 5, "read_timeout": ANSWER_WITHIN, "write_timeout": ANSWER_WITHIN}


def transaction(
    engine: Engine, work: Callable[[Connection], T], *, attempts: int = 10, retry_on: tuple[type[Exception], ...] = ()
) -> T:
    """What ``work`` returns, after committing it. ``work`` runs again from its beginning after a conflict.

    Args:
        attempts: how often, at most.
        retry_on: errors of ``work`` that mean that its view was overtaken, such as a key that another just inserted.

    Raises:
        DatabaseUnavailable: the connection failed. The caller decides whether and when to try again; since a lost
            connection may have committed, ``work`` must be idempotent by what it writes.
    """

    def once() -> T:
        with engine.begin() as connection:
            return work(connection)

    return repeat_after_conflicts(once, attempts, retry_on)


def reading(engine: Engine) -> AbstractContextManager[Connection]:
    """A connection for queries that need no transaction of their own; each sees what is committed when it begins."""
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        return connection.execution_options(isolation_level="AUTOCOMMIT")
    # READ COMMITTED without locks is all that is needed. To set a connection to autocommit and back takes two round
    # trips, and when it is lost in one of them SQLAlchemy lets the driver's error pass as it is, and keeps the place
    # in its pool.
    return connection


def wait_without_end(connection: Connection) -> None:
    """Lets the server take as long as it needs for each answer, as for an index of a large table.

    The connection leaves the pool, and is closed where others are returned.
    """
    if connection.dialect.name != "sqlite":
        connection.detach()
        driver: Any = connection.connection.dbapi_connection
        driver._read_timeout = None  # the driver takes it when it connects, and then looks at it for each answer


def utc_now() -> datetime:
    """Now, as the database has it: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def to_db(moment: datetime) -> datetime:
    """``moment`` for a column with microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def to_db_seconds(moment: datetime) -> datetime:
    """``moment`` for a column with whole seconds: cut, since MySQL would round it into the future."""
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0)


def from_db(moment: datetime) -> datetime:
    """A time of the database with its zone."""
    return moment.replace(tzinfo=UTC)
