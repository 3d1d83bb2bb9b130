"""The record for people: the schema `audit`, its reader, and the fleet as it was at any revision."""

import re

from alembic import op

from manager.repository import concurrently

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What a death would otherwise take with it, and up to where the past has lost somebody. What was buried before this
# migration had died in a revision that is compacted, so that the past is whole from there on.
TABLES = """
alter table instance add column last_seen timestamptz;
alter table control add column buried_revision bigint not null default 0;
update control set buried_revision = compacted_revision;
"""

INDEXES = {
    "instance_born": "instance (created_at, created_revision)",
    "instance_lived": "instance using gist (int8range(created_revision, died_revision))"
    " where died_revision is not null",
    "event_staleness": "event (instance_id, revision, ordinal) where type in (6, 7)",
}

BURY = """
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

BURY_BEFORE = """
create or replace function bury_dead(instances integer) returns integer
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

# The past, for the managers and for people alike: who lived at a revision, what one of them was then, and which
# revision was the newest at a time. Revisions are dense, so that halving them finds a time without an index of times;
# for what was before the kept events, births and deaths tell the time.
PAST = """
create function lived_at(bigint) returns table (id uuid) language sql stable parallel safe as $$
    select i.id from instance i where i.died_revision is null and i.created_revision <= $1
    union all
    select i.id from instance i
    where i.died_revision is not null and int8range(i.created_revision, i.died_revision) @> $1
$$;

create function instance_at(uuid, bigint) returns table (
    id uuid, type smallint, hostname text, labels jsonb, timeout interval, digest bytea, created_at timestamptz,
    created_revision bigint, updated_revision bigint, parent_id uuid, services jsonb, stale boolean
) language sql stable parallel safe as $$
    select i.id, coalesce(v.type, i.type), coalesce(v.hostname, i.hostname), coalesce(v.labels, i.labels),
           coalesce(v.timeout, i.timeout), i.digest, i.created_at, i.created_revision,
           coalesce(v.from_revision, i.updated_revision),
           (select p.parent_id from parent_link p where p.child_id = i.id and p.revision <= $2),
           (select jsonb_agg(jsonb_build_object('type', s.type, 'host', s.host, 'port', s.port, 'path', s.path)
                             order by s.ordinal)
            from service s where s.instance_id = i.id and s.revision <= $2),
           coalesce((select e.type = 6 from event e
                     where e.instance_id = i.id and e.type in (6, 7) and e.revision <= $2
                     order by e.revision desc, e.ordinal desc limit 1), false)
    from instance i
    left join instance_version v
        on i.updated_revision > $2 and v.instance_id = i.id and v.from_revision <= $2 and v.to_revision > $2
    where i.id = $1 and i.created_revision <= $2 and (i.died_revision is null or i.died_revision > $2)
$$;

create function revision_at(timestamptz) returns bigint language sql stable parallel safe as $$
    with recursive half as (
        select c.compacted_revision as low, greatest(c.compacted_revision, (select max(revision) from event)) as high
        from control c
        union all
        select case when m.at <= $1 then m.revision else h.low end,
               case when m.at <= $1 then h.high else m.revision - 1 end
        from half h cross join lateral (
            select e.revision, e.at from event e where e.revision > (h.low + h.high) / 2
            order by e.revision, e.ordinal limit 1) m
        where h.low < h.high
    ), kept as (
        select max(h.low) as revision, (select c.compacted_revision from control c) as compacted from half h
    )
    select case when k.revision > k.compacted then k.revision else least(k.compacted, greatest(0,
        (select i.created_revision from instance i where i.created_at <= $1
         order by i.created_at desc, i.created_revision desc limit 1),
        (select i.died_revision from instance i where i.died_revision is not null and i.died_at <= $1
         order by i.died_at desc limit 1))) end
    from kept k
$$;
"""

