"""Rows to instances, and what a turn must know of those that it touches."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import Cause, Death, Instance, InstanceId, InstanceType, Status
from manager.repository.driver import Row, rows
from manager.repository.state import services_of

Known = dict[InstanceId, Instance]


TYPES = {int(each): each for each in InstanceType}
CAUSES = {int(each): each for each in Cause}


def instance_of(row: Row) -> Instance:
    """An instance from a row of `instance_whole`, with `last_seen` and `stale` where the statement asked for them."""
    # columns by subscript, types and causes from tables: pages of a thousand are made of these
    death = None
    if row["died_at"] is not None:
        death = Death(row["died_at"], row["died_revision"], CAUSES[row["death_cause"]], row["root_cause"])
    services = row["services"]
    return Instance(
        id=row["id"],
        type=TYPES[row["type"]],
        hostname=row["hostname"],
        timeout=row["timeout"],
        created_at=row["created_at"],
        created_revision=row["created_revision"],
        updated_revision=row["updated_revision"],
        labels=row["labels"],
        parent=row["parent_id"],
        services=() if services is None else services_of(services),
        death=death,
        digest=row["digest"],
        last_seen=row.get("last_seen"),
        status=Status.DEAD if death else Status.STALE if row.get("stale") else Status.HEALTHY,
    )


# the stale are marked as the history tells of them: what is told of a change says it too
FACTS = text("""
select w.*, coalesce(h.told_stale, false) as stale
from unnest(cast(:ids as uuid[])) u(id)
cross join lateral (select * from instance_whole i where i.id = u.id offset 0) w
left join lateral (select told_stale from heartbeat where instance_id = u.id offset 0) h on true
""")


async def facts(connection: AsyncConnection, ids: Iterable[InstanceId]) -> Known:
    """Those of `ids` that were ever registered, dead or alive, as they are now."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    return {row["id"]: instance_of(row) for row in await rows(connection, FACTS, {"ids": wanted})}


STALE = text("select instance_id from heartbeat where instance_id = any(:ids) and told_stale")


async def with_status(connection: AsyncConnection, known: Known) -> Known:
    """The same, with the status that `facts` gives."""
    stale = {row.instance_id for row in await rows(connection, STALE, {"ids": sorted(known)})} if known else set()
    return {each: replace(one, status=Status.STALE) if each in stale else one for each, one in known.items()}


FIND = text("""
select w.*, l.last_seen, coalesce(l.stale, false) as stale
from unnest(cast(:ids as uuid[])) u(id)
cross join lateral (select * from instance_whole i where i.id = u.id and i.died_revision is null offset 0) w
left join lateral (select last_seen, stale from lease where instance_id = u.id offset 0) l on true
""")


async def find(connection: AsyncConnection, ids: Sequence[InstanceId]) -> Known:
    """The living among `ids`, with their status and last health check."""
    return {row["id"]: instance_of(row) for row in await rows(connection, FIND, {"ids": ids})}
