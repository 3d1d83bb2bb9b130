"""Kills: an instance and everything below it die in one change."""

from collections.abc import Mapping, Sequence

from sqlalchemy import text

from manager.domain.calls import Kill, Outcome, Reason
from manager.domain.instance import Cause, InstanceId
from manager.repository.driver import rows
from manager.repository.instances import Known
from manager.repository.link import ascend
from manager.repository.trail import Deaths, death
from manager.repository.turn import Turn

# `walk` goes down by (id, root), never into another aimed-at id, so that each victim has one root cause. Where each
# victim stands among its root's is its place in the walk, which goes level by level; `union` over the pairs alone, so
# that the walk ends whatever the links are. `packed` hides from the planner how many there may be: what it guesses of
# a walk turns its look-ups by key into scans. Everything below sees the fleet as it was before.
KILL = text("""
with recursive aimed as materialized (
    select u.id, u.revision, u.actor, u.note
    from unnest(cast(:ids as uuid[]), cast(:revisions as bigint[]), cast(:actors as text[]), cast(:notes as text[]))
         u(id, revision, actor, note)
), walk as (
    select a.id, a.id as root from aimed a
    union
    select c.child_id, w.root
    from walk w
    cross join lateral (
        select l.child_id from parent_link l where l.parent_id = w.id and l.ended_revision is null offset 0) c
    where c.child_id <> all (cast(:ids as uuid[]))
), victim as materialized (
    select w.id, w.root, a.revision, row_number() over () as place,
           case when w.id = w.root then cast(:cause as smallint) else cast(3 as smallint) end as cause
    from walk w join aimed a on a.id = w.root
), packed as materialized (
    select array_agg(v.id) as ids, array_agg(v.root) as roots, array_agg(v.revision) as revisions,
           array_agg(v.cause) as causes, array_agg(v.place) as places
    from victim v
), killed as (
    update instance i set died_at = :now, died_revision = u.revision, death_cause = u.cause, root_cause = u.root,
                          last_seen = h.last_seen
    from packed p cross join lateral unnest(p.ids, p.revisions, p.causes, p.roots) u(id, revision, cause, root)
    left join lateral (select b.last_seen from heartbeat b where b.instance_id = u.id offset 0) h on true
    where i.id = u.id and i.died_revision is null
), unlinked as (
    update parent_link l set ended_revision = u.revision
    from packed p cross join lateral unnest(p.ids, p.revisions) u(id, revision)
    where l.child_id = u.id and l.ended_revision is null
), silenced as (
    delete from heartbeat h using packed p cross join lateral unnest(p.ids) u(id) where h.instance_id = u.id
), told as (
    insert into event (revision, ordinal, type, instance_id, before, cause, root_cause, actor, note, nonce, at)
    select a.revision, row_number() over (partition by u.root order by u.place) - 1, 2, u.id, s.state, u.cause, u.root,
           a.actor, case when u.id = u.root then a.note else '' end, :nonce, :now
    from packed p cross join lateral unnest(p.ids, p.roots, p.causes, p.places) u(id, root, cause, place)
    join aimed a on a.id = u.root
    cross join lateral (select state from instance_state where id = u.id offset 0) s
)
select r.root, r.victims, r.digest, s.state as before
from (select v.root, count(*) as victims,
             encode(sha256(string_agg(uuid_send(v.id), '' order by v.place)), 'hex') as digest
      from victim v group by v.root) r
cross join lateral (select cast(state as text) as state from instance_state where id = r.root offset 0) s
""")


async def kill(turn: Turn, calls: Sequence[Kill]) -> list[Outcome]:
    """Kills many, each with all its descendants in one revision. Two aimed at one id are one kill."""
    known = await turn.facts([call.id for call in calls])
    aims = {call.id: call for call in calls if _judge(call, known) is None}
    revisions = await slay(turn, list(aims.values()), Cause.KILLED)
    return [_judge(call, known) or Outcome.done(revisions[call.id]) for call in calls]


def _judge(call: Kill, known: Known) -> Outcome | None:
    """None where the call is to be carried out."""
    present = known.get(call.id)
    if present is None:
        return Outcome.refused(Reason.UNKNOWN_INSTANCE)
    if present.death is None:
        return None
    if present.death.cause is Cause.KILLED:
        return Outcome.done(present.death.revision)
    return Outcome.refused(Reason.DEAD)


async def slay(turn: Turn, aims: Sequence[Kill], cause: Cause) -> Mapping[InstanceId, int]:
    """The living ids of `aims`, distinct, die of `cause`, and what is below them with them; the revision of each."""
    if not aims:
        return {}
    ordered = await _deepest_first(turn, aims)
    revisions = {each.id: turn.next_revision() for each in ordered}
    died = await rows(
        turn.connection,
        KILL,
        {
            "ids": list(revisions),
            "revisions": list(revisions.values()),
            "actors": [str(each.actor) for each in ordered],
            "notes": [each.note for each in ordered],
            "cause": int(cause),
            "now": turn.now,
            "nonce": turn.nonce,
        },
    )
    aimed = {each.id: each for each in ordered}
    for each in died:
        call, deaths = aimed[each.root], Deaths(each.victims, each.digest, each.before)
        turn.acts.append(death(cause, revisions[call.id], call.actor, call.id, call.note, deaths))
    return revisions


async def _deepest_first(turn: Turn, aims: Sequence[Kill]) -> Sequence[Kill]:
    """So that nobody dies in a revision after its parent's, as it would if the kills had come one by one."""
    if len(aims) == 1:
        return aims
    above = await ascend(turn, [each.id for each in aims])
    return sorted(aims, key=lambda each: -above[each.id][1])
