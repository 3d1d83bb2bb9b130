"""docs/operations.md, command by command: a database is lost, comes back to a change, and serves again."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from manager.client import Client
from manager.client.errors import PreconditionError
from manager.embedded import binaries, start
from manager.embedded.account import Account
from manager.embedded.home import Home
from manager.pb import instance_manager_pb2 as pb
from manager.pb.fleet_pb2 import AddInstancesRequest
from manager.repository import migrations
from manager.settings import Settings
from tests.commands import bare, script
from tests.conftest import at, serving
from tests.drilling import NAME, add, checked, count, manager, served_url, sound, value

SIZE = 300


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
            **bare(SUPERUSER_URL=self.url(), DATABASE_SUPERUSER_URL=self.url(NAME), RESTORED_URL=self.url("restored")),
        }
        process = await asyncio.create_subprocess_exec(
            *("bash", "-ec", script(name)), env={**os.environ, **variables, **more}, stdout=-1, stderr=-1
        )
        out, err = await asyncio.wait_for(process.communicate(), 600)
        assert process.returncode == 0, f"{name}: {out.decode()} {err.decode()}"

    def given_back(self) -> None:
        """What was copied as another account is PostgreSQL's."""
        for each in [self.data, *self.data.rglob("*")]:
            self.account.own(each)


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="im-operations-"))
    folder.chmod(0o755)
    made = Place(folder)
    yield made
    made.postgres.stop()
    shutil.rmtree(folder)


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

    await place.run("restore")
    place.given_back()
    place.postgres = start(place.folder / "data")
    await recovered(place)
    async with manager(place.postgres) as client:
        kept, lost = await checked(client, [*early, *late, *after])
        assert (kept, lost) == (len(early) + len(late), len(after))
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


async def test_a_standby_follows_has_all_that_was_acknowledged_and_is_promoted(place: Place) -> None:
    await place.postgres.create_database(NAME)
    await migrations.upgrade(place.url(NAME))
    standby = place.folder / "standby"
    await place.run("standby", STANDBY=str(standby / "postgres"))
    for each in [standby / "postgres", *(standby / "postgres").rglob("*")]:
        place.account.own(each)
    Home(standby).lock.touch()  # a folder of ours, with the passwords that the copy knows
    shutil.copytree(Home(place.folder / "data").passwords, Home(standby).passwords)
    with start(standby) as follower:
        await place.run("synchronous")
        async with asyncio.timeout(30):  # the configuration is read a moment later
            while await value(place.url(), "select count(*) from pg_stat_replication where sync_state = 'sync'") != 1:
                await asyncio.sleep(0.1)
        async with manager(place.postgres) as client:
            ids = await add(client, 30)
        place.postgres.process.kill()
        place.postgres.process.wait()
        assert await value(follower.url(), "select pg_promote()::int") == 1
        async with manager(follower) as client:
            assert await checked(client, ids) == (30, 0)
        await sound(follower.url(database=NAME))


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
