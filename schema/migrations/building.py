"""Create tables in such a way that the next run completes an interrupted migration.

MySQL commits every statement of a migration separately: a table may exist without some of its indexes.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from schema.tables.columns import boolean, datetime6, int_u
from schema.tables.pool import TABLE_OPTIONS


def create_table(
    name: str, *parts: sa.Column[Any] | sa.Constraint, indexes: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Create a table of ours, or its missing parts; ``indexes`` are the columns of each index."""
    _make(lambda: sa.inspect(op.get_bind()).has_table(name), partial(op.create_table, name, *parts, **TABLE_OPTIONS))
    for index, columns in (indexes or {}).items():
        create_index(index, name, columns)


def create_index(name: str, table: str, columns: Sequence[str]) -> None:
    """Create an index, unless one of that name exists."""

    # MySQL has no CREATE INDEX IF NOT EXISTS.
    def is_there() -> bool:
        return name in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}

    _make(is_there, partial(op.create_index, name, table, list(columns)))


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column, unless one of that name exists."""

    def is_there() -> bool:
        return column.name in {present["name"] for present in sa.inspect(op.get_bind()).get_columns(table)}

    _make(is_there, partial(op.add_column, table, column))


def _make(is_there: Callable[[], bool], make: Callable[[], object]) -> None:
    """Create a missing object, or let an earlier run create it.

    A server continues the statement of a run that was killed. Ours then waits for it, and finds that it is done.
    """
    if is_there():
        return
    try:
        make()
    except DBAPIError:
        if not is_there():
            raise


def record_origin(bind: Connection, *, adopted: bool) -> None:
    """Record once whether the ledger held rows of the pool when we adopted it."""
    create_table(
        "ledger_origin",
        sa.Column("id", int_u(), primary_key=True, autoincrement=False),
        sa.Column("adopted", boolean(), nullable=False),
        sa.Column("recorded_on", datetime6(), nullable=False),
    )
    origin = sa.table("ledger_origin", *(sa.column(name) for name in ("id", "adopted", "recorded_on")))
    if bind.scalar(sa.select(sa.func.count()).select_from(origin)) == 0:
        now = datetime.now(UTC).replace(tzinfo=None)
        bind.execute(sa.insert(origin).values(id=1, adopted=adopted, recorded_on=sa.literal(now, sa.DateTime())))


def has_rows(bind: Connection, name: str) -> bool:
    """Return whether the table has any rows."""
    return bind.execute(sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)).first() is not None


def finish_empty_table(bind: Connection, table: sa.Table) -> None:
    """Add missing indexes to an empty ``table``, which may be one whose creation was interrupted.

    A table with rows is not ours to change, and an index of the same columns under another name is equivalent.
    """
    if has_rows(bind, table.name):
        return
    inspector = sa.inspect(bind)
    present = {tuple(index["column_names"]) for index in inspector.get_indexes(table.name)}
    present |= {tuple(key["column_names"]) for key in inspector.get_unique_constraints(table.name)}
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if tuple(column.name for column in index.columns) not in present:
            index.create(bind)
