"""The pool's own tables, made where they are missing and left alone where they are.

A table that is there but lacks a column we read is refused now, with its name, instead of failing later.
"""

import sqlalchemy as sa
from alembic import op

from schema import pool_tables
from schema.migrations.building import finish_empty_table, has_rows, record_origin

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adopts or creates."""
    bind = op.get_bind()
    inspector = sa.inspect(bind)
    present = set(inspector.get_table_names())
    for name in sorted(pool_tables.NAMES & present):
        _check_columns(inspector, pool_tables.metadata.tables[name])
    # Before anything of ours is there that could be taken for theirs.
    record_origin(bind, adopted=any(has_rows(bind, name) for name in pool_tables.NAMES & present))
    for name in sorted(pool_tables.NAMES & present):
        finish_empty_table(bind, pool_tables.metadata.tables[name])
    pool_tables.metadata.create_all(
        bind, tables=[pool_tables.metadata.tables[name] for name in pool_tables.NAMES - present]
    )
    if "monitors_data" not in inspector.get_view_names():
        op.execute(pool_tables.MONITORS_DATA_VIEW)


def _check_columns(inspector: sa.Inspector, table: sa.Table) -> None:
    present = {column["name"] for column in inspector.get_columns(table.name)}
    missing = [column.name for column in table.columns if column.name not in present]
    if missing:
        raise RuntimeError(
            f"table {table.name} is there but lacks {', '.join(missing)}: "
            "bring the pool's database to its current version first"
        )
