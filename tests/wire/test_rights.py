"""Who may call what: every method, every role, every kind of target, and everybody who is nobody."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio
from starlette.routing import Mount, Route

from manager.domain.principal import Role
from manager.meters import Meters
from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.settings import Transport
from manager.wire.authority import Authority
from manager.wire.http import Site
from manager.wire.interceptors import Gate
from manager.wire.limits import Limits
from manager.wire.rights import ABOUT, PUBLIC, RIGHTS, Whose
from tests.credentials import bearing, granted, revoked
from tests.wire.asker import ask, live
from tests.wire.caller import METHODS, VERSION, Refused, calling, outcome, path, refusal
from tests.wire.guarded import (
    EVERY_ROLE,
    STREAMS,
    TARGETS,
    Code,
    Guarded,
    asked,
    cases,
    end_of,
    expected,
    headed,
    nobodies,
    opened,
    sent,
)


@pytest.mark.parametrize("method", METHODS, ids=path)
async def test_every_role_may_do_to_every_target_what_the_table_says_and_nothing_else(
    guarded: Guarded, method: MethodDescriptor
) -> None:
    ended = {}
    for each in await cases(guarded, method):
        ended[each.role, each.target] = await guarded.ended(method, each.request, each.token)
    assert ended == {key: expected(key[0], method.name, key[1]) for key in ended}
    assert len(ended) == len(EVERY_ROLE) * len(TARGETS)


@pytest.mark.parametrize("method", METHODS, ids=path)
async def test_nobody_may_do_anything_nor_learns_whether_it_is_there(
    guarded: Guarded, method: MethodDescriptor
) -> None:
    one, other = await guarded.fleet.add(), await guarded.fleet.add()
    for who, shown in await nobodies(guarded):
        metadata = (*VERSION, *((("authorization", shown),) if shown else ()))
        said = set()
        for about in (one, str(new_id())):
            async with aio.insecure_channel(guarded.fleet.serving.addresses[0]) as channel:
                answer = await refusal(asked(channel, method, sent(method, about, other), metadata))
            assert answer.code is Code.UNAUTHENTICATED, who
            assert "imt_" not in answer.message
            said.add(answer)
        assert len(said) == 1, who


async def test_who_may_not_is_told_so_before_the_version_or_the_request_is_looked_at(guarded: Guarded) -> None:
    async with calling(guarded.fleet.serving.addresses[0], bearing(guarded.tokens[Role.READER])) as caller:
        answer = await refusal(caller.raw("/instance_manager.TryService/TryKillInstance", b"\xff"))
    assert answer.code is Code.PERMISSION_DENIED
    async with calling(guarded.fleet.serving.addresses[0], ()) as caller:
        answer = await refusal(caller.raw("/instance_manager.TryService/TryKillInstance", b"\xff"))
    assert answer.code is Code.UNAUTHENTICATED


async def test_a_batch_about_others_too_does_nothing_to_anybody(guarded: Guarded) -> None:
    one, other = await guarded.fleet.add(), await guarded.fleet.add()
    metadata = (*VERSION, *bearing(await guarded.instance_token(one)))
    async with calling(guarded.fleet.serving.addresses[0], metadata) as caller:
        kills = [pb.KillRequest(instance_id=one), pb.KillRequest(instance_id=other)]
        answer = await refusal(caller.fleet.KillInstances(fleet_pb2.KillInstancesRequest(kills=kills)))
        assert answer.code is Code.PERMISSION_DENIED
        assert (await caller.gets.GetInstance(pb.InstanceRequest(instance_id=one.upper()))).instance_id == one
    assert (await guarded.fleet.get(other)).instance_id == other


async def test_an_instance_may_be_linked_by_itself_and_may_take_nobody_as_a_child(guarded: Guarded) -> None:
    one, other = await guarded.fleet.add(), await guarded.fleet.add()
    metadata = (*VERSION, *bearing(await guarded.instance_token(one)))
    async with calling(guarded.fleet.serving.addresses[0], metadata) as caller:
        taking = pb.AddChildRequest(parent_id=one, child_id=other)
        assert (await refusal(caller.tries.TryAddChild(taking))).code is Code.PERMISSION_DENIED
        assert (await caller.tries.TryAddChild(pb.AddChildRequest(parent_id=other, child_id=one))).value


# what the table has to hold


def test_every_method_has_a_row_and_every_row_a_method(transport: Transport) -> None:
    known = {path(method) for method in METHODS}
    rows = {each for each in RIGHTS if each.startswith(("/instance_manager.", "/stats_service."))}
    assert rows == known
    assert not RIGHTS.keys() & PUBLIC


async def test_all_that_is_served_is_in_the_table_or_public(guarded: Guarded) -> None:
    class Stage:
        def __getattr__(self, name: str) -> Any:
            return None

    class Everything(dict[str, Any]):
        def __missing__(self, key: str) -> Any:
            async def handler(_request: Any, _context: Any) -> None: ...

            return grpc.unary_unary_rpc_method_handler(handler)

    stage: Any = Stage()
    stage.handlers, stage.names, stage.limits = Everything(), (), Limits()
    for each in Site(stage).application().routes:
        assert isinstance(each, (Route, Mount))
        if not each.path.startswith(("/instance_manager.", "/stats_service.")):  # these go through the gate
            assert each.path in RIGHTS.keys() | PUBLIC, each.path


def test_a_method_without_a_row_cannot_be_served(transport: Transport) -> None:
    nobody: Any = None
    gate = Gate(timedelta(seconds=1), Meters(), Authority(nobody, nobody, certificates=False))

    async def handler(_request: Any, _context: Any) -> None: ...

    with pytest.raises(KeyError):
        gate.add_registered_method_handlers("new.Service", {"Call": grpc.unary_unary_rpc_method_handler(handler)})


def test_whoever_may_act_for_himself_alone_says_in_his_request_for_whom(transport: Transport) -> None:
    kinds = {path(method): method.input_type.name for method in METHODS}
    for method, row in RIGHTS.items():
        if Whose.OWN in row.values():
            assert kinds[method] in ABOUT, method
        if Role.INSTANCE in row and method in kinds:
            assert row[Role.INSTANCE] is Whose.OWN, method


# how long a token is good


@pytest.mark.parametrize("name", [*STREAMS, "HealthChecks"])
async def test_a_revoked_token_ends_the_streams_it_opened_within_five_seconds(guarded: Guarded, name: str) -> None:
    token, about = await granted(guarded.fleet.database, Role.ADMIN), await guarded.fleet.add()
    async with opened(guarded.fleet.serving.addresses[0], name, token, about) as call:
        await revoked(guarded.fleet.database, token)
        begun = monotonic()
        async with asyncio.timeout(10):
            assert await end_of(call) is Code.UNAUTHENTICATED
        assert monotonic() - begun < 5


@pytest.mark.parametrize("name", [*STREAMS, "HealthChecks"])
async def test_a_token_that_expires_ends_the_streams_it_opened(guarded: Guarded, name: str) -> None:
    token = await granted(guarded.fleet.database, Role.ADMIN, lasts=timedelta(seconds=2))
    about, begun = await guarded.fleet.add(), monotonic()
    async with opened(guarded.fleet.serving.addresses[0], name, token, about) as call:
        async with asyncio.timeout(10):
            assert await end_of(call) is Code.UNAUTHENTICATED
    assert monotonic() - begun < 5


async def test_a_revoked_token_is_refused_within_five_seconds_though_it_was_used_all_the_time(guarded: Guarded) -> None:
    token = await granted(guarded.fleet.database, Role.READER)
    about = pb.InstanceRequest(instance_id=await guarded.fleet.add())
    metadata = (*VERSION, *bearing(token))
    async with calling(guarded.fleet.serving.addresses[0], metadata) as caller:
        assert await caller.gets.GetInstance(about)
        await revoked(guarded.fleet.database, token)
        begun = monotonic()
        while not isinstance(answer := await outcome(caller.gets.GetInstance(about)), Refused):
            await asyncio.sleep(0.01)
    assert (answer.code, monotonic() - begun < 5) == (Code.UNAUTHENTICATED, True)


async def test_a_new_token_is_good_at_once_though_it_was_shown_before_it_was_granted(guarded: Guarded) -> None:
    for role in (Role.READER, Role.OPERATOR):
        token = await granted(guarded.fleet.database, role)
        method = next(each for each in METHODS if each.name == "GetAllInstances")
        assert await guarded.ended(method, pb.InstanceFilter(), token) is Code.OK


# HTTP goes through the same table


@pytest.mark.parametrize("place", ["/live", "/metrics", "/sd/prometheus"])
async def test_what_http_has_beside_the_contract_is_for_those_who_may_look(guarded: Guarded, place: str) -> None:
    answer = await ask(guarded.http, place)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    instance = await guarded.instance_token(await guarded.fleet.add())
    assert (await ask(guarded.http, place, **headed(instance))).status == 403
    if place == "/live":
        async with live(guarded.http, **headed(guarded.tokens[Role.READER])) as frames:
            assert (await anext(frames)).kind == "glimpse"
    else:
        assert (await ask(guarded.http, place, **headed(guarded.tokens[Role.READER]))).status == 200


async def test_the_console_s_stream_ends_with_its_token(guarded: Guarded) -> None:
    token = await granted(guarded.fleet.database, Role.READER)
    async with live(guarded.http, **headed(token)) as frames:
        assert (await anext(frames)).kind == "glimpse"
        await revoked(guarded.fleet.database, token)
        async with asyncio.timeout(5):
            async for _ in frames:
                pass
    assert (await ask(guarded.http, "/live", **headed(token))).status == 401


async def test_probes_and_the_page_ask_for_nothing(guarded: Guarded) -> None:
    for place in ("/healthz", "/", "/events", "/console/index.html"):
        assert (await ask(guarded.http, place)).status == 200, place
    async with aio.insecure_channel(guarded.fleet.serving.addresses[0]) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"
        reflect: Any = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(aio.AioRpcError) as refused:
            await reflect(iter([b":\0"])).read()
        assert refused.value.code() is Code.UNAUTHENTICATED


async def test_who_is_refused_as_he_begins_to_send_learns_why(guarded: Guarded) -> None:
    """gRPC's client takes an end that comes while it sends for a failure of its own."""
    (method,) = (each for each in METHODS if each.client_streaming)

    async def one() -> AsyncIterator[bytes]:
        yield b""
        await asyncio.Event().wait()

    async with aio.insecure_channel(guarded.fleet.serving.addresses[0]) as channel:
        both: Any = channel.stream_stream(path(method))
        for _ in range(200):
            with pytest.raises(aio.AioRpcError) as refused:
                await both(one(), metadata=VERSION).read()
            assert refused.value.code() is Code.UNAUTHENTICATED


async def test_who_is_refused_and_says_nothing_is_told_so_all_the_same(guarded: Guarded) -> None:
    (method,) = (each for each in METHODS if each.client_streaming)

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with aio.insecure_channel(guarded.fleet.serving.addresses[0]) as channel:
        both: Any = channel.stream_stream(path(method))
        with pytest.raises(aio.AioRpcError) as refused:
            await both(nothing(), metadata=VERSION, timeout=5).read()
        assert refused.value.code() is Code.UNAUTHENTICATED
