"""Create our tables beside the pool's: batches, queue, rejected messages, presence, changes of assignments."""

import sqlalchemy as sa

from schema.migrations.building import create_index, create_table
from schema.tables.columns import bigint_u, blob, boolean, datetime6, int_u, text_bin, ulid

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create missing tables."""
    create_table(
        "result_batches",
        sa.Column("monitor_id", int_u(), primary_key=True, autoincrement=False),
        sa.Column("batch", ulid(), primary_key=True),
        sa.Column("received_on", datetime6(), nullable=False),
        sa.Column("stored", sa.Integer, nullable=False),
        sa.Column("rejected", sa.Text),
        indexes={"result_batches_received": ["received_on"]},
    )
    create_table(
        "scoring_queue",
        _of_server(primary_key=True),
        sa.Column("due_on", datetime6()),
        indexes={"scoring_queue_due": ["due_on"]},
    )
    create_table(
        "rejected_messages",
        sa.Column("id", bigint_u(), primary_key=True),
        sa.Column("topic", text_bin(500), nullable=False),
        sa.Column("payload_hash", text_bin(64), nullable=False),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.Column("payload", blob(65536), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("times", sa.Integer, nullable=False, server_default="1"),
        sa.Column("first_seen", datetime6(), nullable=False),
        sa.Column("last_seen", datetime6(), nullable=False),
        sa.UniqueConstraint("topic", "payload_hash", name="rejected_messages_topic"),
        indexes={"rejected_messages_seen": ["last_seen"]},
    )
    create_table(
        "monitor_presence",
        sa.Column("tls_name", sa.String(255), primary_key=True),
        sa.Column("online", boolean(), nullable=False),
        sa.Column("since", datetime6(), nullable=False),
        sa.Column("seen", datetime6(), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        indexes={"monitor_presence_seen": ["seen"]},
    )
    create_table(
        "assignment_changes",
        sa.Column("id", bigint_u(), primary_key=True),
        _of_server(),
        sa.Column("monitor_id", int_u(), nullable=False),
        sa.Column("before_status", sa.String(10)),
        sa.Column("after_status", sa.String(10), nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("changed_on", datetime6(), nullable=False),
        indexes={
            "assignment_changes_server": ["server_id", "changed_on"],
            "assignment_changes_pair": ["monitor_id", "server_id", "id"],
            "assignment_changes_on": ["changed_on"],
        },
    )
    create_index("log_scores_review", "log_scores", ["server_id", "ts", "monitor_id", "step", "rtt", "score"])


def _of_server(*, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(
        "server_id",
        int_u(),
        sa.ForeignKey("servers.id", ondelete="CASCADE"),
        primary_key=primary_key,
        autoincrement=False,
        nullable=False,
    )
