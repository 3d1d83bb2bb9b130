"""The past: the fleet as it was at a revision or a time, and what is different between two of them.

It is read from the lives, versions, links and services that are on record, and replays nothing; so it reaches as far
back as the dead are remembered, whatever is kept of the events.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.filter import Filter
from manager.domain.instance import Instance, InstanceId
from manager.domain.past import Difference, Moment, Point
from manager.domain.refusals import HistoryGone, InvalidRequest
from manager.repository.driver import row, rows
from manager.repository.instances import Known, instance_of
from manager.repository.listing import CHUNK

POINT = text("""
select e.epoch, c.buried_revision as oldest,
       greatest(c.compacted_revision, e.base_revision, (select max(revision) from event)) as newest,
       coalesce(cast(:revision as bigint), revision_at(coalesce(cast(:at as timestamptz), 'infinity'))) as revision
from control c cross join lateral (select epoch, base_revision from history_epoch order by number desc limit 1) e
""")


async def point(connection: AsyncConnection, moment: Moment) -> Point:
    """The revision that is meant: of a time, the newest change by then.

    Raises HistoryGone where somebody who lived then is forgotten by now, and InvalidRequest for what is yet to come.
    """
    found = await row(connection, POINT, {"revision": moment.revision, "at": moment.at})
    if found.revision > found.newest:
        raise InvalidRequest(moment.field, f"is yet to come: the newest revision is {found.newest}")
    if found.revision < found.oldest:
        raise HistoryGone(f"the past is on record from revision {found.oldest} on, and that was {found.revision}")
    return Point(found.epoch, found.revision)


# Who they are first, and then all that is to be known of them, kind by kind: one by one, each would be four searches.
# But for the last word on who was stale, since some fall silent and recover all day. The joins are full, as that of a
# list is: they are never done row by row then.
AS_THEY_WERE = """
with page as materialized ({page}), was as materialized (
    select v.instance_id, v.from_revision, v.type, v.hostname, v.labels, v.timeout from instance_version v
    where v.instance_id = any(array(select id from page where updated_revision > :revision))
      and v.from_revision <= :revision and v.to_revision > :revision
), linked as materialized (
    select p.child_id, p.parent_id from parent_link p
    where p.child_id = any(array(select id from page)) and p.revision <= :revision
), offered as materialized (
    select s.instance_id, jsonb_agg(jsonb_build_object('type', s.type, 'host', s.host, 'port', s.port, 'path', s.path)
                                    order by s.ordinal) as services
    from service s where s.instance_id = any(array(select id from page)) and s.revision <= :revision
    group by s.instance_id
)
select i.id, coalesce(was.type, i.type) as type, coalesce(was.hostname, i.hostname) as hostname,
       coalesce(was.labels, i.labels) as labels, coalesce(was.timeout, i.timeout) as timeout, i.digest, i.created_at,
       i.created_revision, coalesce(was.from_revision, i.updated_revision) as updated_revision, linked.parent_id,
       offered.services, case when i.died_revision <= :revision then i.died_at end as died_at, i.died_revision,
       i.death_cause, i.root_cause,
       coalesce((select e.type = 6 from event e
                 where e.instance_id = i.id and e.type in (6, 7) and e.revision <= :revision
                 order by e.revision desc, e.ordinal desc limit 1), false) as stale
from page i full join was on was.instance_id = i.id full join linked on linked.child_id = i.id
full join offered on offered.instance_id = i.id
order by i.id
"""

# The living and the dead apart, each by the index that finds them.
LIVED = text(
    AS_THEY_WERE.format(
        page="""
    select l.* from (
        select * from instance where died_revision is null and created_revision <= :revision
        union all
        select * from instance
        where died_revision is not null and int8range(created_revision, died_revision) @> cast(:revision as bigint)
    ) l
    where cast(:after as uuid) is null or l.id > :after
    order by l.id limit :limit
"""
    )
)

# What most people look for is looked for here, where a row that does not match costs two look-ups and no more.
SOUGHT = text(
    AS_THEY_WERE.format(
        page="""
    select i.* from (
        select l.id from lived_at(:revision) l
        where (cast(:after as uuid) is null or l.id > :after) and exists (
            select from instance_at(l.id, :revision) a
            where (cast(:types as smallint[]) is null or a.type = any(:types))
              and (cast(:hostnames as text[]) is null or a.hostname = any(:hostnames))
              and (cast(:labels as jsonb) is null or a.labels @> cast(:labels as jsonb)) offset 0)
        order by l.id limit :limit
    ) f cross join lateral (select * from instance where id = f.id offset 0) i
"""
    )
)

AMONG = text(
    AS_THEY_WERE.format(
        page="""
    select i.* from unnest(cast(:ids as uuid[])) u(id)
    cross join lateral (select * from instance where id = u.id offset 0) i
    where i.created_revision <= :revision and (i.died_revision is null or i.died_revision > :alive)
