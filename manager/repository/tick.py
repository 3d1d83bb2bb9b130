"""The reaper's pass: who is stale is told, who is expired dies, and an outage earns everybody grace."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic

from sqlalchemy import text

from manager.domain.actor import Actor
from manager.domain.calls import Beat, Kill, Tick, Ticked
from manager.domain.event import Event, EventType
from manager.domain.grace import NONE, Grace, Silence, Why, earned
from manager.domain.instance import Cause, InstanceId, Status
from manager.domain.lease import stretched
from manager.domain.policy import Policy
from manager.domain.preservation import Group, Mode, Watch, admitted, refilled
from manager.repository import preservation
from manager.repository.grace import grace_of, note
from manager.repository.instances import facts
from manager.repository.kill import slay
from manager.repository.turn import Turn

# Candidates that one pass looks at, and of each group: more than may die in it. And instances that one pass tells
# stale or recovered; the next goes on.
DUE_LIMIT = 1_000
DUE_OF_GROUP = 100
TOLD_LIMIT = 10_000
# What a longer gap between two ticks adds to rates and stops; nobody was watched meanwhile.
LONGEST = timedelta(seconds=10)

# The database's time once more, as close to this process's own as can be: the two are compared from tick to tick.
CONTROL = text("""
select clock_timestamp() as at, ticked_at, grace_from, grace_at, grace_until, grace_spent, rate_tokens, stretch
from control
""")


@dataclass(frozen=True, slots=True)
class Control:
    """What the last tick left behind, and when this process read it."""

    beat: Beat
    ticked_at: datetime
    grace: Grace
    tokens: float
    stretch: float


async def tick(turn: Turn, calls: Sequence[Tick], policy: Policy) -> list[Ticked]:
    """One pass for all of `calls`, or none where another manager has only just made one.

    What an outage of this manager alone earns is given in either case.
    """
    control = await _control(turn)
    silence = _silence(turn, control, calls, policy)
    reason = earned(silence, policy.patience)
    after = replace(control, grace=_grace(turn, control.grace, silence, reason, policy))
    watches = await preservation.remembered(turn)
    if not NONE <= silence.gap < policy.pace or silence.starting or reason:
        after, watches = await _pass(turn, calls[0].actor, silence, after, watches, policy)
    told = Ticked(
        beat=control.beat,
        why=reason[0] if reason else None,
        grace=after.grace.left(turn.now),
        watches=watches,
        stretch=after.stretch,
        revision=turn.head,
    )
    return [told for _ in calls]


async def _control(turn: Turn) -> Control:
    row = (await turn.connection.execute(CONTROL)).one()
    return Control(Beat(row.at, monotonic()), row.ticked_at, grace_of(row), row.rate_tokens, row.stretch)


def _silence(turn: Turn, control: Control, calls: Sequence[Tick], policy: Policy) -> Silence:
    """The longest of what the calls know."""
    gap, starting = turn.now - control.ticked_at, any(call.starting for call in calls)
    last = next((call.last for call in calls if call.last), None)
    if last is None:
        return Silence(gap, starting=starting)
    passed = timedelta(seconds=control.beat.clock - last.clock)
    return Silence(gap, passed - policy.interval, control.beat.at - last.at - passed, starting)


def _grace(turn: Turn, grace: Grace, silence: Silence, reason: tuple[Why, timedelta] | None, policy: Policy) -> Grace:
    if silence.gap < NONE:
        grace = grace.set_back(turn.now)
    if reason is None:
        return grace
    return grace.given(turn.now, turn.now - silence.length, reason[1], policy.patience.most)


# Around the passes over all heartbeats, and them alone: what goes by keys is planned once, and must not be planned so.
WIDE = text("set local enable_seqscan = on")
NARROW = text("set local enable_seqscan = off")

# After the clock was set back: who was heard of in what is now the future would not be missed until then.
CLAMP = text("""
update heartbeat set last_seen = :now where instance_id in (
    select instance_id from heartbeat where last_seen > :now order by instance_id for no key update skip locked)
""")

# Whatever a pass judges, it judges as of the turn's own time: nobody dies by an event from before its death was due.
BEGIN = text("update control set ticked_at = :now, judged_for = interval '0'")
END = text("update control set rate_tokens = :tokens, stretch = :stretch, judged_for = :judged_for")


async def _pass(
    turn: Turn, actor: Actor, silence: Silence, control: Control, before: dict[Group, Watch], policy: Policy
) -> tuple[Control, dict[Group, Watch]]:
    """What the pass leaves behind. The view that judges reads when it began, and the grace: so these come first."""
    await turn.connection.execute(WIDE)
    if silence.gap < NONE:
        await turn.connection.execute(CLAMP, {"now": turn.now})
    await note(turn.connection, control.grace)
    await turn.connection.execute(BEGIN, {"now": turn.now})
    elapsed = min(max(silence.gap, NONE), LONGEST)
    count = await preservation.count(turn)
    watches = await preservation.look(turn, before, count, elapsed, policy.limits)
    due = await _due(turn, watches, policy) if count.silent else []
    changed = (await turn.connection.execute(CHANGED, {"limit": TOLD_LIMIT})).scalars().all() if count.changed else []
    await turn.connection.execute(NARROW)
    chosen = admitted(await _roots(turn, due, policy), watches, refilled(control.tokens, elapsed, policy.limits))
    stretch = stretched(control.stretch, count.demand, policy.check_load)
    await preservation.keep(turn, before, chosen.watches)
    if chosen.roots:
        await _expire(turn, actor, chosen.roots, policy)
    if changed:
        await _tell(turn, actor, changed)
    left = {"tokens": chosen.tokens, "stretch": stretch, "judged_for": 2 * policy.interval}
    await turn.connection.execute(END, left)
    return replace(control, tokens=chosen.tokens, stretch=stretch), dict(chosen.watches)


# Who seems to be due, some of each group, in random order; not who would be spared anyway.
DUE = text("""
with due as materialized (
    select l.instance_id as id, i.type, i.hostname,
           row_number() over (partition by i.type, i.hostname order by random()) as place
    from lease l join instance i on i.id = l.instance_id
    join unnest(cast(:types as smallint[]), cast(:graces as interval[])) g(type, grace) on g.type = i.type
    where i.died_revision is null and l.now > greatest(l.due_at + g.grace, l.forgiven_until)
)
select d.id from due d
where d.place <= :of_group and not exists (
    select from unnest(cast(:stopped_types as smallint[]), cast(:stopped_hosts as text[])) s(type, hostname)
    where s.type = d.type and s.hostname = d.hostname)
