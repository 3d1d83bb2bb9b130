"""What the reaper remembers from tick to tick: rates, groups that are held back, clocks, the load of checks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from time import monotonic

import pytest

from manager.domain.actor import Actor
from manager.domain.calls import Beat, Checked, Registration, Tick, Ticked
from manager.domain.grace import EPOCH_GRACE, NONE, Why
from manager.domain.instance import Cause, InstanceId, InstanceType, Status
from manager.domain.lease import STEP
from manager.domain.preservation import FLEET, Group, Limits, Mode
from manager.presence import new_id
from manager.repository.instances import find
from manager.repository.turn import give_grace
from tests.conftest import Database
from tests.fleet import POLICY, Fleet, S, fleet_of

EXPIRED = 60
CAREFUL = replace(POLICY, limits=Limits())
UNGUARDED = replace(POLICY, limits=Limits(size=10**9))


@pytest.fixture
async def careful(database: Database) -> AsyncIterator[Fleet]:
    """A manager with the defaults of self-preservation."""
    async with fleet_of(database, CAREFUL) as one:
        yield one


async def crowd(fleet: Fleet, count: int, host: str = "host") -> list[InstanceId]:
    """Browsers on one host, in one turn."""
    ids = [new_id() for _ in range(count)]
    await fleet.do(*(Registration(each, InstanceType.CHROME_BROWSER, host) for each in ids))
    return ids


async def ticks(fleet: Fleet, count: int) -> Ticked:
    """So many passes, two seconds apart by the database's clock."""
    for _ in range(count):
        ticked = await fleet.tick()
    assert isinstance(ticked, Ticked)
    return ticked


async def test_no_more_than_the_rate_die_and_a_cascade_counts_once(database: Database) -> None:
    async with fleet_of(database, UNGUARDED) as fleet:
        tops = await crowd(fleet, 60)
        children = [Registration(new_id(), InstanceType.CHROME_BROWSER, "host", parent=each) for each in tops]
        await fleet.do(*children)
        await fleet.silence(EXPIRED)
        await fleet.sql.execute("update control set rate_tokens = 0")
        await fleet.tick()
        deaths = await fleet.deaths()
        assert sum(cause is Cause.EXPIRED for _, cause, _ in deaths.values()) in (20, 21)
        assert len(deaths) in (40, 42)
        await ticks(fleet, 2)
        assert await fleet.living() == set()


async def test_a_quiet_while_saves_up_a_burst(database: Database) -> None:
    async with fleet_of(database, UNGUARDED) as fleet:
        await ticks(fleet, 5)
        await crowd(fleet, 80)
        await fleet.silence(EXPIRED)
        await fleet.tick()
        assert len(await fleet.deaths()) == 50


async def test_a_host_that_falls_silent_as_a_whole_is_spared_and_others_are_not(careful: Fleet) -> None:
    await crowd(careful, 200, "well")
    gone, other = await crowd(careful, 40, "gone"), await crowd(careful, 5, "other")
    await careful.silence(EXPIRED, *gone, other[0])
    ticked = await ticks(careful, 3)
    group = Group(InstanceType.CHROME_BROWSER, "gone")
    assert {each: watch.mode for each, watch in ticked.watches.items() if watch.mode} == {
        group: Mode.STOPPED,
        FLEET: Mode.SLOWED,
    }
    assert set(await careful.deaths()) == {other[0]}
    rows = await careful.rows("select type, hostname, state from reaper_group where state = 2")
    assert [tuple(row) for row in rows] == [(1, "gone", 2)]


async def test_the_silent_of_a_spared_host_are_stale_all_the_same(careful: Fleet) -> None:
    gone = await crowd(careful, 40)
    await careful.silence(EXPIRED)
    await ticks(careful, 1)
    assert sorted(await careful.told("STALE")) == sorted(gone)
    assert await careful.value("select count(*) from live_instance") == 0


async def test_who_comes_back_in_time_has_not_died(careful: Fleet) -> None:
    gone = await crowd(careful, 40)
    await careful.silence(EXPIRED)
    await ticks(careful, 3)
    assert all(answer.reason is None for answer in await careful.check(*gone))
    await ticks(careful, 1)
    assert await careful.living() == set(gone)
    assert sorted(await careful.told("RECOVERED")) == sorted(gone)


