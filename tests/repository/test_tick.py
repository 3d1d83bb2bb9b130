"""Ticks: silence is told, then forgiven for a while, then death; an outage of ours is nobody's silence."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from manager.domain.actor import Actor
from manager.domain.calls import Registration, Tick
from manager.domain.grace import Patience
from manager.domain.instance import Cause, InstanceType
from manager.presence import new_id
from manager.repository import preservation
from manager.repository.heartbeat import checks
from manager.repository.instances import find
from manager.repository.tick import DUE_OF_GROUP
from manager.repository.turn import Turn
from tests.conftest import Database
from tests.fleet import POLICY, Fleet, S, fleet_of

# timeout 30 s and grace 10 s (VLLM 60 and 20); a stored time may be a tenth of the timeout old
STALE, EXPIRED = 34, 44


async def grace(fleet: Fleet) -> tuple[Any, Any]:
    (row,) = await fleet.rows("select grace_from, grace_until from control")
    return row["grace_from"], row["grace_until"]


async def forget_grace(fleet: Fleet) -> None:
    await fleet.sql.execute("update control set grace_from = null, grace_until = null")


async def test_silence_is_told_once_and_kills_nobody(fleet: Fleet) -> None:
    silent, loud = await fleet.add(), await fleet.add()
    await fleet.silence(STALE, silent)
    await fleet.tick()
    await fleet.tick()
    assert await fleet.told("STALE") == [silent]
    assert await fleet.told("REMOVED") == []
    assert await fleet.living() == {silent, loud}


async def test_a_pass_that_takes_long_judges_as_of_its_beginning(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody dies by an event whose time is before the death was due."""
    one, other = await fleet.add(), await fleet.add()
    await fleet.silence(42.7, one)  # due at 43
    await fleet.silence(32.7, other)  # stale at 33
    count = preservation.count

    async def slow(turn: Turn) -> preservation.Count:
        await asyncio.sleep(0.6)
        return await count(turn)

    monkeypatch.setattr(preservation, "count", slow)
    await fleet.tick()
    assert await fleet.told("REMOVED") == []
    assert other not in await fleet.told("STALE")
    await fleet.tick()
    assert await fleet.told("REMOVED") == [one]
    assert other in await fleet.told("STALE")


