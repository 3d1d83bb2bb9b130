"""Every service of the contract, over what it works with: the same for gRPC and for HTTP."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FileDescriptor

from manager.checks import Checks
from manager.minting import Minting
from manager.pb import (
    fleet_pb2,
    fleet_pb2_grpc,
    instance_manager_pb2,
    instance_manager_pb2_grpc,
    stats_service_pb2,
    stats_service_pb2_grpc,
)
from manager.reads import Reads
from manager.repository.database import Readers
from manager.samples import Samples
from manager.turns import Turns
from manager.wire.fleet_service import FleetService
from manager.wire.get_service import GetService
from manager.wire.interceptors import Gate
from manager.wire.post_service import PostService
from manager.wire.stats_service import StatsService
from manager.wire.subscribe_service import SubscribeService
from manager.wire.subscribing import Streams, Subscribing
from manager.wire.try_service import TryService

FILES: tuple[FileDescriptor, ...] = (
    instance_manager_pb2.DESCRIPTOR,
    stats_service_pb2.DESCRIPTOR,
    fleet_pb2.DESCRIPTOR,
)
NAMES: tuple[str, ...] = tuple(
    service.full_name
    for file in FILES
    for service in file.services_by_name.values()  # as reflection lists them
)


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the services work with."""

    turns: Turns
    checks: Checks
    reads: Reads
    samples: Samples
    readers: Readers
    streams: Streams
    minting: Minting | None = None  # where callers are asked who they are


def register(gate: Gate, rooms: Rooms, subscribing: Subscribing) -> None:
    """Puts one of each behind the gate."""
    tries, gets = TryService(rooms.turns, rooms.checks, rooms.minting), GetService(rooms.reads, rooms.readers)
    fleet = FleetService(rooms.turns, rooms.checks, rooms.samples, rooms.readers, subscribing)
    to: Any = gate  # which is no server, but takes services like one
    instance_manager_pb2_grpc.add_TryServiceServicer_to_server(tries, to)
    instance_manager_pb2_grpc.add_GetServiceServicer_to_server(gets, to)
    instance_manager_pb2_grpc.add_PostServiceServicer_to_server(PostService(rooms.samples), to)
    instance_manager_pb2_grpc.add_SubscribeServiceServicer_to_server(SubscribeService(subscribing), to)
    stats_service_pb2_grpc.add_StatsServiceServicer_to_server(StatsService(rooms.readers), to)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(fleet, to)
