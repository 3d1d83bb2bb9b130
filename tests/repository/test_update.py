"""Updates: what is replaced is kept as a version."""

import asyncio
from dataclasses import replace

from manager.domain.actor import Actor
from manager.domain.calls import Kill, Outcome, Reason, Registration, Update
from manager.domain.instance import InstanceId, InstanceType
from manager.presence import new_id
from tests.fleet import Fleet, S


def to(of: InstanceId, hostname: str, expected: int | None = None) -> Update:
    return Update(of, InstanceType.CHROME_BROWSER, hostname, {"team": hostname}, 20 * S, expected, Actor("me"))


async def test_hostname_labels_timeout_and_type_are_replaced_and_the_rest_stays(fleet: Fleet) -> None:
    parent = await fleet.add()
    one = await fleet.add(parent, of=InstanceType.WARMPOOL_CHROME_BROWSER)
    assert await fleet.do(to(one, "b")) == [Outcome.done(3)]
    (row,) = await fleet.rows("select * from live_instance where id = $1", one)
    assert (row["type"], row["hostname"], row["labels"], row["timeout"]) == (
        "CHROME_BROWSER",
        "b",
        '{"team": "b"}',
        20 * S,
    )
    assert (row["parent_id"], row["created_revision"], row["updated_revision"]) == (parent, 2, 3)


async def test_the_event_holds_both_states(fleet: Fleet) -> None:
    one = await fleet.add()
    before = await fleet.value("select state from instance_state")
    await fleet.do(to(one, "b"))
    (row,) = await fleet.rows("select before, after from event where type = 8")
    assert tuple(row) == (before, await fleet.value("select state from instance_state"))


async def test_each_version_is_kept_with_its_revisions(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.do(to(one, "b"), to(one, "c"))
    await fleet.do(to(one, "d"))
    rows = await fleet.rows(
        "select from_revision, to_revision, hostname, timeout from instance_version order by from_revision"
    )
    assert [tuple(row) for row in rows] == [(1, 2, "host", 30 * S), (2, 3, "b", 20 * S), (3, 4, "c", 20 * S)]
    (row,) = await fleet.rows("select hostname, updated_revision from instance")
    assert tuple(row) == ("d", 4)


async def test_what_is_equal_already_is_true_and_no_change(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.do(to(one, "b"))
    assert await fleet.do(to(one, "b"), to(one, "b")) == [Outcome.done(2)] * 2
    assert await fleet.head() == 2


async def test_an_expected_revision_that_is_no_longer_the_present_is_a_conflict(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.do(to(one, "b", expected=1))
    assert await fleet.do(to(one, "c", expected=1)) == [Outcome.refused(Reason.CONFLICT)]
    assert await fleet.do(to(one, "c", expected=2)) == [Outcome.done(3)]


async def test_a_repeat_with_the_old_expected_revision_is_true(fleet: Fleet, other: Fleet) -> None:
    one = await fleet.add()
    first = await fleet.do(to(one, "b", expected=1))
    assert await other.do(to(one, "b", expected=1)) == first


async def test_of_two_that_expect_the_same_revision_one_wins(fleet: Fleet, other: Fleet) -> None:
    one = await fleet.add()
    for revision in range(1, 21):
        answers = await asyncio.gather(
            fleet.do(to(one, f"a{revision}", revision), to(one, f"b{revision}", revision)),
            other.do(to(one, f"c{revision}", revision)),
        )
        flat = [answer for some in answers for answer in some]
        assert sorted(answer.revision for answer in flat) == [0, 0, revision + 1]


async def test_the_unknown_and_the_dead_are_refused(fleet: Fleet) -> None:
    dead = await fleet.add()
    await fleet.kill(dead)
    assert await fleet.do(to(new_id(), "b"), to(dead, "b", expected=99)) == [
        Outcome.refused(Reason.UNKNOWN_INSTANCE),
        Outcome.refused(Reason.DEAD),
    ]


async def test_a_new_timeout_holds_for_the_heartbeat_at_once(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(40, one)
    await fleet.do(replace(to(one, "b"), timeout=100 * S))
    await fleet.tick()
    assert await fleet.told("STALE") == []


async def test_a_change_of_the_type_brings_its_default_timeout_and_grace(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.do(Update(one, InstanceType.VLLM))
    assert await fleet.value("select timeout from heartbeat") == 60 * S
    await fleet.silence(80, one)
    await fleet.tick()
    assert await fleet.living() == {one}
    await fleet.silence(90, one)
    await fleet.tick()
    assert await fleet.living() == set()


async def test_what_is_added_updated_and_killed_in_one_turn_leaves_its_whole_story(fleet: Fleet) -> None:
    one = new_id()
    outcomes = await fleet.do(Kill(one), to(one, "b"), Registration(one, InstanceType.CHROME_BROWSER), to(one, "c"))
    assert [outcome.revision for outcome in outcomes] == [4, 2, 1, 3]
    states = await fleet.rows("select before ->> 'hostname', after ->> 'hostname' from event order by revision")
    assert [tuple(row) for row in states] == [(None, ""), ("", "b"), ("b", "c"), ("c", None)]
