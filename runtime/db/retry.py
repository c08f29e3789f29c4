"""Retry work in the database: the list of all transient errors, and the loop that repeats a transaction.

There are three reactions to an error. After a conflict with another transaction, :func:`repeat_after_conflicts` retries
the transaction. If the server is unavailable, or no longer the right one, :meth:`runtime.worker.Worker.in_database`
waits for it and opens new connections, since the next one may reach another server, or this one in another state. Any
other error is a defect of the statement or of our code, and is raised.

The numbers are those of MySQL's and MariaDB's error references and of the driver: below 1000 the server's system
errors, from 2000 to 2999 the client's.
"""

import logging
import sqlite3
import time
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

import pymysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from runtime.retry import Delays

log = logging.getLogger(__name__)
T = TypeVar("T")

_CONFLICT_DELAYS: Final = Delays(first_seconds=0.01, longest_seconds=0.5, jitter=0.5)
"""Delays before a transaction that conflicted with another one runs again."""


class DatabaseUnavailable(Exception):
    """The database is unreachable, went away, or is out of space; nothing was committed, or the outcome is unknown."""


class Reaction(Enum):
    """Reaction to an error."""

    AGAIN = "retry the transaction"
    RECONNECT = "wait, and retry on new connections"
    DEFECT = "raise the error"


AGAIN: Final = {
    1020: "MariaDB with innodb_snapshot_isolation: the row was changed since the transaction began",
    1028: "the statement was killed while it sorted",
    1180: "Galera: the COMMIT conflicted with another node; it was rolled back, or the retry finds its rows",
    1205: "waited too long for a lock; in Galera also at COMMIT",
    1206: "no memory for more locks until others end",
    1213: "deadlock; in Galera also at COMMIT, if another node was first",
    1317: "the statement was killed, not the connection",
    1412: "a table was altered since the transaction began",
    1467: "MariaDB: the statement was killed while it waited for the lock of AUTO_INCREMENT, as by a shutdown",
    1615: "a table was altered while the statement was prepared",
    1637: "no memory for more transactions until others end",
    1689: "a pending exclusive lock of a table went first",
    1969: "MariaDB's max_statement_time: a busy moment made the statement slow",
    3024: "MySQL's max_execution_time: a busy moment made the statement slow",
    3058: "deadlock of named locks",
    3101: "Group Replication: the COMMIT conflicted with another member, and was rolled back",
    3572: "NOWAIT found the row locked",
}
"""Errors that rolled back a transaction or its statement, by number, with the reason to retry it."""

RECONNECT: Final = {
    # The connection was lost or not established.
    0: "the driver had closed it",
    1040: "max_connections is reached",
    1042: "the server cannot resolve our host's name",
    1043: "the greeting was cut off",
    1047: "Galera: the node has left the cluster or is not ready",
    1053: "the server is shutting down",
    1080: "the server closes its connections",
    1129: "too many failed connections of our host, until FLUSH HOSTS",
    1130: "our host may not connect, or not yet",
    1135: "the server cannot create a thread",
    1152: "the server ended the connection",
    1156: "packets out of order",
    1157: "a packet could not be uncompressed",
    1158: "reading packets failed",
    1159: "reading packets took too long",
    1160: "writing packets failed",
    1161: "writing packets took too long",
    1184: "the server ended the connection",
    1203: "the server's max_user_connections is reached",
    1226: "the account has used up its connections, or its queries of this hour",
    1927: "MariaDB: the connection was killed",
    2000: "an unknown error of the client",
    2001: "no socket",
    2002: "no server at the Unix socket",
    2003: "no server at the address, its name does not resolve, or TLS failed",
    2005: "the host's name does not resolve",
    2006: "the server has gone away",
    2012: "the greeting failed",
    2013: "the connection was lost during the query",
    2014: "the stream of packets is out of step",
    2026: "TLS failed",
    2055: "the connection was lost while reading",
    3032: "offline_mode: for administrators only",
    3168: "the server is not available",
    3169: "MySQL: the session was killed",
    4031: "MySQL: the server ended the connection, which was idle",
    9001: "ProxySQL: no server behind it accepted the connection in time",
    # The account: passwords are rotated, accounts locked and unlocked, and secrets are read again at each connect.
    1044: "the account may not use the database, or not yet",
    1045: "wrong name or password: it is being rotated",
    1524: "the server lacks the account's authentication plugin",
    1698: "wrong name or password, of an account without password authentication",
    1820: "the password has expired",
    1862: "the password has expired",
    2059: "the driver lacks the account's authentication plugin",
    2061: "the account's authentication plugin failed",
    3118: "MySQL: the account is locked",
    3159: "the server accepts only connections with TLS",
    3955: "MySQL: the account is locked after too many wrong passwords",
    4150: "MariaDB: the account is locked after too many wrong passwords",
    4151: "MariaDB: the account is locked",
    # The server is read-only: after a switchover, another one is the primary.
    1207: "the transaction is read-only",
    1290: "read_only, super_read_only",
    1792: "transaction_read_only",
    1836: "InnoDB is read-only",
    1874: "InnoDB is read-only",
    3100: "Group Replication: the member has left the group, or the group its majority",
    # Set at the start of a session, so only a new connection sees a repaired server.
    1665: "binlog_format is STATEMENT, which READ COMMITTED cannot be logged in",
    # A full or failed disk, or no memory: until an operator helps, or other work ends.
    1: "a file cannot be created",
    3: "writing a file failed",
    5: "no memory",
    20: "the disk is full",
    23: "too many open files",
    1021: "the disk is full",
    1026: "writing a file failed",
    1037: "no memory",
    1038: "no memory for sorting",
    1041: "no memory",
    1114: "the table is full",
    1598: "the binary log cannot be written",
    1878: "writing a temporary file failed",
    3019: "the undo log is full",
    3675: "the disk is full",
    4081: "MySQL: the memory of all connections is used up",
    4082: "MySQL: the memory of the connection is used up",
}
"""Errors of an unavailable server or of the connection to it, by number, with the reason to wait."""

