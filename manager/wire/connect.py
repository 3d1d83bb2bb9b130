"""Connect, gRPC-Web and JSON over HTTP/1.1: the same handlers as gRPC has, behind the same gate.

What connectrpc knows of messages it learns from the codecs here, so that ours are those of google.protobuf. A call
over two-way streams needs HTTP/2, and is for the gRPC port alone; so is plain gRPC.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from protobuf.wkt import Any as AnyMessage

from manager.wire.interceptors import DETAILS, Handler
from manager.wire.services import FILES
from manager.wire.undecodable import Undecodable

CODES: dict[grpc.StatusCode, Code] = {
    each: Code.CANCELED if each is grpc.StatusCode.CANCELLED else Code[each.name]
    for each in grpc.StatusCode
    if each is not grpc.StatusCode.OK
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler gives: a message, or the bytes of one of that kind, which were made for many."""

    kind: type[Message]
    content: Message | bytes


class Binary:
    """As gRPC has it."""

    def __init__(self, handlers: Mapping[type[Message], Handler]) -> None:
        self._handlers = handlers

    def name(self) -> str:
        """In the content type."""
        return "proto"

    def encode(self, message: Answer) -> bytes:
        """As it travels."""
        content = message.content
        return content if isinstance(content, bytes) else content.SerializeToString()

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Any:
        """The message, or what stands for bytes that are none."""
        deserialize = self._handlers[message_class].request_deserializer
        assert deserialize is not None  # noqa: S101 - the gate has put ours there
        return deserialize(bytes(data))


NO_OBJECT = "the body must be a JSON object, {...}"


class Json:
    """As protobuf writes JSON, but with the field names of the contract; either kind of name is read."""

    def name(self) -> str:
        """In the content type."""
        return "json"

    def encode(self, message: Answer) -> bytes:
        """As it travels."""
        content = message.content
        whole = message.kind.FromString(content) if isinstance(content, bytes) else content
        return json_format.MessageToJson(whole, preserving_proto_field_name=True, indent=None).encode()

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Any:
        """The message, or what stands for text that is none."""
        text = bytes(data) or b"{}"
        try:
            message = json_format.Parse(text, message_class(), ignore_unknown_fields=True)
        except (json_format.ParseError, ValueError, RecursionError) as error:
            return _unread(error)
        # the parser looks for names of fields in whatever there is: in a string, by its letters, and finds none amiss
        return message if text.lstrip().startswith(b"{") else Undecodable(problem=NO_OBJECT)


# how google.protobuf begins, for each field on the way to what it cannot read; the names are the contract's
FIELD = re.compile(r"Failed to parse (\w+) field: ")


def _unread(error: Exception) -> Undecodable:
    """What is wrong, in words of ours: those of the parser tell of its own inside."""
    cause = error.__cause__
    if isinstance(cause, json.JSONDecodeError):
        return Undecodable(problem=f"the body is not JSON, from its character {cause.pos} on")
    text, names = str(error), []
    while found := FIELD.match(text):
        names.append(found[1])
        text = text[found.end() :]
    return Undecodable(".".join(names), "what is in the body is not this method's message in JSON")


