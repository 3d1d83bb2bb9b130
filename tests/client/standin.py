"""A stand-in for a manager on a real socket: it answers what a test tells it to, and remembers what it was asked.

For the client's reactions to what a real manager does in bad times only; the rest is tested with a real one.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as im
from manager.pb import instance_manager_pb2_grpc as services


@dataclass(frozen=True)
class Failure:
    """A call that ends in this status."""

    code: grpc.StatusCode
    message: str = "as told"
    details: tuple[Message, ...] = ()


class Stall:
    """A call that is never answered."""


@dataclass(frozen=True)
class Slow:
    """A true that comes after so many seconds."""

    seconds: float


Reply = Message | Failure | Stall | Slow

TRUE = im.Bool(value=True, revision=7)
UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE, "the database cannot be reached")


def false(reason: im.Reason.ValueType) -> im.Bool:
    """A refusal."""
    return im.Bool(value=False, reason=reason)


def precondition(reason: str) -> Failure:
    """FAILED_PRECONDITION with an ErrorInfo."""
    detail = error_details_pb2.ErrorInfo(reason=reason, domain="instance-manager")
    return Failure(grpc.StatusCode.FAILED_PRECONDITION, f"told {reason}", (detail,))


def exhausted(seconds: int) -> Failure:
    """RESOURCE_EXHAUSTED with a RetryInfo."""
    detail = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds))
    return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "a queue is full", (detail,))


def invalid(field: str, description: str) -> Failure:
    """INVALID_ARGUMENT with a BadRequest."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    detail = error_details_pb2.BadRequest(field_violations=[violation])
    return Failure(grpc.StatusCode.INVALID_ARGUMENT, "the request is malformed", (detail,))


class StandIn:
    """The manager. `always` and `once` say how it answers a method; without either it is a true."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, Any]] = []
        self.time_left: list[float] = []
        self.heard = asyncio.Event()
        self.streams = 0  # of health checks, that were begun
        self.batches: list[int] = []  # how many checks came in each message
        self._always: dict[str, Reply] = {}
        self._once: dict[str, deque[Reply]] = defaultdict(deque)

    def always(self, method: str, reply: Reply) -> None:
        """Answers every call of a method so from now on."""
        self._always[method] = reply

    def once(self, method: str, *replies: Reply) -> None:
        """Answers the next calls of a method so."""
        self._once[method].extend(replies)

    def requests(self, method: str) -> list[Any]:
        """What a method was asked, in order."""
        return [request for name, request in self.asked if name == method]

    async def hears(self, method: str, times: int = 1) -> list[Any]:
        """Waits until a method was asked so often."""
        async with asyncio.timeout(60):
            while len(self.requests(method)) < times:
                self.heard.clear()
                await self.heard.wait()
        return self.requests(method)

    async def answer(self, method: str, request: Any, context: Any) -> Any:
        """One call."""
        self.asked.append((method, request))
        self.metadata.append(dict(context.invocation_metadata()))
        self.time_left.append(context.time_remaining())
        self.heard.set()
        usual = self._always.get(method, Empty() if method.startswith("Post") else TRUE)
        reply = self._once[method].popleft() if self._once[method] else usual
        if isinstance(reply, Stall):
            await asyncio.Event().wait()
        if isinstance(reply, Slow):
            await asyncio.sleep(reply.seconds)
            return TRUE
        if isinstance(reply, Failure):
            await fail(reply, context)
        return reply


async def fail(failure: Failure, context: Any) -> None:
    """Ends a call as the real manager does: with a `google.rpc.Status` in the trailers."""
    packed = []
    for each in failure.details:
        detail = Packed()
        detail.Pack(each)
        packed.append(detail)
    status = status_pb2.Status(code=failure.code.value[0], message=failure.message, details=packed)
    await context.abort(failure.code, failure.message, (("grpc-status-details-bin", status.SerializeToString()),))


def handlers(standin: StandIn) -> list[grpc.GenericRpcHandler]:
    """Every single call of the three services that instances use, and the subscription."""
    found = []
    for service in ("TryService", "PostService", "GetService"):
        methods = im.DESCRIPTOR.services_by_name[service].methods
        found.append(
            grpc.method_handlers_generic_handler(
                f"instance_manager.{service}", {m.name: handler(standin, m) for m in methods}
            )
        )
    return found


def handler(standin: StandIn, method: Any) -> Any:
    """The handler of one method."""

    async def call(request: Any, context: Any) -> Any:
        return await standin.answer(method.name, request, context)

    request = getattr(im, method.input_type.name)
    return grpc.unary_unary_rpc_method_handler(call, request.FromString, lambda reply: reply.SerializeToString())


class Batches:
    """Every item answered as its single call would be, at once; and the fleet's own subscription."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin

    async def HealthChecks(self, requests: Any, context: Any) -> AsyncIterator[fleet.HealthCheckOutcomes]:
        """Of each instance as TryHealthCheck."""
        self.standin.streams += 1
        async for batch in requests:
            self.standin.batches.append(len(batch.instance_ids))
            checks = (self.outcome(im.InstanceRequest(instance_id=each), context) for each in batch.instance_ids)
            yield fleet.HealthCheckOutcomes(outcomes=await asyncio.gather(*checks))

    async def outcome(self, request: Any, context: Any) -> fleet.HealthCheckOutcome:
        """Of one."""
        try:
            return fleet.HealthCheckOutcome(answer=await self.standin.answer("TryHealthCheck", request, Item(context)))
        except ItemError as error:
            return fleet.HealthCheckOutcome(failure=error.failure)

    async def WatchInstances(self, request: Any, context: Any) -> AsyncIterator[fleet.InstanceUpdates]:
        """One message, as the test chose."""
        yield await self.standin.answer("WatchInstances", request, context)


