"""What is served: every method of the contract, the health of every service, and the contract itself."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from manager.ids import new_id
from manager.pb import instance_manager_pb2 as pb
from manager.settings import Settings
from manager.wire.ports import CannotListen
from tests.conftest import serving
from tests.fuzz import frames
from tests.wire.caller import DEADLINE, FILES, METHODS, VERSION, Refused, calling, path, refusal
from tests.wire.fleet import Fleet
from tests.wire.raw import framed

SERVICES = sorted(service.full_name for file in FILES for service in file.services_by_name.values())
SERVING = health_pb2.HealthCheckResponse.SERVING

# methods of the contract that are still to be built
NOT_SERVED_YET: set[str] = set()


@pytest.mark.parametrize("method", METHODS, ids=path)
async def test_every_method_of_the_contract_is_served(fleet: Fleet, method: MethodDescriptor) -> None:
    async with calling(fleet.serving.addresses[0], ()) as caller:
        answer = await refusal(caller.raw(path(method), b""))
    assert (answer.code != grpc.StatusCode.UNIMPLEMENTED) == (path(method) not in NOT_SERVED_YET)


async def test_a_call_with_more_metadata_than_8_kib_is_refused(fleet: Fleet) -> None:
    asking = pb.InstanceRequest(instance_id=str(new_id()))
    for size, code in ((7_000, grpc.StatusCode.NOT_FOUND), (9_000, grpc.StatusCode.RESOURCE_EXHAUSTED)):
        async with calling(fleet.serving.addresses[0], (*VERSION, ("key", "v" * size))) as caller:
            assert (await refusal(caller.gets.GetInstance(asking))).code == code


async def test_a_path_that_is_no_text_ends_its_own_call_alone(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """gRPC's own server ends for everybody by one such call, in some releases."""
    host, _, port = fleet.serving.addresses[0].rpartition(":")
    head = [(name, b"/\xff" if name == b":path" else value) for name, value in frames.named("")]
    call = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, frames.block(*head))
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(frames.HELLO + call + frames.frame(frames.DATA, frames.END_STREAM, 1, framed(b"")))
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await reader.read()
    writer.close()
    for _ in range(3):
        await fleet.caller.gets.GetAllInstances(pb.InstanceFilter())
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_every_service_has_its_health(fleet: Fleet, service: str) -> None:
    health = health_pb2_grpc.HealthStub(fleet.caller.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == SERVING


async def test_the_health_of_an_unknown_service_is_not_found(fleet: Fleet) -> None:
    health = health_pb2_grpc.HealthStub(fleet.caller.channel)
    answer = await refusal(health.Check(health_pb2.HealthCheckRequest(service="nobody's")))
    assert answer == Refused(grpc.StatusCode.NOT_FOUND, "", details=())


async def test_a_server_that_stops_says_so_to_who_watches_its_health(settings: Settings) -> None:
    async with serving(settings) as started:
        channel = aio.insecure_channel(started.addresses[0])
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert (await watch.read()).status == SERVING
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await channel.close()


async def reflected(
    fleet: Fleet, *asked: reflection_pb2.ServerReflectionRequest
) -> Sequence[reflection_pb2.ServerReflectionResponse]:
    """The answers of reflection."""
    stub = reflection_pb2_grpc.ServerReflectionStub(fleet.caller.channel)
    return [each async for each in stub.ServerReflectionInfo(iter(asked), timeout=DEADLINE)]


async def test_reflection_lists_every_service_and_gives_its_file_as_it_is(fleet: Fleet) -> None:
    (listed,) = await reflected(fleet, reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {each.name for each in listed.list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    for file in FILES:
        for name in file.services_by_name.values():
            asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name.full_name)
            (answer,) = await reflected(fleet, asked)
            given = map(
                descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto
            )
            expected = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(expected)
            assert expected in list(given)


@pytest.mark.parametrize("said", [{"auth": True}, {"reflection": False}])
async def test_reflection_is_for_development_or_where_it_is_asked_for(
    settings: Settings, said: dict[str, bool]
) -> None:
    async with serving(settings.model_copy(update=said)) as started, calling(started.addresses[0]) as caller:
        # by a single call, whose end a client of streams may miss while it sends
        ended = await refusal(caller.raw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b""))
    assert ended.code is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_of_the_unknown_is_an_answer_and_no_fault(fleet: Fleet) -> None:
    answers = await reflected(
        fleet,
        reflection_pb2.ServerReflectionRequest(file_by_filename="/etc/passwd"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"),
        reflection_pb2.ServerReflectionRequest(
            file_containing_extension=reflection_pb2.ExtensionRequest(containing_type="x", extension_number=1)
        ),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="x"),
        reflection_pb2.ServerReflectionRequest(),
    )
    not_found, invalid = grpc.StatusCode.NOT_FOUND.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [each.error_response.error_code for each in answers] == [*[not_found] * 4, invalid]


async def test_a_second_server_on_a_port_does_not_start_and_names_the_flag(fleet: Fleet, settings: Settings) -> None:
    port = int(fleet.serving.addresses[0].rpartition(":")[2])
    with pytest.raises(CannotListen, match=rf"port {port} is taken.*--port"):
        async with serving(settings.model_copy(update={"port": port, "http_port": 0})):
            pass


async def test_one_port_is_served_on_every_address_that_the_machine_has(settings: Settings) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    hosts = ("127.0.0.1", "[::1]", "203.0.113.1")
    async with serving(settings.model_copy(update={"bind": hosts, "insecure_i_know": True})) as started:
        ports = {address.rpartition(":")[2] for address in started.addresses}
        assert len(ports) == 1
        assert not any(address.startswith("203.0.113.1") for address in started.addresses)
        for address in started.addresses:
            async with aio.insecure_channel(address) as channel:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


async def test_a_server_with_none_of_its_addresses_does_not_start(settings: Settings) -> None:
    with pytest.raises(CannotListen, match="--bind"):
        async with serving(settings.model_copy(update={"bind": ("203.0.113.1",), "insecure_i_know": True})):
            pass
