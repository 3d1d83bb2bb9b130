"""Writers who take their time inside a turn, or freeze there: the order, and nothing else, is what readers see."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import asyncpg
import pytest

from manager.pb import instance_manager_pb2 as pb
from manager.repository.database import DRIVERS, Session, engine_of
from manager.repository.turn import turn
from manager.settings import Settings
from tests.conftest import NOTIFY, Database
from tests.stream.changes import Changes
from tests.stream.changes import held as told
from tests.stream.conftest import Managers, managers_of
from tests.stream.reader import Story, listening
from tests.stream.validators import broken

ROOT = Path(__file__).parents[2]
EVERYTHING = [pb.EventType.ValueType(each) for each in range(1, 9)]


async def hold(database: Database, seconds: float, taken: asyncio.Event) -> None:
    """A writer whose turn is open for that long, and is then committed, or is found to be lost."""
    session = Session(engine_of(database.url, name="slow writer"))
    try:
        async with session.use() as connection, turn(connection) as present:
            told(present)
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


@asynccontextmanager
async def process(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A writer in a process of its own that has its turn."""
    module = ("-m", "tests.stream.slow_writer", url)
    writer = await asyncio.create_subprocess_exec(
        sys.executable, *module, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout
    try:
        assert await writer.stdout.readline() == b"taken\n"
        yield writer
    finally:
        if writer.returncode is None:
            writer.kill()
            await writer.wait()


def held(story: Story) -> list[int]:
    return [each.revision for each in story.updates if each.instance.hostname == "held"]


@pytest.mark.parametrize("notify", [True, False], ids=["notified", "polling"])
async def test_a_writer_who_holds_its_turn_open_comes_first_and_whole(
    notify: bool, database: Database, settings: Settings, often: None
) -> None:
    async with managers_of(database, settings.model_copy(update={"notify": notify and NOTIFY}), 2) as managers:
        before = await managers.fleet.head()
        for story in await meanwhile(managers, 0.6):
            assert held(story) == [before + 1]


async def test_a_writer_who_freezes_in_its_turn_is_cut_off_and_leaves_nothing(
    database: Database, settings: Settings, often: None
) -> None:
    async with managers_of(database, settings, 2) as managers:
        with pytest.raises(DRIVERS):
            await meanwhile(managers, 2.5)
        assert await database.value("select count(*) from event where after ->> 'hostname' = 'held'") == 0


async def test_a_process_that_is_frozen_in_its_turn_can_commit_nothing_when_it_wakes(
    database: Database, settings: Settings, often: None
) -> None:
    async with managers_of(database, settings, 2) as managers, process(database.url) as writer:
        story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
        async with listening(managers.addresses[1], story) as stream:
            writer.send_signal(signal.SIGSTOP)
            head = await Changes(1).many(managers.callers[0], 10)  # they wait until it is cut off
            await stream.until(head)
            writer.send_signal(signal.SIGCONT)
            out, _ = await writer.communicate(b"")
            assert out == b"lost\n"
            head = await Changes(2).many(managers.callers[1], 10)
            await stream.until(head)
        assert broken(await managers.case(story, head)) == {}
        assert held(story) == []
        revisions = await database.run("select distinct revision from event order by 1")
        assert [row["revision"] for row in revisions] == list(range(1, head + 1))


async def test_a_process_that_was_frozen_for_a_moment_commits(database: Database, settings: Settings) -> None:
    async with managers_of(database, settings, 1) as managers, process(database.url) as writer:
        writer.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.2)
        writer.send_signal(signal.SIGCONT)
        out, _ = await writer.communicate(b"")
        assert out == b"committed\n"
        await managers.fleet.add()
        assert await database.value("select count(*) from event where after ->> 'hostname' = 'held'") == 1


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
