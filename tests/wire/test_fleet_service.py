"""FleetService: the dead too, and why."""

import asyncio
from datetime import timedelta

import grpc

from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.wire.caller import calling, refusal
from tests.wire.fleet import Fleet, debug_port, refused, request


async def test_the_living_and_the_stale_are_described_without_causes(fleet: Fleet) -> None:
    top, bottom = await fleet.chain(2)
    report = await fleet.caller.fleet.DescribeInstance(request(bottom.upper()))
    assert report == fleet_pb2.InstanceReport(instance=await fleet.get(bottom))
    await fleet.age(top)
    report = await fleet.caller.fleet.DescribeInstance(request(top))
    assert (report.instance.status, list(report.causes)) == (pb.STATUS_STALE, [])


async def test_an_id_that_never_was_is_not_found(fleet: Fleet) -> None:
    answer = await refusal(fleet.caller.fleet.DescribeInstance(request(str(new_id()))))
    assert (answer.code, answer.details) == (grpc.StatusCode.NOT_FOUND, ())


async def test_the_dead_are_described_as_they_were_with_the_chain_up_to_the_root_cause(fleet: Fleet) -> None:
    above, root, middle = await fleet.chain(3)
    bottom = await fleet.add(parent_id=middle, hostname="host", labels={"a": "b"}, services=[debug_port()])
    revision = await fleet.kill(root, note="no longer needed")
    report = await fleet.caller.fleet.DescribeInstance(request(bottom))
    assert [each.instance_id for each in report.causes] == [middle, root]
    assert [each.death_cause for each in report.causes] == [pb.CAUSE_PARENT_DIED, pb.CAUSE_KILLED]
    assert {each.root_cause_id for each in (report.instance, *report.causes)} == {root}
    assert {each.status for each in (report.instance, *report.causes)} == {pb.STATUS_DEAD}
    assert (report.instance.hostname, report.instance.labels["a"]) == ("host", "b")
    assert (report.instance.parent_id, list(report.instance.services)) == (middle, [debug_port()])
    assert report.note == "no longer needed"
    assert report.actor == await fleet.database.value("select actor from event where revision = $1 limit 1", revision)
    own = await fleet.caller.fleet.DescribeInstance(request(root))
    assert (list(own.causes), own.note, own.actor) == ([], report.note, report.actor)
    assert not (await fleet.caller.fleet.DescribeInstance(request(above))).instance.died_at_ms


async def test_who_expired_died_of_it_with_the_subtree_and_cannot_be_killed(
    settings: Settings, database: Database
) -> None:
    pulse = settings.model_copy(update={"reaper_interval": timedelta(seconds=0.05)})
    async with serving(pulse) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(database, started, caller)
        top, bottom = await fleet.chain(2)
        await fleet.age(top)
        async with asyncio.timeout(5):
            while (await fleet.describe(bottom)).status != pb.STATUS_DEAD:
                await asyncio.sleep(0.02)
        report = await caller.fleet.DescribeInstance(request(bottom))
        assert report.instance.death_cause == pb.CAUSE_PARENT_DIED
        assert [(each.instance_id, each.death_cause) for each in report.causes] == [(top, pb.CAUSE_EXPIRED)]
        assert report.actor == f"manager {started.instance_id}"
        for each in (top, bottom):
            dead = refused(pb.REASON_DEAD)
            assert await caller.tries.TryKillInstance(pb.KillRequest(instance_id=each)) == dead
            assert await caller.tries.TryHealthCheck(request(each)) == dead
