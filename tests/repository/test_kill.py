"""Kills: an instance and everything below it, in one change, each victim with one root cause."""

import asyncio
from time import perf_counter

from sqlalchemy import text

from manager.domain.calls import Kill, Link, Outcome, Reason, Registration
from manager.domain.instance import Cause, InstanceId, InstanceType
from manager.presence import new_id
from tests.fleet import Fleet


async def test_killing_a_parent_kills_every_descendant_and_nobody_else(fleet: Fleet) -> None:
    above, *below = await fleet.chain(5)
    bystander = await fleet.add(above)
    killed = await fleet.kill(below[0])
    assert killed == Outcome.done(await fleet.head())
    assert await fleet.living() == {above, bystander}
    assert await fleet.deaths() == {
        below[0]: (killed.revision, Cause.KILLED, below[0]),
        **dict.fromkeys(below[1:], (killed.revision, Cause.PARENT_DIED, below[0])),
    }


async def test_a_kill_leaves_neither_heartbeats_nor_living_links(fleet: Fleet) -> None:
    root, *_ = await fleet.chain(4)
    killed = await fleet.kill(root)
    assert await fleet.value("select count(*) from heartbeat") == 0
    assert {row[0] for row in await fleet.rows("select ended_revision from parent_link")} == {killed.revision}


async def test_an_unknown_instance_cannot_be_killed(fleet: Fleet) -> None:
    assert await fleet.kill(new_id()) == Outcome.refused(Reason.UNKNOWN_INSTANCE)
    assert await fleet.head() == 0


async def test_a_repeated_kill_gives_the_first_revision_and_changes_nothing(fleet: Fleet, other: Fleet) -> None:
    aim = await fleet.add()
    first = await fleet.kill(aim)
    assert await other.kill(aim) == first
    assert await fleet.do(Kill(aim), Kill(aim)) == [first, first]
    assert await fleet.head() == first.revision


async def test_two_kills_of_one_instance_in_one_turn_are_one(fleet: Fleet) -> None:
    aim = await fleet.add()
    first, second = await fleet.do(Kill(aim, "one"), Kill(aim, "two"))
    assert first == second == Outcome.done(2)
    assert await fleet.told("REMOVED") == [aim]


async def test_who_died_with_its_parent_or_expired_was_not_killed(fleet: Fleet) -> None:
    parent, child = await fleet.chain(2)
    silent = await fleet.add()
    await fleet.kill(parent)
    await fleet.silence(100, silent)
    await fleet.tick()
    assert await fleet.do(Kill(child), Kill(silent)) == [Outcome.refused(Reason.DEAD)] * 2


async def test_events_come_root_first_by_depth_and_keep_the_last_state(fleet: Fleet) -> None:
    root = await fleet.add()
    left, right = await fleet.add(root), await fleet.add(root)
    leaves = [await fleet.add(parent) for parent in (right, left, right, left)]
    revision = (await fleet.kill(root, "no longer needed")).revision
    rows = await fleet.rows(
        "select ordinal, instance_id, cause, root_cause, actor, note, before, after from event_log"
        " where revision = $1 order by ordinal",
        revision,
    )
    assert [row["ordinal"] for row in rows] == list(range(7))
    order = [row["instance_id"] for row in rows]
    assert order[0] == root
    assert set(order[1:3]) == {left, right}
    assert set(order[3:]) == set(leaves)
    assert [row["cause"] for row in rows] == ["KILLED"] + ["PARENT_DIED"] * 6
    assert {row["root_cause"] for row in rows} == {root}
    assert [row["note"] for row in rows] == ["no longer needed"] + [""] * 6
    assert {row["actor"] for row in rows} == {"a test"}
    assert {row["after"] for row in rows} == {None}
    states = dict(await fleet.rows("select id, state from instance_state"))
    assert {row["instance_id"]: row["before"] for row in rows} == states


async def test_overlapping_kills_die_deepest_first_each_victim_of_one_root_cause(fleet: Fleet) -> None:
    ids = await fleet.chain(6)
    top, _, middle, _, deepest, last = ids
    killed = {aim: outcome.revision for aim, outcome in await _killed(fleet, top, deepest, middle)}
    assert killed[deepest] < killed[middle] < killed[top]
    assert sorted(killed.values()) == [7, 8, 9]
    deaths = await fleet.deaths()
    assert {each: deaths[each][2] for each in ids} == {
        top: top,
        ids[1]: top,
        middle: middle,
        ids[3]: middle,
        deepest: deepest,
        last: deepest,
    }
    assert all(revision == killed[root] for revision, _, root in deaths.values())
    assert {each for each, (_, cause, _) in deaths.items() if cause is Cause.KILLED} == {top, middle, deepest}
    assert sorted(await fleet.told("REMOVED")) == sorted(ids)


