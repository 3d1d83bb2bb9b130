"""A plain caller: the generated stubs on one channel, and what a refused call says."""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from manager.pb import fleet_pb2, instance_manager_pb2, stats_service_pb2
from manager.pb.fleet_pb2 import Failure, HealthCheckOutcomes, Outcomes, PostedMetrics
from manager.pb.fleet_pb2_grpc import FleetServiceStub
from manager.pb.instance_manager_pb2_grpc import GetServiceStub, PostServiceStub, TryServiceStub
from manager.pb.stats_service_pb2_grpc import StatsServiceStub
from manager.pb.version import PROTO_VERSION

DETAILS = "grpc-status-details-bin"
DEADLINE = 10.0
# that of another release, where its managers are to be asked too: see tests/previous
VERSION = (("proto_version", os.environ.get("IM_TEST_PROTO_VERSION", PROTO_VERSION)),)
DETAIL_KINDS = (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)

Rq = TypeVar("Rq")
Rs = TypeVar("Rs")


@dataclass(frozen=True, slots=True)
class Refused:
    """How a call ended that was not answered."""

    code: grpc.StatusCode
    message: str
    details: tuple[Any, ...]

    @property
    def fields(self) -> list[str]:
        """The fields that its BadRequest names."""
        given = [each for each in self.details if isinstance(each, error_details_pb2.BadRequest)]
        return [violation.field for each in given for violation in each.field_violations]

    @property
    def reasons(self) -> list[str]:
        """The reasons of its ErrorInfo."""
        return [each.reason for each in self.details if isinstance(each, error_details_pb2.ErrorInfo)]

    @property
    def retries(self) -> list[float]:
        """The pauses that its RetryInfo asks for, in seconds."""
        given = [each for each in self.details if isinstance(each, error_details_pb2.RetryInfo)]
        return [each.retry_delay.ToTimedelta().total_seconds() for each in given]


# what an exception's text, a statement, a path or a name of our code looks like
LEAK = re.compile(
    r"(?i:traceback|asyncpg|sqlalchemy|postgres|cython|<class|object at 0x|\.py\b|\bline \d)|[a-z](Error|Exception)\b"
    r"|(?i:\b(select|insert into|delete from|update \w+ set|relation|constraint|column|violates)\b)|(?<![\w.])/\w"
)

# the value of a detail, in which any letters may stand
TOKEN = re.compile(r"(?<=resume_token\\x12)\S+")


def _refused(error: aio.AioRpcError) -> Refused:
    """What an error says, its details unpacked.

    By the way every refusal that a test meets is held to two rules: it shows nothing of what is behind the wire, and
    its details repeat its code and message.
    """
    trailer = dict(error.trailing_metadata() or ()).get(DETAILS)
    leak = LEAK.search(TOKEN.sub("", f"{error.details()} {trailer!r}"))
    assert leak is None, f"{leak.group()!r} in {error.details()!r}, {trailer!r}"
    if trailer is None:
        return Refused(error.code(), error.details() or "", ())
    status = status_pb2.Status.FromString(trailer)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return Refused(error.code(), status.message, tuple(map(_unpacked, status.details)))


def _unpacked(packed: Any) -> Any:
    for kind in DETAIL_KINDS:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    raise AssertionError(f"a detail that no client knows: {packed.type_url}")


async def outcome(call: Awaitable[Rs]) -> Rs | Refused:
    """The answer, or how the call ended without one."""
    try:
        return await call
    except aio.AioRpcError as error:
        return _refused(error)


FAILING: dict[str, Callable[[bytes], Any]] = {
    "HealthChecks": lambda answer: [each.failure for each in HealthCheckOutcomes.FromString(answer).outcomes],
    "AddInstances": lambda answer: [each.failure for each in Outcomes.FromString(answer).outcomes],
    "KillInstances": lambda answer: [each.failure for each in Outcomes.FromString(answer).outcomes],
    "PostMetrics": lambda answer: PostedMetrics.FromString(answer).failures,
}


