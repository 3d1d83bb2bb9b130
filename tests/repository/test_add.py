"""Registrations: who joins the fleet, and who is refused why."""

import asyncio
import random
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from manager.domain.actor import Actor
from manager.domain.calls import Kill, Outcome, Reason, Registration, Update
from manager.domain.instance import InstanceId, InstanceType
from manager.domain.refusals import ChildOfManager
from manager.presence import new_id
from tests.fleet import Fleet, S, service


def browser(parent: InstanceId | None = None, of: InstanceId | None = None) -> Registration:
    return Registration(of or new_id(), InstanceType.CHROME_BROWSER, "host", {"team": "a"}, parent)


UNKNOWN_PARENT = Outcome.refused(Reason.UNKNOWN_PARENT)


async def test_a_registration_is_stored_as_it_was_sent(fleet: Fleet) -> None:
    labels = {"a": "b", "ü": ""}
    call = Registration(new_id(), InstanceType.VLLM, "gpu-1", labels, None, (service(1),), 5 * S, Actor("me"))
    assert await fleet.do(call) == [Outcome.done(1)]
    (row,) = await fleet.rows('select *, labels = \'{"a": "b", "ü": ""}\' as labelled from instance')
    assert (row["id"], row["type"], row["hostname"], row["timeout"]) == (call.id, 5, "gpu-1", 5 * S)
    assert row["labelled"]
    assert (row["created_revision"], row["updated_revision"], row["digest"]) == (1, 1, call.digest)
    assert await fleet.value("select timeout from heartbeat where instance_id = $1", call.id) == 5 * S


async def test_without_a_timeout_it_is_the_default_of_the_type(fleet: Fleet) -> None:
    await fleet.add(of=InstanceType.VLLM)
    await fleet.add(of=InstanceType.WARMPOOL_PROXY)
    assert {row["timeout"] for row in await fleet.rows("select timeout from instance")} == {15 * S, 60 * S}


async def test_a_registration_with_parent_and_services_is_one_revision(fleet: Fleet) -> None:
    parent = await fleet.add()
    child = await fleet.add(parent, services=(service(1), service(2)))
    assert await fleet.story(1) == [
        (2, 0, "ADDED", child),
        (2, 1, "CHILD_ADDED", parent),
        (2, 2, "PARENT_ADDED", child),
        (2, 3, "SERVICE_ADDED", child),
        (2, 4, "SERVICE_ADDED", child),
    ]
    (row,) = await fleet.rows(
        "select before, after = s.state as whole from event e, instance_state s"
        " where s.id = e.instance_id and e.revision = 2 and e.ordinal = 0"
    )
    assert tuple(row) == (None, True)


async def test_a_repeat_is_true_with_the_first_revision_and_changes_nothing(fleet: Fleet, other: Fleet) -> None:
    call = browser()
    first = await fleet.do(call)
    assert await other.do(call, replace(call, actor=Actor("somebody else"))) == [*first, *first]
    assert await fleet.head() == 1


async def test_a_repeat_is_true_after_updates_links_and_services(fleet: Fleet) -> None:
    parent, call = await fleet.add(), browser()
    first = await fleet.do(call)
    await fleet.do(Update(call.id, InstanceType.VLLM, "elsewhere"))
    await fleet.link(parent, call.id)
    await fleet.offer(call.id, service())
    assert await fleet.do(call) == first


@pytest.mark.parametrize(
    "other_content",
    [
        {"type": InstanceType.VLLM},
        {"hostname": "elsewhere"},
        {"labels": {}},
        {"timeout": 30 * S},
        {"services": (service(),)},
        {"parent": new_id()},
    ],
    ids=lambda content: next(iter(content)),
)
async def test_other_content_under_the_same_id_is_refused(fleet: Fleet, other_content: dict[str, Any]) -> None:
    call = browser()
    await fleet.do(call)
    assert await fleet.do(replace(call, **other_content)) == [Outcome.refused(Reason.ID_TAKEN)]


async def test_an_id_never_lives_twice(fleet: Fleet) -> None:
    call = browser()
    await fleet.do(call)
    await fleet.kill(call.id)
    assert await fleet.do(call, replace(call, hostname="b")) == [Outcome.refused(Reason.DEAD)] * 2


async def test_an_unknown_or_dead_parent_is_refused(fleet: Fleet) -> None:
    dead = await fleet.add()
    await fleet.kill(dead)
    assert await fleet.do(browser(new_id()), browser(dead)) == [UNKNOWN_PARENT, Outcome.refused(Reason.PARENT_DEAD)]
    assert await fleet.living() == set()


