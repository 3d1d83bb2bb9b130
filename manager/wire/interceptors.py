"""What happens around every call: who calls, the version gate, and no exception's text to any client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from time import monotonic
from typing import Any, TypeAlias

import grpc
from grpc import aio

from manager.domain.refusals import Unauthenticated
from manager.meters import Meters, Method
from manager.pb.version import ACCEPTED, PROTO_VERSION
from manager.wire.authority import NO_LONGER, Authority, Caller, Door
from manager.wire.deadlines import USUAL, Deadlines, is_over, within
from manager.wire.quotas import NONE, Quota, Quotas
from manager.wire.rights import PUBLIC
from manager.wire.status import VersionMismatch, status_of
from manager.wire.undecodable import Undecodable, readable, tolerant

DETAILS = "grpc-status-details-bin"
EXEMPT = ("/grpc.health.", "/grpc.reflection.")
KEY = "proto_version"
HEARD_WITHIN = 0.5  # seconds
OK, CANCELLED, NOT_FOUND, DEADLINE_EXCEEDED = "OK", "CANCELLED", "NOT_FOUND", "DEADLINE_EXCEEDED"


# gRPC's class has type parameters for the type checker alone
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class NothingTaken(Exception):
    """Thrown into a stream whose client took no message for too long."""


class Gate:
    """Where services are registered, as on a server: `handlers` are all their methods by their paths, behind the gate.

    They are wrapped here and not by an interceptor of gRPC's, which would be asked anew at each call. A stream may wait
    `patience` for its client, a single call has until its deadline. Without an authority nobody is asked who calls;
    with one, a method that its table does not name cannot be registered, and each caller has its `quotas`.
    """

    def __init__(
        self,
        patience: timedelta,
        meters: Meters,
        authority: Authority | None = None,
        deadlines: Deadlines = USUAL,
        quotas: Quotas | None = None,
    ) -> None:
        self._patience = patience.total_seconds()
        self._meters = meters
        self._authority = authority
        self._deadlines = deadlines
        self._quotas = quotas
        self.handlers: dict[str, Handler] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """As generated code calls it."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            wrap = _exempt if method.startswith(EXEMPT) else _wrap
            door = self._authority.door(method) if self._authority and method not in PUBLIC else None
            quota = self._quotas.of(method) if self._quotas else NONE
            around = Around(method, self._meters.method(method), self._patience, door, self._deadlines, quota)
            self.handlers[method] = wrap(handler, around)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """The same methods once more, for servers that know nothing newer."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a method has around it. `door`: who may call; None: everybody. `deadlines`: of single calls."""

    method: str
    meter: Method
    patience: float
    door: Door | None
    deadlines: Deadlines | None
    quota: Quota


def _wrap(handler: Handler, around: Around) -> Handler:
    assert handler.request_deserializer is not None and handler.response_serializer is not None  # noqa: S101, PT018
    decode, encode = tolerant(around.method, handler.request_deserializer), _ready(handler.response_serializer)
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary, _admit, around), decode, encode)
    behaviour: Any = handler.unary_stream
    if behaviour is not None:
        return grpc.unary_stream_rpc_method_handler(_stream(behaviour, around), decode, encode)
    behaviour = handler.stream_stream  # the contract has no other kind
    return grpc.stream_stream_rpc_method_handler(_dialogue(behaviour, _speaks, around), decode, encode)


def _exempt(handler: Handler, around: Around) -> Handler:
    """Health and reflection, which bring their own handlers: asked for no version, and as discreet as ours."""
    assert handler.request_deserializer is not None and handler.response_serializer is not None  # noqa: S101, PT018
    decode, encode = tolerant(around.method, handler.request_deserializer), handler.response_serializer
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary, _read, around), decode, encode)
    behaviour: Any = handler.unary_stream
    if behaviour is not None:  # it writes by itself, so that it is awaited like a single call
        watched = replace(around, deadlines=None)
        watched.meter.single = False
        return grpc.unary_stream_rpc_method_handler(_unary(behaviour, _read, watched), decode, encode)
    behaviour = handler.stream_stream
    return grpc.stream_stream_rpc_method_handler(_dialogue(behaviour, _anybody, around), decode, encode)


