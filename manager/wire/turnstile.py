"""A turnstile: so many messages of streams in each round of the event loop, and the calls of others in between.

Without it a change that a thousand subscribers are told at once makes each round as long as a thousand messages, and
a single call, which needs several rounds, waits for seconds.
"""

import asyncio
from collections import deque


class Turnstile:
    """Lets `width` pass in each round of the event loop; the others wait, in their order."""

    def __init__(self, width: int) -> None:
        self._width = self._left = width
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def passed(self) -> None:
        """Returns when it is the caller's turn: at once, unless many come at the same time."""
        loop = asyncio.get_running_loop()
        if self._left and not self._waiting:
            if self._left == self._width:
                loop.call_soon(self._turn, loop)
            self._left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._width
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # whoever left meanwhile takes nobody's place
                turn.set_result(None)
                self._left -= 1
        if self._left < self._width:
            loop.call_soon(self._turn, loop)
