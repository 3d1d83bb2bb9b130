"""The first schema: the fleet, its history, its metrics, and who may touch them."""

import re

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
create table instance (
    id uuid not null,
    type smallint not null,
    hostname text not null,
    labels jsonb not null,
    timeout interval not null,
    digest bytea not null,
    created_at timestamptz not null,
    created_revision bigint not null,
    updated_revision bigint not null,
    died_at timestamptz,
    died_revision bigint,
    death_cause smallint,
    root_cause uuid,
    constraint instance_pkey primary key (id),
    constraint instance_type_known check (type between 1 and 6),
    constraint instance_hostname_length check (char_length(hostname) <= 253),
    constraint instance_labels_object check (jsonb_typeof(labels) = 'object'),
    constraint instance_timeout_range check (timeout between interval '1 second' and interval '1 day'),
    constraint instance_digest_length check (octet_length(digest) = 32),
    constraint instance_updated_after_created check (updated_revision >= created_revision and created_revision > 0),
    constraint instance_death_cause_known check (death_cause between 1 and 3),
    constraint instance_dead_wholly check (num_nulls(died_at, died_revision, death_cause, root_cause) in (0, 4)),
    constraint instance_own_death check ((root_cause = id) = (death_cause <> 3))
);
create index instance_living on instance (id) where died_revision is null;
create index instance_living_type on instance (type, id) where died_revision is null;
create index instance_living_hostname on instance (hostname, id) where died_revision is null;
create index instance_living_labels on instance using gin (labels jsonb_path_ops) where died_revision is null;
create index instance_dead on instance (died_at) where died_revision is not null;

create table instance_version (
    instance_id uuid not null,
    from_revision bigint not null,
    to_revision bigint not null,
    type smallint not null,
    hostname text not null,
    labels jsonb not null,
    timeout interval not null,
    constraint instance_version_pkey primary key (instance_id, from_revision),
    constraint instance_version_instance foreign key (instance_id) references instance (id) on delete cascade,
    constraint instance_version_order check (from_revision < to_revision)
);

create table parent_link (
    child_id uuid not null,
    parent_id uuid not null,
    revision bigint not null,
    ended_revision bigint,
    constraint parent_link_pkey primary key (child_id),
    constraint parent_link_child foreign key (child_id) references instance (id) on delete cascade,
    constraint parent_link_parent foreign key (parent_id) references instance (id) on delete cascade,
    constraint parent_link_not_itself check (child_id <> parent_id),
    constraint parent_link_order check (ended_revision >= revision)
);
create index parent_link_children on parent_link (parent_id, ended_revision);

create table service (
    instance_id uuid not null,
    ordinal smallint not null,
    type smallint not null,
    host text not null,
    port integer not null,
    path text not null default '',
    revision bigint not null,
    constraint service_pkey primary key (instance_id, ordinal),
    constraint service_instance foreign key (instance_id) references instance (id) on delete cascade,
    constraint service_ordinal_range check (ordinal between 0 and 31),
    constraint service_type_known check (type between 1 and 2),
    constraint service_host_length check (char_length(host) between 1 and 253),
    constraint service_port_range check (port between 1 and 65535),
    constraint service_path_length check (char_length(path) <= 1024)
);
create unique index service_once on service (instance_id, type, port, md5(host || chr(10) || path));

create table heartbeat (
    instance_id uuid not null,
    timeout interval not null,
    last_seen timestamptz not null,
    told_stale boolean not null default false,
    constraint heartbeat_pkey primary key (instance_id)
) with (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0
);

create table event (
    revision bigint not null,
    ordinal integer not null,
    type smallint not null,
    instance_id uuid not null,
    related_id uuid,
    service jsonb,
    before jsonb,
    after jsonb,
    cause smallint,
    root_cause uuid,
    actor text not null,
    note text not null default '',
    xid bigint not null default pg_current_xact_id()::text::bigint,
    nonce integer not null,
    at timestamptz not null,
    constraint event_pkey primary key (revision, ordinal),
    constraint event_type_known check (type between 1 and 8),
    constraint event_cause_known check (cause between 1 and 3),
    constraint event_order check (revision > 0 and ordinal >= 0),
    constraint event_removed_has_cause check ((type = 2) = (cause is not null and root_cause is not null))
);

create table history_epoch (
    number integer not null,
    epoch uuid not null default gen_random_uuid(),
    system_identifier bigint not null,
    timeline integer not null,
    database_oid bigint not null,
    event_oid bigint not null,
    base_revision bigint not null,
    opened_at timestamptz not null default clock_timestamp(),
    reason text not null,
    constraint history_epoch_pkey primary key (number),
    constraint history_epoch_once unique (epoch)
);

