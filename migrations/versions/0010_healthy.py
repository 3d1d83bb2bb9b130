"""Who was healthy when an outage began is forgiven: by the stored time and the tenth that it may be too old."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# As in 0002, but for `forgiven`, which asked for a stored time within the timeout. It may be a tenth of the timeout too
# old, as `due_at` allows for: so somebody whom every read called healthy was not forgiven.
LEASE = """
create or replace view lease as
select h.instance_id, h.timeout, h.last_seen, h.told_stale, c.now, t.due_at, t.forgiven_until,
       c.now > greatest(t.due_at, t.forgiven_until) as stale
from heartbeat h
cross join (
    select least(clock_timestamp(), ticked_at + judged_for) as now, grace_from, grace_at, grace_until from control
) c
cross join lateral (select h.last_seen + 1.1 * h.timeout * h.stretch >= c.grace_from as forgiven) f
cross join lateral (
    select greatest(h.last_seen, case when f.forgiven then c.grace_at end) + 1.1 * h.timeout * h.stretch as due_at,
           case when f.forgiven then c.grace_until end as forgiven_until
) t
"""

BEFORE = LEASE.replace("h.last_seen + 1.1 * h.timeout * h.stretch >=", "h.last_seen + h.timeout * h.stretch >=")


def upgrade() -> None:
    op.execute(LEASE)


def downgrade() -> None:
    op.execute(BEFORE)
