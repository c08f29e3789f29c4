"""Open each kind of database as the ledger needs it, and run transactions (:mod:`runtime.db.retry` repeats them)."""

import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Dialect, Engine, ExceptionContext
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from runtime.db.bulk import JsonText
from runtime.db.connecting import Connecting
from runtime.db.retry import Reaction, reaction_to, repeat_after_conflicts

T = TypeVar("T")

_BUSY_TIMEOUT: Final = 30.0
"""Maximum seconds for which SQLite waits for another writer."""


def open_database(url: URL, *, reread: Callable[[], URL] | None = None) -> Engine:
    """Return the engine for ``url``. It does not connect yet.

    MySQL and MariaDB run at READ COMMITTED: with REPEATABLE READ, gap locks block others, and the snapshot can miss
    the rows for which a worker was woken. SQLite runs in WAL mode, and its transactions begin as writers.

    Args:
        url: the current URL, with the password. It may name several servers (:mod:`runtime.db.dsn`).
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
    Connecting(url, reread or (lambda: url)).attach(engine)

    @sa.event.listens_for(engine, "handle_error")
    def _give_up(context: ExceptionContext) -> None:
        # SQLAlchemy then closes this connection now, and all others before their next use.
        if reaction_to(context.original_exception) is Reaction.RECONNECT:
            context.is_disconnect = True

    return engine


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


sqlite3.register_adapter(JsonText, str)


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