async def test_after_the_hours_share_of_stop_they_die_one_a_second(careful: Fleet) -> None:
    await crowd(careful, 40)
    await careful.silence(EXPIRED)
    await ticks(careful, 1)
    await careful.sql.execute("update reaper_group set stopped = interval '299 s'")
    await ticks(careful, 1)
    assert len(await careful.deaths()) in (1, 2)
    before = len(await careful.deaths())
    await ticks(careful, 4)
    assert len(await careful.deaths()) - before in (7, 8, 9)


async def test_a_parent_that_expires_takes_along_whom_its_group_would_spare(careful: Fleet) -> None:
    """The silence of the host's own manager is a word about all that it runs."""
    await crowd(careful, 300, "well")
    backend = await careful.add(of=InstanceType.BROWSER_BACKEND)
    ids = [new_id() for _ in range(30)]
    await careful.do(*(Registration(each, InstanceType.CHROME_BROWSER, "gone", parent=backend) for each in ids))
    await careful.silence(EXPIRED, backend, *ids)
    await ticks(careful, 1)
    assert set(await careful.deaths()) == {backend, *ids}


async def test_a_group_held_back_is_forgotten_when_it_is_over(careful: Fleet) -> None:
    ids = await crowd(careful, 40)
    await careful.silence(40, *ids[:8])
    await ticks(careful, 1)
    assert await careful.value("select count(*) from reaper_group") == 2
    await careful.check(*ids)
    await ticks(careful, 1)
    await careful.sql.execute("update reaper_group set calm_since = calm_since - interval '61 s'")
    await ticks(careful, 1)
    assert await careful.value("select count(*) from reaper_group") == 0


# ── outages that only this process knows of ──────────────────────────────────────────────────────────────────────────


async def beat(fleet: Fleet) -> Beat:
    ticked = await fleet.tick()
    assert isinstance(ticked, Ticked)
    return ticked.beat


async def test_a_manager_that_was_cut_off_gives_grace_though_others_ticked(fleet: Fleet, other: Fleet) -> None:
    one = await fleet.add()
    last = await beat(fleet)
    await fleet.silence(EXPIRED, one)
    await fleet.sql.execute("update control set ticked_at = clock_timestamp()")
    away = replace(last, at=last.at - 50 * S, clock=last.clock - 50)
    (ticked,) = await fleet.do(Tick(Actor("a test"), last=away))
    assert isinstance(ticked, Ticked)
    assert ticked.why is Why.AWAY
    assert 59 * S < ticked.grace <= 60 * S
    await other.tick()
    assert await fleet.living() == {one}


async def test_a_tick_that_is_a_little_late_gives_none(fleet: Fleet) -> None:
    last = await beat(fleet)
    (ticked,) = await fleet.do(Tick(Actor("a test"), last=replace(last, at=last.at - 6 * S, clock=last.clock - 6)))
    assert isinstance(ticked, Ticked)
    assert ticked.grace == NONE


async def test_a_clock_that_was_set_forward_gives_grace(fleet: Fleet) -> None:
    one = await fleet.add()
    last = await beat(fleet)
    await fleet.silence(50, one)
    await fleet.ticked(7)
    (ticked,) = await fleet.do(Tick(Actor("a test"), last=replace(last, at=last.at - 7 * S, clock=monotonic() - 2)))
    assert isinstance(ticked, Ticked)
    assert ticked.why is Why.CLOCK
    assert await fleet.living() == set() if ticked.grace == NONE else {one}


