"""Metrics by the minute and by the hour: kept for longer than the samples, and added up over a subtree."""

import re

from alembic import op

from manager.repository import concurrently

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Of each field the highest value, as of the samples of a bucket; of what may be added up, the sum; of what only grows,
# by how much it grew since the sample before, counted anew after a new start. Sums of many posted values are more than
# a bigint holds.
MEMORY = "used_memory_bytes bigint not null, total_memory_bytes bigint not null"
COLUMNS = {
    "system_metrics": f"{MEMORY}, used_memory_sum numeric not null",
    "proxy_metrics": "active_connections bigint not null, total_connections bigint not null,"
    " bytes_sent bigint not null, bytes_received bigint not null, active_sum numeric not null,"
    " connections_grown numeric not null, sent_grown numeric not null, received_grown numeric not null",
    "gpu_metrics": f"{MEMORY}, utilization_percent double precision not null, used_memory_sum numeric not null,"
    " utilization_sum double precision not null",
    "llm_metrics": "request_count bigint not null, tokens_received bigint not null, tokens_sent bigint not null,"
    " requests_grown numeric not null, received_grown numeric not null, sent_grown numeric not null",
}
LEVELS = ("minutes", "hours")

# Samples arrive in the order of `at`, so that the smallest of all indexes finds the last few minutes.
SAMPLES = "using brin (at) with (pages_per_range = 32, autosummarize = on)"
LEVEL = """
create table {name}_{level} (
    at timestamptz not null, instance_id uuid not null, {gpu} samples bigint not null, last_at timestamptz not null,
    {columns}, constraint {name}_{level}_pkey primary key ({key})
) partition by range (at);
create index {name}_{level}_at on {name}_{level} using brin (at) with (pages_per_range = 32, autosummarize = on);
insert into metrics_rollup (name) values ('{name}_{level}');
"""

TABLES = """
create table metrics_rollup (
    name text not null,
    done_until timestamptz,
    constraint metrics_rollup_pkey primary key (name)
);
alter table control
    add column minutes_kept interval not null default interval '90 days',
    add column hours_kept interval not null default interval '400 days';
"""

ORIGIN = "timestamptz '2000-01-01 00:00+00'"

