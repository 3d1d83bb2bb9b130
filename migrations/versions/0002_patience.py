"""What an outage earns, what self-preservation remembers, and how intervals stretch."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Nothing is rewritten: constant defaults, and views replaced in place.
TABLES = (
    # of one row: squawk-ignore holds for the statement
    "-- squawk-ignore constraint-missing-not-valid\n"
    "alter table control add column grace_at timestamptz, add column stretch double precision not null default 1,"
    " add column judged_for interval not null default interval '10 seconds',"
    " add constraint control_stretch_range check (stretch >= 1)",
    "alter table heartbeat add column stretch real not null default 1",
    "alter table reaper_group add column calm_since timestamptz,"
    " add column stopped interval not null default interval '0', add column stopped_at timestamptz,"
    " add column tokens double precision not null default 0",
)

# The only definition of liveness: stale when `now` is past both. A stored last_seen may be a tenth of the timeout too
# old, hence 1.1. For those who were alive when an outage began, the silence counts from its end (`grace_at`), and
# nobody of them is missed before `grace_until`. And where nobody has ticked for long, nobody's silence grows: what
# happened meanwhile is for the next tick to judge, before which no read may call the fleet gone.
LEASE = """
create or replace view lease as
select h.instance_id, h.timeout, h.last_seen, h.told_stale, c.now, t.due_at, t.forgiven_until,
       c.now > greatest(t.due_at, t.forgiven_until) as stale
from heartbeat h
cross join (
    select least(clock_timestamp(), ticked_at + judged_for) as now, grace_from, grace_at, grace_until from control
) c
cross join lateral (select h.last_seen + h.timeout * h.stretch >= c.grace_from as forgiven) f
cross join lateral (
    select greatest(h.last_seen, case when f.forgiven then c.grace_at end) + 1.1 * h.timeout * h.stretch as due_at,
           case when f.forgiven then c.grace_until end as forgiven_until
) t
"""

BEFORE = """
create or replace view lease as
select h.instance_id, h.timeout, h.last_seen, h.told_stale, c.now, t.due_at, t.forgiven_until,
       c.now > greatest(t.due_at, t.forgiven_until) as stale
from heartbeat h
cross join (select clock_timestamp() as now, grace_from, grace_until from control) c
cross join lateral (
    select h.last_seen + 1.1 * h.timeout as due_at,
           case when h.last_seen + h.timeout >= c.grace_from then c.grace_until end as forgiven_until
) t
"""

BACK = (
    "alter table reaper_group drop column calm_since, drop column stopped, drop column stopped_at, drop column tokens",
    "alter table heartbeat drop column stretch",
    "alter table control drop column grace_at, drop column stretch, drop column judged_for",
)


def upgrade() -> None:
    for statement in (*TABLES, LEASE):
        op.execute(statement)


def downgrade() -> None:
    for statement in (BEFORE, *BACK):
        op.execute(statement)
