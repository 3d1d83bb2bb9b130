"""What must hold of the database whatever happened, and of it and the ledger together."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from manager.pb import instance_manager_pb2 as pb
from tests.conftest import Database
from tests.faults.record import Call, Entry, Operation
from tests.faults.replay import Life, lives
from tests.stream.plain import Fact

# Each gives the rows that must not be.
RULES = {
    "a living child of a dead parent": """
        select l.child_id::text from parent_link l
        join instance p on p.id = l.parent_id join instance c on c.id = l.child_id
        where p.died_revision is not null and (c.died_revision is null or c.died_revision > p.died_revision)""",
    "a ring": """
        with recursive up as (
            select child_id as start, parent_id as id from parent_link
            union
            select up.start, l.parent_id from up join parent_link l on l.child_id = up.id
        ) select start::text from up where start = id""",
    "a gap in the revisions": """
        select r::text from generate_series(
            (select max(compacted_revision) + 1 from control), (select max(revision) from event)) r
        where not exists (select from event e where e.revision = r)""",
    "ordinals that are not dense": """
        select revision::text from event group by revision
        having count(*) <> max(ordinal) + 1 or min(ordinal) <> 0""",
    "an instance that was added twice": """
        select instance_id::text from event where type = 1 group by instance_id having count(*) > 1""",
    "a death without its one event": """
        select i.id::text from instance i where i.died_revision is not null
        and (select count(*) from event e where e.instance_id = i.id and e.type = 2 and e.revision = i.died_revision)
            <> 1""",
    "an event of a death that did not happen": """
        select e.instance_id::text from event e join instance i on i.id = e.instance_id
        where e.type = 2 and i.died_revision is distinct from e.revision""",
    "a change of the dead": """
        select e.instance_id::text from event e join instance i on i.id = e.instance_id
        where i.died_revision < e.revision""",
    "a cascade that is not one revision": """
        select i.id::text from instance i join instance r on r.id = i.root_cause
        where i.death_cause = 3 and i.died_revision <> r.died_revision""",
}


async def violations(database: Database) -> list[str]:
    """The rules that are broken, with the first few rows that do so."""
    found = []
    for rule, statement in RULES.items():
        rows = await database.run(statement)
        if rows:
            found.append(f"{rule}: {[row[0] for row in rows[:5]]}")
    return found


def lost(
    ledger: Sequence[Entry], history: Sequence[Fact], base: int | None = None, again: float = float("inf")
) -> Iterator[str]:
    """Acknowledged changes that the history does not have. Those after `base` may be lost, being announced, but none
    that was asked for after `again`.
    """
    known = lives(history)
    for call, revision, called in ledger:
        if (base is None or revision <= base or called > again) and not _kept(call, revision, known):
            yield f"{call} was acknowledged as revision {revision}, and is lost"


def _kept(call: Call, revision: int, known: Mapping[str, Life]) -> bool:
    life = known.get(call.instance, Life())
    match call.method:
        case "add":
            return life.added == revision
        case "kill":
            return life.died == revision
        case "link":
            return known.get(call.other, Life()).linked == revision
        case "offer":
            return life.services.get(call.other) == revision
    return True


async def expiries(database: Database) -> dict[str, datetime]:
    """Who was declared dead for its silence, and when, by the database's clock."""
    rows = await database.run("select instance_id::text, at from event where type = 2 and cause = 2")
    return {row["instance_id"]: row["at"] for row in rows}


def early(operations: Sequence[Operation], expired: Mapping[str, datetime], lease: float) -> Iterator[str]:
    """Who expired sooner than `lease` seconds (timeout and grace) after a call that kept it alive was made."""
    heard: dict[str, float] = {}
    for each in operations:
        if each.value and each.call.method in ("add", "check") and each.returned is not None:
            heard[each.call.instance] = max(heard.get(each.call.instance, 0.0), each.wall)
    for instance, at in expired.items():
        if instance in heard and at.timestamp() < heard[instance] + lease:
            yield f"{instance} expired {at.timestamp() - heard[instance]:.2f} s after it was heard of"


def massacred(history: Sequence[Fact], faithful: Sequence[str]) -> Iterator[str]:
    """Who died although its process checked its health all the time."""
    causes = {each.instance: each.cause for each in history if each.type == pb.REMOVED}
    for each in faithful:
        if causes.get(each) in (pb.CAUSE_EXPIRED, pb.CAUSE_PARENT_DIED):
            yield f"{each} died of {pb.Cause.Name(pb.Cause.ValueType(causes[each]))} while it was alive"