async def test_parents_are_added_first_in_whatever_order_they_come(fleet: Fleet) -> None:
    for order in permutations(range(4)):
        root = browser()
        left, right = browser(root.id), browser(root.id)
        calls = [root, left, right, browser(right.id)]
        outcomes = dict(zip(order, await fleet.do(*(calls[place] for place in order)), strict=True))
        assert [outcome.reason for outcome in outcomes.values()] == [None] * 4
        revisions = [outcomes[place].revision for place in range(4)]
        assert revisions[0] == min(revisions)
        assert revisions[2] < revisions[3]


async def test_a_chain_of_500_in_one_turn_in_any_order(fleet: Fleet) -> None:
    ids = [new_id() for _ in range(500)]
    calls = [browser(parent, each) for each, parent in zip(ids, [None, *ids], strict=False)]
    outcomes = await fleet.do(*random.sample(calls, len(calls)))
    assert sorted(outcome.revision for outcome in outcomes) == list(range(1, 501))
    assert await fleet.value("select max(depth) from instance_tree") == 499
    assert await fleet.told("ADDED") == ids


async def test_those_in_a_ring_and_below_it_have_no_parent_to_join(fleet: Fleet) -> None:
    one, two, three = new_id(), new_id(), new_id()
    ring = [browser(three, one), browser(one, two), browser(two, three)]
    itself = new_id()
    outcomes = await fleet.do(*ring, browser(one), browser(itself, itself), browser())
    assert outcomes[:-1] == [UNKNOWN_PARENT] * 5
    assert outcomes[-1] == Outcome.done(1)


async def test_a_ring_does_not_refuse_another_registration_of_an_id_in_it(fleet: Fleet) -> None:
    one, two = new_id(), new_id()
    outcomes = await fleet.do(browser(two, one), browser(one, two), browser(None, one))
    assert outcomes == [Outcome.refused(Reason.ID_TAKEN), Outcome.done(2), Outcome.done(1)]
    itself = new_id()
    assert await fleet.do(browser(itself, itself), browser(None, itself)) == [
        Outcome.refused(Reason.ID_TAKEN),
        Outcome.done(3),
    ]


async def test_those_below_a_refused_parent_are_refused(fleet: Fleet) -> None:
    refused = browser(new_id())
    assert await fleet.do(browser(refused.id), refused) == [UNKNOWN_PARENT] * 2


async def test_duplicates_in_one_turn_are_one_registration(fleet: Fleet) -> None:
    parent = browser()
    call = browser(parent.id)
    outcomes = await fleet.do(call, call, parent, replace(call, hostname="b"), parent)
    assert outcomes == [
        Outcome.done(2),
        Outcome.done(2),
        Outcome.done(1),
        Outcome.refused(Reason.ID_TAKEN),
        Outcome.done(1),
    ]
    assert await fleet.told("ADDED") == [parent.id, call.id]


async def test_two_managers_add_an_id_once(fleet: Fleet, other: Fleet) -> None:
    calls = [browser() for _ in range(100)]
    one, two = await asyncio.gather(fleet.do(*calls), other.do(*calls[::-1]))
    assert one == two[::-1]
    assert len(await fleet.told("ADDED")) == 100


async def test_two_managers_with_other_content_are_not_both_right(fleet: Fleet, other: Fleet) -> None:
    calls = [browser() for _ in range(50)]
    rivals = [replace(call, hostname="elsewhere") for call in calls]
    one, two = await asyncio.gather(fleet.do(*calls), other.do(*rivals))
    for pair in zip(one, two, strict=True):
        assert sorted(outcome.reason or 0 for outcome in pair) == [0, Reason.ID_TAKEN]


async def test_nobody_but_a_manager_joins_under_a_manager(fleet: Fleet) -> None:
    manager = await fleet.add(of=InstanceType.INSTANCE_MANAGER, labels={"instance-manager/version": "1"})
    worker = Registration(
        new_id(), InstanceType.INSTANCE_MANAGER, labels={"instance-manager/version": "1"}, parent=manager
    )
    answers = await fleet.answers(browser(manager), worker)
    assert isinstance(answers[0], ChildOfManager)
    assert answers[1] == Outcome.done(2)


async def test_the_clock_of_the_new_starts_now(fleet: Fleet) -> None:
    one = await fleet.add()
    # what another history of the database left behind
    two = browser()
    await fleet.sql.execute(
        "insert into heartbeat (instance_id, timeout, last_seen, told_stale)"
        " values ($1, '1 day', clock_timestamp() - interval '1 day', true)",
        two.id,
    )
    await fleet.do(two, Kill(new_id()))
    rows = await fleet.rows("select timeout, clock_timestamp() - last_seen < '5 s' as now, told_stale from heartbeat")
    assert [tuple(row) for row in rows] == [(30 * S, True, False)] * 2
    assert await fleet.living() == {one, two.id}
