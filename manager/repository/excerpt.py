"""Excerpts of the history: the events that match, in either direction, a page at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.event import Entry
from manager.domain.excerpt import Bookmark, Excerpt
from manager.domain.refusals import EpochChanged
from manager.repository.history import gone, told_of

# Events that one page looks through at most; those of given instances are found by an index, and are not counted.
LOOK = 20_000
LAST = 2**31 - 1

CRITERIA = {
    "types": """(cast(e.before ->> 'type' as smallint) = any(:types)
        or cast(e.after ->> 'type' as smallint) = any(:types))""",
    "kinds": "e.type = any(:kinds)",
    "hostnames": "(e.before ->> 'hostname' = any(:hostnames) or e.after ->> 'hostname' = any(:hostnames))",
}

# Whose events are looked for: then each of them is looked up by itself.
WHOSE = {
    ("ids",): "select distinct unnest(cast(:ids as uuid[])) as id",
    ("subtree_of",): """
        with recursive down as (
            select cast(:subtree_of as uuid) as id
            union
            select c.child_id from down cross join lateral (
                select l.child_id from parent_link l where l.parent_id = down.id offset 0) c
        ) select id from down""",
    ("ids", "subtree_of"): """
        with recursive down as (
            select cast(:subtree_of as uuid) as id
            union
            select c.child_id from down cross join lateral (
                select l.child_id from parent_link l where l.parent_id = down.id offset 0) c
        ) select id from down where id = any(:ids)""",
}

COLUMNS = """e.revision, e.ordinal, e.type, e.instance_id, e.related_id, e.service, e.before, e.after, e.cause,
        e.root_cause, e.nonce, e.at, e.actor, e.note, 0 as size"""

# One row at least, so that the epoch and what is kept are of the same snapshot as the events.
PAGE = """
select p.epoch, c.compacted_revision,
       greatest(c.compacted_revision, p.base_revision, (select max(revision) from event)) as head,
       b.revision as bound_revision, b.ordinal as bound_ordinal, e.*
from control c
cross join lateral (select epoch, base_revision from history_epoch order by number desc limit 1) p
left join lateral ({bound}) b on true
left join lateral ({events}) e on true
order by e.revision {direction}, e.ordinal {direction}
"""

# The first event that is not looked at any more.
BOUND = """
    select e.revision, e.ordinal from event e
    where (e.revision, e.ordinal) {beyond} (:revision, :ordinal) and {within}
    order by e.revision {direction}, e.ordinal {direction} offset :look limit 1
"""
NO_BOUND = "select cast(null as bigint) as revision, cast(null as integer) as ordinal where false"

EVENTS = """
    select {columns} from event e
    where (e.revision, e.ordinal) {beyond} (:revision, :ordinal) and {within}
      and (b.revision is null or (e.revision, e.ordinal) {before} (b.revision, b.ordinal)) and {criteria}
    order by e.revision {direction}, e.ordinal {direction} limit :limit
"""

EVENTS_OF = """
    select f.* from ({whose}) u cross join lateral (
        select {columns} from event e
        where e.instance_id = u.id and (e.revision, e.ordinal) {beyond} (:revision, :ordinal) and {within}
          and {criteria}
        order by e.revision {direction}, e.ordinal {direction} limit :limit) f
    order by f.revision {direction}, f.ordinal {direction} limit :limit
"""

OLDEST_FIRST = {"direction": "asc", "beyond": ">", "before": "<", "within": "e.revision <= :end"}
NEWEST_FIRST = {"direction": "desc", "beyond": "<", "before": ">", "within": "e.revision >= :end"}


@cache
def page(given: tuple[str, ...], *, oldest_first: bool) -> TextClause:
    """The statement for these criteria."""
    words = OLDEST_FIRST if oldest_first else NEWEST_FIRST
    whose = WHOSE.get(tuple(each for each in given if each not in CRITERIA))
    criteria = " and ".join(("true", *(CRITERIA[each] for each in given if each in CRITERIA)))
    events = (EVENTS_OF if whose else EVENTS).format(columns=COLUMNS, whose=whose, criteria=criteria, **words)
    bound = (BOUND if given and not whose else NO_BOUND).format(**words)
    return text(PAGE.format(bound=bound, events=events, **words))


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in the order asked for, and where it goes on. `oldest`: the first revision kept; `head`: the newest."""

    entries: Sequence[Entry]
    next: Bookmark | None
    oldest: int
    head: int