_STORAGE_ENGINE: Final = 1030
_FULL_DISK: Final = "error 28 "
"""Part of the storage engine's error message; 28 means a full disk (ENOSPC)."""

_SQLITE_BUSY: Final = "database is locked"
_SQLITE_NO_ROOM: Final = ("database or disk is full", "disk I/O error", "readonly database")


def repeat_after_conflicts(
    once: Callable[[], T],
    attempts: int,
    retry_on: tuple[type[Exception], ...],
    on_retry: Callable[[Exception], object] | None = None,
) -> T:
    """Run the transaction ``once`` until it meets no conflict, at most ``attempts`` times, and return its result.

    Errors of the types ``retry_on`` count as conflicts, too. ``on_retry`` is called with the error before each retry.

    Raises:
        DatabaseUnavailable: the connection failed; it may have committed.
    """
    for attempt in range(1, attempts + 1):
        try:
            return once()
        except Exception as error:
            reaction = reaction_to(error)
            if reaction is Reaction.RECONNECT:
                raise DatabaseUnavailable(str(getattr(error, "orig", error))) from error
            if attempt == attempts or not (isinstance(error, retry_on) or reaction is Reaction.AGAIN):
                raise
            log.debug("transaction tried again after %s", getattr(error, "orig", error))
            if on_retry is not None:
                on_retry(error)
            time.sleep(_CONFLICT_DELAYS.after(attempt))
    raise AssertionError("unreachable")


def reaction_to(error: BaseException) -> Reaction:
    """Return the reaction to an error of SQLAlchemy or of the driver, which SQLAlchemy sometimes does not wrap."""
    if isinstance(error, PoolTimeout):
        return Reaction.RECONNECT  # all connections are in use by work that waits for the server
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return Reaction.RECONNECT
        return Reaction.DEFECT if error.orig is None else _of_driver(error.orig)
    return _of_driver(error)


def _of_driver(error: BaseException) -> Reaction:
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(str(error))
    if isinstance(error, pymysql.MySQLError):
        return _of_mysql(error)
    return Reaction.DEFECT


def _of_mysql(error: pymysql.MySQLError) -> Reaction:
    code = error.args[0] if error.args else None
    if not isinstance(code, int):
        # The driver's errors about invalid packets have no number.
        misread = (
            isinstance(error, pymysql.OperationalError | pymysql.InternalError) or type(error) is pymysql.err.Error
        )
        return Reaction.RECONNECT if misread else Reaction.DEFECT
    if code in AGAIN:
        return Reaction.AGAIN
    if code in RECONNECT or (code == _STORAGE_ENGINE and _FULL_DISK in str(error)):
        return Reaction.RECONNECT
    return Reaction.DEFECT


def _of_sqlite(text: str) -> Reaction:
    if _SQLITE_BUSY in text:
        return Reaction.AGAIN
    return Reaction.RECONNECT if any(phrase in text for phrase in _SQLITE_NO_ROOM) else Reaction.DEFECT
