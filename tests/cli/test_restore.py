"""imctl restore: what comes back, what it refuses, and that what fails leaves everything as it was."""

import asyncio
import gzip
import json
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import pytest

from manager.embedded import Postgres, start
from manager.embedded.account import Account
from manager.embedded.archive import NAME as WAL
from manager.embedded.archive import Archive
from manager.embedded.backup import Backup, Kind, listed, take
from manager.repository import migrations
from tests.cli.terminal import at_terminal
from tests.processes import Ended, imctl

NAME = "instance_manager"
SEGMENT = 16 * 2**20


@dataclass
class Place:
    """A data folder and a folder of backups."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    @property
    def archive(self) -> Archive:
        return Archive(self.kept / WAL, timedelta(seconds=1))

    def start(self) -> Postgres:
        return start(self.data, archive=self.archive, durable=False)

    async def restore(self, *arguments: str) -> Ended:
        return await imctl("restore", str(self.kept), "--data-dir", str(self.data), *arguments, "-o", "json", "-q")

    def take(self, postgres: Postgres, kind: Kind = Kind.BASE, name: str = "") -> Backup:
        taken = take(postgres.url(database=NAME), self.kept, kind)
        if name:  # another one than the next one's, without waiting for a second
            taken.path.rename(taken.path.with_name(name))
        return next(each for each in listed(self.kept) if each.path.name == (name or taken.path.name))


@pytest.fixture
def place() -> Any:
    with TemporaryDirectory(dir="/tmp", prefix="im-restore-test-") as folder:
        Path(folder).chmod(0o755)
        yield Place(Path(folder))


@pytest.fixture
async def marked(place: Place) -> AsyncIterator[Postgres]:
    """A running server with a table for marks."""
    with place.start() as postgres:
        await postgres.create_database(NAME)
        await run(postgres, "create table mark (number integer, at timestamptz default clock_timestamp())")
        yield postgres


async def run(postgres: Postgres, statement: str, database: str = NAME) -> Any:
    connection = await asyncpg.connect(postgres.url(database=database))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def mark(postgres: Postgres, number: int) -> datetime:
    """Sets a mark; a time at which it is there and no later one is."""
    await run(postgres, f"insert into mark values ({number})")
    await asyncio.sleep(0.05)
    told: datetime = await run(postgres, "select clock_timestamp()")
    await asyncio.sleep(0.05)
    return told


async def marks(place: Place) -> list[int]:
    """Those that the server in the folder has, once it is started."""
    with place.start() as postgres:
        return list(await run(postgres, "select coalesce(array_agg(number order by number), '{}') from mark"))


async def test_the_end_and_a_time_are_played_back_and_what_was_there_is_set_aside(
    place: Place, marked: Postgres
) -> None:
    taken = place.take(marked)
    first = await mark(marked, 1)
    await mark(marked, 2)
    marked.stop()
    assert await marks(place) == [1, 2]
    shown = await place.restore("--to-time", first.isoformat(), "--dry-run")
    assert await marks(place) == [1, 2], "a dry run changes nothing"
    done = await place.restore("--to-time", first.isoformat(), "--replace")
    told, before = json.loads(done.out), json.loads(shown.out)
    assert (done.code, told["backup"], told["done"]) == (0, str(taken.path), True)
    assert ({**told, "aside": "", "done": False}) == {**before, "aside": ""}
    assert Path(told["aside"]).parent == place.data
    assert await marks(place) == [1]
    # the second one goes on from the first one's history, whose timeline is another
    assert (await place.restore("--replace")).code == 0
    assert await marks(place) == [1]
    assert len(list(place.data.glob("postgres.before-*"))) == 2


async def test_what_is_not_empty_or_runs_is_not_touched(place: Place, marked: Postgres) -> None:
    place.take(marked)
    running = await place.restore("--replace")
    assert (running.code, "already running" in running.err) == (1, True), running.err
    await mark(marked, 1)
    marked.stop()
    refused = await place.restore()
    assert refused.code == 1
    assert refused.err.splitlines() == [
        f"imctl: {place.data / 'postgres'} is not empty",
        "       --replace sets it aside, under another name beside it",
    ]
    assert await marks(place) == [1]


async def test_a_moment_before_the_newest_backup_is_reached_from_an_older_one(place: Place, marked: Postgres) -> None:
    await mark(marked, 1)
    old = place.take(marked, name="2020-01-01T00-00-00Z")
    then = await mark(marked, 2)
    new = place.take(marked)
    await mark(marked, 3)
    marked.stop()
    refused = await place.restore(new.path.name, "--to-time", then.isoformat(), "--replace")
    assert (refused.code, "younger than" in refused.err) == (1, True), refused.err
    done = await place.restore("--to-time", then.isoformat(), "--replace")
    assert json.loads(done.out)["backup"] == str(old.path)
    assert await marks(place) == [1, 2]


async def test_what_fails_leaves_the_data_as_they_were(place: Place, marked: Postgres) -> None:
    taken = place.take(marked)
    await mark(marked, 1)
    marked.stop()
    late = await place.restore("--to-time", "2100-01-01T00:00:00Z", "--replace")
    assert (late.code, "the log ends before that moment" in late.err.lower()) == (1, True), late.err
    file = next(each for each in (taken.path / "base").rglob("*") if each.is_file() and each.stat().st_size > 8192)
    file.write_bytes(b"rot" + file.read_bytes()[3:])
    rotten = await place.restore("--replace")
    assert (rotten.code, "pg_verifybackup failed" in rotten.err) == (1, True), rotten.err
    assert {each.name for each in place.data.glob("postgres*")} == {"postgres", "postgres.log"}
    assert await marks(place) == [1]


async def test_over_a_gap_in_the_archive_nothing_is_played(place: Place, marked: Postgres) -> None:
    place.take(marked)
    await mark(marked, 1)
    await run(marked, "select pg_switch_wal()")
    await mark(marked, 2)
    await run(marked, "select pg_switch_wal()")
    marked.stop()
    # the one before the last, whatever archive_timeout has switched by itself: without the last one there is no gap
    place.archive.segments(SEGMENT)[-2].path.unlink()
    shutil.rmtree(place.data / "postgres")
    refused = await place.restore()
    assert (refused.code, "The archive lacks segment" in refused.err) == (1, True), refused.err
    assert not (place.data / "postgres").exists()


async def test_a_folder_without_an_archive_gives_back_the_backup_itself(place: Place, marked: Postgres) -> None:
    await mark(marked, 1)
    place.take(marked)
    await mark(marked, 2)
    marked.stop()
    shutil.rmtree(place.archive.folder)
    assert (await place.restore("--replace")).code == 0
    with start(place.data, durable=False) as postgres:
        assert await run(postgres, "select array_agg(number) from mark") == [1]
        timeline = await run(postgres, "select timeline_id from pg_control_checkpoint()")
    assert timeline == 2, "managers see that the history is another one"


async def test_on_another_machine_it_has_passwords_of_its_own(place: Place, marked: Postgres) -> None:
    place.take(marked)
    await mark(marked, 1)
    await run(marked, "select pg_switch_wal()")
    marked.stop()
    shutil.rmtree(place.data)
    assert (await place.restore()).code == 0
    assert await marks(place) == [1]


async def test_a_server_of_ones_own_comes_back_with_an_archive_of_its_own_command(
    place: Place, marked: Postgres
) -> None:
    """As docs/operations.md has it archive, into a folder with segments as they are."""
    account = Account.for_data(place.data / "postgres")
    plain = place.folder / "plain"
    plain.mkdir()
    account.own(plain)
    taken = place.take(marked)
    await mark(marked, 1)
    marked.stop()
    place.archive.rescue(place.data / "postgres", account)
    for each in place.archive.folder.glob("0*.*"):
        there = plain / each.name.removesuffix(".gz").removesuffix(".rescued")
        there.write_bytes(gzip.decompress(each.read_bytes()) if each.suffix == ".gz" else each.read_bytes())
        account.own(there)
    shutil.rmtree(place.archive.folder)
    into = place.folder / "main"
    target = ("--into", str(into), "--archive", str(plain))
    done = await imctl("restore", str(place.kept), *target, "-o", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["into"] == str(into)
    assert "start PostgreSQL" in done.err
    assert (plain / "00000002.history").exists(), "or the next restore would begin the same timeline"
    assert into.stat().st_uid == account.uid
    shutil.rmtree(place.data / "postgres")
    into.rename(place.data / "postgres")
    assert await marks(place) == [1]
    again = await imctl("restore", str(place.kept), taken.path.name, "--into", str(place.data / "postgres"))
    assert (again.code, "is not empty" in again.err) == (1, True)


async def test_a_dump_comes_back_beside_what_was_there(place: Place) -> None:
    with place.start() as postgres:
        await postgres.create_database(NAME)
        await migrations.upgrade(postgres.url(database=NAME))
        await run(postgres, "create table mark as select 1 as number")
        dump = place.take(postgres, Kind.DUMP)
        await run(postgres, "update mark set number = 2")
        given = ("restore", str(place.kept), "--dump", "-o", "json")
        there = {"IM_SUPERUSER_URL": postgres.url()}
        refused = await imctl(*given, **there)
        assert (refused.code, "is not empty" in refused.err) == (1, True), refused.err
        other = await imctl(*given, "--database", "elsewhere", **there)
        assert (other.code, json.loads(other.out)["revision"]) == (0, "0"), other.err
        assert await run(postgres, "select number from mark", "elsewhere") == 1
        connection = await asyncpg.connect(postgres.url(database=NAME))
        in_use = await imctl(*given, "--replace", **there)
        await connection.close()
        assert (in_use.code, "stop the managers first" in in_use.err) == (1, True), in_use.err
        assert await run(postgres, "select number from mark") == 2
        done = json.loads((await imctl(*given, "--replace", **there)).out)
        assert (done["backup"], done["kind"]) == (str(dump.path), "dump")
        assert await run(postgres, "select number from mark") == 1
        assert await run(postgres, "select number from mark", done["aside"]) == 2
        told = await run(postgres, "select restored from control")
        assert told == f"restored from the dump {dump.path.name}"
    assert (await place.restore("--dump", "--replace")).code == 0, "it starts the server of the folder by itself"


async def test_at_a_terminal_a_backup_has_a_bar_that_fills(place: Place, marked: Postgres) -> None:
    given, there = ("backup", str(place.kept)), marked.url(database=NAME)
    async with at_terminal("", *given, IM_SUPERUSER_URL=there) as terminal:
        await terminal.shows("backing up ━")
        assert await terminal.ended() == 0
    assert re.search(r"backing up ━+ +100%", terminal.text), terminal.text
    (taken,) = listed(place.kept)
    taken.path.rename(place.kept / "2020-01-01T00-00-00Z")  # another name than the next one's, without waiting
    piped = await imctl(*given, IM_SUPERUSER_URL=there)
    assert (piped.code, piped.err) == (0, ""), "where nobody watches nothing is drawn"


async def test_at_a_terminal_a_restore_has_bars_that_fill(place: Place, marked: Postgres) -> None:
    place.take(marked)
    await mark(marked, 1)
    await run(marked, "select pg_switch_wal()")
    marked.stop()
    given = ("restore", str(place.kept), "--data-dir", str(place.data), "--replace")
    async with at_terminal("", *given) as terminal:
        await terminal.shows("copying the backup ━")
        await terminal.shows("playing back ━")
        assert await terminal.ended() == 0
    assert re.search(r"copying the backup ━+ +100%", terminal.text), terminal.text
    again = await imctl(*given)
    assert (again.code, "━" in again.err) == (0, False), again.err


async def test_wrong_wishes_are_told_before_anything_is_done(place: Place) -> None:
    for given, code, told in (
        (("--to-time", "1m", "--to-revision", "3"), 2, "one of them"),
        (("--to-time", "yesterday"), 2, "is no time"),
        ((), 1, "There is no base backup"),
        (("2020-01-01T00-00-00Z",), 1, "There is no backup 2020-01-01T00-00-00Z"),
    ):
        ended = await place.restore(*given)
        assert (ended.code, ended.out, told in ended.err) == (code, "", True), ended.err
    assert not place.data.exists()