# What the samples of some minutes come to, one row a minute and instance (or GPU). Also the newest minutes, which
# nobody has stored yet, are read by these.
ROLLED = """
create function system_metrics_rolled(timestamptz, timestamptz) returns setof system_metrics_minutes
language sql stable parallel safe as $$
    select date_bin('1 minute', m.at, {origin}), m.instance_id, count(*), max(m.at), max(m.used_memory_bytes),
           max(m.total_memory_bytes), sum(m.used_memory_bytes)
    from system_metrics m where m.at >= $1 and m.at < $2 group by 1, 2
$$;

create function gpu_metrics_rolled(timestamptz, timestamptz) returns setof gpu_metrics_minutes
language sql stable parallel safe as $$
    select date_bin('1 minute', m.at, {origin}), m.instance_id, m.gpu_index, count(*), max(m.at),
           max(m.used_memory_bytes), max(m.total_memory_bytes), max(m.utilization_percent), sum(m.used_memory_bytes),
           sum(m.utilization_percent)
    from gpu_metrics m where m.at >= $1 and m.at < $2 group by 1, 2, 3
$$;

create function proxy_metrics_rolled(timestamptz, timestamptz) returns setof proxy_metrics_minutes
language sql stable parallel safe as $$
    with sample as (
        select m.at, m.instance_id, m.active_connections, m.total_connections, m.bytes_sent, m.bytes_received,
               lag(m.at) over one as before, lag(m.total_connections) over one as c, lag(m.bytes_sent) over one as s,
               lag(m.bytes_received) over one as r
        from proxy_metrics m where m.at >= $1 and m.at < $2
        window one as (partition by m.instance_id order by m.at)
    )
    select date_bin('1 minute', g.at, {origin}), g.instance_id, count(*), max(g.at), max(g.active_connections),
           max(g.total_connections), max(g.bytes_sent), max(g.bytes_received), sum(g.active_connections),
           sum(g.total_connections - case when b.c <= g.total_connections then b.c else 0 end),
           sum(g.bytes_sent - case when b.s <= g.bytes_sent then b.s else 0 end),
           sum(g.bytes_received - case when b.r <= g.bytes_received then b.r else 0 end)
    from sample g left join lateral (
        select g.c, g.s, g.r where g.before is not null
        union all
        (select p.total_connections, p.bytes_sent, p.bytes_received from proxy_metrics p
         where g.before is null and p.instance_id = g.instance_id and p.at < $1 order by p.at desc limit 1)
    ) b on true
    group by 1, 2
$$;

create function llm_metrics_rolled(timestamptz, timestamptz) returns setof llm_metrics_minutes
language sql stable parallel safe as $$
    with sample as (
        select m.at, m.instance_id, m.request_count, m.tokens_received, m.tokens_sent, lag(m.at) over one as before,
               lag(m.request_count) over one as c, lag(m.tokens_received) over one as r,
               lag(m.tokens_sent) over one as s
        from llm_metrics m where m.at >= $1 and m.at < $2
        window one as (partition by m.instance_id order by m.at)
    )
    select date_bin('1 minute', g.at, {origin}), g.instance_id, count(*), max(g.at), max(g.request_count),
           max(g.tokens_received), max(g.tokens_sent),
           sum(g.request_count - case when b.c <= g.request_count then b.c else 0 end),
           sum(g.tokens_received - case when b.r <= g.tokens_received then b.r else 0 end),
           sum(g.tokens_sent - case when b.s <= g.tokens_sent then b.s else 0 end)
    from sample g left join lateral (
        select g.c, g.r, g.s where g.before is not null
        union all
        (select p.request_count, p.tokens_received, p.tokens_sent from llm_metrics p
         where g.before is null and p.instance_id = g.instance_id and p.at < $1 order by p.at desc limit 1)
    ) b on true
    group by 1, 2
$$;

create function system_metrics_hourly(timestamptz, timestamptz) returns setof system_metrics_hours
language sql stable parallel safe as $$
    select date_bin('1 hour', m.at, {origin}), m.instance_id, cast(sum(m.samples) as bigint), max(m.last_at),
           max(m.used_memory_bytes), max(m.total_memory_bytes), sum(m.used_memory_sum)
    from system_metrics_minutes m where m.at >= $1 and m.at < $2 group by 1, 2
$$;

create function gpu_metrics_hourly(timestamptz, timestamptz) returns setof gpu_metrics_hours
language sql stable parallel safe as $$
    select date_bin('1 hour', m.at, {origin}), m.instance_id, m.gpu_index, cast(sum(m.samples) as bigint),
           max(m.last_at), max(m.used_memory_bytes), max(m.total_memory_bytes), max(m.utilization_percent),
           sum(m.used_memory_sum), sum(m.utilization_sum)
    from gpu_metrics_minutes m where m.at >= $1 and m.at < $2 group by 1, 2, 3
$$;

create function proxy_metrics_hourly(timestamptz, timestamptz) returns setof proxy_metrics_hours
language sql stable parallel safe as $$
    select date_bin('1 hour', m.at, {origin}), m.instance_id, cast(sum(m.samples) as bigint), max(m.last_at),
           max(m.active_connections), max(m.total_connections), max(m.bytes_sent), max(m.bytes_received),
           sum(m.active_sum), sum(m.connections_grown), sum(m.sent_grown), sum(m.received_grown)
    from proxy_metrics_minutes m where m.at >= $1 and m.at < $2 group by 1, 2
$$;

create function llm_metrics_hourly(timestamptz, timestamptz) returns setof llm_metrics_hours
language sql stable parallel safe as $$
    select date_bin('1 hour', m.at, {origin}), m.instance_id, cast(sum(m.samples) as bigint), max(m.last_at),
           max(m.request_count), max(m.tokens_received), max(m.tokens_sent), sum(m.requests_grown),
           sum(m.received_grown), sum(m.sent_grown)
    from llm_metrics_minutes m where m.at >= $1 and m.at < $2 group by 1, 2
$$;
"""

