"""Updates: hostname, labels, timeout and type of an instance are replaced."""

import json
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import text

from manager.domain.calls import Outcome, Reason, Update
from manager.domain.event import Event, EventType
from manager.domain.instance import Instance
from manager.domain.lease import Leases
from manager.repository.driver import rows
from manager.repository.instances import Known
from manager.repository.turn import Turn

# `news` holds each version that became the present one in this turn, the last of an id being the one to stay.
REPLACE = text("""
with news as materialized (
    select u.*, row_number() over (partition by u.id order by u.revision desc) = 1 as last
    from unnest(cast(:ids as uuid[]), cast(:revisions as bigint[]), cast(:types as smallint[]),
                cast(:hostnames as text[]), cast(:labels as text[]), cast(:timeouts as interval[]))
         u(id, revision, type, hostname, labels, timeout)
), replaced as (
    update instance i set type = n.type, hostname = n.hostname, labels = cast(n.labels as jsonb), timeout = n.timeout,
                          updated_revision = n.revision
    from news n where n.last and i.id = n.id
)
update heartbeat h set timeout = n.timeout from news n
where n.last and h.instance_id = n.id and h.timeout <> n.timeout
""")

KEEP = text("""
insert into instance_version (instance_id, from_revision, to_revision, type, hostname, labels, timeout)
select u.id, u.first, u.last, u.type, u.hostname, cast(u.labels as jsonb), u.timeout
from unnest(cast(:ids as uuid[]), cast(:firsts as bigint[]), cast(:lasts as bigint[]), cast(:types as smallint[]),
            cast(:hostnames as text[]), cast(:labels as text[]), cast(:timeouts as interval[]))
     u(id, first, last, type, hostname, labels, timeout)
""")


async def update(turn: Turn, calls: Sequence[Update], leases: Leases) -> list[Outcome]:
    """Updates many; what was replaced is kept as a version."""
    known = await turn.facts([call.id for call in calls])
    changes: list[tuple[Instance, Instance]] = []
    outcomes = []
    for call in calls:
        outcome = _judge(call, known, leases)
        if outcome == Outcome():
            before, after = known[call.id], _updated(turn, known[call.id], call, leases)
            known[call.id] = after
            changes.append((before, after))
            turn.tell(
                Event(after.updated_revision, EventType.UPDATED, after.id, before, after, actor=call.actor),
            )
            outcome = Outcome.done(after.updated_revision)
        outcomes.append(outcome)
    if changes:
        await _write(turn, changes)
    return outcomes


def _judge(call: Update, known: Known, leases: Leases) -> Outcome:
    """`Outcome()` where the call is to be carried out."""
    present = known.get(call.id)
    if present is None:
        return Outcome.refused(Reason.UNKNOWN_INSTANCE)
    if present.death:
        return Outcome.refused(Reason.DEAD)
    if _content(present) == (call.type, call.hostname, dict(call.labels), _timeout(call, leases)):
        # also a repeat of the call that made it so, whose `expected` is of the version before
        return Outcome.done(present.updated_revision)
    if call.expected is not None and call.expected != present.updated_revision:
        return Outcome.refused(Reason.CONFLICT)
    return Outcome()


def _content(instance: Instance) -> tuple[object, ...]:
    return (instance.type, instance.hostname, dict(instance.labels), instance.timeout)


def _timeout(call: Update, leases: Leases) -> object:
    return call.timeout or leases[call.type].timeout


def _updated(turn: Turn, present: Instance, call: Update, leases: Leases) -> Instance:
    return replace(
        present,
        type=call.type,
        hostname=call.hostname,
        labels=call.labels,
        timeout=call.timeout or leases[call.type].timeout,
        updated_revision=turn.next_revision(),
    )


def _columns(instances: Sequence[Instance]) -> dict[str, object]:
    return {
        "ids": [each.id for each in instances],
        "types": [int(each.type) for each in instances],
        "hostnames": [each.hostname for each in instances],
        "labels": [json.dumps(dict(each.labels)) for each in instances],
        "timeouts": [each.timeout for each in instances],
    }


async def _write(turn: Turn, changes: Sequence[tuple[Instance, Instance]]) -> None:
    befores, afters = [before for before, _ in changes], [after for _, after in changes]
    revisions = [each.updated_revision for each in afters]
    await rows(turn.connection, REPLACE, {**_columns(afters), "revisions": revisions})
    firsts = [each.updated_revision for each in befores]
    await rows(turn.connection, KEEP, {**_columns(befores), "firsts": firsts, "lasts": revisions})