"""
    )
)

BELOW = text("""
with recursive down as (
    select cast(:root as uuid) as id
    union
    select c.child_id from down cross join lateral (
        select l.child_id from parent_link l
        where l.parent_id = down.id and l.revision <= :revision
          and (l.ended_revision is null or l.ended_revision > :revision) offset 0) c
) select id from down
""")


async def lived(
    connection: AsyncConnection, wanted: Filter, *, revision: int, after: InstanceId | None, most: int = CHUNK
) -> AsyncIterator[Instance]:
    """Who lived at a revision and matched then, by id, after the id `after`; the stale among them.

    The connection must be in a transaction of one snapshot.
    """
    named = await _named(connection, wanted, revision)
    limit = min(most + 1, CHUNK)
    while True:
        if named is None:
            statement, given = _statement(wanted)
            page = await _read(connection, statement, {**given, "revision": revision, "after": after, "limit": limit})
            last = page[-1].id if len(page) == limit else None
        else:
            part = [each for each in named if after is None or each > after][:limit]
            page = list((await among(connection, part, revision)).values())
            last = part[-1] if len(part) == limit else None
        for each in page:
            if wanted.admits(each):
                yield each
        if last is None:
            return
        after = last


def _statement(wanted: Filter) -> tuple[TextClause, dict[str, object]]:
    """That of all, or that of whom is sought, with what it is to be given."""
    if not (wanted.types or wanted.hostnames or wanted.labels):
        return LIVED, {}
    return SOUGHT, {
        "types": [int(each) for each in wanted.types] or None,
        "hostnames": list(wanted.hostnames) or None,
        "labels": json.dumps(dict(wanted.labels)) if wanted.labels else None,
    }


async def _named(connection: AsyncConnection, wanted: Filter, revision: int) -> Sequence[InstanceId] | None:
    """Those whom the filter names, by id; None where it may be anybody."""
    if wanted.subtree_of is not None:
        return sorted((await connection.execute(BELOW, {"root": wanted.subtree_of, "revision": revision})).scalars())
    return sorted(set(wanted.ids)) if wanted.ids else None


async def among(
    connection: AsyncConnection, ids: Sequence[InstanceId], revision: int, alive: int | None = None
) -> Known:
    """Those of `ids` who lived at a revision, as they were, by id; and who lived at `alive` and had died by then."""
    if not ids:
        return {}
    given = {"ids": ids, "revision": revision, "alive": revision if alive is None else alive}
    return {each.id: each for each in await _read(connection, AMONG, given)}


async def _read(connection: AsyncConnection, statement: TextClause, values: Mapping[str, object]) -> list[Instance]:
    found = [instance_of(each) for each in await rows(connection, statement, values)]
    await asyncio.sleep(0)  # messages are made of them next, and a health check need not wait for both
    return found


# Whoever began or ended in between, or was told to be different meanwhile: kind by kind, since most have stayed as they
# were, and one by one each of them would be four searches. What was changed and changed back is among them, and is left
# out when the two are compared. Each index would sort for itself whom it is to look for.
# The gone are found by both ends of their lives in one index.
TOUCHED = text("""
with became as materialized (
    select l.* from (
        select id, created_revision, updated_revision from instance
        where died_revision is null and created_revision <= :last
        union all
        select id, created_revision, updated_revision from instance
        where died_revision is not null and int8range(created_revision, died_revision) @> cast(:last as bigint)
    ) l
    where cast(:after as uuid) is null or l.id > :after
), stayed as materialized (
    select array(select id from became where created_revision <= :first order by id) as ids,
           array(select id from became where created_revision <= :first and updated_revision > :first) as updated
)
select id, true as born from became where created_revision > :first
union
select id, false from instance
where died_revision is not null and int8range(created_revision, died_revision) @> cast(:first as bigint)
  and int8range(created_revision, died_revision) <@ int8range(null, cast(:last as bigint))
  and (cast(:after as uuid) is null or id > :after)
union
select v.instance_id, false from instance_version v
where v.instance_id = any(cast((select updated from stayed) as uuid[]))
  and v.to_revision > :first and v.to_revision <= :last
union
select p.child_id, false from parent_link p
where p.child_id = any(cast((select ids from stayed) as uuid[])) and p.revision > :first and p.revision <= :last
union
select s.instance_id, false from service s
where s.instance_id = any(cast((select ids from stayed) as uuid[])) and s.revision > :first and s.revision <= :last
union
select h.instance_id, false from event h
where h.instance_id = any(cast((select ids from stayed) as uuid[])) and h.type in (6, 7)
  and h.revision > :first and h.revision <= :last
order by id limit :limit
""")


async def differences(
    connection: AsyncConnection, first: int, last: int, *, after: InstanceId | None, most: int = CHUNK
) -> AsyncIterator[Difference]:
    """Who is different at the later of two revisions from what it was at the earlier one, by id, after `after`.

    Whoever came and went in between is not among them. The connection must be in a transaction of one snapshot.
    """
    limit = min(most + 1, CHUNK)
    while True:
        given = {"first": first, "last": last, "after": after, "limit": limit}
        touched = await rows(connection, TOUCHED, given)
        ids = [each["id"] for each in touched]
        befores = await among(connection, [each["id"] for each in touched if not each["born"]], first)
        afters = await among(connection, ids, last, first)
        for each in ids:
            found = Difference(each, befores.get(each), afters.get(each))
            if found.before != found.after:
                yield found
        if len(ids) < limit:
            return
        after = ids[-1]
