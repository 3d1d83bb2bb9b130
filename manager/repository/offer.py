"""Offers: services that an instance adds, for others to find."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import text

from manager.domain.calls import Offer, Outcome, Reason
from manager.domain.event import Event, EventType
from manager.domain.instance import InstanceId, Service
from manager.domain.refusals import InvalidRequest, Refusal
from manager.repository.driver import rows
from manager.repository.instances import Known
from manager.repository.turn import Turn

LIMIT = 32

INSERT = text("""
insert into service (instance_id, ordinal, type, host, port, path, revision)
select u.id, u.ordinal, u.type, u.host, u.port, u.path, u.revision
from unnest(cast(:ids as uuid[]), cast(:ordinals as smallint[]), cast(:types as smallint[]), cast(:hosts as text[]),
            cast(:ports as integer[]), cast(:paths as text[]), cast(:revisions as bigint[]))
     u(id, ordinal, type, host, port, path, revision)
""")

SINCE = text("""
select s.revision from service s
where s.instance_id = :id and s.type = :type and s.host = :host and s.port = :port and s.path = :path
""")


async def offer(turn: Turn, calls: Sequence[Offer]) -> list[Outcome | Refusal]:
    """Adds many services; one that exists already answers with the revision that added it."""
    known = await turn.facts([call.id for call in calls])
    added: dict[tuple[InstanceId, Service], tuple[int, int]] = {}
    outcomes = [await _add(turn, call, known, added) for call in calls]
    if added:
        await _insert(turn, added)
    return outcomes


async def _add(
    turn: Turn, call: Offer, known: Known, added: dict[tuple[InstanceId, Service], tuple[int, int]]
) -> Outcome | Refusal:
    present = known.get(call.id)
    if present is None:
        return Outcome.refused(Reason.UNKNOWN_INSTANCE)
    if present.death:
        return Outcome.refused(Reason.DEAD)
    if call.service in present.services:
        _, revision = added.get((call.id, call.service)) or (0, await _since(turn, call))
        return Outcome.done(revision)
    if len(present.services) == LIMIT:
        return InvalidRequest("service", f"the instance offers {LIMIT} services already, which is the most it may")
    revision = turn.next_revision()
    after = replace(present, services=(*present.services, call.service))
    known[call.id] = after
    added[call.id, call.service] = (len(present.services), revision)
    turn.tell(
        Event(revision, EventType.SERVICE_ADDED, call.id, present, after, service=call.service, actor=call.actor),
    )
    return Outcome.done(revision)


async def _since(turn: Turn, call: Offer) -> int:
    """A repeat is rare, so it may cost a statement of its own."""
    service = call.service
    wanted = {"type": int(service.type), "host": service.host, "port": service.port, "path": service.path}
    revision: int = (await turn.connection.execute(SINCE, {"id": call.id, **wanted})).scalar_one()
    return revision


async def _insert(turn: Turn, added: dict[tuple[InstanceId, Service], tuple[int, int]]) -> None:
    await rows(
        turn.connection,
        INSERT,
        {
            "ids": [each for each, _ in added],
            "ordinals": [ordinal for ordinal, _ in added.values()],
            "types": [int(service.type) for _, service in added],
            "hosts": [service.host for _, service in added],
            "ports": [service.port for _, service in added],
            "paths": [service.path for _, service in added],
            "revisions": [revision for _, revision in added.values()],
        },
    )
