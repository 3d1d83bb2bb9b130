"""The fleet as it was, whatever its size: all pages of a moment."""

from manager.client import Client
from manager.pb.fleet_pb2 import Difference, DiffRequest, InstancesAtRequest
from manager.pb.instance_manager_pb2 import InstanceDescription

PAGE = 1_000


async def past(client: Client, request: InstancesAtRequest) -> list[InstanceDescription]:
    """Who lived then and is wanted, by id. Raises ManagerError."""
    request.page_size = PAGE
    found: list[InstanceDescription] = []
    while True:
        page = await client.fleet.GetInstancesAt(request)
        found += page.instances
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


async def differences(client: Client, request: DiffRequest) -> list[Difference]:
    """Who is different, by id. Raises ManagerError."""
    request.page_size = PAGE
    found: list[Difference] = []
    while True:
        page = await client.fleet.Diff(request)
        found += page.differences
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found
