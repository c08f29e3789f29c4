"""Building tables so that a migration which was cut off is finished by the next run.

MySQL commits every statement of a migration by itself: a table may be there without its indexes, or some of them.
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
    """Creates a table of ours, or what is missing of it; ``indexes`` are the columns of each."""
    _make(lambda: sa.inspect(op.get_bind()).has_table(name), partial(op.create_table, name, *parts, **TABLE_OPTIONS))
    for index, columns in (indexes or {}).items():
        create_index(index, name, columns)


def create_index(name: str, table: str, columns: Sequence[str]) -> None:
    """Creates an index, unless there is one of that name."""

    # MySQL knows no CREATE INDEX IF NOT EXISTS.
    def is_there() -> bool:
        return name in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}

    _make(is_there, partial(op.create_index, name, table, list(columns)))


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Adds a column, unless there is one of that name."""

    def is_there() -> bool:
        return column.name in {present["name"] for present in sa.inspect(op.get_bind()).get_columns(table)}

    _make(is_there, partial(op.add_column, table, column))


def _make(is_there: Callable[[], bool], make: Callable[[], object]) -> None:
    """Makes what is not there, or lets an earlier run make it.

    A server goes on with the statement of a run that was killed. Ours then waits for it, and finds that it was done.
    """
    if is_there():
        return
    try:
        make()
    except DBAPIError:
        if not is_there():
            raise


def record_origin(bind: Connection, *, adopted: bool) -> None:
    """Records once whether the ledger held rows of the pool when it became ours."""
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
    """Whether there is anything in the table."""
    return bind.execute(sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)).first() is not None


def finish_empty_table(bind: Connection, table: sa.Table) -> None:
    """Adds the indexes that ``table`` lacks, when it holds no row: then it may be one that we were creating.

    A table with rows is not ours to change, and an index of the same columns under another name is as good.
    """
    if has_rows(bind, table.name):
        return
    inspector = sa.inspect(bind)
    present = {tuple(index["column_names"]) for index in inspector.get_indexes(table.name)}
    present |= {tuple(key["column_names"]) for key in inspector.get_unique_constraints(table.name)}
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if tuple(column.name for column in index.columns) not in present:
            index.create(bind)
