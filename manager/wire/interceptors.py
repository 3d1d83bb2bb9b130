"""What happens around every call: the version gate, and no exception's text to any client."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from manager.domain.refusals import InvalidRequest
from manager.pb.version import ACCEPTED, PROTO_VERSION
from manager.wire.status import VersionMismatch, status_of

DETAILS = "grpc-status-details-bin"
EXEMPT = ("/grpc.health.", "/grpc.reflection.")
KEY = "proto_version"


class Undecodable:
    """Stands for a request whose bytes are not of its message."""


# gRPC's class has type parameters for the type checker alone
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Found: TypeAlias = "Handler | None"


class NothingTaken(Exception):
    """Thrown into a stream whose client took no message for too long."""


class Gate(aio.ServerInterceptor):
    """Wraps every handler once, and not anew for each call. A stream may wait `patience` for its client."""

    def __init__(self, patience: timedelta) -> None:
        self._patience = patience.total_seconds()
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Found]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Found:
        """The wrapped handler of the method; nothing for an unknown one, which gRPC answers itself."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None or method.startswith(EXEMPT):
                return handler
            wrapped = self._wrapped[method] = _wrap(handler, self._patience)
        return wrapped


def _wrap(handler: Handler, patience: float) -> Handler:
    assert handler.request_deserializer is not None and handler.response_serializer is not None  # noqa: S101, PT018
    decode, encode = _tolerant(handler.request_deserializer), _ready(handler.response_serializer)
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary), decode, encode)
    assert handler.unary_stream is not None  # noqa: S101 - the contract has no other kind
    behaviour: Any = handler.unary_stream
    return grpc.unary_stream_rpc_method_handler(_stream(behaviour, patience), decode, encode)


def _ready(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A message that is shared by many comes serialized."""
    return lambda message: message if isinstance(message, bytes) else serializer(message)


def _tolerant(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Bad bytes become a value: an exception here would reach the log as a traceback and the client as its text."""

    def decode(content: bytes) -> Any:
        try:
            return deserializer(content)
        except DecodeError:
            return Undecodable()

    return decode


def _unary(behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def handle(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            _admit(request, context)
            return await behaviour(request, context)
        except Exception as error:
            code, message, details = status_of(error)
        return await context.abort(code, message, ((DETAILS, details),))

    return handle


def _stream(behaviour: Callable[[Any, Any], AsyncGenerator[Any, None]], patience: float) -> Callable[[Any, Any], Any]:
    async def handle(request: Any, context: aio.ServicerContext[Any, Any]) -> None:
        messages = behaviour(request, context)
        try:
            _admit(request, context)
            await _send(messages, context, patience)
        except Exception as error:
            code, message, details = status_of(error)
            await context.abort(code, message, ((DETAILS, details),))
        finally:
            await messages.aclose()

    return handle


async def _send(messages: AsyncGenerator[Any, None], context: aio.ServicerContext[Any, Any], patience: float) -> None:
    async for message in messages:
        try:
            async with asyncio.timeout(patience):
                await context.write(message)
        except TimeoutError:
            await messages.athrow(NothingTaken(f"nothing was taken for {patience:g} s: go on from the resume_token"))


def _admit(request: Any, context: aio.ServicerContext[Any, Any]) -> None:
    """Raises unless the caller speaks a version of the contract that is served, and its request could be read."""
    spoken = next((value for key, value in context.invocation_metadata() or () if key == KEY), None)
    if spoken not in ACCEPTED:
        raise VersionMismatch(
            f"this server speaks proto_version {PROTO_VERSION}, and the call came with {_shown(spoken)}: generate the"
            " client from the server's proto files, and send the content of proto/proto_version as the metadata"
            " proto_version"
        )
    if isinstance(request, Undecodable):
        raise InvalidRequest("", "the request is not a message of this method's type, or holds text that is not UTF-8")


def _shown(spoken: str | bytes | None) -> str:
    """What the caller sent, cut to a hash's length and cleared of what a terminal would obey."""
    if spoken is None:
        return "none"
    text = spoken if isinstance(spoken, str) else spoken.decode(errors="replace")
    return "".join(each if each.isprintable() else "?" for each in text[:64])
