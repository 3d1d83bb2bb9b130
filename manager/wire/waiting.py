"""A connection of HTTP that waits for its client so long, and no longer: uvicorn's own waits for a request for ever."""

import sys
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from manager.wire.guard import TOO_MUCH

GLANCE = 2.0  # seconds between two looks at a connection
PATIENCE = 20.0  # seconds for a request to come whole
UNTAKEN = 60.0  # seconds for a client to take any of its answer: a slow network takes it by the megabyte
TAKEN = 16 * 1024  # bytes of an answer that are taken from one look to the next, or it counts as waiting


class Waiting(H11Protocol):
    """Closed by us where a request does not come whole in time, or where its client takes nothing of the answer.

    Whoever asks anew before he is answered has that one answer and no other: a packet of such requests would keep a
    connection, and us, busy for as long as it takes to answer all of them, whether or not anybody listens.
    """

    def connection_made(self, transport: Any) -> None:
        """As asyncio calls it."""
        super().connection_made(transport)
        self._since, self._left = self.loop.time(), 0
        self._timer = self.loop.call_later(GLANCE, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        if self.conn.their_state is h11.ERROR:  # it is refused, and only to be heard out
            return
        super().data_received(data)
        # only before the answer: once some of it is sent, its client may have all of it, and rightly ask for the next
        more = self.conn.their_state is h11.DONE and self.conn.trailing_data[0]
        if more and self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """As uvicorn calls it: the time of the next request begins."""
        self._since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn calls it, of what is no HTTP; also where it has begun to answer what came right before."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # or its answer would be a fault, in the log
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
        elif getattr(sys.exception(), "error_status_hint", None) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            self._send_too_much()
        else:
            super().send_400_response(msg)

    def _send_too_much(self) -> None:
        """Of a request that is so long that we do not wait for its end; in the guard's words."""
        begun = b"\n" in self.conn.trailing_data[0]
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if begun else HTTPStatus.REQUEST_URI_TOO_LONG
        head = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
        answer = h11.Response(status_code=status, headers=head, reason=status.phrase)
        for event in (answer, h11.Data(data=TOO_MUCH[status].encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()  # what is still on its way would take the answer along, if nobody heard it
        else:
            self.transport.close()

    def _look(self) -> None:
        # by the clock: where thousands are looked at, the looks are late, and are too few to count
        now = self.loop.time()
        if not self._waits():
            self._since = now
        if now - self._since >= (UNTAKEN if self.flow.write_paused else PATIENCE):
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(GLANCE, self._look)

    def _waits(self) -> bool:
        """Whether it is the client's turn. A request may come slowly, but all of it in time; of an answer some has to
        be taken now and then."""
        before, self._left = self._left, self._untaken()
        if before - self._left >= TAKEN:
            return False
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body or self.flow.write_paused

    def _untaken(self) -> int:
        """Bytes of the answer; none where asyncio cannot say."""
        try:
            return int(self.transport.get_write_buffer_size())
        except AttributeError:  # its TLS that is closed twice, as at a stop, forgets itself; the goodbye has an end
            return 0
