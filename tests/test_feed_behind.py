"""Subscribers who are behind by more than the ring: all of them together cost the database what one costs."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from manager.domain.event import SEED, EventType
from manager.domain.filter import Filter
from manager.domain.lens import Lens
from manager.feed import Feed
from manager.repository import history
from manager.subscription import Subscription
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of

READERS = 50


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

    async def counted(*given: object, **more: object) -> history.Page:
        nonlocal reads
        reads += 1
        return await read(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(history, "read", counted)
    feed = Feed(fleet.connections.readers, events=100, size=2**20)  # begins at the head: they are all behind
    serving = asyncio.create_task(feed.serve())
    with feed.followed():
        counts = await asyncio.gather(*(removed(fleet, feed) for _ in range(READERS)))
    feed.close()
    await serving
    assert counts == [3_001] * READERS
    pages = (3 * 3_000 + 1 + 3_001) // 500 + 1
    assert reads < pages * READERS / 5  # each reads the end by itself, since it is no whole page
