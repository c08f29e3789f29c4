"""The ledger's engine: one place that knows how each database must be opened, and when a transaction is tried again."""

import logging
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions, convert_datetime
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

from runtime.json_rows import JsonText, mysql_literal, stored_day

log = logging.getLogger(__name__)
T = TypeVar("T")

_BUSY_TIMEOUT: Final = 30.0
"""Seconds that SQLite waits for another writer."""

_CONFLICTS: Final = frozenset({1205, 1213})
"""MySQL's error codes of a lock wait time-out and of a deadlock: the other one won, try again."""

_LOST: Final = frozenset({0, 1040, 1053, 1927, 2002, 2003, 2006, 2013, 2014, 2055})
"""Codes of no connection, too many of them, a server going down and a connection that was cut."""

_NO_ROOM: Final = frozenset({3, 20, 1021, 1026, 1114, 1290, 1836})
"""Codes of a disk that is full or takes nothing, a table without room, and a server that may only be read. Whatever is
written then fails, until somebody helps: it is waited for, as for a server that is away."""

_STORAGE_ENGINE: Final = 1030
"""The storage engine's own error, whose number is in the message; 28 is a full disk (ENOSPC)."""

_SQLITE_NO_ROOM: Final = ("database or disk is full", "disk I/O error", "readonly database")


class DatabaseUnavailable(Exception):
    """The database cannot be reached, went away, or has no room; nothing was committed, or nobody knows."""


def open_database(url: URL) -> Engine:
    """The engine for ``url``. Connects to nothing yet.

    MySQL and MariaDB run at READ COMMITTED: with REPEATABLE READ, locks on gaps stop others, and the snapshot can miss
    the rows a worker was woken for. SQLite runs in WAL mode, its transactions begin as writers.
    """
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    engine = sa.create_engine(
        url.update_query_dict({"charset": "utf8mb4"}),
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_size=4,
        max_overflow=4,
        connect_args={"connect_timeout": 5, "read_timeout": 60, "write_timeout": 60, "conv": _CONVERSIONS},
    )

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: Any, record: Any) -> None:
        # TIMESTAMP columns are converted to the session's zone; ours is UTC, whatever the server's is. And where
        # MariaDB puts rows into one text, it would cut it off.
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00', innodb_lock_wait_timeout = 20, group_concat_max_len = 1073741824")

    return engine


def _open_sqlite(url: URL) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that begins as a reader cannot wait when it becomes a writer: it fails at once.
        # Those who only read (see reading) take no lock, and so neither wait for a writer nor stop one.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


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
    for attempt in range(1, attempts + 1):
        try:
            with engine.begin() as connection:
                return work(connection)
        except Exception as error:
            if isinstance(error, DBAPIError) and is_unavailable(error):
                raise DatabaseUnavailable(str(error.orig)) from error
            if isinstance(error, engine.dialect.loaded_dbapi.Error):
                # SQLAlchemy does not wrap what fails while an isolation level is set on a connection, or taken back.
                raise DatabaseUnavailable(str(error)) from error
            if attempt == attempts or not (isinstance(error, retry_on) or is_conflict(error)):
                raise
            log.debug("transaction tried again after %s", error)
            time.sleep(random.uniform(0.5, 1.0) * min(0.005 * 2**attempt, 0.5))
    raise AssertionError("unreachable")


def reading(engine: Engine) -> AbstractContextManager[Connection]:
    """A connection for queries that need no transaction of their own; each sees what is committed when it begins."""
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        return connection.execution_options(isolation_level="AUTOCOMMIT")
    # READ COMMITTED without locks is all that is needed. To set a connection to autocommit and back takes two round
    # trips, and when it is lost in one of them SQLAlchemy lets the driver's error pass as it is, and keeps the place
    # in its pool.
    return connection


def is_conflict(error: Exception) -> bool:
    """Whether another transaction stood in the way, so that the same may succeed now."""
    if not isinstance(error, OperationalError):
        return False
    return _code(error) in _CONFLICTS or "database is locked" in str(error.orig)


def is_unavailable(error: DBAPIError) -> bool:
    """Whether the connection or the server, not the statement, failed."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError | InterfaceError | InternalError):
        return False
    return _code(error) in _LOST | _NO_ROOM or _has_no_room(error)


def _has_no_room(error: DBAPIError) -> bool:
    text = str(error.orig)
    if _code(error) == _STORAGE_ENGINE:
        return "error 28 " in text
    return any(phrase in text for phrase in _SQLITE_NO_ROOM)


def _code(error: DBAPIError) -> int | None:
    args = getattr(error.orig, "args", ())
    return args[0] if args and isinstance(args[0], int) else None


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
