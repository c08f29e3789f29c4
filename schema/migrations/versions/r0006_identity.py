"""Create the tables of registration, API keys, certificates and logins that the pool's tables have no columns for."""

import sqlalchemy as sa

from schema.migrations.building import create_index, create_table
from schema.tables.columns import datetime6, int_u, text_bin

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing."""
    create_table(
        "api_key_ends",
        sa.Column("api_key_id", int_u(), sa.ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("ends_on", datetime6(), nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
    )
    create_table(
        "registration_details",
        sa.Column(
            "registration_id", int_u(), sa.ForeignKey("monitor_registrations.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("renews_name", sa.String(255)),
        sa.Column("decided_by", sa.String(255)),
        sa.Column("decided_on", datetime6()),
        sa.Column("reason", sa.String(500)),
        sa.Column("api_key_id", int_u()),
        sa.Column("handed_on", datetime6()),
        sa.Column("sealed_key", text_bin(255)),
    )
    create_table(
        "registration_sources",
        sa.Column("network", text_bin(45), primary_key=True),
        sa.Column("recent", sa.String(255), nullable=False),
        sa.Column("begun", sa.Integer, nullable=False, server_default="0"),
        sa.Column("refused", sa.Integer, nullable=False, server_default="0"),
        sa.Column("refusal", sa.String(30)),
        sa.Column("seen_on", datetime6(), nullable=False),
        indexes={"registration_sources_seen": ["seen_on"]},
    )
    create_table(
        "host_certificates",
        sa.Column("api_key_id", int_u(), sa.ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("serial", text_bin(40), nullable=False),
        sa.Column("name", text_bin(253), nullable=False),
        sa.Column("sealed_key", text_bin(1000), nullable=False),
        sa.Column("issued_on", datetime6(), nullable=False),
        indexes={"host_certificates_issued": ["issued_on"]},
    )
    create_table(
        "user_identities",
        sa.Column("issuer", text_bin(255), primary_key=True),
        sa.Column("subject", text_bin(255), primary_key=True),
        sa.Column("user_id", int_u(), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("linked_on", datetime6(), nullable=False),
        sa.UniqueConstraint("user_id", "issuer", name="user_identities_user"),
    )
    create_index("api_keys_lookup", "api_keys", ["token_lookup"])
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
