"""docs/operations.md, command by command: a database is lost, comes back to a change, and serves again.

IM_DRILL: with so many instances, as `make drill` does; the times are printed.
"""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import asyncpg
import pytest

from manager.client import Client, new_id
from manager.client.errors import PreconditionError
from manager.embedded import Postgres, binaries, start
from manager.embedded.account import Account
from manager.pb import instance_manager_pb2 as pb
from manager.pb.fleet_pb2 import AddInstancesRequest, HealthCheckBatch, InstancesAtRequest
from manager.repository import migrations
from manager.settings import Settings
from tests.conftest import at, serving

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
COMMANDS = dict(re.findall(r"<!-- run: (\w+) -->\n\n((?:    .*\n|\n(?=    ))+)", PAGE.read_text()))
SIZE = int(os.environ.get("IM_DRILL", "300"))
NAME = "instance_manager"
BATCH = 5_000


class Place:
    """A server of one's own, its archive and its backups; and the page's commands, with what they name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.account = Account.for_data(None)
        self.archive, self.backups = folder / "archive", folder / "backups"
        for each in (self.archive, self.backups):
            each.mkdir(mode=0o755)
            self.account.own(each)
        self.data = folder / "data" / "postgres"
        self.postgres = start(folder / "data")

    def url(self, database: str = "postgres") -> str:
        return self.postgres.url(database=database)

    async def run(self, name: str, **more: str) -> None:
        """Runs the commands of that name as they stand in the page."""
        tools = binaries.find(None).folder
        variables = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PGDATA": str(self.data),
            "ARCHIVE": str(self.archive),
            "BACKUPS": str(self.backups),
            "SUPERUSER_URL": self.url(),
            "DATABASE_SUPERUSER_URL": self.url(NAME),
            "RESTORED_URL": self.url("restored"),
        }
        script = re.sub(r"^    ", "", COMMANDS[name], flags=re.M)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-ec", script), env={**os.environ, **variables, **more}, stdout=-1, stderr=-1
        )
        out, err = await asyncio.wait_for(process.communicate(), 600)
        assert process.returncode == 0, f"{script}: {out.decode()} {err.decode()}"

    def given_back(self) -> None:
        """What was copied as another account is PostgreSQL's."""
        for each in [self.data, *self.data.rglob("*")]:
            self.account.own(each)


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="im-operations-", dir="/var/tmp" if SIZE > 10_000 else None))
    folder.chmod(0o755)
    made = Place(folder)
    yield made
    made.postgres.stop()
    shutil.rmtree(folder)


async def served_url(postgres: Postgres) -> str:
    await postgres.grant_login("im_server")
    return postgres.url("im_server", NAME)


@asynccontextmanager
async def manager(postgres: Postgres) -> AsyncIterator[Client]:
    """A manager on it, with a reaper, and a client."""
    url = await served_url(postgres)
    settings = Settings(
        database_url=url, bind=("127.0.0.1",), port=0, timeout=timedelta(seconds=60), check_load=1_000_000
    )
    async with serving(settings) as started, Client(started.addresses[0]) as client:
        yield client


async def add(client: Client, count: int) -> list[str]:
    """So many instances, each tenth a root and the others below one."""
    ids = [str(new_id()) for _ in range(count)]
    described = [
        pb.InstanceDescription(
            instance_id=each,
            instance_type=pb.CHROME_BROWSER,
            parent_id=ids[number - number % 10] if number % 10 else "",
        )
        for number, each in enumerate(ids)
    ]
    for begin in range(0, count, BATCH):
        answer = await client.fleet.AddInstances(AddInstancesRequest(instances=described[begin : begin + BATCH]))
        assert all(each.answer.value for each in answer.outcomes)
    return ids


async def checked(client: Client, ids: list[str]) -> tuple[int, int]:
    """How many health checks are answered true, and how many with EPOCH_CHANGED; no other answer comes."""

    async def batches() -> AsyncIterator[HealthCheckBatch]:
        for begin in range(0, len(ids), BATCH):
            yield HealthCheckBatch(instance_ids=ids[begin : begin + BATCH])

    kept = lost = 0
    async for answer in client.fleet.HealthChecks(batches()):
        for each in answer.outcomes:
            kept += each.answer.value
            lost += each.failure.reason == "EPOCH_CHANGED"
    assert kept + lost == len(ids), "somebody was told to terminate"
    return kept, lost