# Name, what it is, its columns with what each is, and the query. Names, types and meaning are a promise to whoever
# wrote a query: a column may be added behind the last one, and none is changed or removed within a major release.
VIEWS: list[tuple[str, str, str, str]] = [
    (
        "instances",
        "Every instance on record, living or dead; the dead for as long as they are remembered (30 days by default).",
        """
        id: The instance; never used twice.
        type: CHROME_BROWSER, WARMPOOL_CHROME_BROWSER, WARMPOOL_PROXY, INSTANCE_MANAGER, VLLM or BROWSER_BACKEND.
        hostname: Where it runs, as it said itself.
        labels: What it said of itself, as an object of strings.
        timeout: How long it may be silent before it is stale.
        status: HEALTHY, STALE (silent for longer than its timeout) or DEAD.
        parent_id: With whom it dies; null for the root of a tree.
        created_at: When it was registered, by the database's clock.
        created_revision: The change that registered it.
        updated_revision: The last change of type, hostname, labels or timeout.
        last_seen: Its last health check on record; up to a tenth of the timeout older than the last one answered.
        stale_at: When it is stale without another health check; null for the dead.
        died_at: When it died; null for the living.
        died_revision: The change in which it died.
        cause: KILLED, EXPIRED (silent for too long) or PARENT_DIED.
        root_cause: The instance whose death began it: itself, unless its parent died.
        lived: From its registration to its death, or until now.
        """,
        """
        select i.id, instance_type_name(i.type) as type, i.hostname, i.labels, i.timeout,
               case when i.died_revision is not null then 'DEAD' when l.stale then 'STALE' else 'HEALTHY' end as status,
               p.parent_id, i.created_at, i.created_revision, i.updated_revision,
               coalesce(l.last_seen, i.last_seen) as last_seen, greatest(l.due_at, l.forgiven_until) as stale_at,
               i.died_at, i.died_revision, cause_name(i.death_cause) as cause, i.root_cause,
               coalesce(i.died_at, now()) - i.created_at as lived
        from instance i
        left join lease l on l.instance_id = i.id
        left join parent_link p on p.child_id = i.id
        """,
    ),
    (
        "trees",
        "The living, each with its place in its tree. Ordered by `path`, a tree's members follow each other.",
        """
        id: The instance.
        type: As in `instances`.
        hostname: Where it runs.
        status: HEALTHY or STALE.
        parent_id: Directly above it; null for a root.
        root_id: At the top of its tree; itself for a root.
        depth: How many are above it; 0 for a root.
        path: From the root down to itself.
        """,
        "select t.id, t.type, t.hostname, t.status, t.parent_id, t.root_id, t.depth, t.path from instance_tree t",
    ),
    (
        "links",
        "Who was ever put below whom, as far back as the child is remembered.",
        """
        child_id: Below.
        parent_id: Above; a child has one parent for life.
        linked_revision: The change that put it there.
        ended_revision: The change in which the child died; null while it lives.
        """,
        "select p.child_id, p.parent_id, p.revision as linked_revision, p.ended_revision from parent_link p",
    ),
    (
        "versions",
        "What an update replaced: hostname, labels, timeout and type as they were between two changes.",
        """
        instance_id: The instance.
        from_revision: The change that made it so.
        to_revision: The change that made it otherwise.
        type: As in `instances`.
        hostname: As it was.
        labels: As they were.
        timeout: As it was.
        """,
        """
        select v.instance_id, v.from_revision, v.to_revision, instance_type_name(v.type) as type, v.hostname, v.labels,
               v.timeout
        from instance_version v
        """,
    ),
    (
        "services",
        "What instances offer, or offered while they lived.",
        """
        instance_id: Who offers it.
        instance_type: As in `instances`.
        hostname: Where the instance runs.
        instance_status: HEALTHY, STALE or DEAD: only the services of the healthy are told to clients.
        service_type: CHROME_DEBUG_PORT or VLLM_OPENAI_COMPATIBLE.
        host: Where it is reached.
        port: 1 to 65535.
        path: Such as a websocket's; may be empty.
        added_revision: The change that added it.
        """,
        """
        select s.instance_id, instance_type_name(i.type) as instance_type, i.hostname,
               case when i.died_revision is not null then 'DEAD' when l.stale then 'STALE' else 'HEALTHY' end
                   as instance_status,
               service_type_name(s.type) as service_type, s.host, s.port, s.path, s.revision as added_revision
        from service s join instance i on i.id = s.instance_id left join lease l on l.instance_id = i.id
        """,
    ),
    (
        "events",
        "Everything that happened, in its order; as far back as the history is kept (7 days by default).",
        """
        revision: The change that it was part of: dense, in the order of commit.
        ordinal: Its number within the change, from 0.
        at: When, by the database's clock.
        event: ADDED, REMOVED, CHILD_ADDED, PARENT_ADDED, SERVICE_ADDED, UPDATED, STALE or RECOVERED.
        instance_id: Whom it happened to.
        instance_type: Its type, after the event or before its removal.
        hostname: Its host, likewise.
        related_id: The child with CHILD_ADDED, the parent with PARENT_ADDED.
        service: What was added with SERVICE_ADDED: type, host, port and path.
        cause: With REMOVED: KILLED, EXPIRED or PARENT_DIED.
        root_cause: With REMOVED: the instance whose death began it.
        actor: Who asked for the change: a client's address, or the manager that declared the death.
        note: What was left with a kill, on the event of the instance that it was aimed at.
        before: The instance before the event; null where it was not there.
        after: The instance after the event; null where it is there no more.
        xid: The transaction that wrote it: what a restore to a revision aims at.
        """,
        """
        select e.revision, e.ordinal, e.at, event_type_name(e.type) as event, e.instance_id,
               instance_type_name(cast(coalesce(e.after, e.before) ->> 'type' as smallint)) as instance_type,
               coalesce(e.after, e.before) ->> 'hostname' as hostname, e.related_id,
               audit.service_named(e.service) as service, cause_name(e.cause) as cause, e.root_cause, e.actor, e.note,
               audit.state_named(e.before) as before, audit.state_named(e.after) as after, e.xid
        from event e
        """,
    ),
    (
        "deaths",
        "The dead, each with the death that began it, who asked for that, and why.",
        """
        id: The instance.
        type: As in `instances`.
        hostname: Where it ran.
        labels: What it said of itself.
        parent_id: Directly above it; null for a root.
        created_at: When it was registered.
        last_seen: Its last health check on record; null for those who died before this was kept.
        died_at: When it died.
        revision: The change in which it died; whoever died with it has the same.
        cause: KILLED, EXPIRED or PARENT_DIED.
        root_cause: The instance whose death began it; itself, unless its parent died.
        root_type: The type of that one.
        root_cause_why: KILLED or EXPIRED: why that one died.
        actor: Who asked for it; null once the event is past the kept history.
        note: What was left with the kill; null likewise.
        lived: From its registration to its death.
        silence: From its last health check to its death.
        """,
        """
        select i.id, instance_type_name(i.type) as type, i.hostname, i.labels, p.parent_id, i.created_at, i.last_seen,
               i.died_at, i.died_revision as revision, cause_name(i.death_cause) as cause, i.root_cause,
               instance_type_name(r.type) as root_type, cause_name(r.death_cause) as root_cause_why, e.actor, e.note,
               i.died_at - i.created_at as lived, i.died_at - i.last_seen as silence
        from instance i
        left join parent_link p on p.child_id = i.id
        left join instance r on r.id = i.root_cause
        left join event e on e.revision = i.died_revision and e.instance_id = i.root_cause and e.type = 2
        where i.died_revision is not null
        """,
    ),
    (
        "root_causes",
        "Each death that began others or stood alone: one row a kill that was carried out, or an expiry.",
        """
        id: The instance whose death it was.
        type: As in `instances`.
        hostname: Where it ran.
        at: When.
        revision: The change.
        cause: KILLED or EXPIRED.
        actor: Who asked for it; null once the event is past the kept history.
        note: What was left with the kill; null likewise.
        deaths: How many died of it, itself included.
        """,
        """
        select r.id, instance_type_name(r.type) as type, r.hostname, r.died_at as at, r.died_revision as revision,
               cause_name(r.death_cause) as cause, e.actor, e.note, d.deaths
        from (select i.root_cause, count(*) as deaths from instance i where i.died_revision is not null
              group by i.root_cause) d
        join instance r on r.id = d.root_cause
        left join event e on e.revision = r.died_revision and e.instance_id = r.id and e.type = 2
        """,
    ),
    (
        "system_metrics",
        "Memory, as instances posted it. Name a time in `at` when asking: the samples are kept by day.",
        """
        at: When the sample arrived, by the database's clock.
        instance_id: Who posted it.
        measured_at: When it was measured, by the instance's own clock.
        used_memory_bytes: Memory in use.
        total_memory_bytes: Memory that there is.
        """,
        "select m.at, m.instance_id, m.measured_at, m.used_memory_bytes, m.total_memory_bytes from system_metrics m",
    ),
    (
        "proxy_metrics",
        "Connections and traffic of proxies, as posted. Totals are since the proxy's start. Name a time in `at`.",
        """
        at: When the sample arrived, by the database's clock.
        instance_id: Who posted it.
        measured_at: When it was measured, by the instance's own clock.
        active_connections: Open at that moment.
        total_connections: Opened since its start.
        bytes_sent: Since its start.
        bytes_received: Since its start.
        """,
        """
        select m.at, m.instance_id, m.measured_at, m.active_connections, m.total_connections, m.bytes_sent,
               m.bytes_received
        from proxy_metrics m
        """,
    ),
    (
        "gpu_metrics",
        "GPUs, each by itself, as posted. Name a time in `at`.",
        """
        at: When the sample arrived, by the database's clock.
        instance_id: Who posted it.
        measured_at: When it was measured, by the instance's own clock.
        gpu_index: Which of the instance's GPUs, from 0.
        used_memory_bytes: Memory in use.
        total_memory_bytes: Memory that there is.
        utilization_percent: 0 to 100.
        """,
        """
        select m.at, m.instance_id, m.measured_at, m.gpu_index, m.used_memory_bytes, m.total_memory_bytes,
               m.utilization_percent
        from gpu_metrics m
        """,
    ),
    (
        "llm_metrics",
        "Model servers, as posted. All values are totals since the server's start. Name a time in `at`.",
        """
        at: When the sample arrived, by the database's clock.
        instance_id: Who posted it.
        measured_at: When it was measured, by the instance's own clock.
        request_count: Since its start.
        tokens_received: Since its start.
        tokens_sent: Since its start.
        """,
        """
        select m.at, m.instance_id, m.measured_at, m.request_count, m.tokens_received, m.tokens_sent from llm_metrics m
        """,
    ),
    (
        "usage",
        "What each living instance uses by its latest sample, alone and together with all that is below it.",
        """
        id: The instance.
        type: As in `instances`.
        root_id: At the top of its tree.
        depth: How many are above it.
        instances: How many there are in its subtree, itself included.
        used_memory_bytes: Of its subtree; null where nobody in it posts memory. The same holds for all that follow.
        total_memory_bytes: Of its subtree.
        gpu_used_memory_bytes: Of all GPUs in its subtree.
        gpu_total_memory_bytes: Of all GPUs in its subtree.
        gpus: How many GPUs its subtree has.
        active_connections: Of the proxies in its subtree.
        bytes_sent: By the proxies in its subtree, since their start.
        bytes_received: By the proxies in its subtree, since their start.
        request_count: To the model servers in its subtree, since their start.
        tokens_received: By the model servers in its subtree, since their start.
        tokens_sent: By the model servers in its subtree, since their start.
        own_used_memory_bytes: Its own alone.
        """,
        """
        with tree as materialized (select t.id, t.type, t.root_id, t.depth, t.path from instance_tree t),
        gpu as materialized (
            select g.instance_id, count(*) as gpus, sum(g.used_memory_bytes) as used, sum(g.total_memory_bytes) as total
            from latest_gpu_metrics g group by g.instance_id
        ), below as (
            select a.id, count(*) as instances, sum(s.used_memory_bytes) as used, sum(s.total_memory_bytes) as total,
                   sum(g.used) as gpu_used, sum(g.total) as gpu_total, sum(g.gpus) as gpus,
                   sum(x.active_connections) as active, sum(x.bytes_sent) as sent, sum(x.bytes_received) as received,
                   sum(m.request_count) as requests, sum(m.tokens_received) as tokens_in,
                   sum(m.tokens_sent) as tokens_out
            from tree t cross join lateral unnest(t.path) a(id)
            left join latest_system_metrics s on s.instance_id = t.id
            left join gpu g on g.instance_id = t.id
            left join latest_proxy_metrics x on x.instance_id = t.id
            left join latest_llm_metrics m on m.instance_id = t.id
            group by a.id
        )
        select t.id, t.type, t.root_id, t.depth, b.instances, b.used as used_memory_bytes,
               b.total as total_memory_bytes, b.gpu_used as gpu_used_memory_bytes,
               b.gpu_total as gpu_total_memory_bytes, b.gpus, b.active as active_connections, b.sent as bytes_sent,
               b.received as bytes_received, b.requests as request_count, b.tokens_in as tokens_received,
               b.tokens_out as tokens_sent, s.used_memory_bytes as own_used_memory_bytes
        from tree t join below b on b.id = t.id left join latest_system_metrics s on s.instance_id = t.id
        """,
    ),
    (
        "type_statistics",
        "Each type of instance: how many there are, and how those who are remembered died.",
        """
        type: As in `instances`.
        healthy: How many are healthy.
        stale: How many are stale.
        dead: How many of the dead are remembered.
        killed: Of those: killed themselves.
        expired: Of those: silent for too long.
        parent_died: Of those: died with their parent.
        median_lived: How long half of the dead lived at most.
        """,
        """
        select instance_type_name(i.type) as type,
               count(*) filter (where i.died_revision is null and not coalesce(l.stale, false)) as healthy,
               count(*) filter (where i.died_revision is null and l.stale) as stale,
               count(i.died_revision) as dead,
               count(*) filter (where i.death_cause = 1) as killed,
               count(*) filter (where i.death_cause = 2) as expired,
               count(*) filter (where i.death_cause = 3) as parent_died,
               percentile_cont(0.5) within group (order by i.died_at - i.created_at) as median_lived
        from instance i left join lease l on l.instance_id = i.id
        group by i.type
        """,
    ),
    (
        "host_statistics",
        "Each host: who lives there, how those who are remembered died, and its memory where it uploads that.",
        """
        hostname: The host.
        healthy: How many of its instances are healthy.
        stale: How many are stale.
        dead: How many of its dead are remembered.
        killed: Of those: killed themselves.
        expired: Of those: silent for too long; many on one host speak of the host.
        parent_died: Of those: died with their parent.
        used_memory_bytes: As the host last uploaded it; null where it does not.
        total_memory_bytes: Likewise.
        uploaded_at: When it last did.
        """,
        """
        select coalesce(c.hostname, h.hostname) as hostname, coalesce(c.healthy, 0) as healthy,
               coalesce(c.stale, 0) as stale, coalesce(c.dead, 0) as dead, coalesce(c.killed, 0) as killed,
               coalesce(c.expired, 0) as expired, coalesce(c.parent_died, 0) as parent_died, h.used_memory_bytes,
               h.total_memory_bytes, h.at as uploaded_at
        from (select i.hostname,
                     count(*) filter (where i.died_revision is null and not coalesce(l.stale, false)) as healthy,
                     count(*) filter (where i.died_revision is null and l.stale) as stale,
                     count(i.died_revision) as dead,
                     count(*) filter (where i.death_cause = 1) as killed,
                     count(*) filter (where i.death_cause = 2) as expired,
                     count(*) filter (where i.death_cause = 3) as parent_died
              from instance i left join lease l on l.instance_id = i.id group by i.hostname) c
        full join host_stats h on h.hostname = c.hostname
        """,
    ),
    (
        "epochs",
        "The histories that this database has been through: a restore, a promotion or an operator's word begins one.",
        """
        number: From 1, in their order.
        epoch: Its name, which resume tokens carry.
        base_revision: The newest change when it began; later ones of an earlier epoch are lost.
        opened_at: When the managers opened it.
        reason: Why.
        """,
        "select h.number, h.epoch, h.base_revision, h.opened_at, h.reason from history_epoch h",
    ),
    (
        "record",
        "How far this record reaches; one row.",
        """
        revision: The newest change.
        oldest_event_revision: Events are kept from this one on.
        oldest_past_revision: `instances_at` is whole from this one on; before it, some of the dead are forgotten.
        events_kept: For how long events are kept.
        dead_kept: For how long the dead are remembered.
        metrics_kept: For how long samples are kept.
        ticked_at: When the managers last looked for the silent.
        """,
        """
        select greatest(c.compacted_revision, (select max(h.base_revision) from history_epoch h),
                        (select max(e.revision) from event e)) as revision,
               c.compacted_revision + 1 as oldest_event_revision, c.buried_revision as oldest_past_revision,
               c.history_kept as events_kept, c.tombstones_kept as dead_kept, c.metrics_kept, c.ticked_at
        from control c
        """,
    ),
]

