"""The worst day, by `imctl backup` and `imctl restore` alone: what is lost of the data, and how long it takes.

IM_DRILL: with so many instances, as `make drill` does; what is measured is printed.
"""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg
import pytest

from manager.client.errors import PreconditionError
from manager.embedded import Postgres, start
from manager.embedded.archive import NAME as WAL
from manager.embedded.archive import Archive
from manager.pb import instance_manager_pb2 as pb
from manager.pb.fleet_pb2 import AddInstancesRequest
from manager.repository import migrations
from tests.drilling import NAME, add, checked, count, crowd, manager, overdue, quiet, registering, sound, value
from tests.faults.server import free_port
from tests.processes import IMCTL, environment, imctl

SIZE = int(os.environ.get("IM_DRILL", "300"))
LARGE = SIZE > 10_000
# what `imctl dev` has, where it is to be measured
WITHIN = timedelta(seconds=60 if LARGE else 3)
SLACK = 5.0  # seconds that a segment may take into the archive
CROWD, TIMEOUT = (300, 30.0) if LARGE else (30, 15.0)
QUIET = 5


@dataclass
class Place:
    """A server as `imctl dev` runs it, and the folder of its backups."""

    folder: Path
    kept: Path = field(init=False)
    postgres: Postgres = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self.folder / "kept"
        self.start()

    def start(self) -> None:
        self.postgres = start(self.folder / "data", archive=Archive(self.kept / WAL, WITHIN))
        self.postgres.publish(self.url)

    @property
    def url(self) -> str:
        return self.postgres.url(database=NAME)

    async def imctl(self, verb: str, *arguments: str) -> Any:
        """What it answers."""
        given = (verb, str(self.kept), "--data-dir", str(self.folder / "data"), *arguments, "-o", "json")
        process = await asyncio.create_subprocess_exec(*IMCTL, *given, env=environment(), stdout=-1, stderr=-1)
        out, err = await asyncio.wait_for(process.communicate(), 900)
        assert process.returncode == 0, err.decode()
        return json.loads(out)

    def lose(self, *, data: bool) -> None:
        """The power fails, and takes the disk along, or leaves it."""
        self.postgres.process.kill()
        self.postgres.process.wait()
        self.postgres.stop()
        if data:
            shutil.rmtree(self.folder / "data" / "postgres")


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="im-drill-", dir="/var/tmp" if LARGE else None))
    folder.chmod(0o755)
    made = Place(folder)
    await made.postgres.create_database(NAME)
    await migrations.upgrade(made.url)
    yield made
    made.postgres.stop()
    shutil.rmtree(folder)


async def epochs(url: str) -> list[tuple[int, int, str]]:
    """Number, base and reason of each, as the record has it."""
    told = await asyncpg.connect(url)
    try:
        rows = await told.fetch("select number, base_revision, reason from audit.epochs order by number")
        return [tuple(each) for each in rows]
    finally:
        await told.close()


async def proved(place: Place, *arguments: str) -> str:
    """The head of the trail, which is as it was written."""
    found = await imctl("audit", "verify", *arguments, "-o", "json", DATABASE_URL=place.url)
    assert found.code == 0, found.err
    return str(json.loads(found.out)["head"])


async def archived(place: Place) -> None:
    """Waits until all that was written so far is in the archive."""
    segment = await value(place.url, "select ('x' || right(pg_walfile_name(pg_switch_wal()), 8))::bit(32)::int")
    async with asyncio.timeout(120):
        while not list((place.kept / WAL).glob(f"*{segment:08X}.gz")):
            await asyncio.sleep(0.05)