# From which table each part of a range is read: hours from its beginning to `hours_until` (none, where less than whole
# hours are asked for), minutes from there to `minutes_until`, and from there on the samples themselves: what nobody
# has rolled up yet, or the part of a minute that the range ends in.
SPAN = """
create function rolled_span(kind text, unit interval, since timestamptz, until timestamptz) returns table (
    since timestamptz, hours_until timestamptz, minutes_until timestamptz, until timestamptz
) language sql stable parallel safe as $$
    with done as (
        select extract(epoch from $2)::bigint % 3600 = 0 as hourly,
               coalesce((select r.done_until from metrics_rollup r where r.name = $1 || '_minutes'), '-infinity')
                   as minutes,
               coalesce((select r.done_until from metrics_rollup r where r.name = $1 || '_hours'), '-infinity') as hours
    ), begun as (
        select d.*, date_bin(case when d.hourly then interval '1 hour' else interval '1 minute' end, $3, {origin})
                        as since
        from done d
    ), minutes as (
        select b.*, greatest(b.since, least(date_bin('1 minute', $4, {origin}), b.minutes)) as minutes_until
        from begun b
    )
    select m.since,
           case when m.hourly then greatest(m.since, least(date_bin('1 hour', m.minutes_until, {origin}), m.hours))
                else m.since end,
           m.minutes_until, $4
    from minutes m
$$;
"""

USAGE = """
create function {name}_usage(uuid[], interval, timestamptz, timestamptz) returns table (
    at timestamptz, instances bigint, {returns}
) language sql stable parallel safe as $$
    with span as materialized (select * from rolled_span('{name}', $2, $3, $4)), piece as (
        select p.* from span s cross join lateral (
            select {columns} from {name}_hours h
            where h.instance_id = any($1) and h.at >= s.since and h.at < s.hours_until) p
        union all
        select p.* from span s cross join lateral (
            select {columns} from {name}_minutes h
            where h.instance_id = any($1) and h.at >= s.hours_until and h.at < s.minutes_until) p
        union all
        select p.* from span s cross join lateral (
            select {columns} from {name}_rolled(s.minutes_until, s.until) h where h.instance_id = any($1)) p
    ), each as (
        select date_bin($2, p.at, {origin}) as at, p.instance_id, {means} from piece p group by {keys}
    )
    select e.at, count(distinct e.instance_id), {sums} from each e group by e.at order by e.at
$$;
"""

# The mean of each while, added up over the instances: what they used together. What grew is added up as it is.
USAGES: dict[str, dict[str, str]] = {
    "system_metrics": {
        "returns": "used_memory_bytes numeric, total_memory_bytes numeric",
        "columns": "h.at, h.instance_id, h.samples, h.used_memory_sum, h.total_memory_bytes",
        "means": "sum(p.used_memory_sum) / sum(p.samples) as used, max(p.total_memory_bytes) as total",
        "keys": "1, 2",
        "sums": "round(sum(e.used)), sum(e.total)",
    },
    "proxy_metrics": {
        "returns": "active_connections numeric, connections numeric, bytes_sent numeric, bytes_received numeric",
        "columns": "h.at, h.instance_id, h.samples, h.active_sum, h.connections_grown, h.sent_grown, h.received_grown",
        "means": "sum(p.active_sum) / sum(p.samples) as active, sum(p.connections_grown) as connections,"
        " sum(p.sent_grown) as sent, sum(p.received_grown) as received",
        "keys": "1, 2",
        "sums": "round(sum(e.active)), sum(e.connections), sum(e.sent), sum(e.received)",
    },
    "gpu_metrics": {
        "returns": "gpus bigint, used_memory_bytes numeric, total_memory_bytes numeric,"
        " utilization_percent double precision",
        "columns": "h.at, h.instance_id, h.gpu_index, h.samples, h.used_memory_sum, h.total_memory_bytes,"
        " h.utilization_sum",
        "means": "p.gpu_index, sum(p.used_memory_sum) / sum(p.samples) as used, max(p.total_memory_bytes) as total,"
        " sum(p.utilization_sum) / cast(sum(p.samples) as double precision) as utilization",
        "keys": "1, 2, 3",
        "sums": "count(*), round(sum(e.used)), sum(e.total), avg(e.utilization)",
    },
    "llm_metrics": {
        "returns": "requests numeric, tokens_received numeric, tokens_sent numeric",
        "columns": "h.at, h.instance_id, h.requests_grown, h.received_grown, h.sent_grown",
        "means": "sum(p.requests_grown) as requests, sum(p.received_grown) as received, sum(p.sent_grown) as sent",
        "keys": "1, 2",
        "sums": "sum(e.requests), sum(e.received), sum(e.sent)",
    },
}