TYPES: list[tuple[str, str, str]] = [
    (
        "past_instance",
        "An instance as it was: what `instances_at` and `instances_at_revision` give.",
        """
        id uuid: The instance.
        type text: As in `instances`; as it was then, and so is all that follows.
        hostname text: Where it ran.
        labels jsonb: What it said of itself.
        timeout interval: How long it might be silent.
        status text: HEALTHY or STALE, as the kept events tell it; HEALTHY where they reach back less far.
        parent_id uuid: Directly above it; null for a root.
        services jsonb: What it offered: a list of objects with type, host, port and path.
        created_at timestamptz: When it had been registered.
        created_revision bigint: The change that registered it.
        updated_revision bigint: The last change of type, hostname, labels or timeout by then.
        """,
    ),
    (
        "member",
        "A member of a subtree, living or dead: what `subtree` gives.",
        """
        id uuid: The instance.
        type text: As in `instances`.
        hostname text: Where it runs or ran.
        parent_id uuid: Directly above it.
        depth integer: How far below the one asked about; 0 is that one.
        path uuid[]: From the one asked about down to itself.
        died_at timestamptz: When it died; null for the living.
        """,
    ),
    (
        "system_interval",
        "Memory over a while: what `system_metrics_by` gives.",
        """
        starts_at timestamptz: When the while begins; it is as long as was asked for.
        instance_id uuid: Who posted.
        samples bigint: How many arrived meanwhile.
        average_used_memory_bytes bigint: Their mean.
        highest_used_memory_bytes bigint: The highest of them.
        total_memory_bytes bigint: Memory that there was, at most.
        """,
    ),
    (
        "proxy_interval",
        "Traffic over a while: what `proxy_metrics_by` gives.",
        """
        starts_at timestamptz: When the while begins; it is as long as was asked for.
        instance_id uuid: Who posted.
        samples bigint: How many arrived meanwhile.
        highest_active_connections bigint: The highest of them.
        connections bigint: Opened meanwhile: what the total grew by, counted anew after the proxy began anew.
        bytes_sent bigint: Sent meanwhile, likewise.
        bytes_received bigint: Received meanwhile, likewise.
        """,
    ),
    (
        "gpu_interval",
        "GPUs over a while: what `gpu_metrics_by` gives.",
        """
        starts_at timestamptz: When the while begins; it is as long as was asked for.
        instance_id uuid: Who posted.
        gpu_index smallint: Which of its GPUs.
        samples bigint: How many arrived meanwhile.
        highest_used_memory_bytes bigint: The highest of them.
        total_memory_bytes bigint: Memory that there was, at most.
        average_utilization_percent double precision: Their mean.
        highest_utilization_percent double precision: The highest of them.
        """,
    ),
    (
        "llm_interval",
        "Requests and tokens over a while: what `llm_metrics_by` gives.",
        """
        starts_at timestamptz: When the while begins; it is as long as was asked for.
        instance_id uuid: Who posted.
        samples bigint: How many arrived meanwhile.
        requests bigint: Meanwhile: what the total grew by, counted anew after the server began anew.
        tokens_received bigint: Meanwhile, likewise.
        tokens_sent bigint: Meanwhile, likewise.
        """,
    ),
]

