"""Test locks that hold on all nodes of a cluster: each transaction changes the row, which other nodes compare."""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from runtime.db.engine import reading, transaction
from runtime.db.locks import lock_account_id, lock_monitors, lock_scorers
from schema.tables import shared_locks


def times(engine: Engine) -> dict[str, int]:
    with reading(engine) as connection:
        return {row.name: row.times for row in connection.execute(sa.select(shared_locks))}


def test_every_transaction_changes_the_rows_of_what_it_locks(server_engine: Engine) -> None:
    for _ in range(3):
        transaction(server_engine, lambda connection: lock_monitors(connection, ["b.example", "A.example"]))
    transaction(server_engine, lambda connection: lock_account_id(connection, 7))
    transaction(server_engine, lock_scorers)
    assert times(server_engine) == {"monitor a.example": 3, "monitor b.example": 3, "account 7": 1, "scorers": 1}


def test_lock_excludes_only_transactions_that_want_the_same(server_engine: Engine) -> None:
    transaction(server_engine, lambda connection: lock_monitors(connection, ["a", "b"]))
    with server_engine.connect() as holder, server_engine.connect() as other:
        lock_monitors(holder, ["a"])
        other.exec_driver_sql("SET innodb_lock_wait_timeout = 1")
        lock_monitors(other, ["b"])
        with pytest.raises(OperationalError, match="1205"):
            lock_monitors(other, ["A"])
        other.invalidate()  # with its time limit


def test_sqlite_needs_no_rows(sqlite_engine: Engine) -> None:
    transaction(sqlite_engine, lambda connection: lock_monitors(connection, ["a"]))
    assert times(sqlite_engine) == {}
