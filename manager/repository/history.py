"""The history: events in the order of their revisions, places in it, and the fleet as it was at one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.event import EventType, Told
from manager.domain.filter import ResumeToken
from manager.domain.instance import Cause, Instance, InstanceId
from manager.domain.refusals import EpochChanged, HistoryGone
from manager.repository.driver import rows
from manager.repository.instances import instance_of, with_status
from manager.repository.state import decode, services_of

HEAD = text("""
select e.epoch, greatest(c.compacted_revision, e.base_revision, l.revision) as revision,
       coalesce(l.ordinal, c.compacted_ordinal) as ordinal, coalesce(l.nonce, c.compacted_nonce) as nonce
from control c
cross join lateral (select * from history_epoch order by number desc limit 1) e
left join lateral (select * from event order by revision desc, ordinal desc limit 1) l on true
""")


async def head(connection: AsyncConnection) -> ResumeToken:
    """The latest change that this statement sees, as a place to go on from."""
    return ResumeToken(**(await connection.execute(HEAD)).one()._mapping)


@dataclass(frozen=True, slots=True)
class Page:
    """Events after a place, of one snapshot; `more` where there may be others. `oldest`: the first revision kept."""

    epoch: UUID
    oldest: int
    events: Sequence[Told]
    more: bool


# One row at least, so that the epoch and what is kept are of the same snapshot as the events.
READ = text("""
select p.epoch, c.compacted_revision, c.compacted_ordinal,
       coalesce((select b.nonce from event b where b.revision = :revision order by b.ordinal limit 1),
                case when c.compacted_revision = :revision then c.compacted_nonce end) as begun, e.*
from control c
cross join lateral (select epoch from history_epoch order by number desc limit 1) p
left join lateral (
    select revision, ordinal, type, instance_id, related_id, service, before, after, cause, root_cause, nonce, at,
           coalesce(pg_column_size(before), 0) + coalesce(pg_column_size(after), 0) as size
    from event where (revision, ordinal) > (:revision, :ordinal) order by revision, ordinal limit :limit
) e on true
order by e.revision, e.ordinal
""")


async def read(connection: AsyncConnection, after: tuple[int, int], limit: int, *, nonce: int | None = None) -> Page:
    """Up to `limit` events after a (revision, ordinal). Raises HistoryGone where some of them are no longer kept.

    Raises EpochChanged where the revision is not, or no longer, the one with that nonce.
    """
    revision, ordinal = after
    place = {"revision": revision, "ordinal": ordinal, "limit": limit + 1}
    found = await rows(connection, READ, place)
    kept = found[0].compacted_revision
    if after < (kept, found[0].compacted_ordinal):
        raise gone(kept)
    if nonce is not None and found[0].begun != nonce:
        raise changed()
    events = [told_of(row) for row in found if row.revision is not None]
    for each, following in pairwise(events):
        each.last = each.revision != following.revision
    more = len(events) > limit
    if more:
        events.pop()
    elif events:
        events[-1].last = True  # a revision is committed whole
    return Page(found[0].epoch, kept + 1, events, more)


def gone(kept: int) -> HistoryGone:
    """What is said of a place before the kept history."""
    return HistoryGone(f"the history is kept from revision {kept + 1} on: list again, and go on from its resume_token")


def told_of(row: Any) -> Told:
    """An event from a row of it, with the epoch that it is read in and its `size`."""
    before = None if row.before is None else decode(row.instance_id, row.before)
    same = row.before == row.after
    return Told(
        epoch=row.epoch,
        revision=row.revision,
        ordinal=row.ordinal,
        nonce=row.nonce,
        at=row.at,
        type=EventType(row.type),
        instance=row.instance_id,
        before=before,
        after=before if same else None if row.after is None else decode(row.instance_id, row.after),
        related=row.related_id,
        service=None if row.service is None else services_of([row.service])[0],
        cause=None if row.cause is None else Cause(row.cause),
        root=row.root_cause,
        size=row.size,
    )


# The epoch of the token, where the next one began, and what this history has at the token's revision.
PLACE = text("""
select t.number is not null as known, p.epoch as newest, c.compacted_revision, c.compacted_ordinal,
       c.compacted_nonce, (select min(n.base_revision) from history_epoch n where n.number > t.number) as ended,
       greatest(c.compacted_revision, p.base_revision, (select max(revision) from event)) as head,
       (select e.nonce from event e where e.revision = :revision order by e.ordinal limit 1) as nonce
