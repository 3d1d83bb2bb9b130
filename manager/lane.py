"""A lane: calls that wait together travel together. One owner, one batch at a time, a bounded queue."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

from manager.domain.refusals import Exhausted, Refusal, Unavailable

log = logging.getLogger(__name__)

HANGS = "the database does not answer; retry elsewhere"

C = TypeVar("C")
R = TypeVar("R")


class Lane(Generic[C, R]):
    """Collects calls and runs them in batches; each waiter gets its own answer. The urgent ones go first.

    An idle lane runs at once. A busy one lingers a little, since small batches cost the database most. A batch that
    takes longer than `patience` hangs: until it ends, its waiters and all who wait or come are told to ask elsewhere.
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
        self._linger = linger.total_seconds()
        self._size = size
        self._queue = queue
        self._urgent = urgent
        self._patience = patience.total_seconds() if patience else None
        self._hangs = False
        self._waiting: deque[tuple[C, asyncio.Future[R]]] = deque()
        self._ahead: deque[tuple[C, asyncio.Future[R]]] = deque()
        self._arrived = asyncio.Event()
        self._closed = False

    async def submit(self, call: C) -> R:
        """The answer to a call. Whoever stops waiting does not stop the batch that the call is in."""
        return await self._enter(call)

    async def submit_many(self, calls: Sequence[C]) -> list[R | Exception]:
        """The answers to many, in their order; whichever was refused, or failed, is answered by that."""
        entered = [self._entered(call) for call in calls]
        answers = [each for each in entered if isinstance(each, asyncio.Future)]
        try:
            if answers:
                await asyncio.wait(answers)
        except asyncio.CancelledError:
            for each in answers:
                each.cancel()
            raise
        return [each if isinstance(each, Refusal) else _outcome(each) for each in entered]

    def _entered(self, call: C) -> "asyncio.Future[R] | Refusal":
        try:
            return self._enter(call)
        except Refusal as refusal:
            return refusal

    def _enter(self, call: C) -> asyncio.Future[R]:
        if self._closed:
            raise Unavailable("this server is stopping; retry elsewhere")
        if self._hangs:
            raise Unavailable(HANGS)
        waiting = self._ahead if self._urgent(call) else self._waiting
        if len(waiting) >= self._queue:
            raise Exhausted("too many calls are waiting; retry later", timedelta(seconds=1))
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        waiting.append((call, answer))
        self._arrived.set()
        return answer

    async def serve(self) -> None:
        """Runs batches until the lane is closed and empty."""
        while not (self._closed and not self._left()):
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._take():
                await self._answer(batch)
                if self._left() and not self._closed:
                    await asyncio.sleep(self._linger)

    def close(self) -> None:
        """Takes no more calls; those that wait are still served."""
        self._closed = True
        self._arrived.set()

    def _left(self) -> bool:
        return bool(self._ahead or self._waiting)

    def _take(self) -> list[tuple[C, asyncio.Future[R]]]:
        batch: list[tuple[C, asyncio.Future[R]]] = []
        while self._left() and len(batch) < self._size:
            call, answer = (self._ahead or self._waiting).popleft()
            if not answer.done():  # nobody waits for it any more: it never happens
                batch.append((call, answer))
        return batch

    async def _answer(self, batch: Sequence[tuple[C, asyncio.Future[R]]]) -> None:
        answers: Sequence[R | Refusal | Exception]
        try:
            answers = await self._ran(batch)
        except Exception as error:
            if not isinstance(error, Refusal):
                log.exception("a batch of %d failed", len(batch))
            answers = [error] * len(batch)
        finally:
            self._hangs = False
        for (_, answer), given in zip(batch, answers, strict=True):
            if answer.done():
                continue
            if isinstance(given, Exception):
                answer.set_exception(given)
            else:
                answer.set_result(given)

    async def _ran(self, batch: Sequence[tuple[C, asyncio.Future[R]]]) -> Sequence[R | Refusal]:
        calls = [call for call, _ in batch]
        if self._patience is None:
            return await self._run(calls)
        late = asyncio.get_running_loop().call_later(self._patience, self._give_up, batch)
        try:
            return await self._run(calls)
        finally:
            late.cancel()

    def _give_up(self, batch: Sequence[tuple[C, asyncio.Future[R]]]) -> None:
        """What the batch does is not undone: nobody knows yet what becomes of it."""
        self._hangs = True
        log.warning("the database has not answered a batch of %d for %.1f s", len(batch), self._patience)
        for _, answer in (*batch, *self._ahead, *self._waiting):
            if not answer.done():
                answer.set_exception(Unavailable(HANGS))


def _outcome(answer: "asyncio.Future[Any]") -> Any:
    try:
        return answer.result()
    except Exception as error:
        return error
