"""One call on a connection of our own: its requests, the context of its handler, and its end."""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol, Self

import grpc
from grpc import aio

from manager.wire.framing import PREFIX, Asked, Headers, Metadata, framed, trailers, written

log = logging.getLogger(__name__)

ONE = "the request is not exactly one message"


class Wire(Protocol):
    """The connection, as a call knows it. A number is that of a stream of HTTP/2."""

    loop: asyncio.AbstractEventLoop
    peer: str
    certificate: Mapping[str, Sequence[bytes]]  # what is in the client's
    held: int  # bytes of messages that have not come in whole

    @property
    def full(self) -> bool:
        """Whether these are more than may be, on this connection or on all."""

    def take(self, number: int, size: int) -> None:
        """So many bytes that came were taken: as many more may come."""

    def head(self, number: int, more: Headers) -> None:
        """Begins the answer, unless it has begun."""

    def send(self, number: int, message: bytes) -> None:
        """Queues a framed message; the answer begins with the first."""

    def answer(self, number: int, message: bytes, trailers: Headers) -> None:
        """Queues the whole of an answer that is one framed message, and of which nothing was sent yet but its head."""

    async def room(self, number: int) -> None:
        """Returns when the client has taken almost all that was sent."""

    def end(self, number: int, trailers: Headers, complete: bool) -> None:
        """Queues the end of the answer. What the client would still send, unless it is complete, is of no use."""

    def forget(self, number: int) -> None:
        """The call is over, and its handler has returned."""


