"""Subscribers who are behind by more than the ring: all of them together cost the database what one costs."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic, thread_time

import pytest

from manager.domain.event import SEED, EventType, Told
from manager.domain.filter import Filter
from manager.domain.lens import Lens, Sight
from manager.feed import PAGE_BEHIND, Feed
from manager.repository import history
from manager.subscription import PAGE, Subscription
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of
from tests.looping import counted

READERS = 20


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


async def removed(fleet: Fleet, feed: Feed) -> int:
    """How many removals a new subscription from the beginning is shown, up to the end of their revision."""
    readers = fleet.connections.readers
    async with readers.use() as connection:
        head = await history.head(connection)
    begin = type(head)(head.epoch, 0, 0, 0)
    subscription = Subscription(feed, readers, Filter(), Lens(Filter(), SEED), begin)
    count = 0
    async for page in subscription.pages(bookmarks=False):
        for update in page:
            if update.sight and update.sight.type is EventType.REMOVED:
                count += 1
                if update.last:
                    return count
    raise AssertionError("a subscription ended by itself")


async def test_a_long_change_is_read_from_the_table_once_for_all(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    root = await fleet.add()
    for _ in range(3):
        await asyncio.gather(*(fleet.add(root) for _ in range(1_000)))
    await fleet.kill(root)
    reads = 0
    read = history.read

    async def told(*given: object, **more: object) -> history.Page:
        nonlocal reads
        reads += given[2] == PAGE_BEHIND  # the feed's own reads are of another size
        return await read(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(history, "read", told)
    feed = Feed(fleet.connections.readers, events=100, size=2**20)  # begins at the head: they are all behind
    serving = asyncio.create_task(feed.serve())
    with feed.followed():
        counts = await asyncio.gather(*(removed(fleet, feed) for _ in range(READERS)))
    feed.close()
    await serving
    assert counts == [3_001] * READERS
    pages = (3 * 3_000 + 1 + 3_001) // 500 + 1
    assert reads < pages * READERS / 5  # each reads the end by itself, since it is no whole page


@pytest.fixture
async def behind(fleet: Fleet, request: pytest.FixtureRequest) -> AsyncIterator[Feed]:
    """A feed, which may keep so many events, after a registration, 2,000 more, and the kill of them all."""
    feed = Feed(fleet.connections.readers, events=request.param, size=2**25)
    serving = asyncio.create_task(feed.serve())
    with feed.followed():
        root = await fleet.add()
        for _ in range(2):
            await asyncio.gather(*(fleet.add(root) for _ in range(1_000)))
        await fleet.kill(root)
        async with asyncio.timeout(10):
            while feed.place is None or feed.place.revision < await fleet.value("select max(revision) from event"):
                await asyncio.sleep(0.01)
        yield feed
    feed.close()
    await serving


@pytest.mark.parametrize("behind", [100, 20_000], ids=["from the table", "from the ring"], indirect=True)
async def test_whoever_is_behind_holds_the_others_up_for_a_page_at_most(
    fleet: Fleet, behind: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two turns of the loop no more is gone through than a page, however many are behind."""
    async with counted(monkeypatch, Lens, "see") as events:
        await asyncio.gather(*(removed(fleet, behind) for _ in range(READERS)))
    assert 0 < events.most <= PAGE


@pytest.mark.parametrize("behind", [100, 20_000], ids=["from the table", "from the ring"], indirect=True)
async def test_whoever_is_behind_leaves_half_of_the_loop_to_others(
    fleet: Fleet, behind: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    burnt, see = 0.0, Lens.see

    def slowly(lens: Lens, told: Told) -> list[Sight]:
        nonlocal burnt
        begun = thread_time()
        while thread_time() - begun < 0.0001:
            pass
        burnt += thread_time() - begun
        return see(lens, told)

    monkeypatch.setattr(Lens, "see", slowly)
    begun = monotonic()
    await asyncio.gather(removed(fleet, behind), removed(fleet, behind))
    assert monotonic() - begun > 1.9 * burnt > 0.5
