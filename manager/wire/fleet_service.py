"""FleetService: beyond the seed."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

from grpc import aio

from manager.checks import Checks
from manager.domain.excerpt import Bookmark
from manager.domain.filter import ResumeToken
from manager.domain.instance import InstanceId
from manager.domain.metrics import GpuSample, LlmSample, MetricsKind, ProxySample, SystemSample
from manager.domain.refusals import NotFound, Unavailable
from manager.pb import fleet_pb2 as pb
from manager.pb import fleet_pb2_grpc as grpc_pb
from manager.pb.instance_manager_pb2 import InstanceList, InstanceRequest, SubscribeRequest
from manager.repository import excerpt, listing
from manager.repository.database import Readers
from manager.repository.metrics_history import look_back
from manager.samples import Samples
from manager.turns import Turns
from manager.wire import batches, decode, encode, moments, past
from manager.wire.actor import actor_of
from manager.wire.bundle import Bundle
from manager.wire.interceptors import NothingTaken
from manager.wire.status import failure_of
from manager.wire.subscribing import Subscribing, stalled
from manager.wire.until import until

Context = aio.ServicerContext[Any, Any]

BYTES_LIMIT = 3 * 1024 * 1024
# Each kind of metrics: its samples, and the field of the answer that they fill.
KINDS: dict[MetricsKind, tuple[type[Any], str, Callable[[Any], Any]]] = {
    MetricsKind.SYSTEM: (SystemSample, "system", encode.system_metrics),
    MetricsKind.PROXY: (ProxySample, "proxy", encode.proxy_metrics),
    MetricsKind.GPU: (GpuSample, "gpu", encode.gpu_metrics),
    MetricsKind.LLM: (LlmSample, "llm", encode.llm_metrics),
}


class FleetService(grpc_pb.FleetServiceServicer):
    """Batches, and the dead too."""

    def __init__(
        self, turns: Turns, checks: Checks, samples: Samples, readers: Readers, subscribing: Subscribing
    ) -> None:
        self._turns = turns
        self._checks = checks
        self._samples = samples
        self._readers = readers
        self._subscribing = subscribing

    async def HealthChecks(
        self, request_iterator: AsyncIterator[pb.HealthCheckBatch], context: Context
    ) -> AsyncIterator[pb.HealthCheckOutcomes]:
        async for batch in until(self._checks.stopping, request_iterator, _stopping):
            ids = await batches.read("instance_ids", batch.instance_ids, _instance_id)
            yield batches.checked(await batches.carried(ids, self._checks.submit_many))

    async def AddInstances(self, request: pb.AddInstancesRequest, context: Context) -> pb.Outcomes:
        actor = actor_of(context)
        calls = await batches.read("instances", request.instances, lambda each: decode.registration(each, actor))
        return batches.outcomes(await batches.carried(calls, self._turns.submit_many))

    async def KillInstances(self, request: pb.KillInstancesRequest, context: Context) -> pb.Outcomes:
        actor = actor_of(context)
        calls = await batches.read("kills", request.kills, lambda each: decode.kill(each, actor))
        return batches.outcomes(await batches.carried(calls, self._turns.submit_many))

    async def PostMetrics(self, request: pb.MetricsBatch, context: Context) -> pb.PostedMetrics:
        posts, refused = batches.samples(request)
        for each in posts:
            self._samples.post(each)
        return pb.PostedMetrics(taken=sum(len(each.samples) for each in posts), failures=map(failure_of, refused))

    async def WatchInstances(self, request: SubscribeRequest, context: Context) -> AsyncIterator[pb.InstanceUpdates]:
        place: ResumeToken | None = None
        bundle = Bundle()
        try:
            async with aclosing(self._subscribing.pages(request, context)) as pages:
                async for page in pages:
                    for message, after in bundle.take(page):
                        place = after  # what has been given to the transport arrives, and before any status
                        yield cast(pb.InstanceUpdates, message)
        except NothingTaken as error:
            raise stalled(error, place) from None

    async def DescribeInstance(self, request: InstanceRequest, context: Context) -> pb.InstanceReport:
        wanted = decode.instance_id("instance_id", request.instance_id)
        async with self._readers.use() as connection:
            chain, actor, note = await listing.describe(connection, wanted)
        if not chain:
            raise never_was(wanted)
        first, *above = map(encode.instance, chain)
        causes = above if first.died_at_ms else []
        return pb.InstanceReport(instance=first, causes=causes, actor=actor, note=note)

    async def ListEvents(self, request: pb.EventFilter, context: Context) -> pb.EventList:
        wanted, size, after = moments.excerpt(request)
        async with self._readers.snapshot() as connection:
            page = await excerpt.read(connection, wanted, after, size)
        answer = pb.EventList(oldest_revision=page.oldest, revision=page.head)
        following, room = page.next, BYTES_LIMIT
        for before, entry in zip([None, *page.entries], page.entries, strict=False):
            message = encode.event(entry)
            room -= message.ByteSize() + 8
            if before and room < 0:
                following = Bookmark(before.told.epoch, *before.told.key)
                break
            answer.events.append(message)
        if following is not None:
            answer.next_page_token = encode.excerpt_token(following, wanted)
        return answer

    async def GetMetricsHistory(self, request: pb.MetricsHistoryRequest, context: Context) -> pb.MetricsHistory:
        wanted, window = decode.instance_id("instance_id", request.instance_id), moments.window(request)
        kind, field, encoded = KINDS[decode.member("kind", MetricsKind, request.kind)]
        async with self._readers.use() as connection:
            found = await look_back(connection, kind, wanted, window)
        if found is None:
            raise never_was(wanted)
        answer = pb.MetricsHistory(from_ms=encode.milliseconds(found.since), to_ms=encode.milliseconds(found.until))
        getattr(answer, field).extend(map(encoded, found.points))
        return answer

    async def GetInstancesAt(self, request: pb.InstancesAtRequest, context: Context) -> InstanceList:
        return await past.instances_at(self._readers, request)

    async def Diff(self, request: pb.DiffRequest, context: Context) -> pb.InstanceDiff:
        return await past.diff(self._readers, request)


def never_was(instance_id: InstanceId) -> NotFound:
    """What is said of an id that even the dead do not have."""
    return NotFound(f"no instance {instance_id} was ever registered, or its record is past the retention")


def _stopping() -> Unavailable:
    return Unavailable("this server is stopping; go on elsewhere")


def _instance_id(value: str) -> InstanceId:
    return decode.instance_id("", value)
