"""Instances after their manager's database lost them: they come back by themselves, with services and link."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from manager.client import (
    Client,
    Ending,
    Fleet,
    Instance,
    NotFoundError,
    Notice,
    Owner,
    Policy,
    RegisteredAgain,
    new_id,
)
from manager.pb.instance_manager_pb2 import (
    BROWSER_BACKEND,
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    InstanceDescription,
    InstanceRequest,
    InstanceType,
    Service,
)
from manager.repository.database import Database as Connections
from manager.repository.turn import open_epoch
from manager.server import Serving
from tests.client.standin import StandIn, exhausted, precondition
from tests.conftest import Database

FIRST = Service(service_type=CHROME_DEBUG_PORT, host="h", port=1)
LATER = Service(service_type=CHROME_DEBUG_PORT, host="h", port=2, path="/x")


@pytest.fixture
async def client(server: Serving) -> AsyncIterator[Client]:
    async with Client(server.addresses[0]) as connected:
        yield connected


def described(
    of: InstanceType.ValueType, *services: Service, timeout: float = 1, parent_id: str = ""
) -> InstanceDescription:
    return InstanceDescription(
        instance_type=of,
        hostname="h",
        labels={"k": "v"},
        services=services,
        parent_id=parent_id,
        timeout_ms=round(timeout * 1000),
    )


async def lose(database: Database, *ids: str) -> None:
    """The database is restored from before these were registered."""
    for table, column in (
        ("service", "instance_id"),
        ("parent_link", "child_id"),
        ("parent_link", "parent_id"),
        ("event", "instance_id"),
    ):
        await database.run(f"delete from {table} where {column} = any($1)", ids)
    connections = Connections(database.url, read_connections=1)
    async with connections.turns.use() as connection:
        assert await open_epoch(connection, "a test", forced=True) is not None
    await connections.close()
    # last: whoever is unknown while there is no new epoch is told to terminate
    for table, column in (("heartbeat", "instance_id"), ("instance", "id")):
        await database.run(f"delete from {table} where {column} = any($1)", ids)


async def found(client: Client, instance_id: str) -> InstanceDescription:
    """The instance, once it is there."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await client.get.GetInstance(InstanceRequest(instance_id=instance_id))
            except NotFoundError:
                await asyncio.sleep(0.02)


async def linked(client: Client, instance_id: str) -> InstanceDescription:
    """The instance, once it has a parent."""
    async with asyncio.timeout(10):
        while not (one := await found(client, instance_id)).parent_id:
            await asyncio.sleep(0.02)
    return one


async def test_a_family_that_was_lost_comes_back_with_services_and_link(client: Client, database: Database) -> None:
    told: list[Notice] = []
    async with (
        Fleet(client, types=[BROWSER_BACKEND, CHROME_BROWSER]) as fleet,
        Instance(client, described(BROWSER_BACKEND, FIRST)) as parent,
        Instance(client, described(CHROME_BROWSER, FIRST), owner=Owner(told=told.append)) as child,
    ):
        await child.add_service(LATER)
        await child.add_parent(parent.id)
        await linked(client, child.id)
        await lose(database, parent.id, child.id)
        one, above = await linked(client, child.id), await found(client, parent.id)
        assert (one.parent_id, list(one.services)) == (parent.id, [FIRST, LATER])
        assert (one.instance_type, one.hostname, dict(one.labels)) == (CHROME_BROWSER, "h", {"k": "v"})
        assert list(above.services) == [FIRST]
        async with asyncio.timeout(10):  # whoever watches sees it as it is again
            while (seen := fleet.get(child.id)) is None or seen.created_revision != one.created_revision:
                await asyncio.sleep(0.02)
        assert [each.port for each in fleet.endpoints(CHROME_DEBUG_PORT) if each.instance_id == child.id] == [1, 2]
    assert told.count(RegisteredAgain()) == 1


async def test_a_child_waits_for_a_parent_that_comes_back_late(client: Client, database: Database) -> None:
    async with (
        Instance(client, described(BROWSER_BACKEND, timeout=6)) as parent,
        Instance(client, described(CHROME_BROWSER, parent_id=parent.id)) as child,
    ):
        await lose(database, parent.id, child.id)
        assert not (await found(client, child.id)).parent_id
        assert (await linked(client, child.id)).parent_id == parent.id


async def test_a_child_whose_parent_stays_lost_ends_after_its_patience(client: Client, database: Database) -> None:
    parent = Instance(client, described(BROWSER_BACKEND, timeout=60))
    await parent.start()
    async with Instance(client, described(CHROME_BROWSER, parent_id=parent.id), Policy(orphan_after=1.5)) as child:
        await lose(database, parent.id, child.id)
        async with asyncio.timeout(10):
            assert (await child.wait()).ending is Ending.ORPHANED
    await parent.close()


async def test_those_whom_the_database_still_knows_notice_nothing(client: Client, database: Database) -> None:
    told: list[Notice] = []
    async with Instance(client, described(CHROME_BROWSER, FIRST), owner=Owner(told=told.append)) as instance:
        before = await found(client, instance.id)
        await lose(database)
        await asyncio.sleep(1.2)
        after = await found(client, instance.id)
        assert after.created_revision == before.created_revision
    assert told == []


async def test_a_renewal_that_breaks_off_is_completed(standin: StandIn) -> None:
    async with (
        Client(standin.address) as client,
        Instance(client, described(CHROME_BROWSER, parent_id=new_id(), timeout=0.3)) as instance,
    ):
        await instance.add_service(LATER)
        standin.asked.clear()
        standin.once("TryHealthCheck", precondition("EPOCH_CHANGED"))
        standin.once("TryAddService", exhausted(0))
        await standin.hears("TryHealthCheck", 4)
        assert len(standin.requests("TryAddService")) == 2
        assert len(standin.requests("TryAddChild")) == 1
