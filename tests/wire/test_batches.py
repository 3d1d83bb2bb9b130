"""Batches: every item has the outcome that its single call has, whatever becomes of the others."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from uuid import UUID

import grpc
import pytest
from grpc import aio

from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.wire.batches import MOST
from tests.wire.caller import VERSION, calling, outcome, refusal
from tests.wire.fleet import Fleet, debug_port, description, done, refused, request

NO_UUID = "must be a UUID in text form, as 0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f"
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


def failure(field: str, problem: str) -> fleet_pb2.Failure:
    """That of a malformed item."""
    return fleet_pb2.Failure(code=INVALID, message=f"{field}: {problem}", field=field)


def answered(answer: pb.Bool) -> fleet_pb2.Outcome:
    return fleet_pb2.Outcome(answer=answer)


async def checked(fleet: Fleet, *batches: Iterable[str]) -> list[fleet_pb2.HealthCheckOutcomes]:
    """The answers to several batches on one stream."""

    async def requests() -> AsyncIterator[fleet_pb2.HealthCheckBatch]:
        for each in batches:
            yield fleet_pb2.HealthCheckBatch(instance_ids=each)

    async with asyncio.timeout(10):
        return [each async for each in fleet.caller.fleet.HealthChecks(requests(), metadata=VERSION)]


async def test_an_instance_may_come_in_one_batch_with_its_parent(fleet: Fleet) -> None:
    parent = description()
    child = description(parent_id=parent.instance_id, services=[debug_port()])
    answer = await fleet.caller.fleet.AddInstances(fleet_pb2.AddInstancesRequest(instances=[parent, child]))
    assert [each.answer.value for each in answer.outcomes] == [True, True]
    assert [each.answer.revision for each in answer.outcomes] == [
        (await fleet.get(each.instance_id)).created_revision for each in (parent, child)
    ]
    assert (await fleet.get(child.instance_id)).parent_id == parent.instance_id


async def test_each_item_has_its_own_outcome_and_bad_ones_spoil_nobody(fleet: Fleet) -> None:
    known, orphan, fresh = await fleet.add(), description(parent_id=str(new_id())), description()
    taken = description(known, hostname="another")
    items = [description("nonsense"), fresh, taken, orphan, fresh]
    answer = await fleet.caller.fleet.AddInstances(fleet_pb2.AddInstancesRequest(instances=items))
    revision = (await fleet.get(fresh.instance_id)).created_revision
    assert list(answer.outcomes) == [
        fleet_pb2.Outcome(failure=failure("instances[0].instance_id", NO_UUID)),
        answered(done(revision)),
        answered(refused(pb.REASON_ID_TAKEN)),
        answered(refused(pb.REASON_UNKNOWN_PARENT)),
        answered(done(revision)),
    ]


async def test_trees_are_killed_together_and_each_kill_is_told_its_revision(fleet: Fleet) -> None:
    root, _, leaf = await fleet.chain(3)
    other, never = await fleet.add(), str(new_id())
    kills = [pb.KillRequest(instance_id=each) for each in (root, other, never, root, "")]
    answer = await fleet.caller.fleet.KillInstances(fleet_pb2.KillInstancesRequest(kills=kills))
    first, second, third, again, bad = answer.outcomes
    assert first == again
    assert (first.answer.value, second.answer.value) == (True, True)
    assert third == answered(refused(pb.REASON_UNKNOWN_INSTANCE))
    assert bad == fleet_pb2.Outcome(failure=failure("kills[4].instance_id", NO_UUID))
    report = await fleet.caller.fleet.DescribeInstance(request(leaf))
    assert report.instance.root_cause_id == root


async def test_health_checks_are_answered_batch_by_batch_in_their_order(fleet: Fleet) -> None:
    alive, dead, never = await fleet.add(timeout_ms=3_000), await fleet.add(), str(new_id())
    await fleet.kill(dead)
    await fleet.age(alive)
    first, second, third = await checked(fleet, [never, dead, "x", alive], [], [alive.upper(), alive])
    unknown, gone, bad, good = first.outcomes
    assert unknown.answer == refused(pb.REASON_UNKNOWN_INSTANCE)
    assert gone.answer == refused(pb.REASON_DEAD)
    assert bad.failure == failure("instance_ids[2]", NO_UUID)
    assert good.answer == done()
    assert 800 <= good.next_check_ms <= 1_200
    assert [each.next_check_ms for each in (unknown, gone, bad)] == [0, 0, 0]
    assert list(second.outcomes) == []
    assert [each.answer for each in third.outcomes] == [done(), done()]
    assert (await fleet.get(alive)).status == pb.STATUS_HEALTHY


async def test_a_thousand_in_one_batch(fleet: Fleet) -> None:
    some = [description() for _ in range(1_000)]
    answer = await fleet.caller.fleet.AddInstances(fleet_pb2.AddInstancesRequest(instances=some))
    assert all(each.answer.value for each in answer.outcomes)
    ids = [each.instance_id for each in some]
    (told,) = await checked(fleet, ids)
    assert all(each.answer.value for each in told.outcomes)
    kills = [pb.KillRequest(instance_id=each) for each in ids]
    answer = await fleet.caller.fleet.KillInstances(fleet_pb2.KillInstancesRequest(kills=kills))
    assert all(each.answer.value for each in answer.outcomes)
    (told,) = await checked(fleet, ids)
    assert {each.answer.reason for each in told.outcomes} == {pb.REASON_DEAD}


async def test_samples_of_all_kinds_are_taken_and_the_bad_ones_named(fleet: Fleet) -> None:
    one = await fleet.add()
    batch = fleet_pb2.MetricsBatch(
        system=[
            pb.SystemMetrics(instance_id=one, timestamp_ms=1, used_memory_bytes=7),
            pb.SystemMetrics(instance_id="x", timestamp_ms=1),
        ],
        gpu=[pb.GpuMetrics(instance_id=one, timestamp_ms=1, gpu_index=each, used_memory_bytes=8) for each in (0, 1)],
        llm=[pb.LlmMetrics(instance_id=one, timestamp_ms=1, request_count=9)],
        proxy=[pb.ProxyMetrics(instance_id=one, timestamp_ms=-1), pb.ProxyMetrics(instance_id=one, timestamp_ms=1)],
    )
    answer = await fleet.caller.fleet.PostMetrics(batch)
    assert answer.taken == 5
    assert {each.field for each in answer.failures} == {"proxy[0].timestamp_ms", "system[1].instance_id"}
    async with asyncio.timeout(10):
        while isinstance(await outcome(fleet.caller.gets.GetLlmMetrics(request(one))), aio.AioRpcError):
            await asyncio.sleep(0.05)


async def test_more_than_a_batch_may_hold_is_refused_as_a_whole(fleet: Fleet) -> None:
    kills = [pb.KillRequest(instance_id=str(UUID(int=each))) for each in range(MOST + 1)]
    answer = await refusal(fleet.caller.fleet.KillInstances(fleet_pb2.KillInstancesRequest(kills=kills)))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["kills"])
    system = [pb.SystemMetrics(instance_id="x")] * (MOST + 1)
    answer = await refusal(fleet.caller.fleet.PostMetrics(fleet_pb2.MetricsBatch(system=system)))
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_of_checks_asks_for_the_version_of_the_contract(fleet: Fleet) -> None:
    async def nothing() -> AsyncIterator[fleet_pb2.HealthCheckBatch]:
        await asyncio.sleep(10)
        yield fleet_pb2.HealthCheckBatch()

    async def listen() -> None:
        async for _ in fleet.caller.fleet.HealthChecks(nothing()):
            pass

    answer = await refusal(listen())
    assert (answer.code, answer.reasons) == (grpc.StatusCode.FAILED_PRECONDITION, ["PROTO_VERSION"])


async def test_what_befalls_many_is_told_to_each_and_logged_once(lone: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    some = [await lone.add() for _ in range(3)]
    await lone.database.run("alter table heartbeat rename to elsewhere")
    async with calling(lone.serving.addresses[0]) as caller:
        fleet = Fleet(lone.database, lone.serving, caller)
        (told,) = await checked(fleet, [*some, "x"])
    await lone.database.run("alter table elsewhere rename to heartbeat")
    *failures, bad = [each.failure for each in told.outcomes]
    assert bad.code == INVALID
    assert len({each.message for each in failures}) == 1
    assert failures[0].code == grpc.StatusCode.INTERNAL.value[0]
    assert failures[0].message.startswith("a fault of the server's: incident ")
    assert sum("incident" in each.message for each in caplog.records) == 1