async def _killed(fleet: Fleet, *aims: InstanceId) -> list[tuple[InstanceId, Outcome]]:
    return list(zip(aims, await fleet.do(*map(Kill, aims)), strict=True))


async def test_what_was_linked_in_the_same_turn_dies_too(fleet: Fleet) -> None:
    parent, child = await fleet.add(), await fleet.add()
    born = Registration(new_id(), InstanceType.CHROME_BROWSER, parent=child)
    outcomes = await fleet.do(Kill(parent), Link(parent, child), born)
    assert [outcome.reason for outcome in outcomes] == [None] * 3
    assert await fleet.living() == set()
    assert (await fleet.deaths())[born.id][2] == parent


async def test_a_kill_and_the_links_and_adds_of_another_manager_leave_no_living_orphan(
    fleet: Fleet, other: Fleet
) -> None:
    for _ in range(20):
        root, strays = await fleet.add(), [await fleet.add() for _ in range(3)]
        await asyncio.gather(
            fleet.do(Kill(root)),
            other.do(*(Link(root, each) for each in strays)),
            other.do(*(Registration(new_id(), InstanceType.CHROME_BROWSER, parent=root) for _ in range(3))),
        )
    orphans = """
        select count(*) from parent_link l join instance p on p.id = l.parent_id join instance c on c.id = l.child_id
        where p.died_revision is not null and c.died_revision is null"""
    assert await fleet.value(orphans) == 0


async def test_a_ring_made_by_hand_still_ends(fleet: Fleet) -> None:
    ids = await fleet.chain(4)
    await fleet.sql.execute(
        "insert into parent_link (child_id, parent_id, revision) values ($1, $2, 4)", ids[0], ids[3]
    )
    assert (await fleet.kill(ids[1])).reason is None
    assert await fleet.living() == set()
    assert await fleet.told("REMOVED") == [ids[1], ids[2], ids[3], ids[0]]


async def test_two_kills_on_a_ring_made_by_hand_still_end(fleet: Fleet) -> None:
    ids = await fleet.chain(4)
    await fleet.sql.execute(
        "insert into parent_link (child_id, parent_id, revision) values ($1, $2, 4)", ids[0], ids[3]
    )
    await fleet.do(Kill(ids[0]), Kill(ids[2]))
    assert await fleet.living() == set()
    assert sorted(await fleet.told("REMOVED")) == sorted(ids)


async def test_a_subtree_of_10_000_dies_in_one_transaction_and_one_revision(fleet: Fleet) -> None:
    root = await fleet.add()
    middle = [Registration(new_id(), InstanceType.BROWSER_BACKEND, parent=root) for _ in range(99)]
    await fleet.do(*middle)
    leaves = [
        Registration(new_id(), InstanceType.CHROME_BROWSER, parent=each.id) for each in middle for _ in range(100)
    ]
    await fleet.do(*leaves)
    begun = perf_counter()
    killed = await fleet.kill(root)
    print(f"a kill of 10,000: {perf_counter() - begun:.3f} s")
    (row,) = await fleet.rows(
        "select count(*), count(distinct xid) as transactions, min(ordinal) as first, max(ordinal) as last"
        " from event where revision = $1",
        killed.revision,
    )
    assert tuple(row) == (10_000, 1, 0, 9_999)
    assert {revision for revision, _, _ in (await fleet.deaths()).values()} == {killed.revision}
    assert await fleet.living() == set()
    assert await fleet.head() == killed.revision


async def test_a_chain_of_1_000_dies_in_under_100_ms(fleet: Fleet) -> None:
    taken: list[float] = []
    while len(taken) < 5 or (min(taken) >= 0.1 and len(taken) < 20):
        root, *_ = await fleet.chain(1_000)
        begun = perf_counter()
        await fleet.kill(root)
        taken.append(perf_counter() - begun)
    print(f"a chain of 1,000: {', '.join(f'{each * 1000:.0f}' for each in taken)} ms")
    assert min(taken) < 0.1, "whatever else the machine does only adds"
    assert await fleet.living() == set()


async def test_a_parent_with_thousands_of_children_is_killed_without_a_scan(fleet: Fleet) -> None:
    """Statistics that know of one parent alone say that all rows belong to it, and made each step down a scan."""
    scanned = """
        select sum(seq_scan)::int from pg_stat_user_tables
        where relname in ('instance', 'parent_link', 'heartbeat', 'service')"""
    root = await fleet.add()
    await fleet.do(*(Registration(new_id(), InstanceType.CHROME_BROWSER, parent=root) for _ in range(3_000)))
    await fleet.sql.execute("analyze")
    await fleet.connections.turns.close()  # whoever plans now knows those statistics
    before = await fleet.value(scanned)
    assert (await fleet.kill(root)).reason is None
    async with fleet.connections.turns.use() as connection:
        await connection.execute(text("select pg_stat_force_next_flush()"))
        await connection.commit()
    assert await fleet.value(scanned) == before
    assert await fleet.living() == set()
