"""A connection of our own: frames of HTTP/2 by libnghttp2, and the calls that they are about."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import grpc
import ngh2

from manager.wire.call import Call
from manager.wire.framing import HEAD, Headers, address, asked
from manager.wire.manners import Manners
from manager.wire.tls import certificate_of, speaks_http2

log = logging.getLogger(__name__)

AGES = (0.9, 1.1)  # of the age that is set, so that connections that were made together do not end together
STREAM_WINDOW, WINDOW = 1024 * 1024, 16 * 1024 * 1024  # bytes that a client may send before any is taken
QUEUED = 16 * 1024  # bytes of a stream that may wait for its client before its handler does
HELD, HELD_BY_ALL = 16 * 1024 * 1024, 128 * 1024 * 1024  # bytes of messages that have not come in whole
UNTAKEN, UNTAKEN_BY_ALL = 64 * 1024 * 1024, 192 * 1024 * 1024  # bytes of answers that clients do not take
MUCH = 64 * 1024  # bytes, from which on it is looked how many there are
NOTICED = 1.0  # seconds for the way of a notice, where the client does not say that it has come
GOODBYE = b"goodbye!"

STRIKES = 2  # pings that come too early and are let pass, as by gRPC's own server
# many calls that are given up at once are deadlines under load, and no attack yet
CONFIGURATION = ngh2.Configuration(auto_window_update=False, stream_reset_rate_limit=(20_000, 2_000))


class Connection(asyncio.Protocol):
    """All in one loop: what one read brings is answered by one write, if the handlers are as quick."""

    def __init__(self, handlers: Mapping[str, Any], manners: Manners, connections: "set[Connection]") -> None:
        self.peer = ""
        self.certificate: Mapping[str, Sequence[bytes]] = {}
        self.held = 0
        self._handlers = handlers
        self._manners = manners
        self._connections = connections
        self.loop = asyncio.get_running_loop()
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, CONFIGURATION)
        self._calls: dict[int, Call] = {}
        self._headed: set[int] = set()  # whose answers have begun
        self._useless: set[int] = set()  # answered, while their requests still come
        self._writers: dict[int, asyncio.Future[None]] = {}  # who wait for room
        self._flushes = self._paused = self._over = False
        self._heard = self._asked = self._used = False
        self._glances = False  # whether it will be looked at which calls are late
        self._pinged_at = float("-inf")
        self._strikes = 0  # pings that came too early since anything was said
        self._leaves = self._noticed = False  # the client is to go elsewhere, and knows it
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    # what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        self._transport = cast(asyncio.Transport, transport)  # of a stream of bytes; uvloop's is of no such class
        self.peer = address(transport.get_extra_info("peername"))
        self.certificate = certificate_of(transport)
        if len(self._connections) >= self._manners.connections or not speaks_http2(transport):
            self._over = True
            self._transport.abort()
            return
        self._connections.add(self)
        self._http2.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: self._manners.streams,  # its client keeps more back
                ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: self._manners.metadata,
            }
        )
        self._http2.set_local_window_size(WINDOW)
        self._later(self._manners.handshake, self.abort)  # unless it greets before
        self._later(self._manners.quiet, self._look)
        self._later(self._manners.age * random.uniform(*AGES), self._aged)  # noqa: S311 - no secret
        self._later(self._manners.idle, self._unused)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        self._heard = True
        try:
            self._http2.receive_data(data)
        except ngh2.NGH2Error as error:
            self._broken(error)
            return
        self._hear()
        self._soon()

    def pause_writing(self) -> None:
        """As asyncio calls it."""
        self._paused = True

    def resume_writing(self) -> None:
        """As asyncio calls it."""
        self._paused = False
        self._soon()

    def connection_lost(self, error: Exception | None) -> None:
        """As asyncio calls it."""
        self._over = True
        for timer in self._timers.values():
            timer.cancel()
        for call in tuple(self._calls.values()):
            call.leave()
        self._connections.discard(self)

    # what the client says

    def _hear(self) -> None:
        for event in self._http2.events():
            match event:
                case ngh2.DataReceived():
                    self._data(event.stream_id, event.data, event.end_stream)
                case ngh2.RequestReceived():
                    self._request(event.stream_id, event.headers, event.end_stream)
                case ngh2.StreamClosed():
                    self._closed(event.stream_id)
                case ngh2.TrailersReceived():
                    if call := self._calls.get(event.stream_id):
                        call.complete()
                case ngh2.PingAcknowledged() if event.opaque_data == GOODBYE:
                    self._notice_taken()
                case ngh2.SettingsReceived():
                    self._timers[self.abort].cancel()
                case ngh2.PingReceived():
                    self._pinged()
                case ngh2.ConnectionClosed():
                    self._over = True
                    self._transport.close()

    def _request(self, number: int, headers: Headers, complete: bool) -> None:
        about = asked(headers)
        if not about.is_grpc:
            self._answer(number, ((b":status", b"415"),))
            self._useless.add(number)
            return
        handler = self._handlers.get(about.path)
        call = Call(self, number, about, handler, self._manners.message)
        self._calls[number] = call
        self._used = True
        if about.size > self._manners.metadata:
            call.stop(grpc.StatusCode.RESOURCE_EXHAUSTED, "received metadata size exceeds hard limit")
        elif handler is None:
            call.stop(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        elif about.encoding != b"identity":
            told = f"Compression algorithm '{about.encoding.decode(errors='replace')}' is disabled."
            call.stop(grpc.StatusCode.UNIMPLEMENTED, told)
        else:
            if handler.unary_unary is None:
                call.begin(about.timeout)
            else:
                call.begin(about.timeout and min(about.timeout, self._manners.longest), self._manners.deadline)
                self._glance()
            if complete:
                call.complete()

    def _data(self, number: int, data: bytes, complete: bool) -> None:
        if call := self._calls.get(number):
            call.receive(data, complete)
        else:  # it is answered already
            self.take(number, len(data))

    def _closed(self, number: int) -> None:
        self._headed.discard(number)
        self._useless.discard(number)
        if writer := self._writers.pop(number, None):
            writer.cancel()
        if call := self._calls.get(number):
            call.leave()

    def _pinged(self) -> None:
        """Who pings oftener than he may while nothing is said to him is told so, in the words that gRPC knows."""
        now = self.loop.time()
        self._strikes += now - self._pinged_at < self._manners.pings
        self._pinged_at = now
        if self._strikes > STRIKES and not self._over:
            self._http2.send_goaway(ngh2.ErrorCode.ENHANCE_YOUR_CALM, debug_data=b"too_many_pings")
            self._transport.write(self._http2.data_to_send())
            self._over = True
            self._transport.close()

    # what calls say

    def take(self, number: int, size: int) -> None:
        """So many bytes that came were taken: as many more may come."""
        if not self._over:
            with suppress(ngh2.StreamUnavailableError):
                self._http2.acknowledge_received_data(size, number)
                self._soon()

    def head(self, number: int, more: Headers = ()) -> None:
        """Begins the answer, unless it has begun."""
        if number not in self._headed and not self._over:
            self._headed.add(number)
            self._http2.send_response(number, (*HEAD, *more))
            self._soon()

    def send(self, number: int, message: bytes) -> None:
        """Queues a framed message; the answer begins with the first."""
        if not self._over:
            self._strikes = 0
            self.head(number)
            self._http2.send_data(number, message)
            self._soon()
            if len(message) > MUCH:
                self._bound_untaken()

    def answer(self, number: int, message: bytes, trailers: Headers) -> None:
        """Queues the whole of an answer that is one framed message, and of which nothing was sent yet but its head."""
        if self._over:
            return
        self._strikes = 0
        try:
            if number not in self._headed:
                self._headed.add(number)
                self._http2.send_response(number, HEAD)
            self._http2.send_data(number, message)
            self._http2.send_trailers(number, trailers)
        except ngh2.StreamUnavailableError:  # it was given up in the same breath, of which we are yet to hear
            return
        self._soon()
        if len(message) > MUCH:
            self._bound_untaken()

    @property
    def full(self) -> bool:
        """Whether more has come than may be of messages that are not whole, on this connection or on all."""
        if self.held > MUCH and sum(each.held for each in self._connections) > HELD_BY_ALL:
            return True
        return self.held > HELD

    @property
    def untaken(self) -> int:
        """Bytes of answers that the client is yet to take."""
        return 0 if self._over else self._http2.queued_body_size()

    def _bound_untaken(self) -> None:
        """Cuts off who does not take what he asks for; where all together are too many, the worst of them."""
        if self.untaken > UNTAKEN:
            self.cut_off()
        elif sum(each.untaken for each in self._connections) > UNTAKEN_BY_ALL:
            max(self._connections, key=lambda each: each.untaken).cut_off()

    def cut_off(self) -> None:
        """Ends the connection, and forgets what its client has not taken."""
        log.debug("the connection of %s is closed: what it asked for is not taken", self.peer)
        self._over = True
        self._transport.abort()

    async def room(self, number: int) -> None:
        """Returns when the client has taken almost all that was sent."""
        if not self._over and self._http2.queued_body_size(number) > QUEUED:
            self._writers[number] = self.loop.create_future()
            try:
                await self._writers[number]
            finally:
                self._writers.pop(number, None)

    def end(self, number: int, trailers: Headers, complete: bool) -> None:
        """Queues the end of the answer. What the client would still send, unless it is complete, is of no use."""
        if self._over:
            return
        self._strikes = 0
        if number in self._headed:
            self._http2.send_trailers(number, trailers)
        else:
            self._answer(number, (*HEAD, *trailers))
            if not complete:
                self._useless.add(number)
        self._soon()

    def _answer(self, number: int, headers: Headers) -> None:
        """An answer of one frame; none where the call was given up in the same breath, of which we are yet to hear."""
        with suppress(ngh2.StreamUnavailableError):
            self._http2.send_response(number, headers, end_stream=True)

    def forget(self, number: int) -> None:
        """The call is over, and its handler has returned."""
        self._calls.pop(number, None)
        if self._noticed:
            self._soon()

    # what goes to the client

    def _soon(self) -> None:
        """Writes when all that is ready now has been said: many answers are one write."""
        if not self._flushes:
            self._flushes = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        if not self._paused:
            try:
                self._write()
                self._reset_useless()  # after their answers, or these would be dropped
            except ngh2.NGH2Error as error:
                self._broken(error)
        if not self._over:
            self._make_room()

    def _write(self) -> None:
        if not self._over and (ready := self._http2.data_to_send()):
            self._transport.write(ready)
        self._hear()

    def _reset_useless(self) -> None:
        if self._useless and not self._over:
            for number in self._useless:
                self._http2.reset_stream(number, ngh2.ErrorCode.NO_ERROR)
            self._useless.clear()
            self._write()

    def _make_room(self) -> None:
        for number in [each for each in self._writers if self._http2.queued_body_size(each) <= QUEUED]:
            self._writers.pop(number).set_result(None)
        if self._noticed and not self._calls and not self._http2.queued_body_size():
            self._close()

    def _broken(self, error: ngh2.NGH2Error) -> None:
        log.debug("the connection of %s is closed: %s", self.peer, error)
        self._over = True
        self._transport.abort()

    # how long it lasts

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        self._timers[then] = self.loop.call_later(seconds, then)

    def _look(self) -> None:
        """Who has said nothing for long is asked, and who does not answer is gone."""
        if self._over or (self._asked and not self._heard):
            self._transport.abort()
            return
        self._asked = not self._heard
        self._heard = False
        if self._asked:
            self._http2.ping()
            self._soon()
        self._later(self._manners.patience if self._asked else self._manners.quiet, self._look)

    def _glance(self) -> None:
        """Has it looked at in a while which calls are late."""
        if not self._glances:
            self._glances = True
            self._later(self._manners.glance, self._end_late)

    def _end_late(self) -> None:
        """Ends the calls that came without a deadline and have had their time."""
        self._glances = False
        for call in tuple(self._calls.values()):
            left = call.time_remaining()
            if left == 0:
                call.expire()
            elif left is not None:
                self._glance()

    def _unused(self) -> None:
        """A connection without a call since it was looked at last is made anew when it is needed."""
        if self._calls or self._used:
            self._used = bool(self._calls)
            self._later(self._manners.idle, self._unused)
        else:
            self.leave()

    def _aged(self) -> None:
        self.leave()
        self._later(self._manners.farewell, self.stop)

    def leave(self) -> None:
        """Sends the client elsewhere, and closes when its calls have ended.

        Calls that it has sent before it knows are still served: so the end is named only when the notice has come.
        """
        if self._over or self._leaves:
            return
        self._leaves = True
        self._http2.send_shutdown_notice()
        self._http2.ping(GOODBYE)
        self._later(NOTICED, self._notice_taken)
        self._soon()

    def _notice_taken(self) -> None:
        if not (self._noticed or self._over):
            self._noticed = True
            self._http2.send_goaway()
            self._soon()

    def stop(self) -> None:
        """Ends the calls that are still open, and the connection."""
        for call in tuple(self._calls.values()):
            call.stop(grpc.StatusCode.UNAVAILABLE, "this connection has ended; retry on another")
        self._flush()
        if not self._over:
            self._close()

    def abort(self) -> None:
        """Ends the connection as it is."""
        self._transport.abort()

    def _close(self) -> None:
        self._http2.terminate_connection()
        self._write()
        self._over = True
        self._transport.close()