@pytest.mark.timeout(1_800)
async def test_a_lost_database_comes_back_to_a_change_and_nobody_dies_of_it(place: Place) -> None:
    port = free_port()
    async with crowd(port, TIMEOUT) as unknown:
        async with manager(place.postgres, port) as client:
            early = await add(client, SIZE)
            begun = perf_counter()
            backup = await place.imctl("backup")
            backed_up = perf_counter() - begun
            late = await add(client, max(10, SIZE // 10))
            head = await proved(place)
            stale = await quiet(client, place.url, QUIET)
            revision = await value(place.url, "select max(revision) from event")
            fleet_then = await count(client, revision)
            after = await add(client, 10)
            await unknown.join(CROWD)
            mistake = await client.try_.TryKillInstance(pb.KillRequest(instance_id=early[0], note="a mistake"))
            assert mistake.value
            token = (await client.get.GetAllInstances(pb.InstanceFilter(page_size=1))).resume_token
            await archived(place)
        place.lose(data=True)

        begun = perf_counter()
        restored = await place.imctl("restore", "--to-revision", str(revision))
        restored_after = perf_counter() - begun
        assert (restored["backup"], restored["revision"]) == (backup["path"], str(revision))
        place.start()
        async with manager(place.postgres, port) as client:
            served_at = perf_counter()
            serving_after = served_at - begun
            await client.channel.channel_ready()  # gRPC shares the pause between tries with the crowd's client
            kept, lost = await checked(client, [*early, *late, *after])
            assert (kept, lost) == (len(early) + len(late), len(after))
            everybody_after = perf_counter() - begun
            await overdue(place.url)
            assert await checked(client, stale) == (len(stale), 0), "nobody of them was heard of before these passes"
            again_after = await unknown.back(served_at)
            assert await checked(client, [each.id for each in unknown.members]) == (CROWD, 0)
            assert await count(client, revision) == fleet_then
            stream = client.subscribe.SubscribeToInstanceUpdates(pb.SubscribeRequest(resume_token=token))
            with pytest.raises(PreconditionError, match="another history"):
                async for _ in stream:
                    pass
            again = [pb.InstanceDescription(instance_id=each, instance_type=pb.CHROME_BROWSER) for each in after]
            answer = await client.fleet.AddInstances(AddInstancesRequest(instances=again))
            assert all(each.answer.value for each in answer.outcomes)
            assert await checked(client, after) == (len(after), 0)
            assert unknown.ended == []
            assert await value(place.url, "select count(*) from audit.deaths") == 0
    why = f"restored from {Path(backup['path']).name} to revision {revision}"
    assert await epochs(place.url) == [(1, 0, "the first"), (2, revision, why)]
    await proved(place, "--head", head)
    await sound(place.url)
    print(
        f"\n{SIZE} instances: backup {backed_up:.1f} s; restored after {restored_after:.1f} s, "
        f"serving after {serving_after:.1f} s, all heard of after {everybody_after:.1f} s; "
        f"{CROWD} that it did not know registered again within {again_after:.1f} s of that"
    )
    if LARGE:
        assert serving_after < 60


@pytest.mark.timeout(600)
@pytest.mark.parametrize("disk", [True, False], ids=["with its disk", "but not its disk"])
async def test_of_a_database_that_is_gone_no_more_is_lost_than_was_promised(place: Place, disk: bool) -> None:
    async with manager(place.postgres) as client:
        await place.imctl("backup")
        async with registering(client) as told:
            await asyncio.sleep(WITHIN.total_seconds() * 1.7)  # amid a segment
        lost_at = perf_counter()
        place.lose(data=disk)
    await place.imctl("restore", *([] if disk else ["--replace"]))
    place.start()
    there = {str(row) for row in await ids(place.url)}
    lost = [at for at, one in told if one not in there]
    assert lost == [at for at, _ in told[len(told) - len(lost) :]], "what is lost is the end, and nothing amid"
    window = lost_at - lost[0] if lost else 0.0
    print(f"\n{len(told)} acknowledged, {len(lost)} lost: the last {window:.1f} s")
    assert len(lost) < len(told)
    if disk:
        assert window < WITHIN.total_seconds() + SLACK
    else:
        assert lost == [], "the log was still there"


async def ids(url: str) -> list[object]:
    told = await asyncpg.connect(url)
    try:
        return [row["id"] for row in await told.fetch("select id from instance")]
    finally:
        await told.close()
