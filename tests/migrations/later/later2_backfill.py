"""Backfill: what was there before is brought up to it a little at a time."""

from alembic import op

from manager.repository import concurrently

revision = "later2"
down_revision = "later1"
branch_labels = None
depends_on = None

# Whoever is held is waited for: skipped, the last ones would stay as they are.
STEP = """
update instance set zone = split_part(hostname, '-', 1) where id = any(array(
    select i.id from instance i where i.zone is null order by i.id limit 50 for no key update))
"""


def upgrade() -> None:
    concurrently.in_steps(STEP)
    op.execute("alter table instance add constraint instance_zone_known check (zone is not null) not valid")


def downgrade() -> None:
    op.execute("alter table instance drop constraint instance_zone_known")
