"""Pages of the stream that are made once: who is shown the same shares them, and nobody is shown another's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from uuid import uuid4

import pytest

from manager.domain.calls import Kill, Registration
from manager.domain.event import EventType, Told
from manager.domain.filter import Filter, ResumeToken
from manager.domain.instance import InstanceId, InstanceType
from manager.domain.lens import Lens, Sight
from manager.feed import Feed
from manager.pages import MOST, SIZE, Page, Pages, Seen, Update
from manager.presence import new_id
from manager.repository import history
from manager.subscription import PAGE, Subscription
from manager.wire import encode
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of
from tests.test_feed import told

CHROME, VLLM = InstanceType.CHROME_BROWSER, InstanceType.VLLM
LENSES = [
    (Filter(), frozenset(EventType)),
    (Filter(), frozenset({EventType.REMOVED})),
    (Filter(types=(VLLM,)), frozenset(EventType)),
    (Filter(labels={"a": "1"}), frozenset(EventType)),
    (Filter(labels={"a": "2"}), frozenset(EventType)),
]


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


@asynccontextmanager
async def feeding(fleet: Fleet, events: int) -> AsyncIterator[Feed]:
    """A feed whose ring holds so many events, while somebody follows."""
    feed = Feed(fleet.connections.readers, events=events, size=2**25)
    serving = asyncio.create_task(feed.serve())
    with feed.followed():
        yield feed
    feed.close()
    await serving


async def history_of(fleet: Fleet, random: Random) -> list[ResumeToken]:
    """Registrations, and kills of trees, some of them many at once; every place in it."""
    ids = [new_id()]
    for _ in range(60):
        if random.random() < 0.2:
            await fleet.do(Kill(random.choice(ids)))
        else:  # refused where its parent has died
            new = [
                Registration(new_id(), random.choice([CHROME, VLLM]), "host", {"a": random.choice("12")}, parent)
                for parent in [random.choice([None, *ids])] * random.choice([1, 1, 1, 40])
            ]
            await fleet.do(*new)
            ids += [each.id for each in new[:2]]
    async with fleet.connections.readers.use() as connection:
        head = await history.head(connection)
        page = await history.read(connection, (0, 0), 10_000)
    return [ResumeToken(head.epoch, 0, 0, 0), *(each.place() for each in page.events)]


async def shown(feed: Feed, fleet: Fleet, lens: int, place: ResumeToken, head: ResumeToken) -> list[bytes]:
    """All that a lens shows from there to the head, as it is sent."""
    wanted, kinds = LENSES[lens]
    subscription = Subscription(feed, fleet.connections.readers, wanted, Lens(wanted, kinds), place)
    found: list[bytes] = []

    async def follow() -> None:
        async for page in subscription.pages(bookmarks=False):
            found.extend(map(encode.update, page))

    following = asyncio.create_task(follow())
    async with asyncio.timeout(30):
        while subscription.place != head:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # what is shown of the last page comes after its place
    following.cancel()
    return found


@pytest.mark.parametrize("ring", [60, 20_000], ids=["from the table", "from the ring"])
@pytest.mark.parametrize("seed", range(4))
async def test_whoever_shares_is_shown_what_he_is_shown_alone(fleet: Fleet, seed: int, ring: int) -> None:
    random = Random(seed)
    await fleet.add()
    async with feeding(fleet, ring) as feed:
        places = await history_of(fleet, random)
        asked = [(lens, place) for lens in range(len(LENSES)) for place in (*random.choices(places, k=2), places[0])]
        random.shuffle(asked)
        together = await asyncio.gather(*(shown(feed, fleet, *each, places[-1]) for each in asked * 2))
    for number, each in enumerate(asked):
        async with feeding(fleet, ring) as own:
            alone = await shown(own, fleet, *each, places[-1])
        assert together[number] == together[number + len(asked)] == alone
    assert len({tuple(each) for each in together}) > len(LENSES)


@pytest.mark.parametrize("late_first", [False, True])
async def test_who_holds_a_message_back_shares_with_nobody_who_begins_there(fleet: Fleet, late_first: bool) -> None:
    """Whether it ends its revision is known only at the next page, which for the other is the first."""
    root = await fleet.add()
    await asyncio.gather(*(fleet.add(root) for _ in range(PAGE + 100)))
    async with fleet.connections.readers.use() as connection:
        begin = await history.head(connection)
        await fleet.kill(root)
        page = await history.read(connection, (begin.revision, begin.ordinal), 10_000)
    within, end = page.events[PAGE - 1].place(), page.events[-1].place()
    order, found = ([within, begin] if late_first else [begin, within]), dict[ResumeToken, list[bytes]]()
    async with feeding(fleet, 20_000) as feed:
        for place in order:
            found[place] = await shown(feed, fleet, 1, place, end)
    assert len(found[begin]) == PAGE + 101
    assert found[within] == found[begin][PAGE:]


async def test_equal_lenses_go_through_the_history_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, see = 0, Lens.see

    def counting(lens: Lens, told: Told) -> list[Sight]:
        nonlocal seen
        seen += 1
        return see(lens, told)

    monkeypatch.setattr(Lens, "see", counting)
    await fleet.add()
    async with feeding(fleet, 20_000) as feed:
        places = await history_of(fleet, Random(1))
        for lens in (0, 1):
            await asyncio.gather(*(shown(feed, fleet, lens, places[0], places[-1]) for _ in range(20)))
    assert seen == 2 * (len(places) - 1)


async def test_an_equal_filter_is_one_whose_labels_come_in_another_order() -> None:
    one, same = (Lens(Filter(labels=labels), ()) for labels in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}))
    assert one.alike == same.alike is not None
    assert one.alike != Lens(Filter(labels={"a": "1"}), ()).alike
    assert Lens(Filter(subtree_of=InstanceId(uuid4())), ()).alike is None


@pytest.mark.parametrize(("of_each", "size", "most"), [(0, 0, MOST), (1, 100, MOST), (300, 1_000, 6), (500, 20_000, 0)])
def test_what_is_kept_is_bounded_in_pages_and_bytes(of_each: int, size: int, most: int) -> None:
    pages, event = Pages(), told(1, size)
    update = Update(event.place(), Sight(EventType.ADDED, event))
    for number in range(5_000):
        pages.keep(number, Seen(Page([update] * of_each), None, None))
    kept = [number for number in range(5_000) if pages.get(number)]
    assert kept == list(range(5_000 - most, 5_000))
    assert of_each * size * most <= SIZE