NAMED = """
create function audit.service_named(jsonb) returns jsonb language sql immutable strict parallel safe as $$
    select $1 || jsonb_build_object('type', public.service_type_name(cast($1 ->> 'type' as smallint)))
$$;
create function audit.state_named(jsonb) returns jsonb language sql immutable strict parallel safe as $$
    select $1 || jsonb_build_object(
        'type', public.instance_type_name(cast($1 ->> 'type' as smallint)),
        'services', (select coalesce(jsonb_agg(audit.service_named(s.value) order by s.ordinality), '[]')
                     from jsonb_array_elements($1 -> 'services') with ordinality s))
$$;
"""

# The owner's, since their reader may not look at the tables; what a while grew by needs the sample before it, which is
# looked up by its key.
FUNCTIONS: list[tuple[str, str, str, str]] = [
    (
        "instances_at_revision(revision bigint)",
        "past_instance",
        "Who lived after a change, each as it was. Fails for a change that is not yet, or no longer, on record.",
        """
        select a.id, public.instance_type_name(a.type), a.hostname, a.labels, a.timeout,
               case when a.stale then 'STALE' else 'HEALTHY' end, a.parent_id,
               (select coalesce(jsonb_agg(audit.service_named(s.value) order by s.ordinality), '[]')
                from jsonb_array_elements(a.services) with ordinality s),
               a.created_at, a.created_revision, a.updated_revision
        from public.lived_at(audit.on_record($1)) l cross join lateral public.instance_at(l.id, $1) a
        """,
    ),
    (
        "instances_at(moment timestamptz)",
        "past_instance",
        "Who lived at a time, each as it was. Fails for a time that is no longer on record.",
        "select p.* from audit.instances_at_revision(public.revision_at($1)) p",
    ),
    (
        "subtree(id uuid)",
        "member",
        "An instance and all that were ever below it, living or dead, by depth.",
        """
        with recursive down as (
            select $1 as id, cast(null as uuid) as parent_id, 0 as depth, array[$1] as path
            union all
            select c.child_id, d.id, d.depth + 1, d.path || c.child_id
            from down d cross join lateral (
                select l.child_id from public.parent_link l where l.parent_id = d.id offset 0) c
        )
        select i.id, public.instance_type_name(i.type), i.hostname,
               coalesce(d.parent_id, (select l.parent_id from public.parent_link l where l.child_id = i.id)), d.depth,
               d.path, i.died_at
        from down d join public.instance i on i.id = d.id
        order by d.depth, i.id
        """,
    ),
    (
        "system_metrics_by(step interval, since timestamptz, until timestamptz)",
        "system_interval",
        "Memory of each instance, a row for each step (such as '1 minute' or '1 hour') in which samples arrived.",
        """
        select date_bin($1, m.at, timestamptz '2000-01-01 00:00+00') as starts_at, m.instance_id, count(*),
               cast(avg(m.used_memory_bytes) as bigint), max(m.used_memory_bytes), max(m.total_memory_bytes)
        from public.system_metrics m where m.at >= $2 and m.at < $3 group by 1, 2
        """,
    ),
    (
        "proxy_metrics_by(step interval, since timestamptz, until timestamptz)",
        "proxy_interval",
        "Traffic of each proxy, a row for each step in which samples arrived.",
        """
        with sample as (
            select m.at, m.instance_id, m.active_connections, m.total_connections, m.bytes_sent, m.bytes_received,
                   lag(m.at) over one as before,
                   lag(m.total_connections) over one as c, lag(m.bytes_sent) over one as s,
                   lag(m.bytes_received) over one as r
            from public.proxy_metrics m where m.at >= $2 and m.at < $3
            window one as (partition by m.instance_id order by m.at)
        ), grown as (
            select g.at, g.instance_id, g.active_connections,
                   g.total_connections - case when b.c <= g.total_connections then b.c else 0 end as connections,
                   g.bytes_sent - case when b.s <= g.bytes_sent then b.s else 0 end as sent,
                   g.bytes_received - case when b.r <= g.bytes_received then b.r else 0 end as received
            from sample g left join lateral (
                select g.c, g.s, g.r where g.before is not null
                union all
                (select p.total_connections, p.bytes_sent, p.bytes_received from public.proxy_metrics p
                 where g.before is null and p.instance_id = g.instance_id and p.at < $2 order by p.at desc limit 1)
            ) b on true
        )
        select date_bin($1, g.at, timestamptz '2000-01-01 00:00+00'), g.instance_id, count(*),
               max(g.active_connections), cast(sum(g.connections) as bigint), cast(sum(g.sent) as bigint),
               cast(sum(g.received) as bigint)
        from grown g group by 1, 2
        """,
    ),
    (
        "gpu_metrics_by(step interval, since timestamptz, until timestamptz)",
        "gpu_interval",
        "Each GPU of each instance, a row for each step in which samples arrived.",
        """
        select date_bin($1, m.at, timestamptz '2000-01-01 00:00+00'), m.instance_id, m.gpu_index, count(*),
               max(m.used_memory_bytes), max(m.total_memory_bytes), avg(m.utilization_percent),
               max(m.utilization_percent)
        from public.gpu_metrics m where m.at >= $2 and m.at < $3 group by 1, 2, 3
        """,
    ),
    (
        "llm_metrics_by(step interval, since timestamptz, until timestamptz)",
        "llm_interval",
        "Requests and tokens of each model server, a row for each step in which samples arrived.",
        """
        with sample as (
            select m.at, m.instance_id, m.request_count, m.tokens_received, m.tokens_sent, lag(m.at) over one as before,
                   lag(m.request_count) over one as c, lag(m.tokens_received) over one as r,
                   lag(m.tokens_sent) over one as s
            from public.llm_metrics m where m.at >= $2 and m.at < $3
            window one as (partition by m.instance_id order by m.at)
        ), grown as (
            select g.at, g.instance_id,
                   g.request_count - case when b.c <= g.request_count then b.c else 0 end as requests,
                   g.tokens_received - case when b.r <= g.tokens_received then b.r else 0 end as received,
                   g.tokens_sent - case when b.s <= g.tokens_sent then b.s else 0 end as sent
            from sample g left join lateral (
                select g.c, g.r, g.s where g.before is not null
                union all
                (select p.request_count, p.tokens_received, p.tokens_sent from public.llm_metrics p
                 where g.before is null and p.instance_id = g.instance_id and p.at < $2 order by p.at desc limit 1)
            ) b on true
        )
        select date_bin($1, g.at, timestamptz '2000-01-01 00:00+00'), g.instance_id, count(*),
               cast(sum(g.requests) as bigint), cast(sum(g.received) as bigint), cast(sum(g.sent) as bigint)
        from grown g group by 1, 2
        """,
    ),
]

