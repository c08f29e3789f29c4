"""Create the table of issued certificates."""

import sqlalchemy as sa

from schema.migrations.building import create_table
from schema.tables.columns import datetime6, text_bin

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table if it is missing."""
    create_table(
        "certificates",
        sa.Column("serial", text_bin(40), primary_key=True),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("name", text_bin(253), nullable=False),
        sa.Column("request_hash", text_bin(64), nullable=False),
        sa.Column("chain", sa.Text, nullable=False),
        sa.Column("not_before", datetime6(), nullable=False),
        sa.Column("not_after", datetime6(), nullable=False),
        sa.Column("issued_on", datetime6(), nullable=False),
        sa.Column("revoked_on", datetime6()),
        indexes={
            "certificates_name": ["name", "request_hash", "issued_on"],
            "certificates_not_after": ["not_after"],
        },
    )
