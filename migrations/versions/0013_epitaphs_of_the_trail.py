"""Those whose events were gone before epitaphs were kept get theirs from the trail, as far as it goes back."""

from manager.repository import concurrently

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# A step reads the trail over the changes in which its dead died. Whom it does not tell of stays without.
STEP = """
with lost as materialized (
    select i.id, i.died_revision from instance i
    where i.died_revision is not null and i.id = i.root_cause
      and i.died_revision <= (select c.compacted_revision from control c)
      and i.died_revision > (select max(s.revision) from trail_seal s)
      and not exists (select from epitaph k where k.instance_id = i.id)
      and not exists (select from event e where e.instance_id = i.id and e.revision = i.died_revision and e.type = 2)
    order by i.died_revision limit 50000
), told as materialized (
    select cast(a.value ->> 'revision' as bigint) as revision, cast(a.value ->> 'instance' as uuid) as id,
           coalesce(nullif(a.value ->> 'who', ''), a.value ->> 'address') as actor, a.value ->> 'note' as note
    from trail t cross join lateral json_array_elements(t.acts) a(value)
    where t.revision >= (select min(l.died_revision) from lost l)
      and t.first_revision <= (select max(l.died_revision) from lost l)
      and a.value ->> 'act' in ('KILL', 'EXPIRE')
)
insert into epitaph (instance_id, actor, note)
select l.id, t.actor, t.note from lost l join told t on t.id = l.id and t.revision = l.died_revision
on conflict (instance_id) do nothing
"""


def upgrade() -> None:
    concurrently.in_steps(STEP)


def downgrade() -> None:
    """They go with the others."""
