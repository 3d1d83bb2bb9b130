"""A lane: calls that wait together travel together. One owner, one batch at a time, a bounded queue."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from time import monotonic
from typing import Generic, TypeVar

from manager.domain.refusals import Exhausted, Refusal, Unavailable

log = logging.getLogger(__name__)

LARGE = 0.25  # of the size that a batch may have
HANGS = "the database does not answer; retry elsewhere"

C = TypeVar("C")
R = TypeVar("R")


@dataclass(slots=True)
class Entry(Generic[C, R]):
    """Calls that came together and stay together. One future for all: one for each costs more than the call."""

    calls: Sequence[C]
    answer: "asyncio.Future[Sequence[R | Exception]]"

    def settle(self, answers: Sequence[R | Exception]) -> None:
        """Answers, unless nobody waits for it any more."""
        if not self.answer.done():
            self.answer.set_result(answers)


class Queue(Generic[C, R]):
    """Entries in their order, and how many calls that are."""

    def __init__(self) -> None:
        self.entries: deque[Entry[C, R]] = deque()
        self.calls = 0

    def append(self, entry: Entry[C, R]) -> None:
        """The last one from now on."""
        self.entries.append(entry)
        self.calls += len(entry.calls)

    def take(self, room: int) -> Entry[C, R] | None:
        """The first one, if there is room for so many calls as it has."""
        if not self.entries or len(self.entries[0].calls) > room:
            return None
        entry = self.entries.popleft()
        self.calls -= len(entry.calls)
        return entry


class Lane(Generic[C, R]):
    """Collects calls and runs them in batches; each waiter gets its own answer. The urgent ones go first.

    An idle lane runs at once. A busy one lingers for as long as its last batch took, `linger` at most: half of its time
    for company, since most of what a small batch costs is the batch; a batch that is large already is not kept. One
    that takes longer than `patience` hangs: until
    it ends, its waiters and all who wait or come are told to ask elsewhere.
    `meter` hears of each batch that has ended: how many calls it had, and how many seconds it took.
    """

    def __init__(
        self,
        run: Callable[[Sequence[C]], Awaitable[Sequence[R | Refusal]]],
        *,
        linger: timedelta,
        size: int,
        queue: int,
        urgent: Callable[[C], bool] = lambda _: False,
        patience: timedelta | None = None,
    ) -> None:
        self._run = run
        self.meter: Callable[[int, float], None] = lambda calls, seconds: None
        self._linger = linger.total_seconds()
        self._size = size
        self._queue = queue
        self._urgent = urgent
        self._patience = patience.total_seconds() if patience else None
        self._hangs = False
        self._waiting: Queue[C, R] = Queue()
        self._ahead: Queue[C, R] = Queue()
        self._arrived = asyncio.Event()
        self._closed = False

    async def submit(self, call: C) -> R:
        """The answer to a call. Whoever stops waiting does not stop the batch that the call is in."""
        (answer,) = await self._enter([call])
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)  # others may raise the same one, each with a traceback of its own
        return answer

    async def submit_many(self, calls: Sequence[C]) -> list[R | Exception]:
        """The answers to many of one kind, in their order; whichever was refused, or failed, is answered by that."""
        parts = [calls[start : start + self._size] for start in range(0, len(calls), self._size)]
        return list(chain.from_iterable(await asyncio.gather(*map(self._enter, parts))))

    def _enter(self, calls: Sequence[C]) -> "asyncio.Future[Sequence[R | Exception]]":
        entry: Entry[C, R] = Entry(calls, asyncio.get_running_loop().create_future())
        queue = self._ahead if self._urgent(calls[0]) else self._waiting
        refusal = self._refusal(queue.calls + len(calls))
        if refusal:
            entry.settle([refusal] * len(calls))
        else:
            queue.append(entry)
            self._arrived.set()
        return entry.answer

    def _refusal(self, waiting: int) -> Refusal | None:
        if self._closed:
            return Unavailable("this server is stopping; retry elsewhere")
        if self._hangs:
            return Unavailable(HANGS)
        if waiting > self._queue:
            return Exhausted("too many calls are waiting; retry later", timedelta(seconds=1))
        return None

    async def serve(self) -> None:
        """Runs batches until the lane is closed and empty."""
        while not (self._closed and not self._left()):
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._take():
                begun = monotonic()
                await self._answer(batch)
                if 0 < self.waiting < self._size * LARGE and not self._closed:
                    await asyncio.sleep(min(self._linger, monotonic() - begun))

    def close(self) -> None:
        """Takes no more calls; those that wait are still served."""
        self._closed = True
        self._arrived.set()

    @property
    def waiting(self) -> int:
        """How many calls wait for a batch."""
        return self._ahead.calls + self._waiting.calls

    def _left(self) -> bool:
        return bool(self.waiting)

    def _take(self) -> list[Entry[C, R]]:
        batch: list[Entry[C, R]] = []
        room = self._size
        while entry := self._ahead.take(room) or self._waiting.take(room):
            if not entry.answer.done():  # else nobody waits for it any more: it never happens
                batch.append(entry)
                room -= len(entry.calls)
        return batch

    async def _answer(self, batch: Sequence[Entry[C, R]]) -> None:
        calls = [call for entry in batch for call in entry.calls]
        answers: Sequence[R | Exception]
        begun = monotonic()
        try:
            answers = await self._ran(batch, calls)
        except Exception as error:
            if not isinstance(error, Refusal):
                log.exception("a batch of %d failed", len(calls))
            answers = [error] * len(calls)
        finally:
            self._hangs = False
            self.meter(len(calls), monotonic() - begun)
        begin = 0
        for entry in batch:
            entry.settle(answers[begin : begin + len(entry.calls)])
            begin += len(entry.calls)

    async def _ran(self, batch: Sequence[Entry[C, R]], calls: Sequence[C]) -> Sequence[R | Refusal]:
        if self._patience is None:
            return await self._run(calls)
        late = asyncio.get_running_loop().call_later(self._patience, self._give_up, batch)
        try:
            return await self._run(calls)
        finally:
            late.cancel()

    def _give_up(self, batch: Sequence[Entry[C, R]]) -> None:
        """What the batch does is not undone: nobody knows yet what becomes of it."""
        self._hangs = True
        calls = sum(len(entry.calls) for entry in batch)
        log.warning("the database has not answered a batch of %d for %.1f s", calls, self._patience)
        for entry in (*batch, *self._ahead.entries, *self._waiting.entries):
            entry.settle([Unavailable(HANGS)] * len(entry.calls))
