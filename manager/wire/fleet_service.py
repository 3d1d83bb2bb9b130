"""FleetService: beyond the seed."""

from typing import Any

from grpc import aio

from manager.domain.refusals import NotFound
from manager.pb import fleet_pb2 as pb
from manager.pb import fleet_pb2_grpc as grpc_pb
from manager.pb.instance_manager_pb2 import InstanceRequest
from manager.repository import listing
from manager.repository.database import Readers
from manager.wire import decode, encode

Context = aio.ServicerContext[Any, Any]


class FleetService(grpc_pb.FleetServiceServicer):
    """The dead too."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def DescribeInstance(self, request: InstanceRequest, context: Context) -> pb.InstanceReport:
        wanted = decode.instance_id("instance_id", request.instance_id)
        async with self._readers.use() as connection:
            chain, actor, note = await listing.describe(connection, wanted)
        if not chain:
            raise NotFound(f"no instance {wanted} was ever registered, or its record is past the retention")
        first, *above = map(encode.instance, chain)
        causes = above if first.died_at_ms else []
        return pb.InstanceReport(instance=first, causes=causes, actor=actor, note=note)
