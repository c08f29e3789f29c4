"""Create the table of routes from monitors to servers."""

import sqlalchemy as sa

from schema.migrations.building import create_table
from schema.tables.columns import bigint_u, boolean, datetime6, int_u

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it if it is missing."""
    create_table(
        "server_traceroutes",
        sa.Column("id", bigint_u(), primary_key=True),
        sa.Column("server_id", int_u(), sa.ForeignKey("servers.id", ondelete="CASCADE"), nullable=False),
        sa.Column("monitor_id", int_u(), nullable=False),
        sa.Column("ip", sa.String(40), nullable=False),
        sa.Column("traced_on", datetime6(), nullable=False),
        sa.Column("answered", boolean(), nullable=False),
        sa.Column("traces", sa.Text, nullable=False),
        indexes={
            "server_traceroutes_server": ["server_id", "traced_on"],
            "server_traceroutes_on": ["traced_on"],
        },
    )
