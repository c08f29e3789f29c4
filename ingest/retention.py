"""What is old leaves the ledger, in steps so small that nobody waits for them.

Several workers may do this at the same time: each step takes rows that no other one has taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from runtime.database import transaction
from runtime.json_rows import json_rows
from schema.limits import BATCH_MEMORY, REJECTED_MEMORY
from schema.tables import assignment_changes, log_scores, rejected_messages, result_batches, scorer_status

STEP: Final = 1_000
"""Rows of one transaction: some tens of milliseconds."""

CHANGES_MEMORY: Final = timedelta(days=90)
"""How long it can be told why a monitor was moved; and longer than a late result needs it."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """A table whose rows have an age."""

    table: sa.Table
    age: sa.Column[Any]
    """The column that tells it; it has an index."""
    kept: timedelta
    unless: sa.ColumnElement[bool] | None = None
    """Rows to keep all the same."""


def expiring(kept_log_scores: timedelta) -> list[Expiring]:
    """All that is removed for its age."""
    # The pool's own scorers remember by foreign key how far they got.
    needed = sa.exists().where(scorer_status.c.log_score_id == log_scores.c.id)
    return [
        Expiring(log_scores, log_scores.c.ts, kept_log_scores, unless=needed),
        Expiring(result_batches, result_batches.c.received_on, BATCH_MEMORY),
        Expiring(rejected_messages, rejected_messages.c.last_seen, REJECTED_MEMORY),
        Expiring(assignment_changes, assignment_changes.c.changed_on, CHANGES_MEMORY),
    ]


def remove_step(engine: Engine, what: Expiring, now: datetime) -> int:
    """Removes up to :data:`STEP` expired rows and returns how many. ``now`` is UTC without a zone.

    Raises:
        DatabaseUnavailable: it may be called again.
    """
    try:
        return transaction(engine, partial(_remove, what=what, before=now - what.kept))
    except IntegrityError:
        # Something has just begun to refer to one of the rows; the next round passes over it.
        return 0


def _remove(connection: Connection, what: Expiring, before: datetime) -> int:
    keys = list(what.table.primary_key.columns)
    old = sa.select(*keys).where(what.age < before).order_by(what.age).limit(STEP)
    if what.unless is not None:
        old = old.where(~what.unless)
    rows = connection.execute(old.with_for_update(skip_locked=True)).all()
    if rows:
        _delete(connection, what.table, rows)
    return len(rows)


def _delete(connection: Connection, table: sa.Table, rows: Sequence[sa.Row[Any]]) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(sa.delete(table).where(_one_of(list(table.primary_key.columns), rows)))
    else:
        connection.execute(_delete_on_mysql(table), {"gone": json_rows([tuple(row) for row in rows])})


@cache
def _delete_on_mysql(table: sa.Table) -> sa.TextClause:
    """By its key, row by row: for a list of keys MySQL may read the whole table, MariaDB does so for pairs, and either
    then waits for rows that another worker holds."""
    keys = list(table.primary_key.columns)
    columns = ", ".join(f"`{key.name}` {_KEY_TYPES[key.type.python_type]} PATH '$[{n}]'" for n, key in enumerate(keys))
    same = " AND ".join(f"`old`.`{key.name}` = `gone`.`{key.name}`" for key in keys)
    return sa.text(f"""
        DELETE `old` FROM JSON_TABLE(:gone, '$[*]' COLUMNS ({columns})) AS `gone`
        STRAIGHT_JOIN `{table.name}` AS `old` ON {same}
    """)  # made of our own column names


_KEY_TYPES: Final[dict[type, str]] = {
    int: "BIGINT UNSIGNED",
    str: "CHAR(26) CHARACTER SET ASCII COLLATE ASCII_BIN",
}


def _one_of(keys: Sequence[sa.Column[Any]], rows: Sequence[sa.Row[Any]]) -> sa.ColumnElement[bool]:
    if len(keys) == 1:
        return keys[0].in_([row[0] for row in rows])
    return sa.tuple_(*keys).in_([tuple(row) for row in rows])
