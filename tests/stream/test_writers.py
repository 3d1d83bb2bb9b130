"""Writers who take their time inside a turn, or freeze there: the order, and nothing else, is what readers see."""

import asyncio
from time import monotonic

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from manager.domain.calls import Registration
from manager.domain.event import Event, EventType
from manager.domain.instance import Instance, InstanceType
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.repository.database import Session, engine_of
from manager.repository.turn import Turn, turn
from manager.settings import Settings
from tests.conftest import Database
from tests.fleet import LEASES
from tests.stream.changes import Changes
from tests.stream.conftest import Managers, managers_of
from tests.stream.reader import Story, listening
from tests.stream.validators import broken

EVERYTHING = [pb.EventType.ValueType(each) for each in range(1, 9)]


async def told(present: Turn) -> None:
    """A change such as a manager makes, but that only the history knows of it."""
    call = Registration(new_id(), InstanceType.VLLM, hostname="held")
    revision = present.next_revision()
    one = Instance(call.id, call.type, call.hostname, LEASES[call.type].timeout, present.now, revision, revision)
    present.tell(Event(revision, EventType.ADDED, one.id, None, one))


async def hold(database: Database, seconds: float, taken: asyncio.Event) -> None:
    """A writer whose turn is open for that long, and is then committed, or is found to be lost."""
    session = Session(engine_of(database.url, name="slow writer"))
    try:
        async with session.use() as connection, turn(connection) as present:
            await told(present)
            taken.set()
            await asyncio.sleep(seconds)
    finally:
        await session.close()


async def meanwhile(managers: Managers, seconds: float) -> list[Story]:
    """Writers and readers of two managers, while another writer holds its turn open."""
    stories = [Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING)) for _ in managers.addresses]
    async with (
        listening(managers.addresses[0], stories[0]) as one,
        listening(managers.addresses[1], stories[1]) as other,
    ):
        writers = [Changes(seed) for seed in range(4)]
        taken = asyncio.Event()
        holding = asyncio.create_task(hold(managers.database, seconds, taken))
        await taken.wait()
        began = monotonic()
        await asyncio.gather(*(each.many(managers.callers[n % 2], 10) for n, each in enumerate(writers)))
        assert monotonic() - began >= min(seconds, 0.9) - 0.1  # they waited, and were served then
        head = max(each.acknowledged for each in writers)
        await asyncio.gather(one.until(head), other.until(head))
        try:
            await holding
        finally:
            for story in stories:
                assert broken(await managers.case(story, head)) == {}
            revisions = await managers.database.run("select distinct revision from event order by 1")
            assert [row["revision"] for row in revisions] == list(range(1, len(revisions) + 1))
    return stories


def held(story: Story) -> list[int]:
    return [each.revision for each in story.updates if each.instance.hostname == "held"]


@pytest.mark.parametrize("notify", [True, False], ids=["notified", "polling"])
async def test_a_writer_who_holds_its_turn_open_comes_first_and_whole(
    notify: bool, database: Database, settings: Settings, often: None
) -> None:
    async with managers_of(database, settings.model_copy(update={"notify": notify}), 2) as managers:
        before = await managers.fleet.head()
        for story in await meanwhile(managers, 0.6):
            assert held(story) == [before + 1]


async def test_a_writer_who_freezes_in_its_turn_is_cut_off_and_leaves_nothing(
    database: Database, settings: Settings, often: None
) -> None:
    async with managers_of(database, settings, 2) as managers:
        with pytest.raises((DBAPIError, asyncpg.PostgresError, OSError)):
            await meanwhile(managers, 2.5)
        assert await database.value("select count(*) from event where after ->> 'hostname' = 'held'") == 0


async def test_a_reader_who_waits_behind_an_open_transaction_of_another_database_waits_for_nothing(
    cluster: str, managers: Managers, often: None
) -> None:
    stranger = await asyncpg.connect(cluster)
    try:
        async with stranger.transaction():
            await stranger.execute("create temporary table held (n int)")
            story = Story(pb.SubscribeRequest(send_bookmarks=True))
            async with listening(managers.addresses[1], story) as stream:
                began = monotonic()
                head = await Changes(1).many(managers.callers[0], 5)
                await stream.until(head)
                assert monotonic() - began < 1.0
    finally:
        await stranger.close()
