"""Whoever is turned away is counted: at every door, by name and address, and without a word of what was shown."""

from typing import Any

import pytest
from grpc import StatusCode, aio

from manager.domain.principal import Role
from manager.domain.token import new_token
from manager.pb import instance_manager_pb2 as pb
from manager.pb.fleet_pb2 import HealthCheckBatch
from manager.pb.fleet_pb2_grpc import FleetServiceStub
from manager.pb.instance_manager_pb2_grpc import GetServiceStub, SubscribeServiceStub, TryServiceStub
from manager.settings import Settings
from manager.wire.actor import host_of
from tests.conftest import Database, serving
from tests.credentials import bearing, granted
from tests.wire.asker import ask, call
from tests.wire.caller import VERSION, refusal
from tests.wire.fleet import description, request

NOBODY, FORBIDDEN = "UNAUTHENTICATED", "PERMISSION_DENIED"


async def ended(stream: Any) -> StatusCode:
    """How a stream ends that does not begin."""
    with pytest.raises(aio.AioRpcError) as refused:
        await stream.read()
    return refused.value.code()


async def test_at_every_door_it_is_kept_who_was_turned_away(settings: Settings, database: Database) -> None:
    reader, wrong = await granted(database, Role.READER), new_token()
    own, other = description(), description()
    async with serving(settings.model_copy(update={"auth": True})) as started:
        registrar = (*VERSION, *bearing(await granted(database, Role.REGISTRAR)))
        async with aio.insecure_channel(started.addresses[0]) as channel:
            tries, fleet = TryServiceStub(channel), FleetServiceStub(channel)
            for each in (own, other):
                assert (await tries.TryAddInstance(each, metadata=registrar)).value
            mine = (*VERSION, *bearing(await granted(database, Role.INSTANCE, own.instance_id)))
            asked = request(own.instance_id)
            for metadata in (VERSION, (*VERSION, *bearing(wrong)), (*VERSION, ("authorization", "Basic eDp5"))):
                await refusal(GetServiceStub(channel).GetInstance(asked, metadata=metadata))
            killing = pb.KillRequest(instance_id=own.instance_id)
            await refusal(tries.TryKillInstance(killing, metadata=(*VERSION, *bearing(reader))))
            await refusal(tries.TryHealthCheck(request(other.instance_id), metadata=mine))
            updates = SubscribeServiceStub(channel).SubscribeToInstanceUpdates
            assert await ended(updates(pb.SubscribeRequest(), metadata=mine)) is StatusCode.PERMISSION_DENIED
            batch = HealthCheckBatch(instance_ids=[other.instance_id])
            assert await ended(fleet.HealthChecks(iter([batch]), metadata=mine)) is StatusCode.PERMISSION_DENIED
        http = started.http[0]
        assert (await call(http, "GetService/GetAllInstances", {})).status == 401
        assert (await ask(http, "/metrics", authorization=f"Bearer {wrong}")).status == 401
        assert (await ask(http, "/session", b'{"token": "%s"}' % wrong.encode())).status == 401
    rows = await database.run("select * from audit.denied_calls")
    service = "/instance_manager."
    found = {(each["who"].split(" ")[0], each["method"], each["code"]): each["calls"] for each in rows}
    assert found == {
        ("", f"{service}GetService/GetInstance", NOBODY): 3,
        ("reader", f"{service}TryService/TryKillInstance", FORBIDDEN): 1,
        ("instance", f"{service}TryService/TryHealthCheck", FORBIDDEN): 1,
        ("instance", f"{service}SubscribeService/SubscribeToInstanceUpdates", FORBIDDEN): 1,
        ("instance", f"{service}FleetService/HealthChecks", FORBIDDEN): 1,
        ("", f"{service}GetService/GetAllInstances", NOBODY): 1,
        ("", "/metrics", NOBODY): 1,
        ("", "/session", NOBODY): 1,
    }
    assert {each["address"] for each in rows} == {"127.0.0.1"}
    assert not any(shown[4:20] in str(each) for each in rows for shown in (wrong, reader))


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.9:4711", "10.0.0.9"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:%5B::ffff:10.0.0.9%5D:4711", "10.0.0.9"),
        ("unknown", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_host_of_a_caller_is_its_address_alone(peer: str, host: str) -> None:
    assert host_of(peer) == host
