"""FleetService: beyond the seed."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from grpc import aio

from manager.checks import Checks
from manager.domain.filter import ResumeToken
from manager.domain.instance import InstanceId
from manager.domain.refusals import NotFound
from manager.pb import fleet_pb2 as pb
from manager.pb import fleet_pb2_grpc as grpc_pb
from manager.pb.instance_manager_pb2 import InstanceRequest, SubscribeRequest
from manager.repository import listing
from manager.repository.database import Readers
from manager.samples import Samples
from manager.turns import Turns
from manager.wire import batches, decode, encode
from manager.wire.bundle import Bundle
from manager.wire.interceptors import NothingTaken
from manager.wire.status import failure_of
from manager.wire.subscribing import Subscribing, stalled

Context = aio.ServicerContext[Any, Any]


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
        async for batch in batches.until(self._checks.stopping, request_iterator):
            ids = batches.read("instance_ids", batch.instance_ids, _instance_id)
            yield batches.checked(await batches.carried(ids, self._checks.submit_many))

    async def AddInstances(self, request: pb.AddInstancesRequest, context: Context) -> pb.Outcomes:
        peer = context.peer()
        calls = batches.read("instances", request.instances, lambda each: decode.registration(each, peer))
        return batches.outcomes(await batches.carried(calls, self._turns.submit_many))

    async def KillInstances(self, request: pb.KillInstancesRequest, context: Context) -> pb.Outcomes:
        peer = context.peer()
        calls = batches.read("kills", request.kills, lambda each: decode.kill(each, peer))
        return batches.outcomes(await batches.carried(calls, self._turns.submit_many))

    async def PostMetrics(self, request: pb.MetricsBatch, context: Context) -> pb.PostedMetrics:
        failures, taken = [], 0
        for sample in batches.samples(request):
            if isinstance(sample, Exception):
                failures.append(failure_of(sample))
            else:
                self._samples.post(sample)
                taken += 1
        return pb.PostedMetrics(taken=taken, failures=failures)

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
            raise NotFound(f"no instance {wanted} was ever registered, or its record is past the retention")
        first, *above = map(encode.instance, chain)
        causes = above if first.died_at_ms else []
        return pb.InstanceReport(instance=first, causes=causes, actor=actor, note=note)


def _instance_id(value: str) -> InstanceId:
    return decode.instance_id("", value)