create table control (
    one boolean not null default true,
    ticked_at timestamptz not null,
    grace_from timestamptz,
    grace_until timestamptz,
    grace_spent interval not null default interval '0',
    rate_tokens double precision not null default 0,
    compacted_revision bigint not null default 0,
    compacted_ordinal integer not null default 0,
    compacted_nonce integer not null default 0,
    metrics_kept interval not null default interval '30 days',
    history_kept interval not null default interval '7 days',
    tombstones_kept interval not null default interval '30 days',
    serves_from text not null,
    constraint control_pkey primary key (one),
    constraint control_one_row check (one),
    constraint control_grace_wholly check (num_nulls(grace_from, grace_until) in (0, 2)),
    constraint control_metrics_kept_range check (metrics_kept >= interval '1 day'),
    constraint control_history_kept_range check (history_kept >= interval '1 second'),
    constraint control_tombstones_outlive_history check (tombstones_kept >= history_kept)
);
insert into control (ticked_at, serves_from) values (clock_timestamp(), '0.1.0');

create table reaper_group (
    type smallint not null,
    hostname text not null,
    state smallint not null,
    since timestamptz not null,
    constraint reaper_group_pkey primary key (type, hostname),
    constraint reaper_group_state_known check (state between 0 and 2)
);

create table host_stats (
    hostname text not null,
    at timestamptz not null,
    measured_at timestamptz not null,
    used_memory_bytes bigint not null,
    total_memory_bytes bigint not null,
    constraint host_stats_pkey primary key (hostname),
    constraint host_stats_hostname_length check (char_length(hostname) between 1 and 253)
);
"""

SAMPLES = {
    "system_metrics": "used_memory_bytes bigint not null, total_memory_bytes bigint not null",
    "proxy_metrics": "active_connections bigint not null, total_connections bigint not null,"
    " bytes_sent bigint not null, bytes_received bigint not null",
    "gpu_metrics": "gpu_index smallint not null, used_memory_bytes bigint not null,"
    " total_memory_bytes bigint not null, utilization_percent double precision not null",
    "llm_metrics": "request_count bigint not null, tokens_received bigint not null, tokens_sent bigint not null",
}

METRICS = """
create table {name} (
    at timestamptz not null, instance_id uuid not null, measured_at timestamptz not null, {values}
) partition by range (at);
create index {name}_of on {name} (instance_id, at);
create table latest_{name} (
    at timestamptz not null, instance_id uuid not null, measured_at timestamptz not null, {values},
    constraint latest_{name}_pkey primary key ({key})
) with (fillfactor = 70);
"""

# The only definition of liveness: stale when `now` is past both. It is the database's clock, asked once a statement;
# a stored last_seen may be a tenth of the timeout too old, hence 1.1.
LEASE = """
create view lease as
select h.instance_id, h.timeout, h.last_seen, h.told_stale, c.now, t.due_at, t.forgiven_until,
       c.now > greatest(t.due_at, t.forgiven_until) as stale
from heartbeat h
cross join (select clock_timestamp() as now, grace_from, grace_until from control) c
cross join lateral (
    select h.last_seen + 1.1 * h.timeout as due_at,
           case when h.last_seen + h.timeout >= c.grace_from then c.grace_until end as forgiven_until
) t;
"""

NAMES = """
create function instance_type_name(smallint) returns text language sql immutable parallel safe return
    (array['CHROME_BROWSER', 'WARMPOOL_CHROME_BROWSER', 'WARMPOOL_PROXY', 'INSTANCE_MANAGER', 'VLLM',
           'BROWSER_BACKEND'])[$1];
create function service_type_name(smallint) returns text language sql immutable parallel safe return
    (array['CHROME_DEBUG_PORT', 'VLLM_OPENAI_COMPATIBLE'])[$1];
create function event_type_name(smallint) returns text language sql immutable parallel safe return
    (array['ADDED', 'REMOVED', 'CHILD_ADDED', 'PARENT_ADDED', 'SERVICE_ADDED', 'STALE', 'RECOVERED', 'UPDATED'])[$1];
create function cause_name(smallint) returns text language sql immutable parallel safe return
    (array['KILLED', 'EXPIRED', 'PARENT_DIED'])[$1];
"""

# An instance with its parent and services, dead or alive; and what an event keeps of it, the same object as
# manager/repository/state.py writes.
STATE = """
create view instance_whole as
select i.id, i.type, i.hostname, i.labels, i.timeout, i.digest, i.created_at, i.created_revision, i.updated_revision,
       i.died_at, i.died_revision, i.death_cause, i.root_cause,
       (select p.parent_id from parent_link p where p.child_id = i.id) as parent_id,
       (select jsonb_agg(jsonb_build_object('type', s.type, 'host', s.host, 'port', s.port, 'path', s.path)
                         order by s.ordinal)
        from service s where s.instance_id = i.id) as services
