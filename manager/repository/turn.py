"""A turn: the one transaction that may change the fleet at a time, in whose order the revisions are.

The lock is taken by a statement of its own: inside another one the snapshot would be taken already, and would miss
what the turn before has committed.
"""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.actor import Actor
from manager.domain.event import Event
from manager.domain.grace import EPOCH_GRACE, MOST
from manager.domain.instance import InstanceId
from manager.domain.refusals import Unavailable, Unreplicated
from manager.repository.database import is_left, is_unreplicated, transaction
from manager.repository.driver import rows
from manager.repository.grace import forgive, forgive_all
from manager.repository.instances import FACTS, Known, facts, instance_of
from manager.repository.state import encode, encode_service
from manager.repository.trail import acts_of, note

T = TypeVar("T")


class UnknownHistoryError(Exception):
    """The database was promoted, restored or copied: nothing may be written before a new epoch is opened."""


@dataclass(frozen=True, slots=True)
class Write:
    """What an operation writes, as the auxiliary statements of a `with`, which give nothing back; and its values."""

    statements: str
    values: Mapping[str, Any]


@dataclass(slots=True)
class Turn:
    """What the operations of a turn share: its connection, the database's time, the next revision, the events."""

    connection: AsyncConnection
    now: datetime
    nonce: int
    head: int
    first: int  # the revision that comes after what was committed before
    known: Known  # of `asked`, as they were when the turn began
    asked: Set[InstanceId]
    events: list[Event] = field(default_factory=list)
    acts: list[str] = field(default_factory=list)  # for the trail, beside those that the events tell of
    last: Write | None = None  # which may go with the events

    async def facts(self, ids: Iterable[InstanceId | None]) -> Known:
        """Those of `ids` that were ever registered, dead or alive, as they are now."""
        wanted = {each for each in ids if each is not None}
        if self.head < self.first and wanted <= self.asked:  # nothing has changed yet
            return {each: self.known[each] for each in wanted if each in self.known}
        return await facts(self.connection, wanted)

    def next_revision(self) -> int:
        """The revision of one more change: dense, and committed in this order."""
        self.head += 1
        return self.head

    def tell(self, *events: Event) -> None:
        """Adds events of a change, after those of its revision that were told before."""
        self.events.extend(events)

    async def written(self) -> None:
        """Returns when all that the operations before have written can be read."""
        if self.last:
            write, self.last = self.last, None
            await rows(self.connection, alone(write.statements), write.values)


@cache
def alone(statements: str) -> TextClause:
    """What an operation writes, by itself."""
    return text(f"with {statements} select")


LOCK = "select pg_advisory_xact_lock(4711, 1)"

# with what is known of those whom the calls are about, in one trip: a row for each of them, or a row without any
OPENING = """
select o.*, f.*
from (
    select clock_timestamp() as now, cast(random() * 2147483647 as integer) as nonce,
           greatest(c.compacted_revision, e.base_revision, (select max(revision) from event)) as head,
           (e.system_identifier, e.timeline, e.database_oid, e.event_oid)
           is not distinct from (h.system_identifier, h.timeline, h.database_oid, h.event_oid) as known,
           h.system_identifier, h.timeline
    from control c cross join history_here h
    left join lateral (select * from history_epoch order by number desc limit 1) e on true
) o left join ({facts}) f on true
"""
OPEN = text(OPENING.format(facts=FACTS.text))


@asynccontextmanager
async def turn(
    connection: AsyncConnection, about: Set[InstanceId] = frozenset(), *, notify: bool = True
) -> AsyncIterator[Turn]:
    """Runs one turn; on return it is committed, as durably as the database is set up to. `about`: whose facts its
    operations will ask for first.

    Raises UnknownHistoryError, having changed nothing, where the newest epoch is of another history, and Unavailable,
    likewise, where this server was left behind by a promotion. Raises Unreplicated where it is committed here but on
    no synchronous standby: then nobody knows what a failover would keep.
    """
    async with transaction(connection, LOCK):
        found = await rows(connection, OPEN, {"ids": list(about)})
        opened = found[0]
        if is_left(connection, opened.system_identifier, opened.timeline):
            raise Unavailable
        if not opened.known:
            raise UnknownHistoryError
        known = {each["id"]: instance_of(each) for each in found if each["id"] is not None}
        present = Turn(connection, opened.now, opened.nonce, opened.head, opened.head + 1, known, about)
        yield present
        if present.head > opened.head:
            await _append(present, ring=notify)
    if is_unreplicated(connection):
        raise Unreplicated