# An instance and all that were ever below it.
BELOW = """
create function ever_below(uuid) returns uuid[] language sql stable parallel safe as $$
    with recursive down as (
        select $1 as id
        union
        select c.child_id from down d cross join lateral (
            select l.child_id from parent_link l where l.parent_id = d.id offset 0) c
    )
    select array_agg(d.id) from down d
$$;
"""

# A partition holds one UTC day of samples, a week of minutes, four weeks of hours; its name ends in its first day.
# Those of minutes and hours reach as far back as the samples do, since those may be still to be rolled up.
UPKEEP = """
create or replace function prepare_metrics(days integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp set lock_timeout = '200ms' as $$
declare
    kind text;
    parent text;
    span integer;
    today date := (clock_timestamp() at time zone 'UTC')::date;
    first date;
    day date;
    name text;
    made integer := 0;
begin
    if not pg_try_advisory_xact_lock(4711, 3) then
        return 0;
    end if;
    foreach kind in array array['system_metrics', 'proxy_metrics', 'gpu_metrics', 'llm_metrics'] loop
        for parent, span in values (kind, 1), (kind || '_minutes', 7), (kind || '_hours', 28) loop
            first := today - 1;
            if span > 1 then
                select least(first, min(to_date(right(c.relname, 8), 'YYYYMMDD'))) into first
                from pg_inherits h join pg_class c on c.oid = h.inhrelid
                where h.inhparent = to_regclass('public.' || kind);
            end if;
            day := first - (first - date '2000-01-03') % span;
            while day <= today + least(days, 60) loop
                name := parent || to_char(day, '_YYYYMMDD');
                if to_regclass('public.' || name) is null then
                    execute format('create table public.%I (like public.%I including all)', name, parent);
                    execute format('alter table public.%I attach partition public.%I for values from (%L) to (%L)',
                        parent, name, day::timestamp at time zone 'UTC', (day + span)::timestamp at time zone 'UTC');
                    made := made + 1;
                end if;
                day := day + span;
            end loop;
        end loop;
    end loop;
    return made;
end $$;

create or replace function drop_old_metrics() returns text
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
    cross join public.control k
    cross join lateral (
        select 7 as span, greatest(k.metrics_kept, k.minutes_kept) as kept where p.relname like '%\\_metrics\\_minutes'
        union all
        select 28, greatest(k.metrics_kept, k.minutes_kept, k.hours_kept) where p.relname like '%\\_metrics\\_hours'
        union all
        select 1, k.metrics_kept where p.relname in ('system_metrics', 'proxy_metrics', 'gpu_metrics', 'llm_metrics')
    ) l
    where n.nspname = 'public' and c.relkind = 'r'
      and to_date(right(c.relname, 8), 'YYYYMMDD') + l.span <= (clock_timestamp() - l.kept) at time zone 'UTC'
    order by right(c.relname, 8), c.relname limit 1;
    if oldest is not null then
        execute format('drop table public.%I', oldest);
    end if;
    return oldest;
end $$;
"""

