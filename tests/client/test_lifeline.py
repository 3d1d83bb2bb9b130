"""A manager that hangs and a connection that is dead cost one health check each, and no life."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from manager.client import Client, Instance
from manager.pb.instance_manager_pb2 import CHROME_BROWSER, InstanceDescription, InstanceRequest
from manager.server import Serving
from tests.client.standin import TRUE, UNAVAILABLE, Stall, StandIn, standing_in
from tests.proxy import proxied

MANY = 20
CHECK = "TryHealthCheck"


def browser(timeout_ms: int = 1_200) -> InstanceDescription:
    return InstanceDescription(instance_type=CHROME_BROWSER, timeout_ms=timeout_ms)


@pytest.fixture
async def other() -> AsyncIterator[StandIn]:
    async with standing_in() as manager:
        yield manager


async def checked(manager: StandIn) -> set[str]:
    """Whose checks came to it from now on, within a timeout."""
    before = len(manager.requests(CHECK))
    await asyncio.sleep(1.2)
    return {each.instance_id for each in manager.requests(CHECK)[before:]}


async def test_checks_keep_to_one_manager_while_it_answers(standin: StandIn, other: StandIn) -> None:
    async with Client(standin.address, other.address) as client, Instance(client, browser()):
        await asyncio.sleep(2)
    assert sorted(bool(each.requests(CHECK)) for each in (standin, other)) == [False, True]


async def test_a_manager_that_hangs_costs_each_instance_one_check_at_most(standin: StandIn, other: StandIn) -> None:
    standin.always(CHECK, Stall())
    async with Client(standin.address, other.address) as client:
        instances = [Instance(client, browser()) for _ in range(MANY)]
        await asyncio.gather(*(each.start() for each in instances))
        await asyncio.sleep(1.2)
        assert await checked(other) == {each.id for each in instances}
        asked = [each.instance_id for each in standin.requests(CHECK)]
        assert len(asked) == len(set(asked))
        await asyncio.gather(*(each.close() for each in instances))


async def test_a_manager_that_is_unavailable_is_left_and_asked_again_when_the_other_fails(
    standin: StandIn, other: StandIn
) -> None:
    standin.always(CHECK, UNAVAILABLE)
    async with Client(standin.address, other.address) as client, Instance(client, browser()) as instance:
        await other.hears(CHECK, 2)
        standin.always(CHECK, TRUE)
        other.always(CHECK, Stall())
        await standin.hears(CHECK, len(standin.requests(CHECK)) + 1)
        assert standin.requests(CHECK)[-1].instance_id == instance.id


async def test_a_dead_connection_that_nobody_told_of_is_given_up_within_a_timeout(server: Serving) -> None:
    async with (
        proxied(server.addresses[0]) as proxy,
        Client(proxy.address) as client,
        Client(*server.addresses) as near,
        Instance(client, browser(timeout_ms=3_000)) as instance,
    ):
        await asyncio.sleep(0.5)
        proxy.swallow()
        last = await heard(near, instance)
        async with asyncio.timeout(3):
            while await heard(near, instance) == last:
                await asyncio.sleep(0.05)
        proxy.cut()


async def heard(client: Client, instance: Instance) -> int:
    """When the fleet heard of it last."""
    found = await client.get.GetInstance(InstanceRequest(instance_id=instance.id))
    return int(found.last_health_check_ms)


async def test_what_is_given_up_is_closed_with_the_client(standin: StandIn) -> None:
    standin.always(CHECK, Stall())
    async with Client(standin.address) as client, Instance(client, browser()):
        await standin.hears(CHECK, 3)
    assert not client.lifeline._closing
