"""A backend and its browser: registered, checked, found, and killed together by killing the backend.

Run it beside `imctl dev`: python examples/register.py [ADDRESS]
"""

import asyncio
import sys

from manager.client import Access, Client, Instance
from manager.pb.instance_manager_pb2 import (
    BROWSER_BACKEND,
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    InstanceDescription,
    InstanceFilter,
    InstanceRequest,
    KillRequest,
    Service,
)


async def main(address: str) -> None:
    async with (
        Client(address, access=Access.of_environment()) as client,
        Instance(client, InstanceDescription(instance_type=BROWSER_BACKEND)) as backend,
    ):
        browser = InstanceDescription(
            instance_type=CHROME_BROWSER,
            hostname="host-1",
            parent_id=backend.id,
            services=[Service(service_type=CHROME_DEBUG_PORT, host="127.0.0.1", port=9222)],
            timeout_ms=3_000,
        )
        async with Instance(client, browser) as instance:  # checks its health in the background from here on
            await look(client, backend.id)
            await client.try_.TryKillInstance(KillRequest(instance_id=backend.id, note="the example is over"))
            print(f"the browser is told to terminate: {(await instance.wait()).detail}")
        await look(client, backend.id)


async def look(client: Client, root: str) -> None:
    """Prints what lives in the subtree of an instance, and until when without a health check."""
    fleet = await client.get.GetAllInstances(InstanceFilter(subtree_of=root))
    print(f"{len(fleet.instances)} alive at revision {fleet.revision}")
    for each in fleet.instances:
        health = await client.get.GetHealthCheck(InstanceRequest(instance_id=each.instance_id))
        offers = ", ".join(f"{service.host}:{service.port}" for service in each.services)
        print(f"  {each.instance_id} parent={each.parent_id or '-'} offers={offers or '-'} until={health.deadline_ms}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "[::1]:50052"))
