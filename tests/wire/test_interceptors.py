"""Around every call: the version of the contract, bytes that are no message, and faults that stay at home."""

import asyncio
import logging
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from manager.pb import instance_manager_pb2 as pb
from manager.pb.version import ACCEPTED, PROTO_VERSION
from manager.wire.interceptors import _shown
from tests.wire.caller import UNARY, VERSION, Refused, calling, path, refusal
from tests.wire.fleet import Fleet, description, request

PROTO = Path(__file__).parents[2] / "proto"

every_method = pytest.mark.parametrize("method", UNARY, ids=path)


def test_the_version_is_that_of_the_proto_files() -> None:
    assert (PROTO / "proto_version").read_text().strip() == PROTO_VERSION
    assert PROTO_VERSION in ACCEPTED


@every_method
async def test_a_call_without_a_version_is_told_which_one_to_send(fleet: Fleet, method: MethodDescriptor) -> None:
    async with calling(fleet.serving.addresses[0], ()) as caller:
        answer = await refusal(caller.raw(path(method), b""))
    assert (answer.code, answer.reasons) == (grpc.StatusCode.FAILED_PRECONDITION, ["PROTO_VERSION"])
    assert PROTO_VERSION in answer.message
    assert "none" in answer.message
    assert "proto/proto_version" in answer.message


@every_method
async def test_a_call_with_another_version_is_told_both(fleet: Fleet, method: MethodDescriptor) -> None:
    other = PROTO_VERSION[::-1]
    async with calling(fleet.serving.addresses[0], (("proto_version", other),)) as caller:
        answer = await refusal(caller.raw(path(method), b""))
    assert (answer.code, answer.reasons) == (grpc.StatusCode.FAILED_PRECONDITION, ["PROTO_VERSION"])
    assert PROTO_VERSION in answer.message
    assert other in answer.message


@pytest.mark.parametrize(
    "wrong", ["", PROTO_VERSION[:-1], PROTO_VERSION.upper(), PROTO_VERSION + "0", "%0a%1b[31m", "x" * 5000]
)
async def test_only_the_exact_version_is_accepted_and_a_long_one_is_cut(fleet: Fleet, wrong: str) -> None:
    async with calling(fleet.serving.addresses[0], (("proto_version", wrong),)) as caller:
        answer = await refusal(caller.gets.GetInstance(request("")))
    assert (answer.code, answer.reasons) == (grpc.StatusCode.FAILED_PRECONDITION, ["PROTO_VERSION"])
    assert wrong[:64] in answer.message
    assert len(answer.message) < 500


async def test_a_version_of_blanks_is_not_accepted(fleet: Fleet) -> None:
    async with calling(fleet.serving.addresses[0], (("proto_version", " "),)) as caller:
        answer = await refusal(caller.gets.GetInstance(request("")))
    # HTTP/2 itself forbids it, which one transport insists on
    assert answer.code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [(None, "none"), ("a\x1b[31m\nb", "a?[31m?b"), (b"\xff\0x", "\N{REPLACEMENT CHARACTER}?x"), ("y" * 99, "y" * 64)],
)
def test_what_was_sent_is_shown_without_what_a_terminal_obeys(sent: str | bytes | None, shown: str) -> None:
    assert _shown(sent) == shown


async def test_the_version_is_looked_at_before_the_request(fleet: Fleet) -> None:
    async with calling(fleet.serving.addresses[0], ()) as caller:
        answer = await refusal(caller.raw("/instance_manager.TryService/TryAddInstance", b"\xff"))
    assert answer.reasons == ["PROTO_VERSION"]


async def test_without_a_version_nothing_is_stored(fleet: Fleet) -> None:
    sent = description()
    async with calling(fleet.serving.addresses[0], ()) as caller:
        await refusal(caller.tries.TryAddInstance(sent))
    assert (await refusal(fleet.describe(sent.instance_id))).code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("metadata", [(), VERSION])
