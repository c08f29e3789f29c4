"""Lock by changing a row, so that the lock holds on all nodes of a Galera cluster.

A row lock (SELECT ... FOR UPDATE) is known to its node only. Between nodes, Galera compares the rows that transactions
have changed when they commit: of two that changed the same row, the second one fails and is retried. So a transaction
whose decision depends on rows that it locks, but does not change, must change another one. Row locks come first, then
these.
"""

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert
from sqlalchemy.engine import Connection

from schema.tables import shared_locks


def lock_monitors(connection: Connection, names: Iterable[str]) -> None:
    """Exclude other transactions that lock one of these monitors, until the end of this one."""
    # To most collations, names that differ in case are equal, and row locks are the same.
    _lock(connection, {f"monitor {name.lower()}" for name in names})


def lock_account_id(connection: Connection, account_id: int) -> None:
    """Exclude other transactions that lock this account, until the end of this one."""
    _lock(connection, {f"account {account_id}"})


def lock_scorers(connection: Connection) -> None:
    """Exclude other transactions that add scorers, until the end of this one."""
    _lock(connection, {"scorers"})


def _lock(connection: Connection, names: Iterable[str]) -> None:
    if connection.dialect.name == "sqlite":
        return  # it has one writer at a time
    for name in sorted(names):
        connection.execute(_LOCK, {"name": name})


def _statement() -> sa.Insert:
    row = insert(shared_locks).values(name=sa.bindparam("name"), times=1)
    return row.on_duplicate_key_update(times=shared_locks.c.times + 1)


_LOCK: Final = _statement()
