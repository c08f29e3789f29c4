"""Create the table of locks that hold on all nodes of a cluster."""

import sqlalchemy as sa

from schema.migrations.building import create_table
from schema.tables.columns import bigint_u, text_bin

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it if it is missing."""
    create_table(
        "shared_locks",
        sa.Column("name", text_bin(300), primary_key=True),
        sa.Column("times", bigint_u(), nullable=False),
    )
