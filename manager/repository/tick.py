"""The reaper's pass: who is stale is told, who is expired dies, and an outage earns everybody grace."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import text

from manager.domain.calls import Kill, Outcome, Tick
from manager.domain.event import Event, EventType
from manager.domain.instance import Cause, InstanceId, Status
from manager.domain.lease import Leases, Patience, grace_after
from manager.repository.instances import facts
from manager.repository.kill import slay
from manager.repository.turn import Turn

# Roots that one pass declares dead, and instances that it tells stale or recovered; the next goes on.
EXPIRED_LIMIT = 1_000
TOLD_LIMIT = 10_000

GAP = text("select cast(:now as timestamptz) - ticked_at from control")

# While one grace lasts, another outage does not forget those whom the first one forgave.
GRANT = text("""
update control
set ticked_at = t.now,
    grace_from = case when t.grace = interval '0' then grace_from
                      when grace_until > ticked_at then grace_from else ticked_at end,
    grace_until = case when t.grace = interval '0' then grace_until else greatest(grace_until, t.now + t.grace) end
from (select cast(:now as timestamptz) as now, cast(:grace as interval) as grace) t
""")


async def tick(turn: Turn, calls: Sequence[Tick], leases: Leases, patience: Patience, pace: timedelta) -> list[Outcome]:
    """One pass for all of `calls`, or none where another manager has only just made one."""
    gap: timedelta = (await turn.connection.execute(GAP, {"now": turn.now})).scalar_one()
    starting = any(call.starting for call in calls)
    if timedelta(0) <= gap < pace and not starting:
        return [Outcome.done() for _ in calls]
    await turn.connection.execute(GRANT, {"now": turn.now, "grace": grace_after(gap, starting, patience)})
    await turn.connection.execute(WIDE)
    await _expire(turn, calls[0].actor, leases)
    await _tell(turn, calls[0].actor)
    return [Outcome.done(turn.head) for _ in calls]


# The one pass over all heartbeats; the last operation of its turn, so that it changes no other's plan.
WIDE = text("set local enable_seqscan = on")

# Three steps: who seems to be due; their rows locked, so that no health check comes in between, and without those
# that one is writing at this moment; who of the locked is due still. A health check that came first always wins.
DUE = text("""
select instance_id from lease
where now > greatest(due_at + cast(:grace as interval), forgiven_until) order by random() limit :limit
""")

HOLD = text("""
select instance_id from heartbeat where instance_id = any(:ids) order by instance_id for update skip locked
""")

EXPIRED = text("""
select l.instance_id from unnest(cast(:ids as uuid[]), cast(:graces as interval[])) u(id, grace)
cross join lateral (select * from lease where instance_id = u.id offset 0) l
where l.now > greatest(l.due_at + u.grace, l.forgiven_until)
""")


async def _expire(turn: Turn, actor: str, leases: Leases) -> None:
    shortest = min(each.grace for each in leases.values())
    due = (await turn.connection.execute(DUE, {"grace": shortest, "limit": EXPIRED_LIMIT})).scalars().all()
    if not due:
        return
    held = (await turn.connection.execute(HOLD, {"ids": due})).scalars().all()
    living = {each: one for each, one in (await facts(turn.connection, held)).items() if one.death is None}
    graces = [leases[one.type].grace for one in living.values()]
    found = await turn.connection.execute(EXPIRED, {"ids": list(living), "graces": graces})
    expired: Sequence[InstanceId] = found.scalars().all()
    await slay(turn, [Kill(each, actor=actor) for each in expired], Cause.EXPIRED)


CHANGED = text("""
select instance_id from lease where stale <> told_stale limit :limit
""")

MARK = text("""
update heartbeat h set told_stale = l.stale from lease l
where h.instance_id = any(:ids) and l.instance_id = h.instance_id and h.told_stale <> l.stale
returning h.instance_id, h.told_stale
""")


async def _tell(turn: Turn, actor: str) -> None:
    """Each becomes stale, or recovers, by a change of its own."""
    changed = (await turn.connection.execute(CHANGED, {"limit": TOLD_LIMIT})).scalars().all()
    if not changed:
        return
    held = (await turn.connection.execute(HOLD, {"ids": changed})).scalars().all()
    marked = (await turn.connection.execute(MARK, {"ids": held})).all()
    known = await facts(turn.connection, [row.instance_id for row in marked])
    for row in marked:
        one = known.get(row.instance_id)
        if one is not None and one.death is None:
            kind = EventType.STALE if row.told_stale else EventType.RECOVERED
            stale = replace(one, status=Status.STALE)
            before, after = (one, stale) if row.told_stale else (stale, one)
            turn.tell(Event(turn.next_revision(), kind, one.id, before, after, actor=actor))
