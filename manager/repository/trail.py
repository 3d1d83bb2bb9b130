"""The trail: who did what, one row for all acts of a turn, chained to the row before. The database makes the chain."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.actor import Actor
from manager.domain.event import Event, EventType
from manager.domain.instance import Cause, InstanceId
from manager.domain.trail import Broken, Head, Verified
from manager.repository.driver import row, rows

# what events tell of, by the first one of a change. Deaths are told by the database, and silence is nobody's act
ACTS = {
    EventType.ADDED: "ADD",
    EventType.UPDATED: "UPDATE",
    EventType.SERVICE_ADDED: "OFFER",
    EventType.CHILD_ADDED: "LINK",
}
DEATHS = {Cause.KILLED: "KILL", Cause.EXPIRED: "EXPIRE"}


@dataclass(frozen=True, slots=True)
class Deaths:
    """How many died of one, with a digest of who they were in hex; what the one was before, as JSON."""

    victims: int
    digest: str
    before: str


def acts_of(events: Sequence[Event], befores: Sequence[str | None], afters: Sequence[str | None]) -> list[str]:
    """What was done, as JSON: one act a revision. The states are those of the events, as JSON already."""
    done: list[str] = []
    told = 0
    for event, before, after in zip(events, befores, afters, strict=True):
        if event.revision != told and event.type in ACTS:
            related = f', "related": "{event.related}"' if event.related else ""
            states = f', "before": {before or "null"}, "after": {after}' if before != after else ""
            done.append(f"{_begun(ACTS[event.type], event.revision, event.actor, event.instance)}{related}{states}}}")
        told = event.revision
    return done


def death(cause: Cause, revision: int, actor: Actor, root: InstanceId, note: str, deaths: Deaths) -> str:
    """A death with all that it took along, as JSON: one act, however many died."""
    return (
        f'{_begun(DEATHS[cause], revision, actor, root)}, "note": {json.dumps(note)}, "victims": {deaths.victims},'
        f' "victims_digest": "{deaths.digest}", "before": {deaths.before}}}'
    )


def _begun(act: str, revision: int, actor: Actor, instance: InstanceId) -> str:
    return f'{{"revision": {revision}, "act": "{act}", {_by(actor)}, "instance": "{instance}"'


@lru_cache(1024)
def _by(actor: Actor) -> str:
    given = {"who": actor.who, "token": actor.token and str(actor.token), "address": actor.address}
    return json.dumps(given)[1:-1]


APPEND = text("""
insert into trail (acts)
select json_build_array(json_build_object('act', cast(:act as text), 'who', cast(:who as text),
    'token', cast(:token as uuid), 'address', cast(:address as text), 'note', cast(:note as text)))
""")


async def note(connection: AsyncConnection, act: str, actor: Actor, told: str = "") -> None:
    """An act that changes no instance, in the transaction that is open. It takes the turns' lock until that ends."""
    values = {"act": act, "who": actor.who, "token": actor.token, "address": actor.address, "note": told}
    await connection.execute(APPEND, values)


SEAL = text("select number, hash from trail_seal order by number desc limit 1")

PAGE = text("""
with page as (
    select number, at, first_revision, revision, acts, hash from trail
    where number > :after order by number limit :size
)
select p.number, p.hash, p.number = coalesce(lag(p.number) over o, :after) + 1 as follows,
       p.hash = trail_hash(coalesce(lag(p.hash) over o, :before), p.number, p.at, p.first_revision, p.revision, p.acts)
       as unchanged
from page p window o as (order by p.number) order by p.number
""")

# The kept history is a witness: who cuts off the end of the trail has to cut off that of the history as well.
UNTOLD = text("""
select min(e.revision) as revision from event e
where e.type not in (6, 7)
  and e.revision > coalesce((select t.revision from trail t where t.revision is not null
                             order by t.number desc limit 1), (select max(s.revision) from trail_seal s))
""")

ROWS = 100  # each may hold the acts of thousands of calls


async def verify(connection: AsyncConnection, known: Head | None = None) -> Verified:
    """That every row is as it was written, as seen in the transaction that is open; raises Broken where one is not.

    `known` is a head from elsewhere, such as a log: the trail has to have led there.
    """
    found = await row(connection, SEAL)
    seal = head = Head(found.number, found.hash)
    passed = {seal.number: seal.hash}
    while page := await rows(connection, PAGE, {"after": head.number, "before": head.hash, "size": ROWS}):
        for each in page:
            if not each.follows:
                raise Broken(f"row {head.number + 1} of the trail is missing")
            if not each.unchanged:
                raise Broken(f"row {each.number} of the trail is not as it was written")
            head = Head(each.number, each.hash)
            if known and known.number == each.number:
                passed[each.number] = each.hash
    untold = await row(connection, UNTOLD)
    if untold.revision is not None:
        raise Broken(f"the trail ends at row {head.number}, before the change {untold.revision} of the history")
    if known and known.number >= seal.number and passed.get(known.number) != known.hash:
        raise Broken(f"the trail does not lead to {known}: it was written anew, or its end is missing")
    return Verified(seal, head)


HEAD = text("""
select number, hash from (
    (select number, hash from trail order by number desc limit 1)
    union all (select number, hash from trail_seal order by number desc limit 1)) h
order by number desc limit 1
""")


async def head_of(connection: AsyncConnection) -> Head:
    """The newest row, for whoever keeps it elsewhere."""
    found = await row(connection, HEAD)
    return Head(found.number, found.hash)


TRIM = text("select trim_trail(:step)")


async def trim(connection: AsyncConnection, step: int) -> bool:
    """Seals and deletes a little of what is past its retention; whether there was any."""
    sealed = (await connection.execute(TRIM, {"step": step})).scalar()
    return sealed is not None
