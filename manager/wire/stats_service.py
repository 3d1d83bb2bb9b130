"""StatsService: memory of hosts."""

from typing import Any

from grpc import aio

from manager.domain.refusals import NotFound
from manager.pb import stats_service_pb2 as pb
from manager.pb import stats_service_pb2_grpc as grpc_pb
from manager.repository import host_stats
from manager.repository.database import Readers
from manager.wire import decode, encode

Context = aio.ServicerContext[Any, Any]


class StatsService(grpc_pb.StatsServiceServicer):
    """What was uploaded can be read as soon as the upload is answered."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def UploadStats(self, request: pb.StatsUploadRequest, context: Context) -> pb.StatsUploadResponse:
        stats = decode.stats(request)
        async with self._readers.use() as connection:
            await host_stats.upload(connection, stats)
        return pb.StatsUploadResponse()

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.Stats:
        hostname = decode.hostname(request.hostname)
        async with self._readers.use() as connection:
            stats = await host_stats.latest(connection, hostname)
        if stats is None:
            raise NotFound("no stats of this host were uploaded in the last 30 days")
        return encode.stats(stats)
