"""Record the origin of a ledger that is older than this record: it is ours, since it has removed old rows."""

from alembic import op

from schema.migrations.building import record_origin

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Record the origin if the first migration has not."""
    record_origin(op.get_bind(), adopted=False)
