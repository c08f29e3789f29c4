"""Create the tables of the monitors' health: what they measured in each hour, and the labels that follow from it."""

import sqlalchemy as sa

from schema.migrations.building import create_table
from schema.tables.columns import datetime6, int_u, text_bin

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them if they are missing."""
    create_table(
        "monitor_health",
        sa.Column("monitor_id", int_u(), primary_key=True, autoincrement=False),
        sa.Column("label", text_bin(30), primary_key=True),
        sa.Column("since", datetime6(), nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
    )
    create_table(
        "monitor_hours",
        sa.Column("hour", sa.DateTime, primary_key=True),
        sa.Column("monitor_id", int_u(), primary_key=True, autoincrement=False),
        sa.Column("servers", sa.Integer, nullable=False),
        sa.Column("probes", sa.Integer, nullable=False),
        sa.Column("judged", sa.Integer, nullable=False),
        sa.Column("lost", sa.Integer, nullable=False),
        sa.Column("expected_lost", sa.Double, nullable=False),
        sa.Column("clock_offset", sa.Double),
        sa.Column("clock_servers", sa.Integer, nullable=False),
        sa.Column("nearest_rtt", sa.Double),
    )
    create_table(
        "health_progress",
        sa.Column("id", int_u(), primary_key=True, autoincrement=False),
        sa.Column("counted_until", sa.DateTime),
    )