async def singly(method: MethodDescriptor, call: Awaitable[bytes]) -> bytes | Refused:
    """The answer, or how it ended; the first failure in a batch as if its item had been asked by a single call."""
    ended = await outcome(call)
    if isinstance(ended, Refused) or method.name not in FAILING:
        return ended
    failure = next((each for each in FAILING[method.name](ended) if each.code), None)
    return ended if failure is None else _spoken(failure)


def _spoken(failure: Failure) -> Refused:
    code = next(each for each in grpc.StatusCode if each.value[0] == failure.code)
    details: list[Any] = []
    if failure.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=failure.field)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if failure.reason:
        details.append(error_details_pb2.ErrorInfo(reason=failure.reason))
    if failure.retry_after_ms:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(failure.retry_after_ms)
        details.append(retry)
    assert LEAK.search(failure.message) is None, failure.message
    return Refused(code, failure.message, tuple(details))


async def refusal(call: Awaitable[object]) -> Refused:
    """How the call ends; fails when it is answered."""
    ended = await outcome(call)
    assert isinstance(ended, Refused), f"was answered: {ended}"
    return ended


class Versioned(aio.UnaryUnaryClientInterceptor):
    """Sends metadata with every call, and ends it after DEADLINE."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    async def intercept_unary_unary(
        self,
        continuation: Callable[[aio.ClientCallDetails, Rq], Awaitable[aio.UnaryUnaryCall[Rq, Rs]]],
        client_call_details: aio.ClientCallDetails,
        request: Rq,
    ) -> Rs | aio.UnaryUnaryCall[Rq, Rs]:
        details = aio.ClientCallDetails(
            method=client_call_details.method,
            timeout=client_call_details.timeout or DEADLINE,
            metadata=aio.Metadata(*(client_call_details.metadata or ()), *self._metadata),
            credentials=client_call_details.credentials,
            wait_for_ready=client_call_details.wait_for_ready,
        )
        return await continuation(details, request)


class Caller:
    """Every service of one server; `raw` sends bytes as they are."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.tries = TryServiceStub(channel)
        self.gets = GetServiceStub(channel)
        self.posts = PostServiceStub(channel)
        self.stats = StatsServiceStub(channel)
        self.fleet = FleetServiceStub(channel)

    async def raw(self, method: str, content: bytes) -> bytes:
        """The bytes of the answer to bytes sent to a path, such as /instance_manager.TryService/TryAddChild."""
        send: aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(method)
        return await send(content)

    async def ask(self, method: MethodDescriptor, content: bytes) -> bytes:
        """The bytes of the answer, or of the first one, to bytes sent to a method that its descriptor names."""
        if not method.server_streaming:
            return await self.raw(path(method), content)
        async for answer in self._stream(method, content):
            return answer
        raise AssertionError("a stream ended without an answer")

    def _stream(self, method: MethodDescriptor, content: bytes) -> AsyncIterator[bytes]:
        several: Any = self.channel.stream_stream if method.client_streaming else self.channel.unary_stream
        sent: Any = iter([content]) if method.client_streaming else content
        answers: AsyncIterator[bytes] = several(path(method))(sent, metadata=VERSION, timeout=DEADLINE)
        return answers


@asynccontextmanager
async def calling(
    address: str, metadata: tuple[tuple[str, str], ...] = VERSION, trusted: bytes | None = None
) -> AsyncIterator[Caller]:
    """A caller on a channel of its own; with TLS where there is an authority to trust, in PEM."""
    interceptors = [Versioned(metadata)]
    if trusted is None:
        opened = aio.insecure_channel(address, interceptors=interceptors)
    else:
        opened = aio.secure_channel(address, grpc.ssl_channel_credentials(trusted), interceptors=interceptors)
    async with opened as channel:
        yield Caller(channel)


FILES = (instance_manager_pb2.DESCRIPTOR, stats_service_pb2.DESCRIPTOR, fleet_pb2.DESCRIPTOR)
METHODS: list[MethodDescriptor] = [
    method for file in FILES for service in file.services_by_name.values() for method in service.methods
]
UNARY = [each for each in METHODS if not each.client_streaming and not each.server_streaming]


def path(method: MethodDescriptor) -> str:
    """As it travels in a request."""
    return f"/{method.containing_service.full_name}/{method.name}"
