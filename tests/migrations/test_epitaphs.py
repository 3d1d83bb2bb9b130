"""Migration 0013: whose events were gone before epitaphs were kept is told of by the trail."""

from typing import Any

from manager.domain.actor import Actor
from manager.domain.calls import Kill
from manager.repository import migrations
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of

BEFORE = "0011"


async def told(database: Database) -> list[tuple[Any, ...]]:
    """Who asked for each death, and why."""
    rows = await database.run(
        "select d.id, d.actor, d.note, r.actor, r.note from audit.deaths d"
        " join audit.root_causes r on r.id = d.root_cause order by d.revision, d.id"
    )
    return [tuple(row) for row in rows]


async def deaths(fleet: Fleet) -> None:
    """A tree by somebody without a name, two by ann in one turn, one of silence."""
    root, first, second, silent = [(await fleet.chain(2))[0] for _ in range(4)]
    await fleet.do(Kill(root, "", Actor(address="ipv4:10.0.0.9:1")))
    ann = Actor("ann", None, "ipv4:10.0.0.9:2")
    await fleet.do(Kill(first, "rollout 7", ann), Kill(second, "so's that\n", ann))
    await fleet.silence(1_000, silent)
    await fleet.tick()


async def trimmed(fleet: Fleet, upto: int) -> None:
    await fleet.sql.execute("update event set at = at - interval '8 days' where revision <= $1", upto)
    await fleet.sql.execute("select compact_history(1000), delete_compacted(1000)")
    await fleet.sql.execute("select delete_compacted(1000)")


async def test_the_trail_tells_of_those_whose_events_are_gone_and_the_others_stay(empty: Database) -> None:
    await migrations.upgrade(empty.admin, BEFORE)
    async with fleet_of(empty) as fleet:
        await deaths(fleet)
        before = await told(empty)
        await trimmed(fleet, await fleet.head() - 1)
    lost = await told(empty)
    assert [row[1] for row in lost[:-2]] == [None] * 6
    assert lost[-2:] == before[-2:]
    await migrations.upgrade(empty.admin)
    assert await told(empty) == before
    assert await empty.value("select count(*) from epitaph") == 3


async def test_whom_the_trail_does_not_tell_of_stays_without(empty: Database) -> None:
    await migrations.upgrade(empty.admin, BEFORE)
    async with fleet_of(empty) as fleet:
        await deaths(fleet)
        before = await told(empty)
        await trimmed(fleet, await fleet.head())
        await fleet.sql.execute("alter table trail disable trigger trail_is_final")
        await fleet.sql.execute("delete from trail where number = (select max(number) - 1 from trail)")
    await migrations.upgrade(empty.admin)
    after = await told(empty)
    assert [now for now in after if now[1] is not None] == [*before[:2], *before[-2:]]
    assert len(after) == len(before)