UPKEEP_BEFORE = """
create or replace function prepare_metrics(days integer) returns integer
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

create or replace function drop_old_metrics() returns text
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

GRANTS = """
revoke execute on function rolled_span(text, interval, timestamptz, timestamptz), ever_below(uuid) from public;
grant execute on function rolled_span(text, interval, timestamptz, timestamptz), ever_below(uuid) to im_server;
grant select, update on metrics_rollup to im_server;
"""
GRANTED = """
grant select, insert, update on {name}_minutes, {name}_hours to im_server;
revoke execute on function {name}_rolled(timestamptz, timestamptz), {name}_hourly(timestamptz, timestamptz),
    {name}_usage(uuid[], interval, timestamptz, timestamptz) from public;
grant execute on function {name}_rolled(timestamptz, timestamptz), {name}_hourly(timestamptz, timestamptz),
    {name}_usage(uuid[], interval, timestamptz, timestamptz) to im_server;
"""

# As in 0004: what people see, with what each column is. The same columns for minutes and hours.
VIEWS: list[tuple[str, str, str, str]] = [
    (
        "system",
        "Memory of each instance, a row for each {unit} in which samples arrived, as rolled up by the managers.",
        """
        starts_at: When the {unit} begins.
        instance_id: Who posted.
        samples: How many arrived meanwhile.
        average_used_memory_bytes: Their mean.
        highest_used_memory_bytes: The highest of them.
        total_memory_bytes: Memory that there was, at most.
        """,
        """
        select m.at as starts_at, m.instance_id, m.samples,
               cast(round(m.used_memory_sum / m.samples) as bigint) as average_used_memory_bytes,
               m.used_memory_bytes as highest_used_memory_bytes, m.total_memory_bytes
        """,
    ),
    (
        "proxy",
        "Traffic of each proxy, a row for each {unit} in which samples arrived, as rolled up by the managers.",
        """
        starts_at: When the {unit} begins.
        instance_id: Who posted.
        samples: How many arrived meanwhile.
        average_active_connections: Their mean.
        highest_active_connections: The highest of them.
        connections: Opened meanwhile: what the total grew by, counted anew after the proxy began anew.
        bytes_sent: Sent meanwhile, likewise.
        bytes_received: Received meanwhile, likewise.
        """,
        """
        select m.at as starts_at, m.instance_id, m.samples,
               round(m.active_sum / m.samples, 2) as average_active_connections,
               m.active_connections as highest_active_connections, m.connections_grown as connections,
               m.sent_grown as bytes_sent, m.received_grown as bytes_received
        """,
    ),
    (
        "gpu",
        "Each GPU of each instance, a row for each {unit} in which samples arrived, as rolled up by the managers.",
        """
        starts_at: When the {unit} begins.
        instance_id: Who posted.
        gpu_index: Which of its GPUs.
        samples: How many arrived meanwhile.
        average_used_memory_bytes: Their mean.
        highest_used_memory_bytes: The highest of them.
        total_memory_bytes: Memory that there was, at most.
        average_utilization_percent: Their mean.
        highest_utilization_percent: The highest of them.
        """,
        """
        select m.at as starts_at, m.instance_id, m.gpu_index, m.samples,
               cast(round(m.used_memory_sum / m.samples) as bigint) as average_used_memory_bytes,
               m.used_memory_bytes as highest_used_memory_bytes, m.total_memory_bytes,
               m.utilization_sum / m.samples as average_utilization_percent,
               m.utilization_percent as highest_utilization_percent
        """,
    ),
    (
        "llm",
        "Requests and tokens of each model server, a row for each {unit} in which samples arrived, as rolled up by the"
        " managers.",
        """
        starts_at: When the {unit} begins.
        instance_id: Who posted.
        samples: How many arrived meanwhile.
        requests: Meanwhile: what the total grew by, counted anew after the server began anew.
        tokens_received: Meanwhile, likewise.
        tokens_sent: Meanwhile, likewise.
        """,
        """
        select m.at as starts_at, m.instance_id, m.samples, m.requests_grown as requests,
               m.received_grown as tokens_received, m.sent_grown as tokens_sent
        """,
    ),
]

SUBTREE_INTERVAL = """
starts_at timestamptz: When the while begins; it is as long as was asked for.
instances bigint: How many of the subtree posted anything meanwhile.
used_memory_bytes numeric: The means of its instances, added up; null where none posts it. So are the others in use.
total_memory_bytes numeric: Memory that there was.
gpus bigint: How many GPUs there were.
gpu_used_memory_bytes numeric: Of all GPUs.
gpu_total_memory_bytes numeric: Of all GPUs.
gpu_utilization_percent double precision: The mean of all GPUs.
active_connections numeric: Of the proxies.
connections numeric: Opened meanwhile by the proxies.
bytes_sent numeric: Meanwhile, by the proxies.
bytes_received numeric: Meanwhile, by the proxies.
requests numeric: Meanwhile, to the model servers.
tokens_received numeric: Meanwhile, by the model servers.
tokens_sent numeric: Meanwhile, by the model servers.
"""

SUBTREE_USAGE = """
create function audit.subtree_usage_by(id uuid, step interval, since timestamptz, until timestamptz)
returns setof audit.subtree_interval language sql stable security definer
set search_path = pg_catalog, public, pg_temp as $$
    with below as materialized (select public.ever_below($1) as ids)
    select at, greatest(s.instances, g.instances, x.instances, m.instances), s.used_memory_bytes, s.total_memory_bytes,
           g.gpus, g.used_memory_bytes, g.total_memory_bytes, g.utilization_percent, x.active_connections,
           x.connections, x.bytes_sent, x.bytes_received, m.requests, m.tokens_received, m.tokens_sent
    from (select u.* from below b cross join lateral public.system_metrics_usage(b.ids, $2, $3, $4) u) s
    full join (select u.* from below b cross join lateral public.gpu_metrics_usage(b.ids, $2, $3, $4) u) g using (at)
    full join (select u.* from below b cross join lateral public.proxy_metrics_usage(b.ids, $2, $3, $4) u) x using (at)
    full join (select u.* from below b cross join lateral public.llm_metrics_usage(b.ids, $2, $3, $4) u) m using (at)
    order by at
