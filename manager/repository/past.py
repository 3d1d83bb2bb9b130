"""The past: the fleet as it was at a revision or a time, and what is different between two of them.

It is read from the lives, versions, links and services that are on record, and replays nothing; so it reaches as far
back as the dead are remembered, whatever is kept of the events.
"""

import json
from collections.abc import AsyncIterator, Sequence

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.filter import Filter
from manager.domain.instance import Instance, InstanceId
from manager.domain.past import Difference, Moment, Point
from manager.domain.refusals import HistoryGone, InvalidRequest
from manager.repository.driver import rows
from manager.repository.instances import Known, facts, instance_of
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
    row = (await connection.execute(POINT, {"revision": moment.revision, "at": moment.at})).one()
    if row.revision > row.newest:
        raise InvalidRequest(moment.field, f"is yet to come: the newest revision is {row.newest}")
    if row.revision < row.oldest:
        raise HistoryGone(f"the past is on record from revision {row.oldest} on, and that was {row.revision}")
    return Point(row.epoch, row.revision)


# Ids first, and what they were after: a page looks up nobody who is not on it.
LIVED = text("""
with page as materialized (
    select l.id from lived_at(:revision) l
    where cast(:after as uuid) is null or l.id > :after
    order by l.id limit :limit
)
select a.*, cast(null as timestamptz) as died_at
from page cross join lateral (select * from instance_at(page.id, :revision) offset 0) a
order by a.id
""")

# What most people look for is looked for here, where a row that does not match costs two look-ups and no more.
SOUGHT = text("""
with page as materialized (
    select l.id from lived_at(:revision) l
    where (cast(:after as uuid) is null or l.id > :after) and exists (
        select from instance_at(l.id, :revision) a
        where (cast(:types as smallint[]) is null or a.type = any(:types))
          and (cast(:hostnames as text[]) is null or a.hostname = any(:hostnames))
          and (cast(:labels as jsonb) is null or a.labels @> cast(:labels as jsonb)) offset 0)
    order by l.id limit :limit
)
select a.*, cast(null as timestamptz) as died_at
from page cross join lateral (select * from instance_at(page.id, :revision) offset 0) a
order by a.id
""")

AMONG = text("""
select a.*, cast(null as timestamptz) as died_at
from unnest(cast(:ids as uuid[])) u(id)
cross join lateral (select * from instance_at(u.id, :revision) offset 0) a
order by a.id
""")

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
            found = await rows(connection, statement, {**given, "revision": revision, "after": after, "limit": limit})
            page = [instance_of(row) for row in found]
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


async def among(connection: AsyncConnection, ids: Sequence[InstanceId], revision: int) -> Known:
    """Those of `ids` who lived at a revision, as they were, by id."""
    if not ids:
        return {}
    found = await rows(connection, AMONG, {"ids": ids, "revision": revision})
    return {row.id: instance_of(row) for row in found}


# Whoever began or ended in between, or was told to be different meanwhile. What was changed and changed back is among
# them, and is left out when the two are compared.
TOUCHED = text("""
with was as materialized (
    select l.id from lived_at(:first) l where cast(:after as uuid) is null or l.id > :after
), became as materialized (
    select l.id from lived_at(:last) l where cast(:after as uuid) is null or l.id > :after
), everybody as materialized (
    select id, was.id is null or became.id is null as crossed from was full join became using (id)
)
select e.id from everybody e
where e.crossed
   or exists (select from instance_version v where v.instance_id = e.id and v.to_revision between :first + 1 and :last
              offset 0)
   or exists (select from parent_link p where p.child_id = e.id and p.revision between :first + 1 and :last offset 0)
   or exists (select from service s where s.instance_id = e.id and s.revision between :first + 1 and :last offset 0)
   or exists (select from event h where h.instance_id = e.id and h.type in (6, 7)
              and h.revision between :first + 1 and :last offset 0)
order by e.id limit :limit
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
        ids = [row.id for row in await rows(connection, TOUCHED, given)]
        befores, afters = await among(connection, ids, first), await among(connection, ids, last)
        dead = await facts(connection, befores.keys() - afters.keys())
        for each in ids:
            found = Difference(each, befores.get(each), afters.get(each) or dead.get(each))
            if found.before != found.after:
                yield found
        if len(ids) < limit:
            return
        after = ids[-1]
