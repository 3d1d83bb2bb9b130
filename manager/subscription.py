"""A subscription: a place in the history that moves on, seen through a lens."""

from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import replace
from time import monotonic

from manager.domain.event import Told
from manager.domain.filter import Filter, ResumeToken
from manager.domain.lens import Lens, Sight
from manager.domain.refusals import HistoryGone
from manager.feed import Feed, Key
from manager.pages import Page, Seen, Update
from manager.repository import history
from manager.repository.database import Readers

PAGE = 500
BOOKMARK_EVERY = 3.9
PATIENCE = 1.0
LAST = 2**31 - 1


class Subscription:
    """Everything after a place, in order, once."""

    def __init__(self, feed: Feed, readers: Readers, wanted: Filter, lens: Lens, place: ResumeToken) -> None:
        self._feed = feed
        self._readers = readers
        self._wanted = wanted
        self._lens = lens
        self._begun = 0  # of the feed, when the place was last judged
        # in the middle of an event: it is seen once more, and its first parts are left out
        self._skip = place.part
        self._key: Key = (place.revision, place.ordinal - 1 if place.part else place.ordinal)
        self._held: Update | None = None  # what may be the last of its revision
        self._whole = True  # whether a revision ends with the place
        self.place = place

    async def pages(self, *, bookmarks: bool) -> AsyncIterator[Page[Update]]:
        """What the lens shows, for ever, as much at once as there is; each message is held back until it is known
        whether it ends its revision.

        Raises EpochChanged, HistoryGone or Unavailable where it cannot go on.
        """
        if bookmarks:
            self._whole = await self._begins_whole()
            yield Page([Update(self.place, last=self._whole)])
        due = monotonic() + BOOKMARK_EVERY
        while True:
            if bookmarks and self._whole and monotonic() >= due and self._feed.fresh:
                due = monotonic() + BOOKMARK_EVERY
                yield Page([Update(self.place, last=True)])
            async with self._feed.turn(self._key):
                events = await self._next()
                page = await self._page(events) if events else None
            if page:
                yield page
            if not events:
                await self._feed.moved(PATIENCE)

    async def _begins_whole(self) -> bool:
        async with self._readers.use() as connection:
            return await history.is_whole(connection, self.place)

    async def _next(self) -> Sequence[Told]:
        """The next events, at most a page of them."""
        while self._feed.begun != self._begun:
            await self._judge()
        told = self._feed.since(self._key)
        if told is None:
            told = await self._feed.behind(self._key, self.place.nonce)
        return told[:PAGE]

    async def _page(self, events: Sequence[Told]) -> Page[Update]:
        """Goes on to the place after these events; what is known to be shown by then."""
        last = events[-1]
        key = self._alike(last.place())
        seen = self._feed.pages.get(key) if key else None
        if seen:
            self._key, self.place, self._whole, self._held = last.key, last.place(), last.last, seen.held
            return seen.page
        before = self._held
        page = Page([update for told in events for update in await self._pass(told)])
        if key:
            self._feed.pages.keep(key, Seen(page, before, self._held))
        return page

    def _alike(self, end: ResumeToken) -> Hashable:
        """What all have in common who are shown the same from here to there; None where it depends on more."""
        alike = self._lens.alike
        # what is held back stands in the page that is kept, so that no other can come to have its id
        return (alike, self._key, end, id(self._held)) if alike and not self._skip else None

    async def _pass(self, told: Told) -> list[Update]:
        """Goes on to the place after an event; what is known to be shown by then."""
        shown: list[Update] = []
        for update in await self._see(told):
            if self._held:
                shown.append(self._held)
            self._held = update
        self._key, self.place, self._whole = told.key, told.place(), told.last
        if told.last and self._held:
            shown.append(replace(self._held, last=True))
            self._held = None
        return shown

    async def _judge(self) -> None:
        begun = self._feed.begun
        async with self._readers.use() as connection:
            await history.judge(connection, self.place)
        self._begun = begun

    async def _see(self, told: Told) -> list[Update]:
        sights = await self._sights(told)
        places = [*(told.place(part) for part in range(1, len(sights))), told.place()]
        # as many as there are, or more, were sent by another filter: nothing is left out for that
        skip, self._skip = self._skip if self._skip < len(sights) else 0, 0
        return [Update(place, sight) for place, sight in zip(places, sights, strict=False)][skip:]

    async def _sights(self, told: Told) -> list[Sight]:
        if not self._lens.opens(told):
            return self._lens.see(told)
        async with self._readers.use() as connection:
            return self._lens.enter(told, await history.tree(connection, told.instance, told.revision))

    async def enter(self) -> None:
        """Learns who belongs to the subtree at the place where it begins.

        That place may lie within a revision, and a tree is known as of whole ones: so it is taken as of the one
        before, and the events from there up to the place are gone through in silence.
        """
        if self._wanted.subtree_of is None:
            return
        revision = self.place.revision - 1
        try:
            passed = await self._between((revision, LAST))
        except HistoryGone:
            await self._judge()  # still good: so it is the end of what was trimmed, and the end of its revision
            revision, passed = self.place.revision, []
        async with self._readers.use() as connection:
            self._lens.begin(await history.tree(connection, self._wanted.subtree_of, revision))
        for told in passed:
            await self._sights(told)

    async def _between(self, key: Key) -> list[Told]:
        """The events after `key`, up to the place where the subscription begins."""
        passed: list[Told] = []
        more = True
        while more and key < self._key:
            async with self._readers.use() as connection:
                page = await history.read(connection, key, PAGE)
            passed.extend(each for each in page.events if each.key <= self._key)
            key, more = page.events[-1].key if page.events else self._key, page.more
        return passed
