"""The past is what replaying the events gives, at every revision of any history; and every death has a root cause."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager.domain.actor import Actor
from manager.domain.calls import Call, Kill, Link, Offer, Registration, Update
from manager.domain.filter import Filter
from manager.domain.grace import Patience
from manager.domain.instance import Cause, Instance, InstanceId, InstanceType
from manager.domain.lease import Lease, leases
from manager.domain.past import Difference, Moment
from manager.domain.policy import Policy
from manager.domain.refusals import HistoryGone, InvalidRequest
from manager.presence import new_id
from manager.repository import history, past
from tests.conftest import Database
from tests.fleet import AT_ONCE, Fleet, S, fleet_of, service

# long, so that nobody falls silent but who is made to
LEASES = leases(Lease(1_000 * S, 1_000 * S), Lease(1_000 * S, 1_000 * S), Lease(1_000 * S, 1_000 * S))
POLICY = Policy(LEASES, Patience(outage_after=10_000 * S, outage_grace=S), pace=S, interval=2 * S, limits=AT_ONCE)
Fleets = Mapping[InstanceId, Instance]
EXAMPLES = int(os.environ.get("IM_TEST_EXAMPLES", "15"))


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database, POLICY) as one:
        yield one


def comparable(instance: Instance) -> Instance:
    """Without what events do not tell: the digest, microseconds, and when it was last seen."""
    whole = timedelta(milliseconds=1)
    at = instance.created_at - (instance.created_at - datetime(1970, 1, 1, tzinfo=UTC)) % whole
    return replace(instance, digest=b"", created_at=at, last_seen=None)


async def replayed(fleet: Fleet) -> list[dict[InstanceId, Instance]]:
    """The living after every revision from 0 on, by the events alone."""
    states: list[dict[InstanceId, Instance]] = [{}]
    async with fleet.connections.readers.snapshot() as connection:
        page = await history.read(connection, (0, 0), 1_000_000)
    for told in page.events:
        if told.revision == len(states):
            states.append(dict(states[-1]))
        if told.after is None:
            del states[-1][told.instance]
        else:
            states[-1][told.instance] = comparable(told.after)
    return states


async def at(fleet: Fleet, revision: int, wanted: Filter = Filter(), most: int = 1_000) -> list[Instance]:  # noqa: B008
    """Who lived then."""
    async with fleet.connections.readers.snapshot() as connection:
        found = past.lived(connection, wanted, revision=revision, after=None, most=most)
        return [comparable(each) async for each in found]


async def between(fleet: Fleet, first: int, last: int, most: int = 1_000) -> list[Difference]:
    async with fleet.connections.readers.snapshot() as connection:
        return [each async for each in past.differences(connection, first, last, after=None, most=most)]


# ── any history ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Story:
    """What happens to a fleet by chance, all of it possible."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.chance = random.Random(seed)
        self.ids: list[InstanceId] = []

    def some(self) -> InstanceId:
        return self.chance.choice(self.ids) if self.ids else new_id()

    def call(self) -> Call:
        kind = self.chance.choices(("add", "update", "offer", "link", "kill"), (5, 3, 2, 2, 1))[0]
        host = f"host-{self.chance.randrange(3)}"
        of = self.chance.choice([InstanceType.CHROME_BROWSER, InstanceType.VLLM, InstanceType.WARMPOOL_PROXY])
        if kind == "add" or not self.ids:
            self.ids.append(new_id())
            parent = self.some() if self.chance.random() < 0.5 and self.ids[:-1] else None
            offered = (service(self.chance.randrange(1, 100)),) if self.chance.random() < 0.3 else ()
            return Registration(self.ids[-1], of, host, {"a": host}, parent, offered, actor=Actor("chance"))
        if kind == "update":
            return Update(self.some(), of, host, {"b": host}, actor=Actor("chance"))
        if kind == "offer":
            return Offer(self.some(), service(self.chance.randrange(1, 100)), Actor("chance"))
        if kind == "link":
            return Link(self.some(), self.some(), Actor("chance"))
        return Kill(self.some(), "chance", Actor("chance"))

    async def goes_on(self, turns: int) -> None:
        for _ in range(turns):
            await self.fleet.answers(*(self.call() for _ in range(self.chance.randrange(1, 6))))
            if self.chance.random() < 0.4:
                await self.fleet.silence(self.chance.choice((1_500, 4_500)), *{self.some() for _ in range(3)})
                await self.fleet.tick()
            if self.chance.random() < 0.3:
                await self.fleet.check(*{self.some() for _ in range(3)})
                await self.fleet.tick()


async def clear(fleet: Fleet) -> None:
    await fleet.sql.execute("truncate instance, event, heartbeat cascade")
    await fleet.sql.execute("update control set compacted_revision = 0, buried_revision = 0")


async def holds(fleet: Fleet) -> None:
    """What is to be shown, of the history that the fleet has."""
    states = await replayed(fleet)
    for revision, expected in enumerate(states):
        assert await at(fleet, revision) == [expected[each] for each in sorted(expected)]
        told = await fleet.rows(
            "select id, type, hostname, status, parent_id, updated_revision from audit.instances_at_revision($1)",
            revision,
        )
        assert {tuple(row) for row in told} == {
            (each.id, each.type.name, each.hostname, each.status.name, each.parent, each.updated_revision)
            for each in expected.values()
        }
    chance = random.Random(len(states))
    for _ in range(20):
        first, last = sorted(chance.choices(range(len(states)), k=2))
        await differ(fleet, states, first, last)
    orphans = await fleet.rows("""
        select e.instance_id from event e left join instance r on r.id = e.root_cause
        where e.actor = '' or e.type = 2 and (r.died_revision is distinct from e.revision or r.death_cause not in (1, 2)
                                              or (e.cause = 3) = (e.root_cause = e.instance_id))
        union all
        select i.id from instance i left join event e on e.instance_id = i.id and e.type = 2
        where i.died_revision is not null and (e.revision, e.cause, e.root_cause) is distinct from
              (i.died_revision, i.death_cause, i.root_cause)""")
    assert not orphans


