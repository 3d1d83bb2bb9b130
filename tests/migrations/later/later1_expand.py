"""Expand: what a later release has in addition, which this one need not know."""

from alembic import op

from manager.repository import concurrently

revision = "later1"
down_revision: str | None = None  # the newest of this release, put in by `later`
branch_labels = None
depends_on = None

# Of those who register from here on; who was there before is seen to by the next one.
TRIGGER = """
create function set_zone() returns trigger language plpgsql as $$
begin
    new.zone := split_part(new.hostname, '-', 1);
    return new;
end $$
"""

# A view gets a column behind the last one, and is never without its rights in between.
VIEW = """
create or replace view instance_whole as
select i.id, i.type, i.hostname, i.labels, i.timeout, i.digest, i.created_at, i.created_revision, i.updated_revision,
       i.died_at, i.died_revision, i.death_cause, i.root_cause,
       (select p.parent_id from parent_link p where p.child_id = i.id) as parent_id,
       (select jsonb_agg(jsonb_build_object('type', s.type, 'host', s.host, 'port', s.port, 'path', s.path)
                         order by s.ordinal)
        from service s where s.instance_id = i.id) as services{more}
from instance i
"""


def upgrade() -> None:
    concurrently.create_index("event_actor", "event (actor, revision)")
    op.execute("alter table instance add column zone text")
    op.execute("alter table heartbeat add column checks bigint not null default 0")
    op.execute(TRIGGER)
    op.execute("create trigger instance_zone before insert on instance for each row execute function set_zone()")
    op.execute(VIEW.format(more=", i.zone"))


def downgrade() -> None:
    op.execute("drop index event_actor")
    op.execute("drop trigger instance_zone on instance")
    op.execute("drop function set_zone()")
    # a view loses a column only with all that stands on it
    op.execute("drop view instance_state")
    op.execute("drop view instance_whole")
    op.execute(VIEW.format(more=""))
    op.execute(STATE)
    op.execute("grant select on instance_whole, instance_state to im_server")
    op.execute("alter table heartbeat drop column checks")
    op.execute("alter table instance drop column zone")


STATE = """
create view instance_state as
select w.id, jsonb_build_object(
    'type', w.type, 'hostname', w.hostname, 'labels', w.labels,
    'timeout_ms', (extract(epoch from w.timeout) * 1000)::bigint,
    'created_at_ms', floor(extract(epoch from w.created_at) * 1000)::bigint,
    'created_revision', w.created_revision, 'updated_revision', w.updated_revision,
    'parent', w.parent_id, 'services', coalesce(w.services, '[]')
) as state
from instance_whole w
"""