from instance i;

create view instance_state as
select w.id, jsonb_build_object(
    'type', w.type, 'hostname', w.hostname, 'labels', w.labels,
    'timeout_ms', (extract(epoch from w.timeout) * 1000)::bigint,
    'created_at_ms', floor(extract(epoch from w.created_at) * 1000)::bigint,
    'created_revision', w.created_revision, 'updated_revision', w.updated_revision,
    'parent', w.parent_id, 'services', coalesce(w.services, '[]')
) as state
from instance_whole w;
"""

# Which history of the database this is: a promotion changes the timeline, a restored dump the oids.
# The one place to change for an engine without timelines.
HERE = """
create view history_here as
select (select s.system_identifier from pg_control_system() s) as system_identifier,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer as timeline,
       (select d.oid::bigint from pg_database d where d.datname = current_database()) as database_oid,
       'event'::regclass::oid::bigint as event_oid;
"""

VIEWS = """
create view live_instance as
select i.id, instance_type_name(i.type) as type, i.hostname, i.labels, i.timeout, i.created_at, i.created_revision,
       i.updated_revision, p.parent_id, l.last_seen, greatest(l.due_at, l.forgiven_until) as stale_at
from instance i
left join lease l on l.instance_id = i.id
left join parent_link p on p.child_id = i.id and p.ended_revision is null
where i.died_revision is null and not coalesce(l.stale, false);

create view instance_tree as
with recursive tree as (
    select i.id, null::uuid as parent_id, i.id as root_id, 0 as depth, array[i.id] as path
    from instance i
    where i.died_revision is null
      and not exists (select from parent_link p where p.child_id = i.id and p.ended_revision is null)
    union all
    select p.child_id, p.parent_id, t.root_id, t.depth + 1, t.path || p.child_id
    from tree t join parent_link p on p.parent_id = t.id and p.ended_revision is null
)
select t.id, instance_type_name(i.type) as type, i.hostname, t.parent_id, t.root_id, t.depth, t.path,
       case when l.stale then 'STALE' else 'HEALTHY' end as status
from tree t join instance i on i.id = t.id left join lease l on l.instance_id = t.id;

create view service_endpoint as
select s.instance_id, instance_type_name(i.type) as instance_type, i.hostname,
       service_type_name(s.type) as service_type, s.host, s.port, s.path, s.revision
from service s join instance i on i.id = s.instance_id
left join lease l on l.instance_id = i.id
where i.died_revision is null and not coalesce(l.stale, false);

create view event_log as
select e.revision, e.ordinal, e.at, event_type_name(e.type) as type, e.instance_id, e.related_id, e.service,
       cause_name(e.cause) as cause, e.root_cause, e.actor, e.note, e.before, e.after
from event e;

create view graveyard as
select i.id, instance_type_name(i.type) as type, i.hostname, i.labels, i.created_at, i.died_at, i.died_revision,
       cause_name(i.death_cause) as cause, i.root_cause
