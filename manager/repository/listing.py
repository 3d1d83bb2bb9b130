"""Lists: the living that match a filter, by id, as of one snapshot."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.filter import Filter
from manager.domain.instance import Instance, InstanceId, Status
from manager.repository.driver import rows
from manager.repository.instances import instance_of

CHUNK = 1_001  # a page of 1,000 in one go, and whether there is more

# Each criterion that a filter gives narrows the page; ids first, their leases after, since pages must not join.
CRITERIA = {
    "after": "i.id > :after",
    "ids": "i.id = any(:ids)",
    "lowest": "i.id between :lowest and :highest",
    "types": "i.type = any(:types)",
    "service_types": """exists (
        select from service s where s.instance_id = i.id and s.type = any(:service_types) offset 0)""",
    "hostnames": "i.hostname = any(:hostnames)",
    "labels": "i.labels @> cast(:labels as jsonb)",
    "parent": """i.id = any(array(
        select l.child_id from parent_link l where l.parent_id = :parent and l.ended_revision is null))""",
    "subtree_of": """i.id = any(array(
        with recursive down as (
            select cast(:subtree_of as uuid) as id
            union
            select c.child_id from down cross join lateral (
                select l.child_id from parent_link l
                where l.parent_id = down.id and l.ended_revision is null offset 0) c
        ) select id from down))""",
}

# `seen` has nobody who is not on the page; the join is full since that one is never done row by row, as the planner
# would a left one, knowing of neither how many there are.
PAGE = """
with page as materialized (
    select i.id from instance i
    where i.died_revision is null and i.created_revision <= :revision and {criteria}
    order by i.id limit :limit
), seen as materialized (
    select l.instance_id, l.last_seen, l.stale, l.told_stale from lease l
    where l.instance_id = any(array(select id from page))
)
select w.*, seen.last_seen, coalesce(seen.stale, false) as stale, seen.told_stale
from page full join seen on seen.instance_id = page.id
cross join lateral (select * from instance_whole where id = page.id offset 0) w
order by w.id
"""


@cache
def _page(criteria: tuple[str, ...]) -> TextClause:
    return text(PAGE.format(criteria=" and ".join(("true", *(CRITERIA[each] for each in criteria)))))


def _parameters(wanted: Filter) -> dict[str, object]:
    """The criteria that the filter gives, by name; the second end of the range travels with the first."""
    given: dict[str, object] = {
        "ids": list(wanted.ids),
        "lowest": wanted.id_range and wanted.id_range[0],
        "types": [int(each) for each in wanted.types],
        "service_types": [int(each) for each in wanted.service_types],
        "hostnames": list(wanted.hostnames),
        "labels": wanted.labels and json.dumps(dict(wanted.labels)),
        "parent": wanted.parent,
        "subtree_of": wanted.subtree_of,
    }
    return {name: value for name, value in given.items() if value}


async def living(
    connection: AsyncConnection,
    wanted: Filter,
    *,
    after: InstanceId | None,
    revision: int,
    most: int = CHUNK,
    as_told: bool = False,
) -> AsyncIterator[Instance]:
    """The instances that match, by id, without the stale; read in pieces of about `most` at once.

    With `as_told` all the living, stale only if the history says so: whoever follows it from here hears of the rest.

    They begin after the id `after`; where it is None with the first of all, which may be the id of zeros alone.
    Nothing registered after `revision` is among them. The connection must be in a transaction of one snapshot.
    """
    criteria = _parameters(wanted)
    limit = min(most + 1, CHUNK)
    bounds = {"highest": wanted.id_range and wanted.id_range[1], "revision": revision, "limit": limit}
    while True:
        if after is not None:
            criteria["after"] = after
        found = await rows(connection, _page(tuple(criteria)), {**criteria, **bounds})
        for row in found:
            instance = instance_of(row)
            if as_told:
                yield replace(instance, status=Status.STALE if row["told_stale"] else Status.HEALTHY)
            elif instance.status is not Status.STALE:
                yield instance
        if len(found) < limit:
            return
        after = found[-1].id


DESCRIBE = text("""
with recursive up as (
    select cast(:id as uuid) as id, 0 as depth
    union
    select p.parent_id, up.depth + 1
    from up cross join lateral (select l.parent_id from parent_link l where l.child_id = up.id offset 0) p
    where up.id <> (select root_cause from instance where id = cast(:id as uuid))
)
select w.*, l.last_seen, coalesce(l.stale, false) as stale, e.actor, e.note
from up cross join lateral (select * from instance_whole where id = up.id offset 0) w
left join lateral (select * from lease where instance_id = up.id offset 0) l on true
left join event e on e.revision = w.died_revision and e.instance_id = w.root_cause and e.type = 2
order by up.depth
""")


async def describe(connection: AsyncConnection, instance_id: InstanceId) -> tuple[list[Instance], str, str]:
    """An instance, dead or alive, and for the dead those above it up to the root cause; who did it, and the note.

    Empty for an id that never was.
    """
    found = await rows(connection, DESCRIBE, {"id": instance_id})
    if not found:
        return [], "", ""
    return [instance_of(row) for row in found], found[0].actor or "", found[0].note or ""
