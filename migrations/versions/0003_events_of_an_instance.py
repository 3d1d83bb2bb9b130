"""The events of an instance, without a look through the history."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql("create index event_of on event (instance_id, revision, ordinal)")


def downgrade() -> None:
    op.get_bind().exec_driver_sql("drop index event_of")