from instance i where i.died_revision is not null;
"""

# Partitions are made beside their parent and then attached, which blocks no reader and no writer of the parent, as
# `create table ... partition of` would. They hold one UTC day each.
UPKEEP = """
create function prepare_metrics(days integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp set lock_timeout = '200ms' as $$
declare
    parent text;
    day date;
    name text;
    made integer := 0;
begin
    if not pg_try_advisory_xact_lock(4711, 3) then
        return 0;
    end if;
    foreach parent in array array['system_metrics', 'proxy_metrics', 'gpu_metrics', 'llm_metrics'] loop
        for i in -1 .. least(days, 60) loop
            day := (clock_timestamp() at time zone 'UTC')::date + i;
            name := parent || to_char(day, '_YYYYMMDD');
            if to_regclass('public.' || name) is null then
                execute format('create table public.%I (like public.%I including all)', name, parent);
                execute format('alter table public.%I attach partition public.%I for values from (%L) to (%L)',
                    parent, name, day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end $$;

create function drop_old_metrics() returns text
language plpgsql security definer set search_path = pg_catalog, public, pg_temp set lock_timeout = '200ms' as $$
declare
    oldest text;
begin
    if not pg_try_advisory_xact_lock(4711, 3) then
        return null;
    end if;
    select c.relname into oldest
    from pg_inherits h join pg_class c on c.oid = h.inhrelid join pg_class p on p.oid = h.inhparent
    join pg_namespace n on n.oid = p.relnamespace
    where n.nspname = 'public'
      and p.relname in ('system_metrics', 'proxy_metrics', 'gpu_metrics', 'llm_metrics')
      and to_date(right(c.relname, 8), 'YYYYMMDD') + 1
          <= (clock_timestamp() - (select metrics_kept from public.control)) at time zone 'UTC'
    order by right(c.relname, 8), c.relname limit 1;
    if oldest is not null then
        execute format('drop table public.%I', oldest);
    end if;
    return oldest;
end $$;
"""

# First the cut is made known, in a turn of its own; then what lies before it is deleted, a little at a time and in
# nobody's way. Whoever reads the history sees the cut and the events in one snapshot, and so is never shown a hole.
TRIM = """
create function compact_history(events integer) returns bigint
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    oldest_kept timestamptz;
    reached bigint;
begin
    perform pg_advisory_xact_lock(4711, 1);
    select clock_timestamp() - history_kept into oldest_kept from public.control;
    with oldest as (
        select e.revision, e.ordinal, e.nonce, e.at from public.event e
        where e.revision > (select c.compacted_revision from public.control c)
        order by e.revision, e.ordinal limit least(events, 100000)
    ), past as (
        select o.* from oldest o
        where o.revision < coalesce((select min(y.revision) from oldest y where y.at >= oldest_kept), o.revision + 1)
        order by o.revision desc, o.ordinal desc limit 1
    )
    update public.control set compacted_revision = p.revision, compacted_nonce = p.nonce,
        compacted_ordinal = (select max(e.ordinal) from public.event e where e.revision = p.revision)
    from past p returning compacted_revision into reached;
    return reached;
end $$;

create function delete_compacted(events integer) returns integer
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

create function bury_dead(instances integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    compacted bigint;
    oldest_kept timestamptz;
    buried integer;
begin
    select c.compacted_revision, clock_timestamp() - c.tombstones_kept into compacted, oldest_kept
    from public.control c;
    delete from public.instance where id = any(array(
        select i.id from public.instance i
        where i.died_revision is not null and i.died_at < oldest_kept and i.died_revision <= compacted
        order by i.died_at limit instances for update skip locked));
    get diagnostics buried = row_count;
    return buried;
end $$;
"""

# The server reads and writes rows, and nothing else: no DDL, and what is history it can only add to.
GRANTS = """
revoke execute on function prepare_metrics(integer) from public;
revoke execute on function drop_old_metrics() from public;
grant execute on function prepare_metrics(integer) to im_server;
grant execute on function drop_old_metrics() to im_server;
revoke execute on function compact_history(integer), delete_compacted(integer), bury_dead(integer) from public;
grant execute on function compact_history(integer), delete_compacted(integer), bury_dead(integer) to im_server;
grant select on all tables in schema public to im_server;
grant insert, update on instance, parent_link to im_server;
grant insert on instance_version, service, event, history_epoch to im_server;
grant insert, update, delete on heartbeat, reaper_group, host_stats to im_server;
grant update on control to im_server;
grant insert on system_metrics, proxy_metrics, gpu_metrics, llm_metrics to im_server;
grant insert, update, delete on latest_system_metrics, latest_proxy_metrics, latest_gpu_metrics, latest_llm_metrics
    to im_server;
"""


def _run(script: str) -> None:
    """Each statement by itself; a function's body, between two `$$`, holds semicolons of its own."""
    for statement in re.findall(r"(?:\$\$.*?\$\$|[^;])+", script, re.S):
        if statement.strip():
            op.execute(statement)


def upgrade() -> None:
    _run(TABLES)
    for name, values in SAMPLES.items():
        key = "instance_id, gpu_index" if name == "gpu_metrics" else "instance_id"
        _run(METRICS.format(name=name, values=values, key=key))
    for script in (LEASE, NAMES, STATE, HERE, VIEWS, UPKEEP, TRIM, GRANTS):
        _run(script)
    _run("select prepare_metrics(7)")


def downgrade() -> None:
    _run("""
    drop function compact_history(integer), delete_compacted(integer), bury_dead(integer);
    drop function drop_old_metrics();
    drop function prepare_metrics(integer);
    drop view graveyard, event_log, service_endpoint, instance_tree, live_instance, history_here, instance_state,
        instance_whole, lease;
    drop function cause_name(smallint);
    drop function event_type_name(smallint);
    drop function service_type_name(smallint);
    drop function instance_type_name(smallint);
    drop table latest_llm_metrics, latest_gpu_metrics, latest_proxy_metrics, latest_system_metrics;
    drop table llm_metrics, gpu_metrics, proxy_metrics, system_metrics;
    drop table host_stats, reaper_group, control, history_epoch, event, heartbeat, service, parent_link,
        instance_version, instance;
    revoke select on alembic_version from im_server
    """)
