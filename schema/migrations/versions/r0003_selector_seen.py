"""Create the table of last known monitor states, and give two joined columns of names the same collation."""

import sqlalchemy as sa
from alembic import op

from schema.migrations.building import create_table
from schema.tables.columns import boolean, int_u

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table if it is missing."""
    create_table(
        "selector_seen",
        sa.Column("monitor_id", int_u(), primary_key=True, autoincrement=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("ip", sa.String(40)),
        sa.Column("account_id", int_u()),
        sa.Column("per_server_limit", sa.String(20), nullable=False),
        sa.Column("gone", boolean(), nullable=False),
    )
    if op.get_bind().dialect.name != "sqlite":
        _compare_names_alike(op.get_bind())


def _compare_names_alike(bind: sa.Connection) -> None:
    """Give ``monitor_presence.tls_name`` the collation of ``monitors.tls_name``.

    The pool's tables may be older than the database's default collation. MySQL refuses to compare columns of different
    collations, and if it converts one, it cannot use its index.
    """
    collations = sa.text(
        "SELECT `table_name`, `character_set_name`, `collation_name` FROM `information_schema`.`columns` "
        "WHERE `table_schema` = DATABASE() AND `column_name` = 'tls_name' "
        "AND `table_name` IN ('monitors', 'monitor_presence')"
    )
    found = {row[0]: (row[1], row[2]) for row in bind.execute(collations)}
    if found["monitors"] != found["monitor_presence"]:
        charset, collation = found["monitors"]
        op.execute(
            f"ALTER TABLE `monitor_presence` MODIFY `tls_name` VARCHAR(255) "
            f"CHARACTER SET `{charset}` COLLATE `{collation}` NOT NULL"
        )
