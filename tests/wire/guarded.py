"""Who may call what, said once more; a manager that asks who calls, and calls of every kind by everybody and nobody."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio

from manager.domain.principal import Role
from manager.domain.token import new_token
from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.credentials import bearing, granted, revoked
from tests.wire.caller import METHODS, VERSION, Refused, outcome, path
from tests.wire.fleet import Fleet, complete, description

Code = grpc.StatusCode
EVERY_ROLE = tuple(Role)
TARGETS = ("own", "other", "unknown")

# said once more, in other words than the table has
LOOKS = {"GetAllInstances", "GetParent", "GetChildren", "SubscribeToInstanceUpdates", "WatchInstances", "ListEvents"}
LOOKS |= {"GetInstancesAt", "Diff", "GetStats"}
LOOKS_AT_ONE = {"GetInstance", "GetHealthCheck", "GetProxyMetrics", "GetSystemMetrics", "GetGpuMetrics"}
LOOKS_AT_ONE |= {"GetLlmMetrics", "DescribeInstance", "GetMetricsHistory"}
BEATS = {"TryHealthCheck", "HealthChecks", "PostMetrics", "PostProxyMetrics", "PostSystemMetrics", "PostGpuMetrics"}
BEATS |= {"PostLlmMetrics"}
REGISTERS = {"TryAddInstance", "AddInstances", "UploadStats"}
CHANGES = {"TryUpdateInstance", "TryKillInstance", "TryAddChild", "TryAddService", "KillInstances"}
# of instances that nobody knows
NOT_FOUND = {*LOOKS_AT_ONE, "GetParent", "GetChildren"}


def may(role: Role, method: str, target: str) -> bool:
    """Whether a role may call a method about a target."""
    own = target == "own" and method in LOOKS_AT_ONE | BEATS | CHANGES
    return {
        Role.READER: method in LOOKS | LOOKS_AT_ONE,
        Role.INSTANCE: own,
        Role.REGISTRAR: method in LOOKS | LOOKS_AT_ONE | REGISTERS | BEATS,
        Role.OPERATOR: method in LOOKS | LOOKS_AT_ONE | CHANGES,
        Role.ADMIN: True,
    }[role]


def expected(role: Role, method: str, target: str) -> Code:
    """How the call ends."""
    if not may(role, method, target):
        return Code.PERMISSION_DENIED
    return Code.NOT_FOUND if target == "unknown" and method in NOT_FOUND else Code.OK


@dataclass(frozen=True)
class Guarded:
    """A manager that asks who calls, and a token of every role that is bound to nobody."""

    fleet: Fleet
    tokens: dict[Role, str]

    @property
    def http(self) -> str:
        """Where its HTTP is."""
        return self.fleet.serving.http[0]

    async def instance_token(self, instance: str) -> str:
        """A token of that instance."""
        return await granted(self.fleet.database, Role.INSTANCE, instance)

    async def ended(self, method: MethodDescriptor, request: Any, token: str) -> Code:
        """How a call ends, or that it was answered."""
        async with aio.insecure_channel(self.fleet.serving.addresses[0]) as channel:
            answer = await outcome(asked(channel, method, request, (*VERSION, *bearing(token))))
        return answer.code if isinstance(answer, Refused) else Code.OK


async def asked(
    channel: aio.Channel, method: MethodDescriptor, request: Any, metadata: tuple[tuple[str, str], ...]
) -> bytes:
    """The first answer of a method of any kind."""
    content = request.SerializeToString()
    if not method.server_streaming:
        single: Any = channel.unary_unary(path(method))
        answer: bytes = await single(content, metadata=metadata, timeout=10)
        return answer
    several: Any = channel.stream_stream if method.client_streaming else channel.unary_stream
    sent: Any = iter([content]) if method.client_streaming else content
    async for each in several(path(method))(sent, metadata=metadata, timeout=10):
        return bytes(each)
    raise AssertionError("a stream ended without an answer")


def sent(method: MethodDescriptor, one: str, other: str) -> Any:
    """A right request that is about one, and names another where it can."""
    request = complete(method.input_type, one, other)
    if isinstance(request, pb.SubscribeRequest):
        request = pb.SubscribeRequest(send_bookmarks=True)
    if method.name == "TryAddInstance":
        request = pb.InstanceDescription(instance_id=one, instance_type=pb.VLLM)
    return request


async def pairs(fleet: Fleet, many: int) -> list[tuple[str, str]]:
    """So many times two living instances that have measured something of every kind."""
    ids = [str(new_id()) for _ in range(2 * many)]
    await fleet.register([description(each) for each in ids])
    kind, measured = fleet_pb2.DESCRIPTOR.message_types_by_name["MetricsBatch"], fleet_pb2.MetricsBatch()
    for each in ids:
        measured.MergeFrom(complete(kind, each, each))
    assert (await fleet.caller.fleet.PostMetrics(measured)).taken == 4 * len(ids)
    async with asyncio.timeout(10):
        while isinstance(
            await outcome(fleet.caller.gets.GetLlmMetrics(pb.InstanceRequest(instance_id=ids[-1]))), Refused
        ):
            await asyncio.sleep(0.02)
    return list(zip(ids[::2], ids[1::2], strict=True))


@dataclass(frozen=True)
class Case:
    """A right request by a role about a target, and the token it is made with."""

    role: Role
    target: str
    request: Any
    token: str


async def cases(guarded: Guarded, method: MethodDescriptor) -> list[Case]:
    """Every role and every target, each about instances of its own."""
    wanted = [(role, target) for role in EVERY_ROLE for target in TARGETS]
    made = []
    for (role, target), (one, other) in zip(wanted, await pairs(guarded.fleet, len(wanted)), strict=True):
        token = await guarded.instance_token(one) if role is Role.INSTANCE else guarded.tokens[role]
        about = {"own": one, "other": other, "unknown": str(new_id())}[target]
        request = sent(method, about, one if target == "other" else other)
        if method.name in REGISTERS and "Instance" in method.name:
            request = sent(method, str(new_id()), other)
        made.append(Case(role, target, request, token))
    return made


async def nobodies(guarded: Guarded) -> Sequence[tuple[str, str]]:
    """Everybody who is nobody: what they show as `authorization`."""
    database = guarded.fleet.database
    expired = await granted(database, Role.ADMIN, lasts=timedelta(microseconds=1))
    gone = await granted(database, Role.ADMIN)
    await revoked(database, gone)
    good = guarded.tokens[Role.ADMIN]
    return [
        ("nothing", ""),
        ("a stranger's token", f"Bearer {new_token()}"),
        ("an expired token", f"Bearer {expired}"),
        ("a revoked token", f"Bearer {gone}"),
        ("a token with a slip of the pen", f"Bearer {good[:-1]}{'a' if good[-1] != 'a' else 'b'}"),
        ("another scheme", f"Basic {good}"),
        ("the token alone", good),
        ("an empty token", "Bearer"),
    ]


STREAMS = {
    "SubscribeToInstanceUpdates": pb.SubscribeRequest(send_bookmarks=True),
    "WatchInstances": pb.SubscribeRequest(send_bookmarks=True),
}


@asynccontextmanager
async def opened(address: str, name: str, token: str, about: str) -> AsyncIterator[Any]:
    """A stream that has begun, and goes on; of health checks it can be written to."""
    method = next(each for each in METHODS if each.name == name)
    metadata = (*VERSION, *bearing(token))
    async with aio.insecure_channel(address) as channel:
        if method.client_streaming:
            both: Any = channel.stream_stream(path(method))
            call = both(metadata=metadata)
            await call.write(checks_of(about))
        else:
            one_way: Any = channel.unary_stream(path(method))
            call = one_way(STREAMS[name].SerializeToString(), metadata=metadata)
        assert await call.read() is not aio.EOF
        yield call


def checks_of(about: str) -> bytes:
    """A message of a stream of health checks."""
    return fleet_pb2.HealthCheckBatch(instance_ids=[about]).SerializeToString()


async def end_of(call: Any, heard: list[bytes] | None = None) -> Code:
    """How an open stream ends; what comes until then is `heard`."""
    try:
        while (message := await call.read()) is not aio.EOF:
            if heard is not None:
                heard.append(message)
    except aio.AioRpcError as error:
        code: Code = error.code()
        return code
    return Code.OK


def headed(token: str) -> dict[str, Any]:
    """The headers that show a token."""
    return {"authorization": f"Bearer {token}"} if token else {}
