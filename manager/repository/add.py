"""Registrations: who joins the fleet."""

import json
from collections import defaultdict
from collections.abc import Sequence

from manager.domain.calls import Outcome, Reason, Registration
from manager.domain.event import Event, EventType
from manager.domain.instance import Instance, InstanceId
from manager.domain.lease import Leases
from manager.domain.refusals import ChildOfManager, Refusal
from manager.repository.instances import Known
from manager.repository.turn import Turn, Write, sparse

INSERT = """
added as (
    insert into instance (id, type, hostname, labels, timeout, digest, created_at, created_revision, updated_revision)
    select u.id, u.type, u.hostname, cast(u.labels as jsonb), u.timeout, u.digest, :now, u.revision, u.revision
    from unnest(cast(:added as uuid[]), cast(:added_types as smallint[]), cast(:hostnames as text[]),
                cast(:labels as text[]), cast(:timeouts as interval[]), cast(:digests as bytea[]),
                cast(:added_revisions as bigint[]))
         u(id, type, hostname, labels, timeout, digest, revision)
), beating as (
    insert into heartbeat (instance_id, timeout, last_seen)
    select u.id, u.timeout, :now from unnest(cast(:added as uuid[]), cast(:timeouts as interval[])) u(id, timeout)
    on conflict (instance_id) do update
    set timeout = excluded.timeout, last_seen = excluded.last_seen, told_stale = false
), linked as (
    insert into parent_link (child_id, parent_id, revision)
    select u.child, u.parent, u.revision
    from unnest(cast(:added as uuid[]), cast(:parents as uuid[]), cast(:added_revisions as bigint[]))
         u(child, parent, revision)
    where u.parent is not null
), offered as (
    insert into service (instance_id, ordinal, type, host, port, path, revision)
    select u.id, u.ordinal, u.type, u.host, u.port, u.path, u.revision
    from unnest(cast(:offerers as uuid[]), cast(:offer_ordinals as smallint[]), cast(:service_types as smallint[]),
                cast(:hosts as text[]), cast(:ports as integer[]), cast(:paths as text[]),
                cast(:service_revisions as bigint[])) u(id, ordinal, type, host, port, path, revision)
)
"""


async def add(turn: Turn, calls: Sequence[Registration], leases: Leases) -> list[Outcome | Refusal]:
    """Registers many, parents first; each healthy from now on, its parent and services in the same revision."""
    known = await turn.facts([each for call in calls for each in (call.id, call.parent)])
    outcomes: dict[int, Outcome | Refusal] = {}
    added: list[tuple[Registration, Instance]] = []
    for index in _parents_first(calls, known):
        call = calls[index]
        outcomes[index] = judged = _judge(call, known)
        if judged == Outcome():
            instance = known[call.id] = _registered(turn, call, leases)
            added.append((call, instance))
            _tell(turn, call, instance, known)
            outcomes[index] = Outcome.done(instance.created_revision)
    if added:
        turn.last = _insertion(turn, [instance for _, instance in added])
    # a call that no parent came before stands in a ring, or below one
    return [outcomes.get(index, Outcome.refused(Reason.UNKNOWN_PARENT)) for index in range(len(calls))]


def _parents_first(calls: Sequence[Registration], known: Known) -> list[int]:
    """Indices of the calls, each after one that registers its parent; without those that stand in a ring."""
    joining = {call.id for call in calls} - known.keys()
    waiting: dict[InstanceId, list[int]] = defaultdict(list)
    order: list[int] = []
    for index, call in enumerate(calls):
        if call.id in joining and call.parent is not None and call.parent in joining:
            waiting[call.parent].append(index)
        else:
            order.append(index)
    for index in order:  # which grows meanwhile
        order.extend(waiting.pop(calls[index].id, ()))
    return order


def _judge(call: Registration, known: Known) -> Outcome | Refusal:
    """`Outcome()` where the call is to be carried out."""
    present = known.get(call.id)
    if present is not None:
        if present.death:
            return Outcome.refused(Reason.DEAD)
        if present.digest != call.digest:
            return Outcome.refused(Reason.ID_TAKEN)
        return Outcome.done(present.created_revision)
    if call.parent is None:
        return Outcome()
    parent = known.get(call.parent)
    if parent is None:
        return Outcome.refused(Reason.UNKNOWN_PARENT)
    if parent.death:
        return Outcome.refused(Reason.PARENT_DEAD)
    if parent.is_manager and not call.is_manager:
        return ChildOfManager()
    return Outcome()


def _registered(turn: Turn, call: Registration, leases: Leases) -> Instance:
    revision = turn.next_revision()
    return Instance(
        id=call.id,
        type=call.type,
        hostname=call.hostname,
        timeout=call.timeout or leases[call.type].timeout,
        created_at=turn.now,
        created_revision=revision,
        updated_revision=revision,
        labels=call.labels,
        parent=call.parent,
        services=call.services,
        digest=call.digest,
    )


def _tell(turn: Turn, call: Registration, instance: Instance, known: Known) -> None:
    # the whole registration is one change: whoever sees ADDED sees the instance with its parent and services
    revision, actor = instance.created_revision, call.actor
    turn.tell(Event(revision, EventType.ADDED, instance.id, None, instance, actor=actor))
    if call.parent is not None:
        parent = known[call.parent]
        turn.tell(
            Event(revision, EventType.CHILD_ADDED, parent.id, parent, parent, related=instance.id, actor=actor),
            Event(revision, EventType.PARENT_ADDED, instance.id, instance, instance, related=parent.id, actor=actor),
        )
    turn.tell(
        *(
            Event(revision, EventType.SERVICE_ADDED, instance.id, instance, instance, service=each, actor=actor)
            for each in instance.services
        )
    )


def _insertion(turn: Turn, instances: Sequence[Instance]) -> Write:
    offers = [(of, number, each) for of in instances for number, each in enumerate(of.services)]
    return Write(
        INSERT,
        {
            "now": turn.now,
            "added": [each.id for each in instances],
            "added_types": [int(each.type) for each in instances],
            "hostnames": [each.hostname for each in instances],
            "labels": [json.dumps(dict(each.labels)) if each.labels else "{}" for each in instances],
            "timeouts": [each.timeout for each in instances],
            "digests": [each.digest for each in instances],
            "added_revisions": [each.created_revision for each in instances],
            "parents": sparse([each.parent for each in instances]),
            "offerers": [of.id for of, _, _ in offers],
            "offer_ordinals": [number for _, number, _ in offers],
            "service_types": [int(each.type) for _, _, each in offers],
            "hosts": [each.host for _, _, each in offers],
            "ports": [each.port for _, _, each in offers],
            "paths": [each.path for _, _, each in offers],
            "service_revisions": [of.created_revision for of, _, _ in offers],
        },
    )
