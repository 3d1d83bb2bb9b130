"""PostService: metrics come back as they were sent, the latest to arrive alone, and never from the dead."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.wire.caller import Refused, calling, outcome, refusal
from tests.wire.fleet import Fleet, request
from tests.wire.test_deadlines import waiting

A = TypeVar("A")
MOST = 2**63 - 1
LAST = 253402300799999
WITHIN = 2.0


@dataclass(frozen=True)
class Kind:
    """One kind of metrics: its message with every field at its highest, how it is posted, and how it is read."""

    fullest: Any
    post: Callable[[Fleet, Any], Awaitable[Empty]]
    read: Callable[[Fleet, str], Awaitable[Any]]

    @property
    def table(self) -> str:
        """Where its history is."""
        return type(self.fullest).__name__.removesuffix("Metrics").lower() + "_metrics"

    def of(self, instance: str, **fields: int) -> Any:
        """A sample."""
        return type(self.fullest)(instance_id=instance, **fields)


async def one_gpu(fleet: Fleet, of: str) -> pb.GpuMetrics:
    (only,) = (await fleet.caller.gets.GetGpuMetrics(request(of))).metrics
    return only


KINDS = {
    "proxy": Kind(
        pb.ProxyMetrics(
            timestamp_ms=LAST, active_connections=MOST, total_connections=MOST, bytes_sent=MOST, bytes_received=MOST
        ),
        lambda fleet, sample: fleet.caller.posts.PostProxyMetrics(sample),
        lambda fleet, of: fleet.caller.gets.GetProxyMetrics(request(of)),
    ),
    "system": Kind(
        pb.SystemMetrics(timestamp_ms=LAST, used_memory_bytes=MOST, total_memory_bytes=MOST),
        lambda fleet, sample: fleet.caller.posts.PostSystemMetrics(sample),
        lambda fleet, of: fleet.caller.gets.GetSystemMetrics(request(of)),
    ),
    "gpu": Kind(
        pb.GpuMetrics(
            timestamp_ms=LAST,
            gpu_index=1023,
            used_memory_bytes=MOST,
            total_memory_bytes=MOST,
            utilization_percent=100.0,
        ),
        lambda fleet, sample: fleet.caller.posts.PostGpuMetrics(sample),
        one_gpu,
    ),
    "llm": Kind(
        pb.LlmMetrics(timestamp_ms=LAST, request_count=MOST, tokens_received=MOST, tokens_sent=MOST),
        lambda fleet, sample: fleet.caller.posts.PostLlmMetrics(sample),
        lambda fleet, of: fleet.caller.gets.GetLlmMetrics(request(of)),
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


async def eventually(read: Callable[[], Awaitable[A]], wanted: Callable[[A], bool]) -> A:
    """The first answer that is as wanted, posts being stored within a second."""
    async with asyncio.timeout(WITHIN):
        while True:
            answer = await outcome(read())
            if isinstance(answer, Refused):
                assert answer.code == grpc.StatusCode.NOT_FOUND
            elif wanted(answer):
                return answer
            await asyncio.sleep(0.01)


async def stored(fleet: Fleet, kind: Kind, sample: Any) -> None:
    """Returns once the sample is what is read."""
    await eventually(lambda: kind.read(fleet, sample.instance_id), lambda answer: bool(answer == sample))


@every_kind
async def test_a_sample_comes_back_as_it_was_sent_up_to_the_highest_numbers(fleet: Fleet, kind: Kind) -> None:
    instance = await fleet.add()
    for sample in (kind.of(instance), kind.of(instance)):
        sample.MergeFrom(kind.fullest)
        assert await kind.post(fleet, sample) == Empty()
        await stored(fleet, kind, sample)


@every_kind
async def test_before_the_first_sample_there_is_none(fleet: Fleet, kind: Kind) -> None:
    instance = await fleet.add()
    answer = await refusal(kind.read(fleet, instance))
    assert (answer.code, answer.details) == (grpc.StatusCode.NOT_FOUND, ())
    assert answer.message == f"instance {instance} has posted no such metrics yet"


@every_kind
async def test_the_latest_is_the_last_to_arrive_whatever_the_client_measured(fleet: Fleet, kind: Kind) -> None:
    instance = await fleet.add()
    for time in (3000, 1000, 2000):
        await kind.post(fleet, kind.of(instance, timestamp_ms=time))
    await stored(fleet, kind, kind.of(instance, timestamp_ms=2000))
    await kind.post(fleet, kind.of(instance, timestamp_ms=1))
    await stored(fleet, kind, kind.of(instance, timestamp_ms=1))
    kept = await fleet.database.run(
        f"select extract(epoch from measured_at) * 1000 as time from {kind.table} where instance_id = $1 order by at",
        instance,
    )
    assert [int(row["time"]) for row in kept] == [3000, 1000, 2000, 1]


async def test_each_gpu_of_a_host_has_its_own_latest_sample(fleet: Fleet) -> None:
    instance = await fleet.add(instance_type=pb.VLLM)
    for index, use in ((7, 1.5), (0, 2.5), (7, 33.3), (3, 0.0)):
        sample = pb.GpuMetrics(instance_id=instance, timestamp_ms=1, gpu_index=index, utilization_percent=use)
        await fleet.caller.posts.PostGpuMetrics(sample)
    answer = await eventually(
        lambda: fleet.caller.gets.GetGpuMetrics(request(instance)), lambda answer: len(answer.metrics) == 3
    )
    assert [(each.gpu_index, each.utilization_percent) for each in answer.metrics] == [(0, 2.5), (3, 0.0), (7, 33.3)]


@every_kind
async def test_samples_of_the_dead_and_the_unknown_are_dropped_and_harm_no_others(fleet: Fleet, kind: Kind) -> None:
    living, dead, unknown = await fleet.add(), await fleet.add(), str(new_id())
    await fleet.kill(dead)
    for instance in (dead, unknown, living, dead):
        assert await kind.post(fleet, kind.of(instance, timestamp_ms=5)) == Empty()
    await stored(fleet, kind, kind.of(living, timestamp_ms=5))
    ids = await fleet.database.run(f"select instance_id::text as id from {kind.table}")
    assert {row["id"] for row in ids}.isdisjoint({dead, unknown})


@every_kind
async def test_an_instance_that_died_has_no_metrics_any_more(fleet: Fleet, kind: Kind) -> None:
    instance = await fleet.add()
    await kind.post(fleet, kind.of(instance, timestamp_ms=5))
    await stored(fleet, kind, kind.of(instance, timestamp_ms=5))
    await fleet.kill(instance)
    assert (await refusal(kind.read(fleet, instance))).code == grpc.StatusCode.NOT_FOUND


@asynccontextmanager
async def locked(database: Database, table: str) -> AsyncIterator[None]:
    """Nobody else touches the table."""
    connection = await asyncpg.connect(database.admin)
    try:
        async with connection.transaction():
            await connection.execute(f"lock table {table} in access exclusive mode")
            yield
    finally:
        await connection.close()


async def test_a_post_never_waits_for_the_database_and_a_full_buffer_drops_the_oldest(
    settings: Settings, database: Database
) -> None:
    async with (
        serving(settings.model_copy(update={"sample_buffer": 2})) as started,
        calling(started.addresses[0]) as caller,
    ):
        fleet = Fleet(database, started, caller)
        ids = [await fleet.add() for _ in range(4)]
        system = KINDS["system"]
        async with locked(database, "latest_system_metrics"):
            await system.post(fleet, system.of(ids[0], timestamp_ms=1))
            await waiting(database, "samples", some=True)
            for each in ids[1:]:
                async with asyncio.timeout(0.5):
                    await system.post(fleet, system.of(each, timestamp_ms=1))
        for each in (ids[0], ids[2], ids[3]):
            await stored(fleet, system, system.of(each, timestamp_ms=1))
        assert (await refusal(system.read(fleet, ids[1]))).code == grpc.StatusCode.NOT_FOUND
