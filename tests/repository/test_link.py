"""Links: one parent for life, and never a ring."""

import asyncio
from itertools import pairwise

from manager.domain.calls import Link, Outcome, Reason, Registration
from manager.domain.instance import InstanceType
from manager.domain.refusals import ChildOfManager
from manager.presence import new_id
from tests.fleet import Fleet

CYCLE, HAS_PARENT = Outcome.refused(Reason.CYCLE), Outcome.refused(Reason.HAS_PARENT)
UNKNOWN, DEAD = Outcome.refused(Reason.UNKNOWN_INSTANCE), Outcome.refused(Reason.DEAD)
RINGS = """
with recursive up as (
    select child_id as start, parent_id as id from parent_link
    union
    select up.start, l.parent_id from up join parent_link l on l.child_id = up.id
) select count(*) from up where start = id
"""


async def test_a_link_is_told_to_both_ends_in_one_revision(fleet: Fleet) -> None:
    parent, child = await fleet.add(), await fleet.add()
    assert await fleet.link(parent, child) == Outcome.done(3)
    rows = await fleet.rows(
        "select ordinal, type, instance_id, related_id, before ->> 'parent', after ->> 'parent'"
        " from event_log where revision = 3 order by ordinal"
    )
    assert [tuple(row) for row in rows] == [
        (0, "CHILD_ADDED", parent, child, None, None),
        (1, "PARENT_ADDED", child, parent, None, str(parent)),
    ]


async def test_the_same_link_again_gives_the_first_revision(fleet: Fleet, other: Fleet) -> None:
    parent, child = await fleet.add(), await fleet.add()
    first = await fleet.link(parent, child)
    assert await other.do(Link(parent, child), Link(parent, child)) == [first, first]
    registered = await fleet.add(parent)
    assert await fleet.link(parent, registered) == Outcome.done(4), "the revision of the registration made it"
    assert await fleet.head() == 4


async def test_the_same_link_twice_in_one_turn_is_one(fleet: Fleet) -> None:
    parent, child = await fleet.add(), await fleet.add()
    assert await fleet.do(Link(parent, child), Link(parent, child)) == [Outcome.done(3)] * 2


async def test_another_parent_is_refused(fleet: Fleet) -> None:
    parent, child = await fleet.chain(2)
    second, third, orphan = [await fleet.add() for _ in range(3)]
    assert await fleet.link(second, child) == HAS_PARENT
    assert await fleet.link(child, child) == HAS_PARENT
    outcomes = await fleet.do(Link(second, orphan), Link(third, orphan))
    assert outcomes == [Outcome.done(6), HAS_PARENT]
    assert await fleet.link(parent, child) == Outcome.done(2)


async def test_the_unknown_and_the_dead_are_refused_before_all_else(fleet: Fleet) -> None:
    alive, dead = await fleet.add(), await fleet.add()
    await fleet.kill(dead)
    unknown = new_id()
    calls = [Link(alive, unknown), Link(unknown, alive), Link(dead, unknown), Link(dead, alive), Link(alive, dead)]
    assert await fleet.do(*calls, Link(dead, dead)) == [UNKNOWN, UNKNOWN, UNKNOWN, DEAD, DEAD, DEAD]


async def test_nobody_is_its_own_ancestor(fleet: Fleet) -> None:
    root, middle, leaf = await fleet.chain(3)
    assert await fleet.do(Link(leaf, root), Link(middle, root), Link(root, root)) == [CYCLE] * 3


async def test_links_of_one_turn_do_not_close_a_ring_together(fleet: Fleet) -> None:
    for length in (2, 3, 4, 5):
        ids = [await fleet.add() for _ in range(length)]
        outcomes = await fleet.do(*(Link(parent, child) for parent, child in pairwise([*ids, ids[0]])))
        assert outcomes[-1] == CYCLE
        assert [outcome.reason for outcome in outcomes[:-1]] == [None] * (length - 1)
    assert await fleet.value(RINGS) == 0


async def test_trees_joined_in_one_turn_are_one_tree(fleet: Fleet) -> None:
    """A ring of two chains: the end of each under it the beginning of the other."""
    one, two = await fleet.chain(3), await fleet.chain(3)
    assert (await fleet.do(Link(one[2], two[0]), Link(two[2], one[0])))[1] == CYCLE
    assert await fleet.value("select max(depth) from instance_tree") == 5


async def test_links_of_many_managers_close_no_ring(fleet: Fleet, other: Fleet) -> None:
    for _ in range(20):
        ids = [await fleet.add() for _ in range(4)]
        links = [Link(parent, child) for parent, child in pairwise([*ids, ids[0]])]
        answers = await asyncio.gather(fleet.do(links[0]), other.do(links[1]), fleet.do(links[2]), other.do(links[3]))
        assert sorted(outcome.reason or 0 for (outcome,) in answers) == [0, 0, 0, Reason.CYCLE]
    assert await fleet.value(RINGS) == 0


async def test_of_two_managers_one_gives_the_parent(fleet: Fleet, other: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    for _ in range(20):
        child = await fleet.add()
        (first,), (second,) = await asyncio.gather(fleet.do(Link(one, child)), other.do(Link(two, child)))
        assert sorted(outcome.reason or 0 for outcome in (first, second)) == [0, Reason.HAS_PARENT]


async def test_what_was_registered_in_the_same_turn_can_be_linked(fleet: Fleet) -> None:
    calls = [Registration(new_id(), InstanceType.CHROME_BROWSER) for _ in range(2)]
    assert (await fleet.do(Link(calls[0].id, calls[1].id), *calls))[0] == Outcome.done(3)


async def test_nobody_but_a_manager_is_linked_under_a_manager(fleet: Fleet) -> None:
    label = {"instance-manager/version": "1"}
    manager = await fleet.add(of=InstanceType.INSTANCE_MANAGER, labels=label)
    worker = await fleet.add(of=InstanceType.INSTANCE_MANAGER, labels=label)
    browser = await fleet.add()
    answers = await fleet.answers(Link(manager, browser), Link(manager, worker))
    assert isinstance(answers[0], ChildOfManager)
    assert answers[1] == Outcome.done(4)
