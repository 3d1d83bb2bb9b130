"""ListEvents and GetMetricsHistory, as a client sees them."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from manager.domain.event import EventType
from manager.domain.metrics import MetricsKind
from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.wire.fleet_service import KINDS
from tests.wire.caller import VERSION, refusal
from tests.wire.fleet import Fleet, debug_port


async def events(fleet: Fleet, **wanted: Any) -> list[fleet_pb2.Event]:
    """All that match, over all pages."""
    found: list[fleet_pb2.Event] = []
    token = b""
    while True:
        answer = await fleet.caller.fleet.ListEvents(fleet_pb2.EventFilter(page_token=token, **wanted))
        found.extend(answer.events)
        token = answer.next_page_token
        if not token:
            return found


def kinds(found: Sequence[fleet_pb2.Event]) -> list[str]:
    return [pb.EventType.Name(each.update.event_type) for each in found]


async def test_the_story_of_an_instance_is_listed_newest_first_with_who_and_why(fleet: Fleet) -> None:
    parent, child = await fleet.add(), await fleet.add(hostname="gpu-7")
    await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=parent, child_id=child))
    await fleet.caller.tries.TryAddService(pb.AddServiceRequest(instance_id=child, service=debug_port()))
    revision = await fleet.kill(parent, note="no longer needed")
    found = await events(fleet, ids=[child])
    assert kinds(found) == ["REMOVED", "SERVICE_ADDED", "PARENT_ADDED", "ADDED"]
    removed, offered, linked, added = found
    assert (removed.update.cause, removed.update.root_cause_id) == (pb.CAUSE_PARENT_DIED, parent)
    assert (removed.update.revision, removed.note) == (revision, "")
    (killed,) = await events(fleet, ids=[parent], event_types=[pb.REMOVED])
    assert (killed.update.revision, killed.note) == (revision, "no longer needed")
    assert {each.update.instance.hostname for each in found} == {"gpu-7"}
    assert {each.update.instance.instance_id for each in found} == {child}
    assert (offered.update.service, linked.update.related_id) == (debug_port(), parent)
    assert added.actor.startswith("ipv4:127.0.0.1:")
    assert await events(fleet, ids=[child], oldest_first=True, page_size=1) == found[::-1]


async def test_a_stream_goes_on_from_a_listed_event(fleet: Fleet) -> None:
    first, second = await fleet.add(), await fleet.add()
    (added,) = await events(fleet, ids=[first])
    request = pb.SubscribeRequest(resume_token=added.update.resume_token)
    call = fleet.caller.fleet.WatchInstances(request, metadata=VERSION)
    async for message in call:
        assert message.updates[0].instance_id == second
        break
    call.cancel()


async def test_a_filter_is_a_conjunction_and_pages_remember_it(fleet: Fleet) -> None:
    host = f"host-{new_id()}"
    vllm = await fleet.add(instance_type=pb.VLLM, hostname=host)
    await fleet.add(hostname=host)
    await fleet.kill(vllm)
    assert kinds(await events(fleet, hostnames=[host])) == ["REMOVED", "ADDED", "ADDED"]
    assert kinds(await events(fleet, hostnames=[host], types=[pb.VLLM])) == ["REMOVED", "ADDED"]
    assert kinds(await events(fleet, hostnames=[host], types=[pb.VLLM], event_types=[pb.ADDED])) == ["ADDED"]
    page = await fleet.caller.fleet.ListEvents(fleet_pb2.EventFilter(page_size=1))
    assert page.revision == await fleet.head()
    assert page.oldest_revision == 1
    other = fleet_pb2.EventFilter(page_size=1, page_token=page.next_page_token, oldest_first=True)
    answer = await refusal(fleet.caller.fleet.ListEvents(other))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize("token", [b"x", b"\x01" + b"\xff" * 36, b"\0" * 37])
async def test_what_is_no_page_token_is_refused(fleet: Fleet, token: bytes) -> None:
    answer = await refusal(fleet.caller.fleet.ListEvents(fleet_pb2.EventFilter(page_token=token)))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


async def test_marks_of_a_stream_are_no_events(fleet: Fleet) -> None:
    for kind in (pb.SYNCED, pb.BOOKMARK):
        answer = await refusal(fleet.caller.fleet.ListEvents(fleet_pb2.EventFilter(event_types=[kind])))
        assert answer.fields == ["event_types[0]"]


async def test_large_events_share_fewer_a_page(lone: Fleet) -> None:
    labels = {f"{place:063}": "x" * 255 for place in range(32)}
    services = [debug_port(1 + place, path="p" * 1_000) for place in range(32)]
    ids = [await lone.add(labels=labels, services=services) for _ in range(110)]
    answer = await lone.caller.fleet.ListEvents(fleet_pb2.EventFilter(page_size=1_000))
    assert answer.ByteSize() < 4 * 2**20
    assert answer.next_page_token
    found = await events(lone, page_size=1_000, event_types=[pb.ADDED])
    assert [each.update.instance_id for each in found][:110] == ids[::-1]


def test_every_kind_of_event_and_of_metrics_has_its_number() -> None:
    assert {each.name: each.value for each in EventType}.items() <= dict(pb.EventType.items()).items()
    assert {f"METRICS_KIND_{each.name}": each.value for each in MetricsKind} == {
        name: value for name, value in fleet_pb2.MetricsKind.items() if value
    }
    assert KINDS.keys() == set(MetricsKind)


# metrics


async def look_back(fleet: Fleet, instance: str, kind: int = 1, **wanted: Any) -> fleet_pb2.MetricsHistory:
    request = fleet_pb2.MetricsHistoryRequest(instance_id=instance, kind=kind, **wanted)  # type: ignore[arg-type]
    return await fleet.caller.fleet.GetMetricsHistory(request)


async def stored(fleet: Fleet, instance: str, count: int) -> None:
    """Puts samples of memory into the past, of 1, 2, 3, ... bytes, one a second, the last of them a second ago."""
    await fleet.database.run("select prepare_metrics(1)")
    await fleet.database.run(
        "insert into system_metrics (at, instance_id, measured_at, used_memory_bytes, total_memory_bytes)"
        " select clock_timestamp() - ($2::int - n + 1) * interval '1 second', $1, clock_timestamp(), n, 1000000"
        " from generate_series(1, $2::int) n",
        instance,
        count,
    )


async def test_a_window_is_thinned_out_to_so_many_points_and_keeps_its_peaks(fleet: Fleet) -> None:
    instance = await fleet.add()
    await stored(fleet, instance, 3_000)
    for most in (1, 7, 100, 2_000):
        past = await look_back(fleet, instance, max_points=most)
        assert most * 0.8 < len(past.system) <= most
        assert past.system[-1].used_memory_bytes == 3_000
        times = [each.timestamp_ms for each in past.system]
        assert times == sorted(times)
        assert past.from_ms <= times[0] <= times[-1] < past.to_ms
        assert {each.instance_id for each in past.system} == {instance}
    assert past.to_ms - past.from_ms == 3_600_000
    assert abs(past.to_ms - time.time() * 1000) < 10_000


async def test_a_short_window_gives_each_sample_as_it_is(fleet: Fleet) -> None:
    instance = await fleet.add()
    await stored(fleet, instance, 600)
    now = (await look_back(fleet, instance)).to_ms
    past = await look_back(fleet, instance, from_ms=now - 20_000, to_ms=now - 10_000, max_points=1_000)
    values = [each.used_memory_bytes for each in past.system]
    assert len(values) == 10
    assert values == list(range(values[0], values[0] + 10))
    assert (past.from_ms, past.to_ms) == (now - 20_000, now - 10_000)
    future = await look_back(fleet, instance, from_ms=now + 3_600_000)
    assert not future.system


async def test_every_kind_is_kept_and_gpus_have_points_of_their_own(fleet: Fleet) -> None:
    instance = await fleet.add()
    same: dict[str, Any] = {"instance_id": instance, "timestamp_ms": 1}
    batch = fleet_pb2.MetricsBatch(
        system=[pb.SystemMetrics(**same, used_memory_bytes=1, total_memory_bytes=2)],
        proxy=[pb.ProxyMetrics(**same, active_connections=1, total_connections=2, bytes_sent=3, bytes_received=4)],
        gpu=[pb.GpuMetrics(**same, gpu_index=each, used_memory_bytes=each, utilization_percent=50) for each in (1, 0)],
        llm=[pb.LlmMetrics(**same, request_count=1, tokens_received=2, tokens_sent=3)],
    )
    await fleet.caller.fleet.PostMetrics(batch)
    async with asyncio.timeout(5):
        while not (await look_back(fleet, instance, fleet_pb2.METRICS_KIND_LLM)).llm:
            await asyncio.sleep(0.02)
    for kind, field in enumerate(("system", "proxy", "gpu", "llm"), start=1):
        past = await look_back(fleet, instance, kind, max_points=1)
        points = getattr(past, field)
        for each in points:
            assert each.timestamp_ms > 1
            each.timestamp_ms = 1
        sent = sorted(getattr(batch, field), key=lambda each: getattr(each, "gpu_index", 0))
        assert list(points) == sent
        assert sum(len(getattr(past, each)) for each in ("system", "proxy", "gpu", "llm")) == len(sent)


async def test_the_dead_are_looked_back_at_and_those_who_never_were_are_not(fleet: Fleet) -> None:
    instance = await fleet.add()
    await stored(fleet, instance, 10)
    await fleet.kill(instance)
    assert [each.used_memory_bytes for each in (await look_back(fleet, instance, max_points=1)).system] == [10]
    answer = await refusal(look_back(fleet, str(new_id())))
    assert answer.code == grpc.StatusCode.NOT_FOUND
    answer = await refusal(look_back(fleet, instance, from_ms=2, to_ms=2))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["to_ms"])


async def test_more_points_than_a_message_should_carry_are_refused(fleet: Fleet) -> None:
    instance = await fleet.add()
    await fleet.database.run(
        "insert into gpu_metrics (at, instance_id, measured_at, gpu_index, used_memory_bytes, total_memory_bytes,"
        " utilization_percent) select clock_timestamp() - n * interval '10 seconds', $1, now(), gpu, 1, 2, 3"
        " from generate_series(1, 300) n, generate_series(0, 99) gpu",
        instance,
    )
    answer = await refusal(look_back(fleet, instance, fleet_pb2.METRICS_KIND_GPU, max_points=300))
    assert (answer.code, answer.retries) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [])
    assert len((await look_back(fleet, instance, fleet_pb2.METRICS_KIND_GPU, max_points=20)).gpu) <= 2_000


async def test_a_subtree_is_looked_back_at_as_one_by_the_minute_and_by_the_hour(fleet: Fleet) -> None:
    root = await fleet.add()
    child = await fleet.add(parent_id=root)
    for instance in (root, child):
        await stored(fleet, instance, 300)
    await fleet.kill(child)
    now = (await look_back(fleet, root)).to_ms
    past = await look_back(fleet, root, from_ms=now - 600_000, to_ms=now, max_points=2_000, subtree=True)
    assert {each.instance_id for each in past.system} == {root}
    assert 5 <= len(past.system) <= 7
    assert {each.total_memory_bytes for each in past.system} == {2_000_000}
    ends = [each.timestamp_ms for each in past.system]
    assert [each % 60_000 for each in ends[:-1]] == [0] * (len(ends) - 1)
    assert ends[-1] <= past.to_ms == now
    assert past.from_ms == (now - 600_000) // 60_000 * 60_000
    alone = await look_back(fleet, child, from_ms=now - 600_000, to_ms=now, max_points=2_000, subtree=True)
    assert [2 * each.used_memory_bytes for each in alone.system] == pytest.approx(
        [each.used_memory_bytes for each in past.system], abs=1
    )
    day = await look_back(fleet, root, from_ms=now - 86_400_000, to_ms=now, max_points=24, subtree=True)
    assert 1 <= len(day.system) <= 2
    assert day.from_ms == (now - 86_400_000) // 3_600_000 * 3_600_000
    assert (await look_back(fleet, root, from_ms=now - 600_000, subtree=False)).system[-1].used_memory_bytes == 300
