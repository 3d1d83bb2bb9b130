"""A connection of HTTP that waits for its client so long, and no longer: uvicorn's own waits for a request for ever."""

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

GLANCE = 2.0  # seconds between two looks at a connection
PATIENCE = 20.0  # seconds for a request to come whole
UNTAKEN = 60.0  # seconds for a client to take any of its answer: a slow network takes it by the megabyte
TAKEN = 16 * 1024  # bytes of an answer that are taken from one look to the next, or it counts as waiting


class Waiting(H11Protocol):
    """Closed by us where a request does not come whole in time, or where its client takes nothing of the answer."""

    def connection_made(self, transport: Any) -> None:
        """As asyncio calls it."""
        super().connection_made(transport)
        self._waited, self._left = 0.0, 0
        self._timer = self.loop.call_later(GLANCE, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """As uvicorn calls it, of what is no HTTP; also where it has begun to answer what came right before."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # or its answer would be a fault, in the log
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _look(self) -> None:
        self._waited = self._waited + GLANCE if self._waits() else 0.0
        if self._waited >= (UNTAKEN if self.flow.write_paused else PATIENCE):
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(GLANCE, self._look)

    def _waits(self) -> bool:
        """Whether it is the client's turn. A request may come slowly, but all of it in time; of an answer some has to
        be taken now and then."""
        before, self._left = self._left, self.transport.get_write_buffer_size()
        if before - self._left >= TAKEN:
            return False
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body or self.flow.write_paused
