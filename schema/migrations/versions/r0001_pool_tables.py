"""Create the pool's own tables if they are missing; leave existing ones unchanged.

An existing table without a column that we read is refused now, with its name, instead of failing later.
"""

import sqlalchemy as sa
from alembic import op

from schema.migrations.building import finish_empty_table, has_rows, record_origin
from schema.tables import pool

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adopt or create the tables."""
    bind = op.get_bind()
    inspector = sa.inspect(bind)
    present = set(inspector.get_table_names())
    for name in sorted(pool.NAMES & present):
        _check_columns(inspector, pool.metadata.tables[name])
    # Before we create any rows that could be taken for the pool's.
    record_origin(bind, adopted=any(has_rows(bind, name) for name in pool.NAMES & present))
    for name in sorted(pool.NAMES & present):
        finish_empty_table(bind, pool.metadata.tables[name])
    pool.metadata.create_all(bind, tables=[pool.metadata.tables[name] for name in pool.NAMES - present])
    if "monitors_data" not in inspector.get_view_names():
        op.execute(pool.MONITORS_DATA_VIEW)


def _check_columns(inspector: sa.Inspector, table: sa.Table) -> None:
    present = {column["name"] for column in inspector.get_columns(table.name)}
    missing = [column.name for column in table.columns if column.name not in present]
    if missing:
        raise RuntimeError(
            f"table {table.name} exists but lacks {', '.join(missing)}: "
            "bring the pool's database to its current version first"
        )