def batches(standin: StandIn) -> grpc.GenericRpcHandler:
    """The two streams of FleetService that the client has."""
    asked = Batches(standin)
    kinds: dict[str, Any] = {
        "HealthChecks": grpc.stream_stream_rpc_method_handler(
            asked.HealthChecks, fleet.HealthCheckBatch.FromString, fleet.HealthCheckOutcomes.SerializeToString
        ),
        "WatchInstances": grpc.unary_stream_rpc_method_handler(
            asked.WatchInstances, im.SubscribeRequest.FromString, fleet.InstanceUpdates.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler("instance_manager.FleetService", kinds)


class ItemError(Exception):
    """One item of a batch failed."""

    def __init__(self, failure: fleet.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Item:
    """The context of one item."""

    def __init__(self, context: Any) -> None:
        self.invocation_metadata = context.invocation_metadata
        self.time_remaining = context.time_remaining

    async def abort(self, code: grpc.StatusCode, message: str, trailers: Any) -> None:
        """As a call ends, this item does."""
        failure = fleet.Failure(code=code.value[0], message=message)
        for packed in status_pb2.Status.FromString(trailers[0][1]).details:
            info, pause = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if packed.Unpack(info):
                failure.reason = info.reason
            if packed.Unpack(pause):
                failure.retry_after_ms = pause.retry_delay.ToMilliseconds()
        raise ItemError(failure)


class Subscription(services.SubscribeServiceServicer):
    """One event, then the end that the test chose."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin

    async def SubscribeToInstanceUpdates(self, request: Any, context: Any) -> AsyncIterator[im.InstanceUpdate]:
        """The stream."""
        yield im.InstanceUpdate(revision=1)
        yield await self.standin.answer("SubscribeToInstanceUpdates", request, context)


@asynccontextmanager
async def standing_in(port: int = 0) -> AsyncIterator[StandIn]:
    """A stand-in that serves until left."""
    standin = StandIn()
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(handlers(standin))
    services.add_SubscribeServiceServicer_to_server(Subscription(standin), server)
    server.add_generic_rpc_handlers([batches(standin)])
    standin.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    await server.start()
    try:
        yield standin
    finally:
        await server.stop(None)
