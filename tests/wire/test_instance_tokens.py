"""The tokens that instances are given: to whom, how many, and what they are good for."""

from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest

from manager.client import Access, Client, DeniedError, Instance
from manager.domain.principal import Role
from manager.domain.token import digest, well_formed
from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.credentials import bearing, granted
from tests.processes import imctl
from tests.wire.asker import ask
from tests.wire.caller import VERSION, calling, refusal
from tests.wire.fleet import description, request


@pytest.fixture
async def address(settings: Settings) -> AsyncIterator[str]:
    """A manager that asks who calls."""
    async with serving(settings.model_copy(update={"auth": True})) as started:
        yield started.addresses[0]


async def given(address: str, token: str, sent: pb.InstanceDescription) -> tuple[pb.Bool, str]:
    """What a registration is answered, and the token that comes with it."""
    async with calling(address, (*VERSION, *bearing(token))) as caller:
        call = caller.tries.TryAddInstance(sent)
        answer = await call
        return answer, str(dict(await call.trailing_metadata() or ()).get("instance_token", ""))


async def test_whoever_registers_an_instance_is_given_its_token_once_more_with_a_repeat(
    address: str, database: Database
) -> None:
    registrar, sent = await granted(database, Role.REGISTRAR), description()
    answer, first = await given(address, registrar, sent)
    assert answer.value
    assert well_formed(first)
    again, second = await given(address, registrar, sent)
    assert (again, second != first) == (answer, True)
    for token in (first, second):
        async with calling(address, (*VERSION, *bearing(token))) as caller:
            assert (await caller.tries.TryHealthCheck(request(sent.instance_id))).value
            other = await refusal(caller.tries.TryHealthCheck(request("0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f")))
            assert other.code is grpc.StatusCode.PERMISSION_DENIED


async def test_two_are_valid_at_once_and_a_third_ends_the_first(address: str, database: Database) -> None:
    registrar, sent = await granted(database, Role.REGISTRAR), description()
    tokens = [(await given(address, registrar, sent))[1] for _ in range(3)]
    valid = {each[0] for each in await database.run("select hash from token where revoked_at is null")}
    assert [digest(each) in valid for each in tokens] == [False, True, True]


async def test_a_repeat_by_somebody_else_is_true_and_brings_no_token(address: str, database: Database) -> None:
    sent = description()
    answer, token = await given(address, await granted(database, Role.REGISTRAR), sent)
    assert token
    for role in (Role.REGISTRAR, Role.ADMIN):
        assert await given(address, await granted(database, role), sent) == (answer, "")


async def test_a_repeat_brings_one_when_the_history_of_the_registration_is_gone(
    address: str, database: Database
) -> None:
    registrar, sent = await granted(database, Role.REGISTRAR), description()
    answer, first = await given(address, registrar, sent)
    await database.run("update event set at = at - interval '8 days'")
    await database.run("select compact_history(5000)")
    await database.run("select delete_compacted(5000)")
    assert await database.value("select count(*) from event where instance_id = $1", sent.instance_id) == 0
    again, second = await given(address, registrar, sent)
    assert (again, well_formed(second), second != first) == (answer, True, True)
    assert await given(address, await granted(database, Role.REGISTRAR), sent) == (answer, "")


async def test_what_was_registered_in_a_batch_gets_its_token_by_a_repeat(address: str, database: Database) -> None:
    registrar, sent = await granted(database, Role.REGISTRAR), description()
    async with calling(address, (*VERSION, *bearing(registrar))) as caller:
        batch = fleet_pb2.AddInstancesRequest(instances=[sent])
        assert (await caller.fleet.AddInstances(batch)).outcomes[0].answer.value
    assert well_formed((await given(address, registrar, sent))[1])


async def test_a_registration_that_is_refused_brings_no_token(address: str, database: Database) -> None:
    registrar, sent = await granted(database, Role.REGISTRAR), description()
    await given(address, registrar, sent)
    other = description(sent.instance_id, hostname="other")
    answer, token = await given(address, registrar, other)
    assert (answer.reason, token) == (pb.REASON_ID_TAKEN, "")


async def test_http_brings_it_too(settings: Settings, database: Database) -> None:
    registrar, sent = await granted(database, Role.REGISTRAR), description()
    async with serving(settings.model_copy(update={"auth": True})) as started:
        headers = {"content_type": "application/proto", "authorization": f"Bearer {registrar}", **dict(VERSION)}
        path = "/instance_manager.TryService/TryAddInstance"
        answer = await ask(started.http[0], path, sent.SerializeToString(), **headers)
    assert well_formed(answer.headers["trailer-instance_token"])


async def test_where_nobody_is_asked_there_are_none(settings: Settings, database: Database) -> None:
    async with serving(settings) as started:
        assert (await given(started.addresses[0], "", description()))[1] == ""
    assert await database.value("select count(*) from token") == 0


async def test_an_instance_of_the_python_client_acts_by_its_own_token(address: str, database: Database) -> None:
    """Which it has to: its registrar may not kill, link, or add a service."""
    access = Access(token=await granted(database, Role.REGISTRAR))
    async with Client(address, access=access) as client:
        wanted = pb.InstanceDescription(instance_type=pb.VLLM, hostname="gpu-7")
        async with Instance(client, wanted) as parent, Instance(client, wanted) as instance:
            await instance.add_service(pb.Service(service_type=pb.VLLM_OPENAI_COMPATIBLE, host="gpu-7", port=8000))
            await instance.add_parent(parent.id)
            assert (await client.lifeline.check(instance.id, 5)).answer.value
            with pytest.raises(DeniedError):
                await client.try_.TryKillInstance(pb.KillRequest(instance_id=instance.id))
        died = await client.fleet.DescribeInstance(request(instance.id))
    assert died.instance.status == pb.STATUS_DEAD
    assert died.actor == f"instance {instance.id}"


async def test_a_token_outlives_the_wait_of_a_client_that_was_cut_off(address: str, database: Database) -> None:
    """It has no end of its own: the instance may be silent for as long as its lease is."""
    registrar, sent = await granted(database, Role.REGISTRAR, lasts=timedelta(hours=1)), description()
    _, token = await given(address, registrar, sent)
    assert await database.value("select expires_at is null from token where hash = $1", digest(token))


async def test_a_command_has_the_token_of_its_instance_and_not_the_registrar_s(
    address: str, database: Database
) -> None:
    registrar = await granted(database, Role.REGISTRAR)
    script = 'test "$IM_TOKEN" != "$BEFORE" && test -z "$IM_TOKEN_FILE" && echo "$IM_TOKEN"'
    ended = await imctl(
        "run", "--type", "VLLM", "--quiet", "--", "sh", "-c", script, IM_ADDRESS=address, IM_TOKEN=registrar,
        BEFORE=registrar,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (row,) = await database.run("select role from token where hash = $1", digest(ended.out.strip()))
    assert row[0] == "instance"
    assert await database.value("select count(*) from live_instance where type = 'VLLM'") == 0
