"""The trail: who did what, in rows that nobody may change, each of which names the one before by its hash.

A row is made in the transaction of the change, one for all changes of a turn. Its number, time and hash are the
database's, whoever writes it. Rows go only from the old end, and only where a seal holds the hash of the last that
went.
"""

import re

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = """
create table trail (
    number bigint not null,
    at timestamptz not null,
    first_revision bigint,
    revision bigint,
    acts json not null,
    hash bytea not null,
    constraint trail_pkey primary key (number),
    constraint trail_number_positive check (number > 0),
    constraint trail_revisions_wholly check (num_nulls(first_revision, revision) in (0, 2)),
    constraint trail_order check (first_revision <= revision),
    constraint trail_hash_length check (octet_length(hash) = 32)
);
create table trail_seal (
    number bigint not null,
    revision bigint not null,
    hash bytea not null,
    at timestamptz not null default clock_timestamp(),
    constraint trail_seal_pkey primary key (number),
    constraint trail_seal_hash_length check (octet_length(hash) = 32)
);
-- the history before it has no trail
insert into trail_seal (number, revision, hash)
select 0, greatest(c.compacted_revision, (select max(revision) from event)),
       sha256(convert_to('the trail of ' || gen_random_uuid(), 'UTF8'))
from control c;

alter table control add column trail_kept interval not null default interval '400 days';
-- there is one row to look at
-- squawk-ignore constraint-missing-not-valid
alter table control add constraint control_trail_kept_range check (trail_kept >= interval '30 days');
"""

# What is hashed is the text as it stands, in an order that leaves nothing to guess. The two that run in every turn set
# no search path, which would take longer than all that they do: they are their caller's, and name their schemas.
HASH = """
create function trail_hash(before bytea, number bigint, at timestamptz, first bigint, last bigint, acts json)
returns bytea language sql immutable parallel safe as $$
    select pg_catalog.sha256(before || pg_catalog.convert_to(
        pg_catalog.format('%s|%s|%s|%s|%s', number, cast(extract(epoch from at) * 1000000 as bigint), first, last,
                          acts), 'UTF8'))
$$;

create function chain_trail() returns trigger language plpgsql as $$
declare
    last record;
begin
    -- that of turns, which have it already: so that numbers are dense, and in the order of commit
    perform pg_catalog.pg_advisory_xact_lock(4711, 1);
    select t.number, t.hash into last from public.trail t order by t.number desc limit 1;
    if not found then
        select s.number, s.hash into last from public.trail_seal s order by s.number desc limit 1;
    end if;
    new.number := last.number + 1;
    new.at := pg_catalog.clock_timestamp();
    new.hash := public.trail_hash(last.hash, new.number, new.at, new.first_revision, new.revision, new.acts);
    return new;
end $$;

create function keep_trail() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    if tg_op = 'DELETE' then
        if exists (select from public.trail_seal s where s.number >= old.number) then
            return old;
        end if;
    end if;
    raise exception 'the trail is only ever appended to' using errcode = 'insufficient_privilege';
end $$;

create function keep_seal() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    if tg_op = 'INSERT' then
        if exists (select from public.trail t where t.number = new.number and t.hash = new.hash
                   and t.at < clock_timestamp() - interval '30 days') then
            return new;
        end if;
    elsif tg_op = 'DELETE' then
        if exists (select from public.trail_seal s where s.number > old.number) then
            return old;
        end if;
    end if;
    raise exception 'a seal is made of what is past its retention, and stays' using errcode = 'insufficient_privilege';
end $$;

create trigger trail_is_chained before insert on trail for each row execute function chain_trail();
create trigger trail_is_final before update or delete on trail for each row execute function keep_trail();
create trigger trail_is_whole before truncate on trail for each statement execute function keep_trail();
create trigger seal_is_true before insert or update or delete on trail_seal for each row execute function keep_seal();
create trigger seal_is_there before truncate on trail_seal for each statement execute function keep_seal();
alter table trail enable always trigger trail_is_final;
alter table trail enable always trigger trail_is_whole;
alter table trail_seal enable always trigger seal_is_true;
alter table trail_seal enable always trigger seal_is_there;
"""