async def test_who_is_heard_again_is_told_recovered_once(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(STALE, one)
    await fleet.tick()
    await fleet.check(one)
    await fleet.tick()
    await fleet.tick()
    assert [kind for _, _, kind, _ in await fleet.story()] == ["ADDED", "STALE", "RECOVERED"]
    (row,) = await fleet.rows("select before ->> 'stale' as was, after ->> 'stale' as is from event where type = 7")
    assert (row["was"], row["is"]) == ("true", None)


async def test_staleness_does_not_cascade_and_death_does(fleet: Fleet) -> None:
    parent, child, grandchild = await fleet.chain(3)
    await fleet.silence(STALE, parent)
    await fleet.tick()
    assert await fleet.told("STALE") == [parent]
    await fleet.silence(EXPIRED, parent)
    await fleet.tick()
    revision = await fleet.head()
    assert await fleet.deaths() == {
        parent: (revision, Cause.EXPIRED, parent),
        child: (revision, Cause.PARENT_DIED, parent),
        grandchild: (revision, Cause.PARENT_DIED, parent),
    }
    assert await fleet.told("REMOVED") == [parent, child, grandchild]


async def test_who_expires_with_its_parent_dies_of_that(fleet: Fleet) -> None:
    """A host that is gone is one death with all that it took along, and the log says so."""
    top, *rest = await fleet.chain(4)
    await fleet.silence(EXPIRED)
    await fleet.tick()
    deaths = await fleet.deaths()
    assert deaths[top][1:] == (Cause.EXPIRED, top)
    assert {deaths[each][1:] for each in rest} == {(Cause.PARENT_DIED, top)}
    assert {revision for revision, *_ in deaths.values()} == {deaths[top][0]}
    assert await fleet.told("REMOVED") == [top, *rest]


async def test_who_expires_below_a_living_parent_dies_by_itself(fleet: Fleet) -> None:
    top, middle, *below = await fleet.chain(4)
    await fleet.silence(EXPIRED, top, *below)
    await fleet.tick()
    deaths = await fleet.deaths()
    assert deaths[top][1] is Cause.EXPIRED
    assert deaths[middle][1:] == (Cause.PARENT_DIED, top)
    assert deaths[below[0]][1:] == (Cause.EXPIRED, below[0])
    assert deaths[below[1]][1:] == (Cause.PARENT_DIED, below[0])


async def test_each_of_many_expires_by_a_revision_of_its_own(fleet: Fleet) -> None:
    ids = [await fleet.add() for _ in range(4)]
    await fleet.silence(EXPIRED)
    await fleet.tick()
    assert {each: (cause, root) for each, (_, cause, root) in (await fleet.deaths()).items()} == {
        each: (Cause.EXPIRED, each) for each in ids
    }
    assert sorted(await fleet.told("REMOVED")) == sorted(ids)
    assert [revision for revision, *_ in await fleet.story(1)][-4:] == [5, 6, 7, 8]


async def test_the_grace_is_that_of_the_type(fleet: Fleet) -> None:
    browser, server = await fleet.add(), await fleet.add(of=InstanceType.VLLM)
    custom = await fleet.add(of=InstanceType.VLLM, timeout=10 * S)
    await fleet.silence(11 + 15, custom)
    await fleet.silence(66 + 15, server)
    await fleet.silence(33 + 15, browser)
    await fleet.tick()
    assert await fleet.living() == {server, custom}
    await fleet.silence(66 + 21, server)
    await fleet.silence(11 + 21, custom)
    await fleet.tick()
    assert await fleet.living() == set()


async def test_before_the_timeout_and_its_tenth_nobody_is_stale(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(32, one)
    await fleet.tick()
    assert await fleet.told("STALE") == []


async def test_after_a_gap_those_alive_at_the_last_tick_before_it_are_forgiven(fleet: Fleet) -> None:
    """They were heard of 100 s ago, 20 s before the last tick, and nobody could be heard of since."""
    one = await fleet.add()
    await fleet.silence(100, one)
    await fleet.tick(since=80)
    assert await fleet.living() == {one}
    assert await fleet.told("STALE") == []
    async with fleet.connections.readers.use() as connection:
        found = (await checks(connection, [one]))[one]
        assert found.healthy
        assert 50 * S < found.deadline - await fleet.value("select clock_timestamp()") <= 60 * S
    await fleet.tick()
    assert await fleet.living() == {one}


async def test_after_a_gap_those_are_forgiven_who_were_healthy_by_their_stored_time_and_its_tenth(fleet: Fleet) -> None:
    """Silent for 32 s at the last tick, by a stored time that may be 3 s too old: no read called it stale."""
    one, stale = await fleet.add(), await fleet.add()
    await fleet.silence(80 + 32, one)
    await fleet.silence(80 + 34, stale)
    await fleet.tick(since=80)
    assert await fleet.living() == {one}
    assert await fleet.told("STALE") == []


async def test_after_a_gap_those_already_silent_before_it_are_not_forgiven(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(120, one)
    await fleet.tick(since=80)
    assert await fleet.living() == set()


async def test_a_gap_that_is_no_outage_earns_no_grace(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(EXPIRED, one)
    await fleet.tick(since=9)
    assert await fleet.living() == set()
    assert await grace(fleet) == (None, None)


async def test_who_stays_silent_dies_when_the_grace_is_over(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(100, one)
    await fleet.tick(since=80)
    await fleet.sql.execute(
        "update control set grace_until = clock_timestamp() - interval '1 s', grace_at = grace_at - interval '60 s'"
    )
    await fleet.tick()
    assert await fleet.living() == set()


async def test_a_second_outage_within_a_grace_keeps_forgiving_those_of_the_first(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(100, one)
    await fleet.tick(since=80)
    first, until = await grace(fleet)
    # that grace had 10 s to go when the next outage began
    await fleet.sql.execute("update control set grace_until = clock_timestamp() - interval '10 s'")
    await fleet.tick(since=20)
    begun, later = await grace(fleet)
    assert begun == first
    assert later >= until
    assert await fleet.living() == {one}


async def test_an_outage_after_a_grace_was_over_begins_anew(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(300, one)
    await fleet.sql.execute(
        "update control set grace_from = clock_timestamp() - interval '400 s',"
        " grace_until = clock_timestamp() - interval '100 s'"
    )
    await fleet.tick(since=20)
    assert await fleet.living() == set()


async def test_a_clock_that_was_set_back_counts_as_an_outage(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(EXPIRED, one)
    await fleet.sql.execute("update heartbeat set last_seen = clock_timestamp() + interval '1 hour'")
    await fleet.tick(since=-3600)
    assert (await grace(fleet))[1] is not None
    assert await fleet.living() == {one}
    assert await fleet.value("select ticked_at <= clock_timestamp() from control")


async def test_a_tick_just_made_by_a_neighbour_is_enough(fleet: Fleet, other: Fleet) -> None:
    await fleet.tick()
    silent = await fleet.add()
    await fleet.silence(EXPIRED, silent)
    (skipped,) = await other.do(Tick(Actor("another")))
    assert skipped.reason is None
    assert await fleet.living() == {silent}
    await other.tick(since=2)
    assert await fleet.living() == set()


async def test_the_first_tick_of_a_process_is_never_skipped_and_gives_its_start_grace(database: Database) -> None:
    patience = Patience(outage_after=10 * S, outage_grace=60 * S, start_grace=20 * S)
    async with fleet_of(database, replace(POLICY, patience=patience)) as fleet:
        await fleet.tick()
        one = await fleet.add()
        await fleet.silence(EXPIRED, one)
        await fleet.sql.execute("update control set ticked_at = clock_timestamp() - interval '14.5 s'")
        await fleet.do(Tick(Actor("the first"), starting=True))
        begun, until = await grace(fleet)
        assert 60 * S < until - begun < 80 * S, "the longer of the two"
        assert await fleet.living() == {one}
        await forget_grace(fleet)
        await fleet.do(Tick(Actor("a neighbour"), starting=True))
        begun, until = await grace(fleet)
        assert 20 * S <= until - begun < 22 * S


async def test_a_shorter_grace_does_not_cut_a_longer_one(database: Database) -> None:
    patience = Patience(outage_after=10 * S, outage_grace=60 * S, start_grace=20 * S)
    async with fleet_of(database, replace(POLICY, patience=patience)) as fleet:
        await fleet.tick(since=80)
        first = await grace(fleet)
        await fleet.tick(starting=True)
        assert await grace(fleet) == first


async def test_several_ticks_of_one_turn_are_one(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(STALE, one)
    await fleet.ticked(2)
    first, second = await fleet.do(Tick(Actor("one")), Tick(Actor("two")))
    assert first == second
    assert await fleet.told("STALE") == [one]


async def test_a_health_check_that_holds_the_row_wins(fleet: Fleet, other: Fleet) -> None:
    held, silent = await fleet.add(), await fleet.add()
    await fleet.silence(EXPIRED)
    async with fleet.sql.transaction():
        await fleet.sql.execute("update heartbeat set last_seen = clock_timestamp() where instance_id = $1", held)
        await other.ticked(2)
        await asyncio.wait_for(other.do(Tick(Actor("another"))), timeout=3)
    assert await fleet.living() == {held}
    await fleet.tick()
    assert await fleet.living() == {held}
    assert await fleet.told("REMOVED") == [silent]


async def test_whoever_is_told_to_keep_running_does_not_expire_in_the_same_moment(fleet: Fleet, other: Fleet) -> None:
    for _ in range(15):
        ids = [await fleet.add() for _ in range(8)]
        await fleet.silence(EXPIRED, *ids)
        await fleet.ticked(2)
        answers, _ = await asyncio.gather(fleet.check(*ids), other.do(Tick(Actor("another"))))
        kept = {each for each, answer in zip(ids, answers, strict=True) if answer.reason is None}
        assert await fleet.living() & set(ids) == kept
        await fleet.check(*kept)


async def test_the_dead_and_the_never_registered_are_not_told(fleet: Fleet) -> None:
    dead = await fleet.add()
    await fleet.kill(dead)
    await fleet.sql.execute(
        "insert into heartbeat (instance_id, timeout, last_seen)"
        " select id, interval '30 s', clock_timestamp() - interval '100 s' from unnest($1::uuid[]) u(id)",
        [dead, new_id()],
    )
    head = await fleet.head()
    await fleet.tick()
    assert await fleet.story(head) == []


async def test_the_read_rule_and_the_reaper_are_one(fleet: Fleet) -> None:
    """An instance is absent from reads exactly while the reaper calls it stale, in a grace as without."""
    one = await fleet.add()
    for seconds, since in ((0, 2), (32, 2), (STALE, 2), (0, 2), (100, 80), (40, 2)):
        await fleet.silence(seconds, one)
        await fleet.tick(since=since)
        async with fleet.connections.readers.use() as connection:
            found = await find(connection, [one])
        told = await fleet.value("select told_stale from heartbeat")
        visible = await fleet.value("select count(*) from live_instance")
        assert (found[one].status.name == "STALE", visible == 0) == (told, told)
    assert await fleet.living() == {one}


async def test_more_than_one_pass_can_take_is_left_to_the_next(fleet: Fleet) -> None:
    ids = [new_id() for _ in range(DUE_OF_GROUP + 20)]
    await fleet.do(*(Registration(each, InstanceType.CHROME_BROWSER) for each in ids))
    await fleet.silence(EXPIRED)
    await fleet.tick()
    assert len(await fleet.living()) == 20
    await fleet.tick()
    assert await fleet.living() == set()
    assert sorted(await fleet.told("REMOVED")) == sorted(ids)