class Call:
    """What a handler may ask of the server that runs it, for a call that came over HTTP."""

    def __init__(self, context: RequestContext[Any, Any]) -> None:
        self._context = context

    def peer(self) -> str:
        """Who calls, as gRPC would have it."""
        host, _, port = (self._context.client_address or "unknown:0").rpartition(":")
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def time_remaining(self) -> float | None:
        """How many seconds the client still waits; None where it named no deadline."""
        left = self._context.timeout_ms
        return None if left is None else max(0.0, left / 1000)

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        """The headers."""
        return list(self._context.request_headers.allitems())

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Browsers are not asked for certificates."""
        return {}

    async def send_initial_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Headers of the answer, which travel with its first message."""
        for key, value in metadata:
            self._context.response_headers.add(key, _text(value))

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Trailers of the answer."""
        for key, value in metadata:
            self._context.response_trailers.add(key, _text(value))

    async def abort(self, code: grpc.StatusCode, message: str, trailing: Iterable[tuple[str, str | bytes]]) -> NoReturn:
        """Ends the call with a status and its details."""
        raise ConnectError(CODES[code], message, list(_details(dict(trailing).get(DETAILS, b""))))


def _text(value: str | bytes) -> str:
    return base64.b64encode(value).decode().rstrip("=") if isinstance(value, bytes) else value


def _details(status: str | bytes) -> Iterable[ErrorDetail]:
    if isinstance(status, bytes):
        for each in status_pb2.Status.FromString(status).details:
            yield ErrorDetail(AnyMessage(type_url=each.type_url, value=each.value))


class Stream(Call):
    """The same for a stream: one message at a time, so that whoever takes none is noticed."""

    def __init__(self, context: RequestContext[Any, Any]) -> None:
        super().__init__(context)
        self.messages: asyncio.Queue[Any] = asyncio.Queue(1)

    async def write(self, message: Any) -> None:
        """Returns when there is room for it."""
        await self.messages.put(message)


def application(handlers: Mapping[str, Handler], most: int) -> "Application":
    """Every method that HTTP/1.1 can carry. `handlers` come from behind the gate; `most`: bytes of a request."""
    methods = [
        method
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
        if not method.client_streaming
    ]
    return Application(methods, handlers, most)


class Application(ConnectASGIApplication[None]):
    """An ASGI application, to be mounted where the paths of the contract are."""

    def __init__(self, methods: Iterable[MethodDescriptor], handlers: Mapping[str, Handler], most: int) -> None:
        asked: dict[type[Message], Handler] = {}
        endpoints: dict[str, Any] = {}
        for method in methods:
            path = f"/{method.containing_service.full_name}/{method.name}"
            info = _info(method)
            asked[info.input] = handlers[path]
            endpoints[path] = _endpoint(info, handlers[path])
        codecs: list[Codec[Any, Any]] = [Binary(asked), Json()]
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=most,
            compressions=(),  # as gRPC: a few bytes inflate to megabytes before any limit is looked at
            codecs=codecs,
        )
        self.paths = tuple(endpoints)

    @property
    def path(self) -> str:
        """Where it is, if it were alone."""
        return ""


def _info(method: MethodDescriptor) -> MethodInfo[Message, Message]:
    return MethodInfo(
        name=method.name,
        service_name=method.containing_service.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,  # or a link could ask
        stream_type=StreamType.SERVER_STREAM if method.server_streaming else StreamType.UNARY,
    )


def _endpoint(info: MethodInfo[Message, Message], handler: Handler) -> Any:
    kind = info.output
    if handler.unary_unary is not None:
        single: Any = handler.unary_unary

        async def call(request: Message, context: RequestContext[Any, Any]) -> Answer:
            return Answer(kind, await single(request, Call(context)))

        return Endpoint.unary(method=info, function=call)
    several: Any = handler.unary_stream

    async def stream(request: Message, context: RequestContext[Any, Any]) -> AsyncIterator[Answer]:
        call = Stream(context)
        running = asyncio.ensure_future(several(request, call))
        try:
            async for message in _taken(call, running):
                yield Answer(kind, message)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError, ConnectError):
                await running

    return Endpoint.server_stream(method=info, function=stream)


async def _taken(call: Stream, running: "asyncio.Future[None]") -> AsyncIterator[Any]:
    """What the handler writes, until it ends; raises what it raises."""
    while True:
        coming = asyncio.ensure_future(call.messages.get())
        try:
            await asyncio.wait((coming, running), return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                yield coming.result()
                continue
        finally:
            coming.cancel()
        while not call.messages.empty():
            yield call.messages.get_nowait()
        running.result()
        return
