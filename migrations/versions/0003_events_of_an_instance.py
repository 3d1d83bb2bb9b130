"""The events of an instance, without a look through the history."""

from alembic import op

from manager.repository import concurrently

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    concurrently.create_index("event_of", "event (instance_id, revision, ordinal)")


def downgrade() -> None:
    op.execute("drop index event_of")