TRIM = """
create function trim_trail(step integer) returns bigint
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    oldest_kept timestamptz;
    reached record;
begin
    perform pg_advisory_xact_lock(4711, 1);
    select clock_timestamp() - greatest(c.trail_kept, interval '30 days') into oldest_kept from public.control c;
    with oldest as (
        select t.number, t.hash, t.at from public.trail t order by t.number limit least(step, 100000)
    )
    select o.number, o.hash into reached from oldest o
    where o.number < coalesce((select min(y.number) from oldest y where y.at >= oldest_kept), o.number + 1)
    order by o.number desc limit 1;
    if not found then
        return null;
    end if;
    insert into public.trail_seal (number, revision, hash)
    select reached.number, max(r.revision), reached.hash
    from (select t.revision from public.trail t where t.number <= reached.number
          union all select s.revision from public.trail_seal s) r;
    delete from public.trail where number <= reached.number;
    delete from public.trail_seal where number < reached.number;
    return reached.number;
end $$;
"""

GRANTS = """
revoke execute on function trail_hash(bytea, bigint, timestamptz, bigint, bigint, json), chain_trail(), keep_trail(),
    keep_seal(), trim_trail(integer) from public;
grant execute on function trail_hash(bytea, bigint, timestamptz, bigint, bigint, json), trim_trail(integer) to
    im_server;
grant select, insert on trail to im_server;
grant select on trail_seal to im_server;
"""

ACTS = """
number: The row of the trail that holds it: dense, in the order of commit.
at: When that row was written, by the database's clock.
revision: The change that it made; null for what changed no instance.
act: ADD, UPDATE, OFFER, LINK, KILL, EXPIRE, or what an operator did.
who: By what name; empty while calls need no credentials.
token: The id of the token that was shown; null without one.
address: From where, as gRPC writes it; empty for a manager's own.
instance_id: Whom it was about; of a link the parent.
related_id: Of a link the child.
note: What was left with it.
victims: Of a death, how many died of it, the instance itself among them.
victims_digest: Of a death, SHA-256 of their ids (16 bytes each) in the order of their events.
before: The state before it, with names in place of numbers; of a death the root's.
after: The state after it.
"""

ACTS_QUERY = """
select t.number, t.at, cast(a.value ->> 'revision' as bigint), a.value ->> 'act', a.value ->> 'who',
       cast(a.value ->> 'token' as uuid), a.value ->> 'address', cast(a.value ->> 'instance' as uuid),
       cast(a.value ->> 'related' as uuid), a.value ->> 'note', cast(a.value ->> 'victims' as bigint),
       a.value ->> 'victims_digest', audit.state_named(cast(a.value ->> 'before' as jsonb)),
       audit.state_named(cast(a.value ->> 'after' as jsonb))
from trail t cross join lateral json_array_elements(t.acts) with ordinality a(value, place)
"""


def _run(script: str) -> None:
    """Each statement by itself; a function's body, between two `$$`, holds semicolons of its own."""
    for statement in re.findall(r"(?:\$\$.*?\$\$|[^;])+", script, re.S):
        if statement.strip():
            op.execute(statement)


def _view(name: str, meaning: str, columns: str, query: str) -> None:
    described = [line.partition(": ") for line in columns.strip().splitlines()]
    names = ", ".join(column for column, _, _ in described)
    op.execute(f"create view audit.{name} ({names}) with (security_barrier) as {query}")
    op.execute(f"comment on view audit.{name} is '{meaning}'")
    for column, _, words in described:
        quoted = words.replace("'", "''")
        op.execute(f"comment on column audit.{name}.{column} is '{quoted}'")
    op.execute(f"grant select on audit.{name} to im_auditor")


def upgrade() -> None:
    for script in (TABLES, HASH, TRIM, GRANTS):
        _run(script)
    _view("acts", "What was done to the fleet and by whom; kept for 400 days, and chained.", ACTS, ACTS_QUERY)


def downgrade() -> None:
    _run("""
    drop view audit.acts;
    drop function trim_trail(integer);
    drop table trail_seal;
    drop table trail;
    drop function keep_seal();
    drop function keep_trail();
    drop function chain_trail();
    drop function trail_hash(bytea, bigint, timestamptz, bigint, bigint, json);
    alter table control drop column trail_kept
    """)
