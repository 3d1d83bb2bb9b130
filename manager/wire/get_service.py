"""GetService: the living fleet, as it is now."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from grpc import aio

from manager.domain.filter import PAGE_LIMIT, Cursor, Filter
from manager.domain.instance import Instance, InstanceId, Status
from manager.domain.metrics import GpuSample, LlmSample, ProxySample, SystemSample
from manager.domain.refusals import EpochChanged, Exhausted, NotFound
from manager.pb import instance_manager_pb2 as pb
from manager.pb import instance_manager_pb2_grpc as grpc_pb
from manager.reads import Reads
from manager.repository import history, listing
from manager.repository.database import Readers
from manager.wire import decode, encode

Context = aio.ServicerContext[Any, Any]

BYTES_LIMIT = 3 * 1024 * 1024
S = TypeVar("S", ProxySample, SystemSample, GpuSample, LlmSample)


class GetService(grpc_pb.GetServiceServicer):
    """Reads on connections of their own; each answer is of one snapshot."""

    def __init__(self, reads: Reads, readers: Readers) -> None:
        self._reads = reads
        self._readers = readers

    async def GetAllInstances(self, request: pb.InstanceFilter, context: Context) -> pb.InstanceList:
        wanted = decode.wanted(request)
        size, cursor = decode.page(request, wanted)
        return await self._list(wanted, size, cursor)

    async def GetChildren(self, request: pb.InstanceRequest, context: Context) -> pb.InstanceList:
        parent = await self._living(request)
        return await self._list(Filter(parent=parent.id), 0, None)

    async def GetInstance(self, request: pb.InstanceRequest, context: Context) -> pb.InstanceDescription:
        return encode.instance(await self._living(request))

    async def GetParent(self, request: pb.InstanceRequest, context: Context) -> pb.OptionalInstance:
        child = await self._living(request)
        if child.parent is None:
            return pb.OptionalInstance()
        parent = await self._reads.instance(child.parent)
        if parent is None or parent.status is Status.STALE:
            return pb.OptionalInstance()
        return pb.OptionalInstance(instance=encode.instance(parent))

    async def GetHealthCheck(self, request: pb.InstanceRequest, context: Context) -> pb.HealthCheck:
        wanted = decode.instance_id("instance_id", request.instance_id)
        check = await self._reads.check(wanted)
        if check is None or not check.healthy:
            raise absent(wanted)
        return encode.check(check)

    async def GetProxyMetrics(self, request: pb.InstanceRequest, context: Context) -> pb.ProxyMetrics:
        return encode.proxy_metrics((await self._latest(ProxySample, request))[0])

    async def GetSystemMetrics(self, request: pb.InstanceRequest, context: Context) -> pb.SystemMetrics:
        return encode.system_metrics((await self._latest(SystemSample, request))[0])

    async def GetGpuMetrics(self, request: pb.InstanceRequest, context: Context) -> pb.GpuMetricsList:
        return pb.GpuMetricsList(metrics=map(encode.gpu_metrics, await self._latest(GpuSample, request)))

    async def GetLlmMetrics(self, request: pb.InstanceRequest, context: Context) -> pb.LlmMetrics:
        return encode.llm_metrics((await self._latest(LlmSample, request))[0])

    async def _living(self, request: pb.InstanceRequest) -> Instance:
        wanted = decode.instance_id("instance_id", request.instance_id)
        instance = await self._reads.instance(wanted)
        if instance is None or instance.status is Status.STALE:
            raise absent(wanted)
        return instance

    async def _latest(self, kind: type[S], request: pb.InstanceRequest) -> list[S]:
        """At least one sample."""
        instance = await self._living(request)
        samples = await self._reads.latest(kind, instance.id)
        if not samples:
            raise NotFound(f"instance {instance.id} has posted no such metrics yet")
        return samples

    async def _list(self, wanted: Filter, size: int, cursor: Cursor | None) -> pb.InstanceList:
        async with self._readers.snapshot() as connection:
            head = await history.head(connection)
            begun = cursor.begun if cursor else head
            if begun.epoch != head.epoch:
                raise EpochChanged(
                    "the page_token is of another history of the database: list again from the beginning"
                )
            after = cursor.after if cursor else None
            page = pb.InstanceList(revision=begun.revision, resume_token=encode.resume_token(begun))
            instances = listing.living(
                connection, wanted, after=after, revision=begun.revision, most=size or PAGE_LIMIT
            )
            last = await fill(page, instances, size or PAGE_LIMIT)
        if last is not None:
            page.next_page_token = encode.page_token(Cursor(last, begun), wanted)
        if page.next_page_token and not size:
            raise Exhausted(
                f"more than {PAGE_LIMIT} instances or {BYTES_LIMIT >> 20} MiB match: use page_size, in GetAllInstances"
            )
        return page


async def fill(page: pb.InstanceList, instances: AsyncIterator[Instance], most: int) -> InstanceId | None:
    """Fills the page by count and by bytes; the last id on it where the list goes on, or None."""
    room = BYTES_LIMIT
    last: InstanceId | None = None
    async for each in instances:
        message = page.instances.add()
        encode.describe(each, message)
        room -= message.ByteSize() + 8
        if last is not None and (room < 0 or len(page.instances) > most):
            del page.instances[-1]
            return last
        last = each.id
    return None


def absent(instance_id: InstanceId) -> NotFound:
    """One answer for the unknown, the stale and the dead: none of them is there to be used."""
    return NotFound(f"no instance {instance_id} is registered and alive")