async def differ(fleet: Fleet, states: Sequence[Fleets], first: int, last: int) -> None:
    before, after = states[first], states[last]
    expected = {each for each in before.keys() | after.keys() if before.get(each) != after.get(each)}
    found = await between(fleet, first, last, most=3)
    assert [each.id for each in found] == sorted(expected)
    for each in found:
        assert (each.before and comparable(each.before)) == before.get(each.id)
        assert each.after is not None
        if each.after.death is None:
            assert comparable(each.after) == after[each.id]
        else:
            assert each.id not in after
            assert first < each.after.death.revision <= last


async def test_every_revision_of_any_history_is_as_replayed_and_every_death_has_a_root_cause(fleet: Fleet) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(seed=st.integers(0, 2**32), turns=st.integers(1, 12))
    def any_history(seed: int, turns: int) -> None:
        async def run() -> None:
            await clear(fleet)
            await Story(fleet, seed).goes_on(turns)
            await holds(fleet)

        asyncio.run_coroutine_threadsafe(run(), loop).result()

    await asyncio.to_thread(any_history)


# ── what is asked for ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_filter_is_judged_as_of_then_and_pages_miss_nobody(fleet: Fleet) -> None:
    root, child, grandchild = await fleet.chain(3)
    alone = await fleet.add(labels={"a": "b"})
    then = await fleet.head()
    await fleet.do(Update(alone, InstanceType.VLLM, "elsewhere"))
    await fleet.link(grandchild, alone)
    await fleet.kill(child)

    async def who(revision: int, most: int = 1, **criteria: Any) -> set[InstanceId]:
        found = [each.id for each in await at(fleet, revision, Filter(**criteria), most)]
        assert found == sorted(found)
        return set(found)

    assert await who(then) == {root, child, grandchild, alone}
    assert await who(then, subtree_of=child) == {child, grandchild}
    assert await who(then + 2, subtree_of=child) == {child, grandchild, alone}
    assert await who(then + 3, subtree_of=child) == set()
    assert await who(then, labels={"a": "b"}) == {alone}
    assert await who(then + 1, labels={"a": "b"}) == set()
    assert await who(then + 1, types=(InstanceType.VLLM,)) == {alone}
    assert await who(then, types=(InstanceType.VLLM,)) == set()
    assert await who(then, ids=(alone, root, new_id())) == {alone, root}
    assert await who(then + 3, ids=(alone, root)) == {root}
    assert await who(then, parent=root) == {child}


async def point(fleet: Fleet, revision: int | None = None, at: datetime | None = None) -> int:
    async with fleet.connections.readers.snapshot() as connection:
        return (await past.point(connection, Moment(revision, at))).revision


async def test_a_moment_is_a_revision_on_record(fleet: Fleet) -> None:
    await fleet.chain(3)
    await fleet.sql.execute("update event set at = timestamptz '2026-01-01 00:00+00' + revision * interval '1 hour'")
    day = datetime(2026, 1, 1, tzinfo=UTC)
    assert [await point(fleet, at=day + timedelta(hours=each)) for each in (0.5, 1, 2.5, 3, 1_000)] == [0, 1, 2, 3, 3]
    assert [await point(fleet, each) for each in (0, 3)] == [0, 3]
    with pytest.raises(InvalidRequest, match="yet to come: the newest revision is 3"):
        await point(fleet, 4)
    await fleet.sql.execute("update control set buried_revision = 2")
    with pytest.raises(HistoryGone, match="on record from revision 2 on"):
        await point(fleet, 1)
    with pytest.raises(HistoryGone, match="on record from revision 2 on"):
        await point(fleet, at=day + timedelta(hours=1))
    assert await point(fleet, 2) == 2


async def test_a_difference_says_how_the_gone_died_and_leaves_out_what_came_back_to_what_it_was(fleet: Fleet) -> None:
    gone, changed, flapped = await fleet.add(), await fleet.add(), await fleet.add()
    first = await fleet.head()
    brief = await fleet.add()
    await fleet.kill(brief)
    await fleet.silence(1_500, flapped)
    await fleet.tick()
    await fleet.check(flapped)
    await fleet.tick()
    await fleet.do(Update(changed, InstanceType.VLLM, "elsewhere"))
    await fleet.kill(gone, "no longer needed")
    new = await fleet.add()
    found = {each.id: each for each in await between(fleet, first, await fleet.head())}
    assert found.keys() == {gone, changed, new}
    death = found[gone].after
    assert death is not None
    assert death.death is not None
    assert (death.death.cause, death.death.root) == (Cause.KILLED, gone)
    assert found[new].before is None
    assert await between(fleet, first, first) == []


async def test_trimmed_events_take_nothing_from_the_past_but_who_was_stale(fleet: Fleet) -> None:
    root, child = await fleet.chain(2)
    await fleet.do(Update(child, InstanceType.VLLM, "elsewhere"))
    await fleet.kill(root)
    before = {revision: await at(fleet, revision) for revision in range(5)}
    await fleet.sql.execute("update control set compacted_revision = 4")
    await fleet.sql.execute("delete from event")
    assert {revision: await at(fleet, revision) for revision in range(5)} == before