ON_RECORD = """
create function audit.on_record(revision bigint) returns bigint language plpgsql stable as $$
declare
    oldest bigint;
    newest bigint;
begin
    select r.oldest_past_revision, r.revision into oldest, newest from audit.record r;
    if revision is null or revision < oldest or revision > newest then
        raise exception 'revision % is not on record: ask about % to %', revision, oldest, newest
            using errcode = 'invalid_parameter_value';
    end if;
    return revision;
end $$;
"""

REVISION_AT = """
create function audit.revision_at(moment timestamptz) returns bigint
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select public.revision_at($1)
$$;
"""

GRANTS = """
revoke execute on all functions in schema audit from public;
revoke execute on function lived_at(bigint), instance_at(uuid, bigint), revision_at(timestamptz) from public;
grant execute on function lived_at(bigint), instance_at(uuid, bigint), revision_at(timestamptz) to im_server;
grant usage on schema audit to im_auditor;
grant select on all tables in schema audit to im_auditor;
grant execute on all functions in schema audit to im_auditor;
revoke execute on function audit.on_record(bigint) from im_auditor;
comment on schema audit is
    'The record, for people: stable views, with names instead of numbers, in which every column says what it is.';
comment on function audit.revision_at(timestamptz) is 'The newest change at a time.';
comment on function audit.service_named(jsonb) is 'A service with the name of its type in place of the number.';
comment on function audit.state_named(jsonb) is 'The state of an instance with names in place of numbers.';
comment on function audit.on_record(bigint) is 'The revision itself, or an error where the record does not reach it.';
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
    op.execute(f"create view audit.{name} with (security_barrier) as {query}")
    _comment(f"view audit.{name}", meaning)
    for column, words in _lines(columns):
        _comment(f"column audit.{name}.{column}", words)


def _type(name: str, meaning: str, columns: str) -> None:
    fields = ", ".join(each for each, _ in _lines(columns))
    op.execute(f"create type audit.{name} as ({fields})")
    _comment(f"type audit.{name}", meaning)
    for column, words in _lines(columns):
        _comment(f"column audit.{name}.{column.partition(' ')[0]}", words)


def _function(signature: str, gives: str, meaning: str, query: str) -> None:
    op.execute(
        f"create function audit.{signature} returns setof audit.{gives} language sql stable security definer"
        f" set search_path = pg_catalog, public, pg_temp as $$ {query} $$"
    )
    name, _, parameters = signature.rstrip(")").partition("(")
    types = ", ".join(each.strip().partition(" ")[2] for each in parameters.split(","))
    _comment(f"function audit.{name}({types})", meaning)


def upgrade() -> None:
    for name, on in INDEXES.items():
        concurrently.create_index(name, on)
    for script in (TABLES, BURY, PAST, NAMED):
        _run(script)
    for view in VIEWS:
        _view(*view)
    for made in TYPES:
        _type(*made)
    _run(ON_RECORD)
    for function in FUNCTIONS:
        _function(*function)
    for script in (REVISION_AT, GRANTS):
        _run(script)


def downgrade() -> None:
    _run("""
    drop schema audit cascade;
    drop function revision_at(timestamptz);
    drop function instance_at(uuid, bigint);
    drop function lived_at(bigint);
    """)
    _run(BURY_BEFORE)
    _run("""
    drop index event_staleness;
    drop index instance_lived;
    drop index instance_born;
    alter table control drop column buried_revision;
    alter table instance drop column last_seen
    """)