# The events that the operations have not written themselves, the trail, and the doorbell: one trip for all, and for
# what the last operation writes.
APPEND = """
with {last}trailed as (
    insert into trail (first_revision, revision, acts)
    select cast(:first as bigint), cast(:last as bigint), cast(cast(:acts as text) as json)
    where cast(:acts as text) is not null
), appended as (
    insert into event (revision, ordinal, type, instance_id, related_id, service, before, after,
                       cause, root_cause, actor, note, nonce, at)
    select u.revision, u.ordinal, u.type, u.instance, u.related, cast(u.service as jsonb), cast(u.before as jsonb),
           cast(u.after as jsonb), u.cause, u.root, u.actor, coalesce(u.note, ''), :nonce, :now
    from unnest(cast(:revisions as bigint[]), cast(:ordinals as integer[]), cast(:types as smallint[]),
                cast(:instances as uuid[]), cast(:related as uuid[]), cast(:services as text[]),
                cast(:befores as text[]), cast(:afters as text[]), cast(:causes as smallint[]),
                cast(:roots as uuid[]), cast(:actors as text[]), cast(:notes as text[]))
         u(revision, ordinal, type, instance, related, service, before, after, cause, root, actor, note)
)
select pg_notify('instance_manager', cast(:head as text)) where cast(:ring as boolean)
"""


@cache
def appending(last: str) -> TextClause:
    """The end of a turn, with what its last operation writes."""
    return text(APPEND.format(last=f"{last}, " if last else ""))


async def _append(present: Turn, *, ring: bool) -> None:
    events = present.events
    befores = [encode(each.before) if each.before else None for each in events]
    afters = [encode(each.after) if each.after else None for each in events]
    acts = [*present.acts, *acts_of(events, befores, afters)]
    last = present.last or Write("", {})
    await rows(
        present.connection,
        appending(last.statements),
        {
            **last.values,
            "ring": ring,
            "head": str(present.head),
            "first": present.first,
            "last": present.head,
            "acts": f"[{', '.join(acts)}]" if acts else None,
            "nonce": present.nonce,
            "now": present.now,
            "revisions": [each.revision for each in events],
            "ordinals": _ordinals(events),
            "types": [int(each.type) for each in events],
            "instances": [each.instance for each in events],
            "related": sparse([each.related for each in events]),
            "services": sparse([each.service and json.dumps(encode_service(each.service)) for each in events]),
            "befores": sparse(befores),
            "afters": sparse(afters),
            "causes": sparse([each.cause for each in events]),
            "roots": sparse([each.root for each in events]),
            "actors": [str(each.actor) for each in events],
            "notes": sparse([each.note or None for each in events]),
        },
    )


def sparse(column: list[T | None]) -> list[T | None]:
    """A column of `unnest`, which fills up with nulls what is shorter than the others: the driver looks at each item
    for longer than all else that is done for it."""
    return column if any(each is not None for each in column) else []


def _ordinals(events: Sequence[Event]) -> list[int]:
    """The number of each in its revision, from 0."""
    numbers: dict[int, Iterator[int]] = defaultdict(count)
    return [next(numbers[each.revision]) for each in events]


# whoever restored the database has left word in `control`
EPOCH = text("""
with opened as (
    insert into history_epoch (number, system_identifier, timeline, database_oid, event_oid, base_revision, reason)
    select coalesce((select max(number) from history_epoch), 0) + 1, h.system_identifier, h.timeline, h.database_oid,
           h.event_oid,
           greatest(c.compacted_revision, (select max(revision) from event),
                    (select max(base_revision) from history_epoch)),
           case when not exists (select from history_epoch) then 'the first'
                when c.restored is null or :forced then :reason else c.restored end
    from history_here h cross join control c
    where :forced or not exists (
        select from (select * from history_epoch order by number desc limit 1) e
        where (e.system_identifier, e.timeline, e.database_oid, e.event_oid)
            = (h.system_identifier, h.timeline, h.database_oid, h.event_oid))
    returning epoch, number
), told as (
    update control set restored = null where restored is not null and exists (select from opened)
)
select epoch, number from opened
""")


async def open_epoch(
    connection: AsyncConnection, reason: str, *, forced: bool = False, operator: Actor | None = None
) -> tuple[UUID, int] | None:
    """Opens a new epoch and gives its id and number; None where this history of the database has one already.

    After a restore or a promotion nobody has been heard of for a while, and that is nobody's fault. Nor does the record
    say who was silent when it ended: so all who are alive on it are forgiven.
    """
    async with transaction(connection, LOCK):
        opened = (await connection.execute(EPOCH, {"reason": reason, "forced": forced})).one_or_none()
        if opened is not None and opened.number > 1:
            await forgive_all(connection, EPOCH_GRACE)
        if opened is not None and operator:
            await note(connection, "NEW_EPOCH", operator, reason)
        return None if opened is None else (opened.epoch, opened.number)


async def give_grace(connection: AsyncConnection, length: timedelta, operator: Actor | None = None) -> datetime | None:
    """An operator's word that everybody deserves more time; until when, None where the hour's share is spent."""
    async with transaction(connection, LOCK):
        until = await forgive(connection, length, MOST)
        if operator:
            await note(connection, "GRACE", operator, f"until {until:%Y-%m-%d %H:%M:%S} UTC" if until else "none left")
        return until
