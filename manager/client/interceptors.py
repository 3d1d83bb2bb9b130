"""What every call of a client gets: the metadata `proto_version`, a deadline, and typed errors."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from grpc import aio

from manager.client.errors import typed
from manager.pb.version import PROTO_VERSION

Request = TypeVar("Request")
Response = TypeVar("Response")
Requests = AsyncIterable[Request] | Iterable[Request]
Metadata = tuple[tuple[str, str], ...]


class UnaryUnary(aio.UnaryUnaryClientInterceptor):
    """For single calls: those that name no timeout get `deadline` seconds."""

    def __init__(self, extra: Metadata, deadline: float) -> None:
        self.extra = extra
        self.deadline = deadline

    async def intercept_unary_unary(
        self,
        continuation: Callable[[aio.ClientCallDetails, Request], Awaitable[aio.UnaryUnaryCall[Request, Response]]],
        client_call_details: aio.ClientCallDetails,
        request: Request,
    ) -> Response | aio.UnaryUnaryCall[Request, Response]:
        call = await continuation(stamped(client_call_details, self.deadline, self.extra), request)
        try:
            await call
        except aio.AioRpcError as error:
            raise typed(error) from None
        return call


class UnaryStream(aio.UnaryStreamClientInterceptor):
    """For subscriptions, which have no deadline."""

    def __init__(self, extra: Metadata) -> None:
        self.extra = extra

    async def intercept_unary_stream(
        self,
        continuation: Callable[[aio.ClientCallDetails, Request], Awaitable[aio.UnaryStreamCall[Request, Response]]],
        client_call_details: aio.ClientCallDetails,
        request: Request,
    ) -> AsyncIterator[Response] | aio.UnaryStreamCall[Request, Response]:
        return responses(await continuation(stamped(client_call_details, extra=self.extra), request))


class StreamUnary(aio.StreamUnaryClientInterceptor):
    """For streams of requests with one answer."""

    def __init__(self, extra: Metadata) -> None:
        self.extra = extra

    async def intercept_stream_unary(
        self,
        continuation: Callable[
            [aio.ClientCallDetails, AsyncIterable[Request] | Iterable[Request]],
            Awaitable[aio.StreamUnaryCall[Request, Response]],
        ],
        client_call_details: aio.ClientCallDetails,
        request_iterator: AsyncIterable[Request] | Iterable[Request],
    ) -> Response | aio.StreamUnaryCall[Request, Response]:
        return await continuation(stamped(client_call_details, extra=self.extra), request_iterator)


class StreamStream(aio.StreamStreamClientInterceptor):
    """For streams both ways."""

    def __init__(self, extra: Metadata) -> None:
        self.extra = extra

    async def intercept_stream_stream(
        self,
        continuation: Callable[
            [aio.ClientCallDetails, AsyncIterable[Request] | Iterable[Request]],
            Awaitable[aio.StreamStreamCall[Request, Response]],
        ],
        client_call_details: aio.ClientCallDetails,
        request_iterator: AsyncIterable[Request] | Iterable[Request],
    ) -> AsyncIterator[Response] | aio.StreamStreamCall[Request, Response]:
        return responses(await continuation(stamped(client_call_details, extra=self.extra), request_iterator))


def every_kind(deadline: float, extra: Metadata = ()) -> list[aio.ClientInterceptor]:
    """One interceptor for each of gRPC's four kinds of call; `extra` is metadata of all of them."""
    return [UnaryUnary(extra, deadline), UnaryStream(extra), StreamUnary(extra), StreamStream(extra)]


def stamped(
    details: aio.ClientCallDetails, deadline: float | None = None, extra: Metadata = ()
) -> aio.ClientCallDetails:
    """The call with `proto_version` and more in its metadata, and with the deadline (seconds) where it had none."""
    metadata = aio.Metadata(*(details.metadata or ()))
    metadata["proto_version"] = PROTO_VERSION
    for key, value in extra:
        if not metadata.get_all(key):  # a call may show another token than the client's
            metadata[key] = value
    timeout = deadline if details.timeout is None else details.timeout
    return aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


async def responses(call: AsyncIterable[Response]) -> AsyncIterator[Response]:
    """The call's responses; where it ends in an error, that error typed."""
    try:
        async for response in call:
            yield response
    except aio.AioRpcError as error:
        raise typed(error) from None
