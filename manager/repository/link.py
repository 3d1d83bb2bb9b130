"""Links: a child gets its one parent, for life."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy import text

from manager.domain.calls import Link, Outcome, Reason
from manager.domain.event import Event, EventType
from manager.domain.instance import InstanceId
from manager.domain.refusals import ChildOfManager, Refusal
from manager.repository.driver import rows
from manager.repository.instances import Known
from manager.repository.turn import Turn

# Upwards, every step is a look-up by key; `union` ends even on a ring.
ASCEND = text("""
with recursive up as (
    select u.id as start, u.id from unnest(cast(:ids as uuid[])) u(id)
    union
    select up.start, p.parent_id
    from up cross join lateral (select l.parent_id from parent_link l where l.child_id = up.id offset 0) p
)
select up.start, count(*) - 1 as depth,
       (array_agg(up.id) filter (where not exists (select from parent_link l where l.child_id = up.id)))[1] as root
from up group by up.start
""")


async def ascend(turn: Turn, ids: Iterable[InstanceId]) -> dict[InstanceId, tuple[InstanceId, int]]:
    """The root of each id's tree, and how many ancestors there are on the way."""
    found = await rows(turn.connection, ASCEND, {"ids": sorted(set(ids))})
    return {row.start: (row.root, row.depth) for row in found}


INSERT = text("""
insert into parent_link (child_id, parent_id, revision)
select u.child, u.parent, u.revision
from unnest(cast(:children as uuid[]), cast(:parents as uuid[]), cast(:revisions as bigint[]))
     u(child, parent, revision)
""")

SINCE = text("select revision from parent_link where child_id = :child")


class Roots:
    """Which tree an instance belongs to, while links of one turn join them: a union-find over the roots."""

    def __init__(self, of: dict[InstanceId, tuple[InstanceId, int]]) -> None:
        self._of = {each: root for each, (root, _) in of.items()}
        self._joined: dict[InstanceId, InstanceId] = {}

    def root(self, instance: InstanceId) -> InstanceId:
        """The root of the tree that `instance` is in now."""
        present = self._of.get(instance, instance)
        while present in self._joined:
            present = self._joined[present]
        return present

    def join(self, parent: InstanceId, child: InstanceId) -> None:
        """Puts the tree of which `child` is the root under `parent`."""
        self._joined[child] = self.root(parent)


async def link(turn: Turn, calls: Sequence[Link]) -> list[Outcome | Refusal]:
    """Links many, decided together, since links of one turn can close a ring that none of them closes alone."""
    known = await turn.facts([each for call in calls for each in (call.parent, call.child)])
    # the parents are enough: a child that may be linked is a root itself
    roots = Roots(await ascend(turn, [call.parent for call in calls]))
    made: dict[InstanceId, tuple[InstanceId, int]] = {}
    outcomes = [await _link(turn, call, known, roots, made) for call in calls]
    if made:
        await rows(
            turn.connection,
            INSERT,
            {
                "children": list(made),
                "parents": [parent for parent, _ in made.values()],
                "revisions": [revision for _, revision in made.values()],
            },
        )
    return outcomes


async def _link(
    turn: Turn, call: Link, known: Known, roots: Roots, made: dict[InstanceId, tuple[InstanceId, int]]
) -> Outcome | Refusal:
    refused = _judge(call, known, roots)
    if refused is not None:
        return refused
    parent, child = known[call.parent], known[call.child]
    if child.parent is not None:
        _, revision = made.get(call.child) or (None, await _since(turn, call.child))
        return Outcome.done(revision)
    revision = turn.next_revision()
    after = known[call.child] = replace(child, parent=call.parent)
    roots.join(call.parent, call.child)
    made[call.child] = (call.parent, revision)
    turn.tell(
        Event(revision, EventType.CHILD_ADDED, parent.id, parent, parent, related=child.id, actor=call.actor),
        Event(revision, EventType.PARENT_ADDED, child.id, child, after, related=parent.id, actor=call.actor),
    )
    return Outcome.done(revision)


def _judge(call: Link, known: Known, roots: Roots) -> Outcome | Refusal | None:
    """None where the link exists or may be made."""
    parent, child = known.get(call.parent), known.get(call.child)
    if parent is None or child is None:
        return Outcome.refused(Reason.UNKNOWN_INSTANCE)
    if parent.death or child.death:
        return Outcome.refused(Reason.DEAD)
    if child.parent is not None:
        return None if child.parent == call.parent else Outcome.refused(Reason.HAS_PARENT)
    if roots.root(call.parent) == call.child:
        return Outcome.refused(Reason.CYCLE)
    if parent.is_manager and not child.is_manager:
        return ChildOfManager()
    return None


async def _since(turn: Turn, child: InstanceId) -> int:
    """A repeat is rare, so it may cost a statement of its own."""
    revision: int = (await turn.connection.execute(SINCE, {"child": child})).scalar_one()
    return revision