def _ready(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A message that is shared by many comes serialized."""
    return lambda message: message if isinstance(message, bytes) else serializer(message)


def _unary(
    behaviour: Callable[[Any, Any], Coroutine[Any, Any, Any]], admit: Callable[[Any, Any], None], around: Around
) -> Callable[[Any, Any], Awaitable[Any]]:
    meter, door, deadlines, quota = around.meter, around.door, around.deadlines, around.quota

    def open_to_all(request: Any, context: aio.ServicerContext[Any, Any]) -> Coroutine[Any, Any, Any]:
        admit(request, context)
        return behaviour(request, context)

    async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        caller = await door.enter(context) if door else None
        admit(request, context)
        if door and caller:
            door.judge(caller, request, context)
            quota.take(caller.principal.name, request)
        if quota.crowd is None:
            return await behaviour(request, context)
        with quota.crowded():
            return await behaviour(request, context)

    answered = open_to_all if door is None and quota.crowd is None else guarded

    async def handle(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        begun, ending = monotonic(), CANCELLED
        limit = deadlines.missing(context.time_remaining()) if deadlines else None
        try:
            answering = answered(request, context)
            answer = await (answering if limit is None else within(limit, answering))
            ending = OK
            return answer
        except asyncio.CancelledError:
            if deadlines and is_over(context):
                ending = DEADLINE_EXCEEDED
            raise
        except aio.AbortError:  # it has said already what is wrong: that it knows of no such service's health
            ending = NOT_FOUND
            raise
        except Exception as error:
            code, message, details = status_of(error)
            ending = code.name
        finally:
            meter.unary(ending, monotonic() - begun)
        return await context.abort(code, message, ((DETAILS, details),))

    return handle


def _dialogue(
    behaviour: Callable[[Any, Any], AsyncIterator[Any]], admit: Callable[[Any], None], around: Around
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    meter, door, quota = around.meter, around.door, around.quota

    async def handle(requests: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        ending = CANCELLED
        try:
            try:
                caller = await door.enter(context) if door else None
                admit(context)
            except Exception:
                await _heard(requests)
                raise
            coming = readable(requests)
            if door and caller:
                coming = _judged(around, caller, door.while_good(caller, coming), context)
            with quota.stream(caller.principal.name) if caller else nullcontext():
                async for answer in behaviour(coming, context):
                    yield answer
            ending = OK
        except Exception as error:
            code, message, details = status_of(error)
            ending = code.name
            await context.abort(code, message, ((DETAILS, details),))
        finally:
            meter.stream(ending)

    return handle


async def _heard(requests: Any) -> None:
    """Returns once the client has sent something, or is not about to: gRPC's own takes an end that comes while it sends
    for a failure of its own, and would not learn why it is refused."""
    with suppress(TimeoutError, StopAsyncIteration):
        async with asyncio.timeout(HEARD_WITHIN):
            await anext(aiter(requests))


async def _judged(
    around: Around, caller: Caller, requests: AsyncIterator[Any], context: aio.ServicerContext[Any, Any]
) -> AsyncIterator[Any]:
    """The requests of a stream, up to one about somebody whom the caller may not act for, or beyond its quota."""
    assert around.door is not None  # noqa: S101 - or there would be no caller
    async for each in requests:
        around.door.judge(caller, each, context)
        around.quota.take(caller.principal.name, each)
        yield each


def _stream(behaviour: Callable[[Any, Any], AsyncGenerator[Any, None]], around: Around) -> Callable[[Any, Any], Any]:
    meter, door, patience, quota = around.meter, around.door, around.patience, around.quota

    async def handle(request: Any, context: aio.ServicerContext[Any, Any]) -> None:
        messages, ending = behaviour(request, context), CANCELLED
        try:
            caller = await door.enter(context) if door else None
            _admit(request, context)
            if door and caller:
                door.judge(caller, request, context)
                with quota.stream(caller.principal.name):
                    await _while_good(door, caller, _send(messages, context, patience, door))
            else:
                await _send(messages, context, patience, None)
            ending = OK
        except Exception as error:
            code, message, details = status_of(error)
            ending = code.name
            await context.abort(code, message, ((DETAILS, details),))
        finally:
            meter.stream(ending)
            await messages.aclose()

    return handle


async def _while_good(door: Door, caller: Caller, sending: Coroutine[Any, Any, None]) -> None:
    """Sends for as long as the caller may call; then raises Unauthenticated, or Unavailable where nobody can say."""
    try:
        async with asyncio.timeout(None) as good:

            def ended() -> None:
                if not good.expired():
                    good.reschedule(0)

            with door.held(caller, ended):
                await sending
    except TimeoutError:
        if not good.expired():
            raise
        raise Unauthenticated(NO_LONGER) from None


async def _send(
    messages: AsyncGenerator[Any, None], context: aio.ServicerContext[Any, Any], patience: float, door: Door | None
) -> None:
    async for message in messages:
        if door:
            await door.sure()
        try:
            async with asyncio.timeout(patience):
                await context.write(message)
        except TimeoutError:
            await messages.athrow(NothingTaken(f"nothing was taken for {patience:g} s: go on from the resume_token"))


def _admit(request: Any, context: aio.ServicerContext[Any, Any]) -> None:
    """Raises unless the caller speaks a version of the contract that is served, and its request could be read."""
    _speaks(context)
    _read(request, context)


def _anybody(_context: aio.ServicerContext[Any, Any]) -> None:
    """Whichever version the caller speaks."""


def _speaks(context: aio.ServicerContext[Any, Any]) -> None:
    """Raises unless the caller speaks a version of the contract that is served."""
    spoken = None
    for key, value in context.invocation_metadata() or ():
        if key == KEY:
            spoken = value
            break
    if spoken not in ACCEPTED:
        raise VersionMismatch(
            f"this server speaks proto_version {PROTO_VERSION}, and the call came with {_shown(spoken)}: generate the"
            " client from the server's proto files, and send the content of proto/proto_version as the metadata"
            " proto_version"
        )


def _read(request: Any, context: aio.ServicerContext[Any, Any]) -> None:
    """Raises unless the request could be read."""
    if isinstance(request, Undecodable):
        raise request.refusal()


def _shown(spoken: str | bytes | None) -> str:
    """What the caller sent, cut to a hash's length and cleared of what a terminal would obey."""
    if spoken is None:
        return "none"
    text = spoken if isinstance(spoken, str) else spoken.decode(errors="replace")
    return "".join(each if each.isprintable() else "?" for each in text[:64])
