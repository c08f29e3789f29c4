"""Create the table of sessions that people have ended by logging out."""

import sqlalchemy as sa

from schema.migrations.building import create_table
from schema.tables.columns import datetime6, text_bin

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it if it is missing."""
    create_table(
        "ended_sessions",
        sa.Column("id", text_bin(22), primary_key=True),
        sa.Column("forget_on", datetime6(), nullable=False),
        indexes={"ended_sessions_forget": ["forget_on"]},
    )