$$;
revoke execute on function audit.subtree_usage_by(uuid, interval, timestamptz, timestamptz) from public;
grant execute on function audit.subtree_usage_by(uuid, interval, timestamptz, timestamptz) to im_auditor;
"""

RECORD = """
create or replace view audit.record with (security_barrier) as
select greatest(c.compacted_revision, (select max(h.base_revision) from history_epoch h),
                (select max(e.revision) from event e)) as revision,
       c.compacted_revision + 1 as oldest_event_revision, c.buried_revision as oldest_past_revision,
       c.history_kept as events_kept, c.tombstones_kept as dead_kept, c.metrics_kept, c.ticked_at,
       greatest(c.metrics_kept, c.minutes_kept) as minutes_kept,
       greatest(c.metrics_kept, c.minutes_kept, c.hours_kept) as hours_kept,
       (select min(r.done_until) from metrics_rollup r where r.name like '%minutes') as rolled_up_until
from control c;
"""

RECORD_BEFORE = """
drop view audit.record;
create view audit.record with (security_barrier) as
select greatest(c.compacted_revision, (select max(h.base_revision) from history_epoch h),
                (select max(e.revision) from event e)) as revision,
       c.compacted_revision + 1 as oldest_event_revision, c.buried_revision as oldest_past_revision,
       c.history_kept as events_kept, c.tombstones_kept as dead_kept, c.metrics_kept, c.ticked_at
from control c;
grant select on audit.record to im_auditor;
"""

RECORD_WORDS_BEFORE = """
revision: The newest change.
oldest_event_revision: Events are kept from this one on.
oldest_past_revision: `instances_at` is whole from this one on; before it, some of the dead are forgotten.
events_kept: For how long events are kept.
dead_kept: For how long the dead are remembered.
metrics_kept: For how long samples are kept.
ticked_at: When the managers last looked for the silent.
"""

RECORD_WORDS = """
minutes_kept: For how long what samples came to in each minute is kept.
hours_kept: For how long what they came to in each hour is kept.
rolled_up_until: Samples up to then are in the minutes; null where none were ever rolled up.
"""


def _run(script: str) -> None:
    """Each statement by itself; a function's body, between two `$$`, holds semicolons of its own."""
    for statement in re.findall(r"(?:\$\$.*?\$\$|[^;])+", script, re.S):
        if statement.strip():
            op.execute(statement)


