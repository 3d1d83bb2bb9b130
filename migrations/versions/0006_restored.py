"""What the next epoch is opened for, where somebody who has restored the database knows it."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table control add column restored text")


def downgrade() -> None:
    op.execute("alter table control drop column restored")
