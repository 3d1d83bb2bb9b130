"""The feed: what its ring holds, and how it begins anew where the history is not what it was."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from manager import feed as module
from manager.domain.event import EventType, Told
from manager.domain.filter import Filter, ResumeToken
from manager.domain.instance import InstanceId
from manager.domain.lens import Lens
from manager.domain.refusals import EpochChanged
from manager.feed import Feed
from manager.pages import Page, Update
from manager.repository import history
from manager.subscription import Subscription
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of

EPOCH = UUID(int=1)
PLACE = ResumeToken(EPOCH, 0, 0, 0)


def told(revision: int, size: int) -> Told:
    return Told(
        epoch=EPOCH,
        revision=revision,
        ordinal=0,
        nonce=0,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        type=EventType.ADDED,
        instance=InstanceId(uuid4()),
        before=None,
        after=None,
        related=None,
        service=None,
        cause=None,
        root=None,
        size=size,
        last=True,
    )


def revisions(feed: Feed, after: int) -> list[int] | None:
    found = feed.since((after, 99))
    return None if found is None else [each.revision for each in found]


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as made:
        yield made


@pytest.mark.parametrize(
    ("events", "size", "each"), [(100, 10**9, 1), (20_000, 1_000_000, 10_000), (100, 1_000, 5_000)]
)
async def test_the_ring_stays_within_its_bounds_and_says_where_it_begins(
    events: int, size: int, each: int, fleet: Fleet
) -> None:
    feed = Feed(fleet.connections.readers, events=events, size=size)
    feed._begin(PLACE)
    for number in range(30):
        feed._take([told(1 + number * 50 + step, each) for step in range(50)])
        kept = len(feed._ring)
        assert kept <= events
        assert kept * each <= size
        newest = (number + 1) * 50
        assert revisions(feed, newest - kept) == list(range(newest - kept + 1, newest + 1))
        assert kept == newest or revisions(feed, newest - kept - 1) is None
    assert len(feed._ring) * each >= min(size, events * each) // 2 or each > size // 2


@asynccontextmanager
async def reading(feed: Feed) -> AsyncIterator[None]:
    """The feed at work."""
    task = asyncio.create_task(feed.serve())
    try:
        with feed.followed():
            yield
    finally:
        task.cancel()


async def reaches(feed: Feed, revision: int) -> None:
    async with asyncio.timeout(5):
        while feed.place is None or feed.place.revision != revision:
            await asyncio.sleep(0.01)


async def first(fleet: Fleet) -> None:
    """An epoch, as a manager opens it when it starts."""
    await fleet.turns.recognize()


async def test_a_history_that_was_cut_off_behind_it_is_read_from_its_head_on(fleet: Fleet) -> None:
    await first(fleet)
    feed = Feed(fleet.connections.readers, events=100, size=10**6)
    await fleet.chain(3)
    async with reading(feed):
        await reaches(feed, await fleet.head())
    # the feed was away for so long that even what came after it is no longer kept
    await fleet.chain(3)
    await fleet.sql.execute("update control set history_kept = interval '1 s'")
    await fleet.sql.execute("update event set at = at - interval '1 day'")
    await fleet.sql.execute("select compact_history(1000)")
    await fleet.sql.execute("select delete_compacted(1000)")
    last = await fleet.value("select compacted_revision from control")
    async with reading(feed):
        await reaches(feed, last)
        assert revisions(feed, last - 4) is None
        await fleet.add()
        await reaches(feed, last + 1)
        assert revisions(feed, last) == [last + 1]


@pytest.mark.parametrize("ahead", [False, True], ids=["behind", "overtaken"])
async def test_a_disk_that_was_rolled_back_unannounced_begins_the_feed_anew(ahead: bool, fleet: Fleet) -> None:
    await first(fleet)
    feed = Feed(fleet.connections.readers, events=100, size=10**6)
    await fleet.chain(6)
    head = await fleet.head()
    async with reading(feed):
        await reaches(feed, head)
    begun = feed.begun
    await roll_back(fleet, head - 3)
    await fleet.chain(5 if ahead else 1)
    async with reading(feed):
        await reaches(feed, await fleet.head())
    assert feed.begun > begun
    assert feed.since((head - 4, 0)) is None  # what it had read before is not given as if it were true still


async def roll_back(fleet: Fleet, revision: int) -> None:
    """The database as it was, without a word."""
    await fleet.sql.execute("delete from parent_link where revision > $1", revision)
    await fleet.sql.execute("delete from instance where created_revision > $1", revision)
    await fleet.sql.execute("delete from event where revision > $1", revision)


async def test_a_place_in_a_rolled_back_history_is_of_another(fleet: Fleet) -> None:
    await first(fleet)
    await fleet.chain(6)
    async with fleet.connections.readers.use() as connection:
        place = await history.head(connection)
        await roll_back(fleet, place.revision - 3)
        for _ in range(2):
            with pytest.raises(EpochChanged):
                await history.judge(connection, place)
            with pytest.raises(EpochChanged):
                await history.read(connection, (place.revision, place.ordinal), 10, nonce=place.nonce)
            await fleet.chain(6)
        good = await history.head(connection)
        assert await history.judge(connection, good) == good.epoch


async def test_whoever_waits_is_woken_by_what_is_read(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    await first(fleet)
    monkeypatch.setattr(module, "POLL_UNHEARD", 0.01)
    feed = Feed(fleet.connections.readers, events=100, size=10**6)
    async with reading(feed):
        await reaches(feed, await fleet.head())
        waiting = asyncio.create_task(feed.moved(5.0))
        await asyncio.sleep(0)
        await fleet.add()
        async with asyncio.timeout(1):
            await waiting
        assert feed.fresh


async def test_a_history_that_nobody_follows_is_not_read_and_the_next_follower_misses_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first(fleet)
    monkeypatch.setattr(module, "POLL_UNHEARD", 0.01)
    readers = fleet.connections.readers
    feed = Feed(readers, events=100, size=10**6)
    task = asyncio.create_task(feed.serve())
    for _ in range(2):
        async with readers.use() as connection:
            place = await history.head(connection)
        added = await fleet.chain(3)
        feed.ring()
        await asyncio.sleep(0.1)
        assert feed.place is None
        with feed.followed():
            pages = Subscription(feed, readers, Filter(), Lens(Filter(), frozenset({EventType.ADDED})), place).pages(
                bookmarks=False
            )
            seen = [each async for each in taken(pages, 3)]
            added.append(await fleet.add())
            seen += [each async for each in taken(pages, 1)]
        await asyncio.sleep(0.1)
        assert seen == added
    feed.close()
    await task


async def taken(pages: AsyncIterator[Page[Update]], count: int) -> AsyncIterator[InstanceId]:
    """Whom the next so many messages are of."""
    while count > 0:
        for update in await anext(pages):
            assert update.sight
            count -= 1
            yield update.sight.told.instance
