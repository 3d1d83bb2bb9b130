"""Who asked for a death, and why, stays on record for as long as the dead do: the events of it go earlier.

The trail has it for longer still, in the acts of whole turns: a death is not found there without reading all that was
done meanwhile. So what the event says of it is laid by in the step that deletes the event, and goes with the dead.
"""

import re

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Of those alone whose death began it. No foreign key: it would hold no more than the two functions below do.
TABLE = """
create table epitaph (
    instance_id uuid not null,
    actor text not null,
    note text not null,
    constraint epitaph_pkey primary key (instance_id)
);
"""

# Whoever is laid by is held, so that nobody is buried meanwhile; and whoever is being buried is waited for, and gone.
# Looked up one by one, whatever is guessed of how many there are.
DELETE = """
create or replace function delete_compacted(events integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    deleted integer;
begin
    -- by their places: joined with so many as a limit may let through, they would be looked for all over the table
    with gone as (
        delete from public.event where ctid = any(array(
            select e.ctid from public.event e
            where e.revision <= (select c.compacted_revision from public.control c)
            order by e.revision, e.ordinal limit events for update skip locked))
        returning type, instance_id, root_cause, actor, note
    ), laid_by as (
        insert into public.epitaph (instance_id, actor, note)
        select g.instance_id, g.actor, g.note
        from gone g cross join lateral (
            select i.id from public.instance i where i.id = g.instance_id offset 0 for key share) i
        where g.type = 2 and g.instance_id = g.root_cause
        on conflict (instance_id) do nothing
    )
    select count(*) into deleted from gone;
    return deleted;
end $$;
"""

DELETE_BEFORE = """
create or replace function delete_compacted(events integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    deleted integer;
begin
    -- by their places: joined with so many as a limit may let through, they would be looked for all over the table
    delete from public.event where ctid = any(array(
        select e.ctid from public.event e
        where e.revision <= (select c.compacted_revision from public.control c)
        order by e.revision, e.ordinal limit events for update skip locked));
    get diagnostics deleted = row_count;
    return deleted;
end $$;
"""

BURY = """
create or replace function bury_dead(instances integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    compacted bigint;
    oldest_kept timestamptz;
    buried integer;
    latest bigint;
    roots uuid[];
begin
    select c.compacted_revision, clock_timestamp() - c.tombstones_kept into compacted, oldest_kept
    from public.control c;
    with gone as (
        delete from public.instance where id = any(array(
            select i.id from public.instance i
            where i.died_revision is not null and i.died_at < oldest_kept and i.died_revision <= compacted
            order by i.died_at limit instances for update skip locked))
        returning id, root_cause, died_revision
    )
    select count(*), max(g.died_revision), array_agg(g.id) filter (where g.id = g.root_cause)
    into buried, latest, roots from gone g;
    -- a statement of its own, so that it sees what was laid by until they were held
    delete from public.epitaph where instance_id = any(roots);
    -- with the rows themselves: whoever asks about the past sees what is missing and that it is missing in one snapshot
    update public.control set buried_revision = latest where buried_revision < latest;
    return buried;
end $$;
"""

BURY_BEFORE = """
create or replace function bury_dead(instances integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    compacted bigint;
    oldest_kept timestamptz;
    buried integer;
    latest bigint;
begin
    select c.compacted_revision, clock_timestamp() - c.tombstones_kept into compacted, oldest_kept
    from public.control c;
    with gone as (
        delete from public.instance where id = any(array(
            select i.id from public.instance i
            where i.died_revision is not null and i.died_at < oldest_kept and i.died_revision <= compacted
            order by i.died_at limit instances for update skip locked))
        returning died_revision
    )
    select count(*), max(g.died_revision) into buried, latest from gone g;
    -- with the rows themselves: whoever asks about the past sees what is missing and that it is missing in one snapshot
    update public.control set buried_revision = latest where buried_revision < latest;
    return buried;
end $$;
"""

DEATHS = """
create or replace view audit.deaths with (security_barrier) as
select i.id, instance_type_name(i.type) as type, i.hostname, i.labels, p.parent_id, i.created_at, i.last_seen,
       i.died_at, i.died_revision as revision, cause_name(i.death_cause) as cause, i.root_cause,
       instance_type_name(r.type) as root_type, cause_name(r.death_cause) as root_cause_why, {told},
       i.died_at - i.created_at as lived, i.died_at - i.last_seen as silence
from instance i
left join parent_link p on p.child_id = i.id
left join instance r on r.id = i.root_cause
left join event e on e.revision = i.died_revision and e.instance_id = i.root_cause and e.type = 2
{kept}
where i.died_revision is not null
"""

ROOT_CAUSES = """
create or replace view audit.root_causes with (security_barrier) as
select r.id, instance_type_name(r.type) as type, r.hostname, r.died_at as at, r.died_revision as revision,
       cause_name(r.death_cause) as cause, {told}, d.deaths
from (select i.root_cause, count(*) as deaths from instance i where i.died_revision is not null
      group by i.root_cause) d
join instance r on r.id = d.root_cause
left join event e on e.revision = r.died_revision and e.instance_id = r.id and e.type = 2
{kept}
"""

VIEWS = {"deaths": (DEATHS, "i.root_cause"), "root_causes": (ROOT_CAUSES, "r.id")}

TOLD = "coalesce(e.actor, k.actor) as actor, coalesce(e.note, k.note) as note"
KEPT = "left join epitaph k on k.instance_id = {whose}"
TOLD_BEFORE = "e.actor, e.note"

WORDS = {
    "actor": "Who asked for it, by name, or from where without one.",
    "note": "What was left with the kill.",
}
WORDS_BEFORE = {
    "actor": "Who asked for it; null once the event is past the kept history.",
    "note": "What was left with the kill; null likewise.",
}


def _run(script: str) -> None:
    """Each statement by itself; a function's body, between two `$$`, holds semicolons of its own."""
    for statement in re.findall(r"(?:\$\$.*?\$\$|[^;])+", script, re.S):
        if statement.strip():
            op.execute(statement)


def _views(told: str, kept: str, words: dict[str, str]) -> None:
    for view, (query, whose) in VIEWS.items():
        op.execute(query.format(told=told, kept=kept.format(whose=whose)))
        for column, meaning in words.items():
            op.execute(f"comment on column audit.{view}.{column} is '{meaning}'")


def upgrade() -> None:
    for script in (TABLE, DELETE, BURY):
        _run(script)
    _views(TOLD, KEPT, WORDS)


def downgrade() -> None:
    _views(TOLD_BEFORE, "", WORDS_BEFORE)
    for script in (BURY_BEFORE, DELETE_BEFORE):
        _run(script)
    op.execute("drop table epitaph")
