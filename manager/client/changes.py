"""The changes of a fleet, as one reader takes them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from manager.client.change import Change, Resynced
from manager.client.member import Member


class Changes:
    """What changes from the moment on at which it was made, in order: `async for change in changes`.

    At most `most` changes wait for the reader. When there would be more, they are dropped, and the next thing that the
    reader hears is one `Resynced` with the fleet as it is then, from which the changes go on without a gap. It ends
    when the fleet is closed, and raises what ended the fleet otherwise. For one reader; make another for another.
    """

    def __init__(self, look: Callable[[], tuple[tuple[Member, ...], int]], most: int) -> None:
        self._look = look
        self._most = most
        self._waiting: deque[Change] = deque()
        self._missed = 0
        self._ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def offer(self, changes: Sequence[Change]) -> None:
        """Some more; for the fleet to call."""
        if self._missed or len(self._waiting) + len(changes) > self._most:
            self._missed += len(self._waiting) + len(changes)
            self._waiting.clear()
        else:
            self._waiting.extend(changes)
        self._news.set()

    def end(self, error: Exception | None) -> None:
        """There will be no more; for the fleet to call."""
        self._ended, self._error = True, error
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._missed and not self._waiting:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return Resynced(*self._look(), missed)
        return self._waiting.popleft()
