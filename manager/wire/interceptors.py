"""What happens around every call: the version gate, and no exception's text to any client."""

from collections.abc import Awaitable, Callable
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


class Gate(aio.ServerInterceptor):
    """Wraps every handler once, and not anew for each call."""

    def __init__(self) -> None:
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
            wrapped = self._wrapped[method] = _wrap(handler)
        return wrapped


def _wrap(handler: Handler) -> Handler:
    assert handler.request_deserializer is not None  # noqa: S101 - generated code always gives one
    decode = _tolerant(handler.request_deserializer)
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary), decode, handler.response_serializer)
    raise NotImplementedError("no stream is served yet")


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
