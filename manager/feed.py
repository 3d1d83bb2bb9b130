"""The feed: one reader of the history a process, and a bounded ring of what it read last for all subscriptions.

A subscription is a place in the history, not a queue: it takes from the ring what came after its place, and where
the ring has moved on, it reads the table until it has caught up. So no reader, however slow, costs the others
anything, and none is ever dropped for the length of a change.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from time import monotonic, thread_time

from manager.domain.event import Told
from manager.domain.filter import ResumeToken
from manager.domain.refusals import EpochChanged, HistoryGone, Unavailable
from manager.pages import Pages
from manager.repository import history
from manager.repository.database import Readers, refusal_of, why

log = logging.getLogger(__name__)

PAGE = 1_000
PAGE_BEHIND = 500
PAGES = 20
FEW, MANY = 50, 500
POLL = 1.0
POLL_UNHEARD = 0.075
FRESH_FOR = 4.0

Key = tuple[int, int]


class Feed:
    """Reads every event once, and wakes whoever waits for it."""

    def __init__(self, readers: Readers, *, events: int, size: int) -> None:
        self._readers = readers
        self._events, self._size = events, size
        self._ring: list[Told] = []
        self._keys: list[Key] = []
        self._bytes = 0
        self._start: Key | None = None  # the ring holds everything after it
        self._turn = asyncio.Lock()
        self._begun_at = 0.0  # in the thread's CPU time: when whoever has the turn began to use the loop
        self._pages: dict[tuple[Key, int], Sequence[Told]] = {}
        self.pages = Pages()  # as they were shown
        self._rung = asyncio.Event()
        self._moved = asyncio.Event()
        self._read_at = 0.0
        self._closed = False
        self._followers = 0
        self._followed_at = 0.0
        self.heard = False  # whether somebody rings; if not, the history is asked more often
        self.begun = 0  # how often it began anew: then every place has to be judged anew
        self.place: ResumeToken | None = None

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While somebody follows, the history is read; what nobody looks at would be a quarter of all the work."""
        if not self._followers:
            self._followed_at = monotonic()
        self._followers += 1
        self._rung.set()
        try:
            yield
        finally:
            self._followers -= 1

    def ring(self) -> None:
        """There may be something new."""
        self._rung.set()

    @property
    def fresh(self) -> bool:
        """Whether what was read is all there was a moment ago."""
        return monotonic() - self._read_at < FRESH_FOR

    @property
    def age(self) -> float:
        """For how many seconds those who follow have not known whether there is more."""
        return monotonic() - max(self._read_at, self._followed_at) if self._followers else 0.0

    def since(self, key: Key) -> Sequence[Told] | None:
        """The events after a place, oldest first, as far as they were read; None where the ring begins later.

        Raises Unavailable when the server stops.
        """
        if self._closed:
            raise Unavailable("this server is stopping: subscribe again elsewhere, with the last resume_token")
        if self._start is None or key < self._start:
            return None
        return self._ring[bisect_right(self._keys, key) :]

    def turn(self, key: Key) -> AbstractAsyncContextManager[None]:
        """While in here, whoever has more than a few events after that place has the loop to himself.

        However many are behind, their pages are gone through one by one: a health check waits for one of them, and not
        for one of each. After a page of many the loop is left for as long as that took to everything else.
        """
        left = len(self._keys) - bisect_right(self._keys, key)
        far = self._start is None or key < self._start or left > MANY
        return self.in_turn(far=far) if far or left > FEW else nullcontext()

    @asynccontextmanager
    async def in_turn(self, *, far: bool = True) -> AsyncIterator[None]:
        """The same for a page of whatever else; `far`: it is one of many."""
        async with self._turn:
            self._begun_at = thread_time()
            yield
            await asyncio.sleep(thread_time() - self._begun_at if far else 0)

    async def behind(self, key: Key, nonce: int) -> Sequence[Told]:
        """The events after a place, from the table; to be asked in one's turn.

        Those at the same place share what was read. So a long change, which all are behind at once, is read from the
        table once and not once for each, and nobody who is far behind takes the connections from those who only ask.
        Raises EpochChanged, HistoryGone.
        """
        events = self._pages.get((key, nonce))
        if events is None:
            async with self._readers.use() as connection:
                page = await history.read(connection, key, PAGE_BEHIND, nonce=nonce)
            self._begun_at = thread_time()  # what others did meanwhile is not this page's
            events = page.events
            if page.more:  # the last page is not whole yet
                self._pages[key, nonce] = events
            if len(self._pages) > PAGES:
                del self._pages[next(iter(self._pages))]
        return events

    async def moved(self, timeout: float) -> None:
        """Returns when something was read, or after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._moved.wait()
        except TimeoutError:
            return

    async def serve(self) -> None:
        """Reads at each ring, and by itself where nobody rings, while somebody follows, until it is closed."""
        while not self._closed:
            try:
                if self._followers:
                    await self._catch_up()
                else:
                    self._rest()
            except Exception as error:
                if refusal_of(error) is None:
                    log.exception("the history could not be read")
                else:
                    log.warning("the history waits for the database: %s", why(error))
                await asyncio.sleep(POLL_UNHEARD)
            await self._wait()

    def close(self) -> None:
        """Ends `serve` and every subscription."""
        self._closed = True
        self._rung.set()
        self._wake()

    def _rest(self) -> None:
        """Whoever follows next finds the table, until the ring begins again at the head."""
        self.place = self._start = None
        self._ring, self._keys, self._bytes = [], [], 0
        self.pages.clear()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL if self.heard else POLL_UNHEARD):
                await self._rung.wait()
        except TimeoutError:
            pass
        self._rung.clear()

    async def _catch_up(self) -> None:
        try:
            await self._read()
        except (EpochChanged, HistoryGone) as refusal:
            log.warning("the history is read from its head on: %s", refusal)
            async with self._readers.use() as connection:
                self._begin(await history.head(connection))
        else:
            self._read_at = monotonic()

    async def _read(self) -> None:
        async with self._readers.use() as connection:
            place = self.place or self._begin(await history.head(connection))
            more = True
            while more:
                page = await history.read(connection, (place.revision, place.ordinal), PAGE, nonce=place.nonce)
                if page.epoch == place.epoch:
                    place, more = self._take(page.events) or place, page.more
                else:
                    place = self._begin(await history.head(connection))

    def _begin(self, place: ResumeToken) -> ResumeToken:
        """Starts anew at a place: at first, and where the history is another one or was cut off behind it."""
        self.place = place
        self.begun += 1
        self._start = (place.revision, place.ordinal)
        self._ring, self._keys, self._bytes = [], [], 0
        self._pages = {}
        self.pages.clear()
        self._wake()
        return place

    def _take(self, events: Sequence[Told]) -> ResumeToken | None:
        """Adds events to the ring; the place after them."""
        if not events:
            return None
        self._ring.extend(events)
        self._keys.extend(each.key for each in events)
        self._bytes += sum(each.size for each in events)
        self.place = events[-1].place()
        self._shorten()
        self._wake()
        return self.place

    def _shorten(self) -> None:
        """Keeps the ring within its bounds, a quarter at a time."""
        if len(self._ring) <= self._events and self._bytes <= self._size:
            return
        room, kept = self._size * 3 // 4, 0
        for each in reversed(self._ring[-(self._events * 3 // 4) :]):
            room -= each.size
            if room < 0:
                break
            kept += 1
        cut = len(self._ring) - kept
        self._start = self._keys[cut - 1]
        del self._ring[:cut], self._keys[:cut]
        self._bytes = sum(each.size for each in self._ring)

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
