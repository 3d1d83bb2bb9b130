"""The living fleet at one moment, the stale included, whatever its size: the initial state of a stream."""

from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Unpack

from manager.client import Client, Wanted
from manager.pb.fleet_pb2 import InstanceUpdates
from manager.pb.instance_manager_pb2 import ADDED, SYNCED, InstanceDescription, SubscribeRequest

PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Living:
    """Everybody that was asked for, by id, as of a revision; `token`: what happens from there on."""

    instances: list[InstanceDescription]
    revision: int
    token: bytes


async def living(client: Client, **wanted: Unpack[Wanted]) -> Living:
    """Who is alive and wanted. Raises ManagerError."""
    request = SubscribeRequest(send_initial_state=True, event_types=[ADDED], **wanted)
    call: AsyncIterable[InstanceUpdates] = client.fleet.WatchInstances(request, timeout=PATIENCE)
    found: list[InstanceDescription] = []
    async for message in call:
        for update in message.updates:
            if update.event_type == SYNCED:
                return Living(sorted(found, key=lambda one: one.instance_id), update.revision, update.resume_token)
            found.append(update.instance)
    raise EOFError("the stream ended before the fleet was told in full")