async def test_after_the_clock_was_set_back_the_dead_are_missed_in_time(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.sql.execute("update heartbeat set last_seen = clock_timestamp() + interval '1 hour'")
    await fleet.tick(since=-3600)
    assert await fleet.value("select last_seen <= clock_timestamp() from heartbeat")
    await fleet.sql.execute("update control set grace_until = clock_timestamp(), grace_at = grace_from")
    await fleet.silence(EXPIRED, one)
    await fleet.sql.execute("update control set grace_from = clock_timestamp()")
    await fleet.tick()
    assert await fleet.living() == set()


# ── reads before the first tick after an outage ──────────────────────────────────────────────────────────────────────


async def test_while_nobody_ticks_nobody_becomes_stale(fleet: Fleet) -> None:
    """The database is back, no tick has come yet, and the first read finds the fleet as it was."""
    one = await fleet.add()
    await fleet.tick()
    await fleet.silence(100, one)
    await fleet.ticked(80)
    assert await fleet.value("select count(*) from live_instance") == 1
    async with fleet.connections.readers.use() as connection:
        found = await find(connection, [one])
    assert found[one].status is Status.HEALTHY


async def test_an_instance_with_a_long_timeout_has_all_of_it_again_after_an_outage(fleet: Fleet) -> None:
    one, short = await fleet.add(timeout=3_600 * S), await fleet.add()
    await fleet.silence(7_200, one)
    await fleet.silence(7_200, short)
    await fleet.tick(since=7_100)
    await fleet.sql.execute("""
        update control set grace_until = clock_timestamp() - interval '1 s', grace_at = grace_at - interval '400 s'""")
    await fleet.tick()
    assert await fleet.living() == {one}
    assert await fleet.value("select count(*) from live_instance") == 1


async def test_the_grace_of_an_hour_is_bounded(fleet: Fleet) -> None:
    given = []
    for _ in range(6):
        async with fleet.connections.turns.use() as connection:
            given.append(await give_grace(connection, EPOCH_GRACE))
        await fleet.sql.execute("""
            update control set grace_until = grace_until - interval '301 s', grace_at = grace_at - interval '301 s'""")
    assert [each is not None for each in given] == [True, True, True, False, False, False]


# ── the load of health checks ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_fleet_beyond_its_load_is_told_longer_intervals_and_has_longer_timeouts(database: Database) -> None:
    async with fleet_of(database, replace(POLICY, check_load=1.0)) as fleet:
        ids = await crowd(fleet, 20)  # at a check every 10 s: 2 a second
        (before,) = await fleet.check(ids[0])
        assert isinstance(before, Checked)
        assert before.pause == 10 * S
        assert (await ticks(fleet, 1)).stretch == pytest.approx(STEP)
        ticked = await ticks(fleet, 8)
        assert ticked.stretch == pytest.approx(2.0, rel=0.06)
        await fleet.silence(20)
        (after,) = await fleet.check(ids[0])
        assert isinstance(after, Checked)
        assert after.pause.total_seconds() == pytest.approx(20, rel=0.06)
        await fleet.sql.execute("update heartbeat set last_seen = clock_timestamp() - interval '40 s'")
        await fleet.tick()
        stale = await fleet.told("STALE")
        assert ids[0] not in stale
        assert sorted(stale) == sorted(ids[1:]), "who was never told of a longer interval is judged by the old one"


async def test_the_load_of_an_ordinary_fleet_stretches_nothing(fleet: Fleet) -> None:
    await crowd(fleet, 20)
    assert (await ticks(fleet, 2)).stretch == 1.0


async def test_a_restart_forgets_none_of_it(careful: Fleet, database: Database) -> None:
    await crowd(careful, 40)
    await careful.silence(EXPIRED)
    before = await ticks(careful, 1)
    async with fleet_of(database, CAREFUL) as again:
        after = await ticks(again, 1)
    assert {each: watch.mode for each, watch in after.watches.items()} == {
        each: watch.mode for each, watch in before.watches.items()
    }
    assert await careful.deaths() == {}


async def test_ticks_of_several_managers_count_time_once(careful: Fleet, database: Database) -> None:
    await crowd(careful, 40)
    await careful.silence(EXPIRED)
    async with fleet_of(database, CAREFUL) as other:
        await careful.tick()
        await asyncio.gather(*(each.do(Tick(Actor("a test"))) for each in (careful, other) for _ in range(3)))
    stopped: timedelta = await careful.value("select max(stopped) from reaper_group")
    assert stopped < 2 * S
