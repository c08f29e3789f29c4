"""Create the tables of the notifier: the alerts that are raised, the channels, and the messages to them."""

import sqlalchemy as sa

from schema.migrations.building import create_table
from schema.tables.columns import bigint_u, boolean, datetime6, int_u, text_bin

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing."""
    create_table(
        "alert_rounds",
        sa.Column("id", int_u(), primary_key=True, autoincrement=False),
        sa.Column("evaluated_on", datetime6(), nullable=False),
    )
    create_table(
        "alerts",
        sa.Column("kind", text_bin(32), primary_key=True),
        sa.Column("subject", text_bin(255), primary_key=True),
        sa.Column("account_id", int_u()),
        sa.Column("raised", boolean(), nullable=False),
        sa.Column("raised_on", datetime6()),
        sa.Column("differs_since", datetime6()),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("detail", sa.String(500), nullable=False),
    )
    create_table(
        "alert_channels",
        sa.Column("id", int_u(), primary_key=True),
        sa.Column("account_id", int_u(), sa.ForeignKey("accounts.id", ondelete="CASCADE")),
        sa.Column("kind", text_bin(10), nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("salt", text_bin(32), nullable=False),
        sa.Column("shown", sa.String(255), nullable=False),
        sa.Column("about", text_bin(100), nullable=False),
        sa.Column("quiet", text_bin(11)),
        sa.Column("zone", text_bin(64), nullable=False),
        sa.Column("digest_minutes", sa.Integer, nullable=False),
        sa.Column("created_on", datetime6(), nullable=False),
        sa.Column("sent_on", datetime6()),
        sa.Column("failing_since", datetime6()),
        sa.Column("failure", sa.String(500)),
        indexes={"alert_channels_account": ["account_id"]},
    )
    create_table(
        "alert_changes",
        sa.Column("id", bigint_u(), primary_key=True),
        sa.Column("channel_id", int_u(), sa.ForeignKey("alert_channels.id", ondelete="CASCADE"), nullable=False),
        sa.Column("kind", text_bin(32), nullable=False),
        sa.Column("subject", text_bin(255), nullable=False),
        sa.Column("raised", boolean(), nullable=False),
        sa.Column("title", sa.String(300), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("changed_on", datetime6(), nullable=False),
        indexes={"alert_changes_channel": ["channel_id", "id"]},
    )
    create_table(
        "alert_messages",
        sa.Column(
            "channel_id",
            int_u(),
            sa.ForeignKey("alert_channels.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("key", text_bin(32), nullable=False, quote=True),
        sa.Column("title", sa.String(300), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("composed_on", datetime6(), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_on", datetime6(), nullable=False),
        indexes={"alert_messages_due": ["due_on"]},
    )