class Call:
    """What comes from the client, and, as the context of the handler, as much as our services ask of gRPC's."""

    __slots__ = (
        "_arrived",
        "_asked",
        "_buffer",
        "_complete",
        "_due",
        "_ended",
        "_handler",
        "_held",
        "_limit",
        "_messages",
        "_number",
        "_owed",
        "_runs",
        "_task",
        "_timer",
        "_trailing",
        "_wire",
    )

    def __init__(self, wire: Wire, number: int, asked: Asked, handler: Any, limit: int) -> None:
        self._wire = wire
        self._number = number
        self._asked = asked
        self._handler = handler
        self._limit = limit
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._complete = False  # nothing more will come
        self._held = 0  # bytes of a message that has not come in whole
        self._owed = 0  # bytes that came, but will be taken with a message that waits
        self._arrived: asyncio.Future[None] | None = None
        self._trailing: Metadata = ()
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        self._runs = False
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None  # by the loop's clock

    def begin(self, timeout: float | None, default: float | None = None) -> None:
        """Sets the deadline; a handler of many requests starts with the first or without any.

        The `default`, for a call whose client names no timeout, is the connection's to look at: a timer for each costs
        more than all else that is done for a call here.
        """
        if timeout is not None:
            self._due = self._wire.loop.time() + timeout
            self._timer = self._wire.loop.call_later(timeout, self.expire)
        elif default is not None:
            self._due = self._wire.loop.time() + default
        if self._handler.request_streaming:
            self._start()

    def _start(self) -> None:
        self._task = self._wire.loop.create_task(self._run())

    def receive(self, data: bytes, complete: bool) -> None:
        """Bytes that the client has sent, the last of them where it is complete."""
        # one message may wait for a handler of many, and what fits the window of the stream: not more
        waits = bool(self._messages)
        if not (self._buffer or waits) and self._is_one(data):
            self._messages.append(data[PREFIX.size :])
            self._wake()
        else:
            self._buffer += data
            self._split()
            self._hold()
        if waits and self._handler.request_streaming:
            self._owed += len(data)
        else:
            self._wire.take(self._number, len(data))
        if complete:
            self.complete()
        elif self._held and self._wire.full:
            self.stop(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much of messages has come, and of none all")

    def _is_one(self, data: bytes) -> bool:
        """Whether these are one message, as most often they are, which needs no buffer."""
        if len(data) < PREFIX.size or self._ended:
            return False
        compressed, length = PREFIX.unpack_from(data)
        return not compressed and length == len(data) - PREFIX.size <= self._limit

    def _hold(self) -> None:
        self._wire.held += len(self._buffer) - self._held
        self._held = len(self._buffer)

    def _split(self) -> None:
        while len(self._buffer) >= PREFIX.size and not self._ended:
            compressed, length = PREFIX.unpack_from(self._buffer)
            end = PREFIX.size + length
            if compressed:
                self.stop(grpc.StatusCode.INTERNAL, "a compressed message in a call that named no compression")
            elif length > self._limit:
                told = f"SERVER: Received message larger than max ({length} vs. {self._limit})"
                self.stop(grpc.StatusCode.RESOURCE_EXHAUSTED, told)
            elif len(self._buffer) < end:
                return
            elif self._messages and not self._handler.request_streaming:
                self.stop(grpc.StatusCode.INTERNAL, ONE)
            else:
                with memoryview(self._buffer) as view:
                    self._messages.append(bytes(view[PREFIX.size : end]))
                del self._buffer[:end]
                self._wake()

    def complete(self) -> None:
        """The client has sent all; a handler of one request starts with it."""
        self._complete = True
        if self._handler.request_streaming or self._ended:
            self._wake()
        elif not self._messages or self._buffer:
            self.stop(grpc.StatusCode.INTERNAL, ONE)
        else:
            self._start()

    def _wake(self) -> None:
        if self._arrived and not self._arrived.done():
            self._arrived.set_result(None)

    def __aiter__(self) -> Self:
        """The requests, for a handler of many."""
        return self

    async def __anext__(self) -> Any:
        while not self._messages:
            if self._complete:
                raise StopAsyncIteration
            self._arrived = self._wire.loop.create_future()
            await self._arrived
        message = self._messages.popleft()
        if not self._messages:
            self._take_owed()
        return self._handler.request_deserializer(message)

    def _take_owed(self) -> None:
        owed, self._owed = self._owed, 0
        if owed:
            self._wire.take(self._number, owed)

    async def _run(self) -> None:
        """The handler, from its request to the end of its answer."""
        self._runs = True
        try:
            if self._handler.unary_unary is None:
                await self._stream()
                self.end(grpc.StatusCode.OK, "", self._trailing)
            else:
                request = self._handler.request_deserializer(self._messages.popleft())
                answer = self._handler.response_serializer(await self._handler.unary_unary(request, self))
                if not self._ended:
                    self._ended = True
                    told = trailers(grpc.StatusCode.OK, "", self._trailing)
                    self._wire.answer(self._number, framed(answer), told)
        except aio.AbortError:  # it has said how it ends
            pass
        except asyncio.CancelledError:
            self.end(grpc.StatusCode.CANCELLED)
        except Exception:
            log.exception("a handler failed")  # the gate lets no exception through
            self.end(grpc.StatusCode.INTERNAL, "a fault of the server's")
        finally:
            self._over()

    async def _stream(self) -> None:
        if self._handler.request_streaming:
            answers = self._handler.stream_stream(self, self)
        else:
            answers = self._handler.unary_stream(self._handler.request_deserializer(self._messages.popleft()), self)
        if inspect.isawaitable(answers):  # it writes by itself
            await answers
            return
        try:
            async for each in answers:
                await self.write(each)
        finally:
            await answers.aclose()

    def _over(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._take_owed()
        self._buffer.clear()
        self._hold()
        self._wire.forget(self._number)

    def time_remaining(self) -> float | None:
        """How many seconds are left to it; None where there is no end to them."""
        return None if self._due is None else max(0.0, self._due - self._wire.loop.time())

    def expire(self) -> None:
        """Its time is over."""
        if not self._ended:
            self.stop(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def leave(self) -> None:
        """The client is gone, or has had its answer."""
        self._ended = True
        self._cancel()

    def stop(self, code: grpc.StatusCode, message: str) -> None:
        """Ends it before its handler does."""
        self.end(code, message)
        self._cancel()

    def _cancel(self) -> None:
        if self._task:
            self._task.cancel()
        if not self._runs:  # nor ever will
            self._over()

    def end(self, code: grpc.StatusCode, message: str = "", trailing: Metadata = ()) -> None:
        """Tells the client how it ends, unless it knows."""
        if self._ended:
            return
        self._ended = True
        self._wire.end(self._number, trailers(code, message, trailing), self._complete)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the client sent beside the request."""
        return self._asked.metadata

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What is in the client's certificate, where it was asked for one."""
        return self._wire.certificate

    def peer(self) -> str:
        """The client's address, as gRPC writes it."""
        return self._wire.peer

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """What goes before the first message, at once."""
        if not self._ended:
            self._wire.head(self._number, written(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """What goes with the status."""
        self._trailing = trailing_metadata

    async def write(self, message: Any) -> None:
        """Sends one message of many; returns when the client has taken almost all that went before."""
        if self._ended:
            return
        self._wire.send(self._number, framed(self._handler.response_serializer(message)))
        await self._wire.room(self._number)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with an error."""
        self.end(code, details, trailing_metadata or self._trailing)
        raise aio.AbortError("aborted by its handler")
