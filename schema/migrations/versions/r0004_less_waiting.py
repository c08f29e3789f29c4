"""Create an index of each monitor's pairs by status, and a version counter of stored results."""

import sqlalchemy as sa

from schema.migrations.building import add_column, create_index
from schema.tables.columns import bigint_u

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing."""
    create_index("server_scores_monitor_status", "server_scores", ["monitor_id", "status", "server_id"])
    add_column("scoring_queue", sa.Column("stored", bigint_u(), nullable=False, server_default="0"))
