"""Contract: what no manager that may still live needs is taken away."""

from alembic import op

from manager.repository import concurrently

revision = "later3"
down_revision = "later2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # looks at every row, and nobody waits for it
    op.execute("alter table instance validate constraint instance_zone_known")
    op.execute("alter table heartbeat drop column checks")
    op.execute("drop index event_actor")


def downgrade() -> None:
    concurrently.create_index("event_actor", "event (actor, revision)")
    op.execute("alter table heartbeat add column checks bigint not null default 0")