async def read(connection: AsyncConnection, wanted: Excerpt, after: Bookmark | None, most: int) -> Page:
    """A page of at most so many entries; fewer, or none, with a `next` where it has looked at enough.

    Raises EpochChanged for a bookmark of another history, and HistoryGone where what comes next was trimmed meanwhile.
    The connection must be in a transaction of one snapshot.
    """
    first, last = await _revisions(connection, wanted)
    begin = ((first - 1, LAST) if wanted.oldest_first else (last + 1, 0)) if after is None else _key(after)
    criteria = _parameters(wanted)
    place = {"revision": begin[0], "ordinal": begin[1], "end": last if wanted.oldest_first else first}
    statement = page(tuple(criteria), oldest_first=wanted.oldest_first)
    bounds = {"limit": most + 1, "look": LOOK}
    known = statement.compile().params.keys()
    rows = (
        await connection.execute(
            statement, {name: each for name, each in {**criteria, **place, **bounds}.items() if name in known}
        )
    ).all()
    kept, epoch = rows[0].compacted_revision, rows[0].epoch
    if after is not None and after.epoch != epoch:
        raise EpochChanged("the page_token is of another history of the database: list again from the beginning")
    if after is not None and wanted.oldest_first and after.revision < kept:
        raise gone(kept)
    entries = [Entry(told_of(row), row.actor, row.note) for row in rows if row.revision is not None]
    following = None
    if len(entries) > most:
        entries.pop()
        following = Bookmark(epoch, *entries[-1].told.key)
    elif rows[0].bound_revision is not None:
        aside = -1 if wanted.oldest_first else 1  # so that the bound itself comes next
        following = Bookmark(epoch, rows[0].bound_revision, rows[0].bound_ordinal + aside)
    return Page(entries, following, kept + 1, rows[0].head)


def _key(place: Bookmark) -> tuple[int, int]:
    return (place.revision, place.ordinal)


def _parameters(wanted: Excerpt) -> dict[str, Any]:
    given: dict[str, Any] = {
        "types": [int(each) for each in wanted.types],
        "kinds": [int(each) for each in wanted.kinds],
        "hostnames": list(wanted.hostnames),
        "ids": list(wanted.ids),
        "subtree_of": wanted.subtree_of,
    }
    return {name: value for name, value in given.items() if value}


KEPT = text("select compacted_revision + 1 as first from control")

# Halves what may hold it, since revisions are dense and their times have no index.
SINCE = text("""
with recursive half as (
    select c.compacted_revision + 1 as low, (select coalesce(max(revision), 0) + 1 from event) as high from control c
    union all
    select case when m.at < :moment then m.revision + 1 else h.low end,
           case when m.at < :moment then h.high else (h.low + h.high) / 2 end
    from half h cross join lateral (
        select e.revision, e.at from event e where e.revision >= (h.low + h.high) / 2
        order by e.revision, e.ordinal limit 1) m
    where h.low < h.high
)
select max(low) from half
""")


async def _revisions(connection: AsyncConnection, wanted: Excerpt) -> tuple[int, int]:
    """The first and the last revision of the excerpt, times included."""
    first = max(wanted.first, (await connection.execute(KEPT)).scalar_one())
    last = wanted.last
    if wanted.since is not None:
        first = max(first, await _since(connection, wanted.since))
    if wanted.until is not None:
        last = min(last, await _since(connection, wanted.until) - 1)
    return first, last


async def _since(connection: AsyncConnection, moment: datetime) -> int:
    """The revision of the first change at or after a time; the one after the newest where there is none."""
    revision: int = (await connection.execute(SINCE, {"moment": moment})).scalar_one()
    return revision