order by random() limit :limit
""")

# Whoever's parent is due as well dies with it: up to those whose parent is not. Every step is a look-up by key.
ROOTS = text("""
with recursive up as (
    select u.id from unnest(cast(:ids as uuid[])) u(id)
    union
    select a.id from up cross join lateral (
        select p.parent_id as id from parent_link p
        join lease l on l.instance_id = p.parent_id join instance i on i.id = p.parent_id
        join unnest(cast(:types as smallint[]), cast(:graces as interval[])) g(type, grace) on g.type = i.type
        where p.child_id = up.id and p.ended_revision is null
          and l.now > greatest(l.due_at + g.grace, l.forgiven_until) offset 0) a
)
select i.id, i.type, i.hostname from up join instance i on i.id = up.id
where i.died_revision is null and not exists (
    select from parent_link p where p.child_id = up.id and p.ended_revision is null
    and p.parent_id in (select id from up))
order by random()
""")

# Then the rows of those who are to die are locked, so that no health check comes in between, and without those that
# one is writing at this moment; and who of the locked is due still. A health check that came first always wins.
HOLD = text("""
select instance_id from heartbeat where instance_id = any(:ids) order by instance_id for update skip locked
""")

EXPIRED = text("""
select i.id from instance i
join unnest(cast(:types as smallint[]), cast(:graces as interval[])) g(type, grace) on g.type = i.type
cross join lateral (select * from lease where instance_id = i.id offset 0) l
where i.id = any(:ids) and i.died_revision is null and l.now > greatest(l.due_at + g.grace, l.forgiven_until)
""")


async def _expire(turn: Turn, actor: Actor, roots: Sequence[InstanceId], policy: Policy) -> None:
    held = (await turn.connection.execute(HOLD, {"ids": roots})).scalars().all()
    expired = (await turn.connection.execute(EXPIRED, {"ids": held, **_graces(policy)})).scalars().all()
    await slay(turn, [Kill(each, actor=actor) for each in expired], Cause.EXPIRED)


def _graces(policy: Policy) -> dict[str, object]:
    return {"types": list(policy.leases), "graces": [each.grace for each in policy.leases.values()]}


async def _due(turn: Turn, watches: dict[Group, Watch], policy: Policy) -> Sequence[InstanceId]:
    stopped = [group for group, watch in watches.items() if watch.mode is Mode.STOPPED]
    found = await turn.connection.execute(
        DUE,
        {
            **_graces(policy),
            "stopped_types": [each.type for each in stopped],
            "stopped_hosts": [each.hostname for each in stopped],
            "of_group": DUE_OF_GROUP,
            "limit": DUE_LIMIT,
        },
    )
    return found.scalars().all()


async def _roots(turn: Turn, ids: Sequence[InstanceId], policy: Policy) -> list[tuple[InstanceId, Group]]:
    if not ids:
        return []
    rows = await turn.connection.execute(ROOTS, {"ids": ids, **_graces(policy)})
    return [(row.id, Group(row.type, row.hostname)) for row in rows]


CHANGED = text("""
select instance_id from lease where stale <> told_stale limit :limit
""")

MARK = text("""
update heartbeat h set told_stale = l.stale from lease l
where h.instance_id = any(:ids) and l.instance_id = h.instance_id and h.told_stale <> l.stale
returning h.instance_id, h.told_stale
""")


async def _tell(turn: Turn, actor: Actor, changed: Sequence[InstanceId]) -> None:
    """Each becomes stale, or recovers, by a change of its own."""
    held = (await turn.connection.execute(HOLD, {"ids": changed})).scalars().all()
    marked = (await turn.connection.execute(MARK, {"ids": held})).all()
    known = await facts(turn.connection, [row.instance_id for row in marked])
    for row in marked:
        after = known.get(row.instance_id)
        if after is not None and after.death is None:
            kind = EventType.STALE if row.told_stale else EventType.RECOVERED
            before = replace(after, status=Status.HEALTHY if row.told_stale else Status.STALE)
            turn.tell(Event(turn.next_revision(), kind, after.id, before, after, actor=actor))