def _comment(on: str, words: str) -> None:
    quoted = words.replace("'", "''")
    op.execute(f"comment on {on} is '{quoted}'")


def _lines(block: str) -> list[tuple[str, str]]:
    """The name, or name and type, and the meaning of each column."""
    lines = (line.strip().partition(": ") for line in block.strip().splitlines())
    return [(name, meaning) for name, _, meaning in lines]


def _view(name: str, meaning: str, columns: str, query: str) -> None:
    _run(f"create view audit.{name} with (security_barrier) as {query}")
    _run(f"grant select on audit.{name} to im_auditor")
    _comment(f"view audit.{name}", meaning)
    for column, words in _lines(columns):
        _comment(f"column audit.{name}.{column}", words)


def _subtree() -> None:
    fields = ", ".join(each for each, _ in _lines(SUBTREE_INTERVAL))
    _run(f"create type audit.subtree_interval as ({fields})")
    _comment("type audit.subtree_interval", "What a whole subtree used over a while: what `subtree_usage_by` gives.")
    for column, words in _lines(SUBTREE_INTERVAL):
        _comment(f"column audit.subtree_interval.{column.partition(' ')[0]}", words)
    _run(SUBTREE_USAGE)
    _comment(
        "function audit.subtree_usage_by(uuid, interval, timestamptz, timestamptz)",
        "What an instance and all that were ever below it used, a row for each step of whole minutes or hours in which"
        " samples arrived, the newest included. Begins with a whole minute, or hour.",
    )


def upgrade() -> None:
    for name in COLUMNS:
        concurrently.create_partitioned_index(f"{name}_at", name, SAMPLES)
    _run(TABLES)
    for name, columns in COLUMNS.items():
        gpu = "gpu_index smallint not null," if name == "gpu_metrics" else ""
        key = "instance_id, gpu_index, at" if gpu else "instance_id, at"
        for level in LEVELS:
            _run(LEVEL.format(name=name, level=level, columns=columns, gpu=gpu, key=key))
    _run(ROLLED.format(origin=ORIGIN))
    _run(SPAN.format(origin=ORIGIN))
    _run(BELOW)
    for name, parts in USAGES.items():
        _run(USAGE.format(name=name, origin=ORIGIN, **parts))
    _run(UPKEEP)
    _run(GRANTS)
    for name, meaning, columns, query in VIEWS:
        for unit in ("minute", "hour"):
            words = columns.format(unit=unit)
            _view(f"{name}_{unit}s", meaning.format(unit=unit), words, f"{query} from {name}_metrics_{unit}s m")
    for name in COLUMNS:
        _run(GRANTED.format(name=name))
    _subtree()
    _run(RECORD)
    for column, words in _lines(RECORD_WORDS):
        _comment(f"column audit.record.{column}", words)
    _run("select prepare_metrics(7)")


def downgrade() -> None:
    _run(RECORD_BEFORE)
    _comment("view audit.record", "How far this record reaches; one row.")
    for column, words in _lines(RECORD_WORDS_BEFORE):
        _comment(f"column audit.record.{column}", words)
    _run("""
    drop function audit.subtree_usage_by(uuid, interval, timestamptz, timestamptz);
    drop type audit.subtree_interval
    """)
    for name, *_ in VIEWS:
        _run(f"drop view audit.{name}_minutes, audit.{name}_hours")
    _run(UPKEEP_BEFORE)
    for name in COLUMNS:
        _run(f"""
        drop function {name}_usage(uuid[], interval, timestamptz, timestamptz);
        drop function {name}_hourly(timestamptz, timestamptz);
        drop function {name}_rolled(timestamptz, timestamptz);
        drop table {name}_hours, {name}_minutes;
        drop index {name}_at
        """)
    _run("""
    drop function ever_below(uuid);
    drop function rolled_span(text, interval, timestamptz, timestamptz);
    alter table control drop column hours_kept, drop column minutes_kept;
    drop table metrics_rollup
    """)
