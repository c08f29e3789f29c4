"""Create the table of traces that continue with the score of a server."""

import sqlalchemy as sa

from schema.migrations.building import create_table
from schema.tables.columns import datetime6, int_u, text_bin

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it if it is missing."""
    create_table(
        "score_traces",
        sa.Column(
            "server_id",
            int_u(),
            sa.ForeignKey("servers.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("trace_context", text_bin(55), nullable=False),
        sa.Column("stored_on", datetime6(), nullable=False),
        indexes={"score_traces_stored": ["stored_on"]},
    )