from control c
cross join lateral (select epoch, base_revision from history_epoch order by number desc limit 1) p
left join history_epoch t on t.epoch = :epoch
""")


async def judge(connection: AsyncConnection, place: ResumeToken) -> UUID:
    """The epoch in which a place is still good. Raises EpochChanged or HistoryGone.

    A place of an older epoch is good up to where the next one began. The nonce tells a disk that was rolled back
    without anybody's word: the same revision, made twice, has two.
    """
    row = (await connection.execute(PLACE, {"epoch": place.epoch, "revision": place.revision})).one()
    if place.revision > (row.head if row.ended is None else row.ended) or not row.known:
        raise changed()
    if (place.revision, place.ordinal) < (row.compacted_revision, row.compacted_ordinal):
        raise gone(row.compacted_revision)
    nonce = row.compacted_nonce if place.revision == row.compacted_revision and row.nonce is None else row.nonce
    if nonce is not None and nonce != place.nonce:
        raise changed()
    newest: UUID = row.newest
    return newest


REST = text("""
select exists (select from event where revision = :revision and ordinal > :ordinal)
""")


async def is_whole(connection: AsyncConnection, place: ResumeToken) -> bool:
    """Whether nothing of the place's revision comes after it."""
    if place.part:
        return False
    rest = await connection.execute(REST, {"revision": place.revision, "ordinal": place.ordinal})
    return not rest.scalar_one()


def changed() -> EpochChanged:
    """What is said of a place in another history."""
    return EpochChanged("the resume_token is of another history of the database: list again, and go on from there")


# The links as they were: what began by then and had not ended. The instances as they were: the present row, or the
# version that was the present one.
TREE = text("""
with recursive down as (
    select cast(:root as uuid) as id, 0 as depth
    union
    select c.child_id, down.depth + 1
    from down cross join lateral (
        select l.child_id from parent_link l
        where l.parent_id = down.id and l.revision <= :revision
          and (l.ended_revision is null or l.ended_revision > :revision) offset 0) c
)
select w.id, coalesce(v.type, w.type) as type, coalesce(v.hostname, w.hostname) as hostname,
       coalesce(v.labels, w.labels) as labels, coalesce(v.timeout, w.timeout) as timeout, w.digest, w.created_at,
       w.created_revision, coalesce(v.from_revision, w.updated_revision) as updated_revision,
       cast(null as timestamptz) as died_at,
       (select p.parent_id from parent_link p where p.child_id = w.id and p.revision <= :revision) as parent_id,
       (select jsonb_agg(jsonb_build_object('type', s.type, 'host', s.host, 'port', s.port, 'path', s.path)
                         order by s.ordinal)
        from service s where s.instance_id = w.id and s.revision <= :revision) as services
from down cross join lateral (select * from instance where id = down.id offset 0) w
left join instance_version v on v.instance_id = w.id and v.from_revision <= :revision and v.to_revision > :revision
where w.created_revision <= :revision and (w.died_revision is null or w.died_revision > :revision)
order by down.depth, w.id
""")


async def tree(connection: AsyncConnection, root: InstanceId, revision: int) -> list[Instance]:
    """An instance and its descendants as they were at a revision, by depth and id; none where it did not live then."""
    found = await rows(connection, TREE, {"root": root, "revision": revision})
    known = await with_status(connection, {row["id"]: instance_of(row) for row in found})
    return list(known.values())