async def sound(url: str) -> None:
    """Nothing that may never be: a live child of a dead parent, a death without a root cause, a gap in the history."""
    connection = await asyncpg.connect(url)
    try:
        orphans = await connection.fetchval("""
            select count(*) from audit.instances c join audit.instances p on p.id = c.parent_id
            where c.status <> 'DEAD' and p.status = 'DEAD'""")
        causeless = await connection.fetchval("""
            select count(*) from audit.deaths d left join audit.root_causes r on r.id = d.root_cause
            where r.id is null""")
        gaps = await connection.fetchval("""
            select max(revision) - min(revision) + 1 - count(distinct revision) from audit.events""")
        assert (orphans, causeless, gaps) == (0, 0, 0)
    finally:
        await connection.close()


async def value(url: str, question: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(question))
    finally:
        await connection.close()


@pytest.mark.timeout(1_800)
async def test_a_lost_database_comes_back_to_a_change_and_nobody_dies_of_it(place: Place) -> None:
    await place.run("configure")
    place.postgres.restart()
    await place.postgres.create_database(NAME)
    await migrations.upgrade(place.url(NAME))
    async with manager(place.postgres) as client:
        early = await add(client, SIZE)
        await place.run("backup")
        late = await add(client, max(10, SIZE // 10))
        revision = await value(place.url(NAME), "select max(revision) from event")
        fleet_then = await count(client, revision)
        await place.run("find", REVISION=str(revision))
        after = await add(client, 10)
        mistake = await client.try_.TryKillInstance(pb.KillRequest(instance_id=early[0], note="a mistake"))
        assert mistake.value
        token = (await client.get.GetAllInstances(pb.InstanceFilter(page_size=1))).resume_token
        switched = "select pg_switch_wal() is not null"
        assert await value(place.url(NAME), f"select ({switched})::int")
        await archived(place)
    place.postgres.stop()
    shutil.rmtree(place.data)

    begun = perf_counter()
    await place.run("restore")
    place.given_back()
    place.postgres = start(place.folder / "data")
    await recovered(place)
    async with manager(place.postgres) as client:
        serving_after = perf_counter() - begun
        kept, lost = await checked(client, [*early, *late, *after])
        assert (kept, lost) == (len(early) + len(late), len(after))
        everybody_after = perf_counter() - begun
        assert await count(client, revision) == fleet_then
        stream = client.subscribe.SubscribeToInstanceUpdates(pb.SubscribeRequest(resume_token=token))
        with pytest.raises(PreconditionError, match="another history"):
            async for _ in stream:
                pass
        again = [pb.InstanceDescription(instance_id=each, instance_type=pb.CHROME_BROWSER) for each in after]
        answer = await client.fleet.AddInstances(AddInstancesRequest(instances=again))
        assert all(each.answer.value for each in answer.outcomes)
        assert await checked(client, after) == (len(after), 0)
    told = await asyncpg.connect(place.url(NAME))
    epochs = await told.fetch("select number, base_revision from audit.epochs order by number")
    await told.close()
    assert [tuple(each) for each in epochs] == [(1, 0), (2, revision)]
    assert await value(place.url(NAME), "select count(*) from audit.deaths where note = 'a mistake'") == 0
    await sound(place.url(NAME))
    print(f"{SIZE} instances: serving after {serving_after:.1f} s, all heard of after {everybody_after:.1f} s")
    if SIZE >= 100_000:
        assert serving_after < 60


async def count(client: Client, revision: int) -> int:
    """How many lived then."""
    found, token = 0, b""
    while True:
        page = await client.fleet.GetInstancesAt(
            InstancesAtRequest(revision=revision, page_size=BATCH, page_token=token)
        )
        found, token = found + len(page.instances), page.next_page_token
        if not token:
            return found


async def archived(place: Place) -> None:
    """Waits until all that was written so far is in the archive."""
    async with asyncio.timeout(60):
        while await value(
            place.url(),
            "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'",
        ):
            await asyncio.sleep(0.1)


async def recovered(place: Place) -> None:
    """Waits until it may be written to."""
    async with asyncio.timeout(600):
        while await value(place.url(), "select pg_is_in_recovery()::int"):
            await asyncio.sleep(0.1)


async def test_a_dump_comes_back_as_another_history(place: Place) -> None:
    await place.postgres.create_database(NAME)
    await migrations.upgrade(place.url(NAME))
    async with manager(place.postgres) as client:
        ids = await add(client, 30)
        await client.try_.TryKillInstance(pb.KillRequest(instance_id=ids[0]))
    head = await value(place.url(NAME), "select max(revision) from event")
    await place.run("dump")
    await place.run("undump")
    url = at(await served_url(place.postgres), database="restored", user="", password="")
    settings = Settings(database_url=url, bind=("127.0.0.1",), port=0)
    async with serving(settings) as started, Client(started.addresses[0]) as client:
        assert await checked(client, ids[10:]) == (20, 0)
    assert await value(place.url("restored"), "select max(base_revision) from audit.epochs") == head
    assert await value(place.url("restored"), "select count(*) from audit.epochs") == 2
    await sound(place.url("restored"))