@pytest.mark.parametrize("unknown", ["/instance_manager.TryService/TryNothing", "/nobody.Service/Call", "/x"])
async def test_an_unknown_method_is_unimplemented(
    fleet: Fleet, unknown: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    async with calling(fleet.serving.addresses[0], metadata) as caller:
        assert await refusal(caller.raw(unknown, b"")) == Refused(
            grpc.StatusCode.UNIMPLEMENTED, "Method not found!", details=()
        )


async def test_health_and_reflection_need_no_version(fleet: Fleet) -> None:
    async with aio.insecure_channel(fleet.serving.addresses[0]) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for answer in stub.ServerReflectionInfo(iter([asked])):
            assert answer.list_services_response.service


EXEMPT = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\x05x", b"\x0a\x01\xff"])
@pytest.mark.parametrize("method", [*EXEMPT, REFLECTION])
async def test_bytes_that_are_no_message_are_refused_by_health_and_reflection_too(
    fleet: Fleet, method: str, content: bytes
) -> None:
    async def call() -> None:
        async with aio.insecure_channel(fleet.serving.addresses[0]) as channel:
            talk: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
            async for _ in talk(iter([content])):
                break

    answer = await refusal(call())
    field = "" if content != b"\x0a\x01\xff" else "service" if method in EXEMPT else "host"
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_compressed_request_is_not_inflated(fleet: Fleet) -> None:
    async with aio.insecure_channel(fleet.serving.addresses[0], compression=grpc.Compression.Gzip) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/instance_manager.GetService/GetAllInstances"
        )
        filter_of_many = pb.InstanceFilter(hostnames=["x" * 253] * 1000)
        answer = await refusal(call(filter_of_many.SerializeToString(), metadata=VERSION))
    assert answer.code == grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_of_over_a_mebibyte_is_too_large(fleet: Fleet) -> None:
    below = description(labels={"x": "y" * (2**20 - 100)}).SerializeToString()
    assert (await refusal(fleet.caller.raw("/instance_manager.TryService/TryAddInstance", below))).fields == ["labels"]
    content = description(labels={"x": "y" * 2**20}).SerializeToString()
    answer = await refusal(fleet.caller.raw("/instance_manager.TryService/TryAddInstance", content))
    assert (answer.code, answer.retries) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [])


@pytest.mark.parametrize(
    ("broken", "method", "sent"),
    [
        ("host_stats", "stats_service.StatsService/GetStats", b"\x0a\x01h"),
        ("instance_version", "instance_manager.TryService/TryUpdateInstance", None),
        ("event", "instance_manager.TryService/TryAddInstance", None),
    ],
)
async def test_a_fault_of_ours_shows_an_incident_alone_and_is_logged_under_it(
    lone: Fleet, caplog: pytest.LogCaptureFixture, broken: str, method: str, sent: bytes | None
) -> None:
    instance = await lone.add()
    if sent is None:
        other = "" if method.endswith("AddInstance") else instance
        sent = description(other, hostname="new").SerializeToString()
    await lone.database.run(f'alter table {broken} rename to "{broken}_secret_name"')
    with caplog.at_level(logging.CRITICAL, "manager.turns"), caplog.at_level(logging.ERROR, "manager.wire.status"):
        answer = await refusal(lone.caller.raw(f"/{method}", sent))
    await lone.database.run(f'alter table "{broken}_secret_name" rename to {broken}')
    assert (answer.code, answer.details) == (grpc.StatusCode.INTERNAL, ())
    words = answer.message.split()
    assert words[:-1] == ["a", "fault", "of", "the", "server's:", "incident"]
    assert any(record.getMessage() == f"incident {words[-1]}" and record.exc_info for record in caplog.records)


async def test_a_caller_who_stops_waiting_gets_no_trouble_and_makes_none(fleet: Fleet) -> None:
    calls = [asyncio.ensure_future(fleet.add()) for _ in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, str) for each in results[1::2])
    assert (await fleet.get(str(results[1]))).status == pb.STATUS_HEALTHY
