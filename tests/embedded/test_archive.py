"""The archive: what is in it is whole and never overwritten, and stays for as long as a kept backup needs it."""

import asyncio
import gzip
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from manager.embedded import EmbeddedPostgresError, Postgres, start
from manager.embedded.account import Account
from manager.embedded.archive import Archive, missing, position_of
from manager.embedded.backup import Backup, Kind, listed, take
from manager.embedded.keeping import first_segment, plan, prune, verify

Ask = Callable[[str, str], Awaitable[object]]
SEGMENT = 16 * 2**20


@pytest.fixture
def archive(folder: Path) -> Archive:
    return Archive(folder.parent / "kept of" / "wal", timedelta(seconds=1))  # with a blank, to be quoted


async def switched(postgres: Postgres, ask: Ask, archive: Archive) -> str:
    """The name of a segment that was just finished, once it is archived."""
    written = "pg_logical_emit_message(false, 'test', 'something to archive')"
    name = str(await ask(postgres.url(), f"select pg_walfile_name({written})"))
    await ask(postgres.url(), "select pg_switch_wal()")  # does nothing where archive_timeout was first
    async with asyncio.timeout(60):
        while not (archive.folder / f"{name}.gz").exists():
            await asyncio.sleep(0.05)
    return name


async def test_what_is_archived_is_the_segment_and_the_folder_is_the_servers_alone(
    folder: Path, ask: Ask, archive: Archive
) -> None:
    with start(folder, durable=False, archive=archive) as postgres:
        await switched(postgres, ask, archive)
        name = await switched(postgres, ask, archive)  # of little more than zeros
        there = (folder / "postgres" / "pg_wal" / name).read_bytes()
    assert gzip.decompress((archive.folder / f"{name}.gz").read_bytes()) == there
    assert (archive.folder / f"{name}.gz").stat().st_size < len(there) / 100
    assert archive.folder.stat().st_mode & 0o777 == 0o700
    assert archive.folder.stat().st_uid == (folder / "postgres").stat().st_uid
    assert not list(archive.folder.glob("*.part"))


def kept(archive: Archive, segment: Path) -> int:
    """The exit code of the archive's own command."""
    command = archive.settings["archive_command"].replace("%p", str(segment)).replace("%f", segment.name)
    return subprocess.run(["sh", "-c", command], check=False).returncode


def fetched(archive: Archive, name: str, into: Path) -> int:
    command = archive.restore_command.replace("%p", str(into)).replace("%f", name)
    return subprocess.run(["sh", "-c", command], check=False).returncode


@pytest.mark.parametrize("plain", [False, True], ids=["packed", "plain"])
def test_a_segment_that_is_there_is_the_same_one_or_refused_and_half_a_file_is_none(
    folder: Path, archive: Archive, plain: bool
) -> None:
    archive.folder.mkdir(parents=True)
    if plain:
        (archive.folder / "000000010000000000000001").write_bytes(b"of somebody else's command")
    segment, name = folder.parent / "000000010000000000000002", "000000010000000000000002"
    segment.write_bytes(b"as it was" * 1000)
    half = archive.folder / f"{name}.part"
    half.write_bytes(b"as it")  # of one that was killed amid it
    assert kept(archive, segment) == 0
    assert not half.exists()
    assert kept(archive, segment) == 0, "after a crash it asks again"
    there = archive.folder / (name if plain else f"{name}.gz")
    before = there.read_bytes()
    segment.write_bytes(b"another" * 1000)
    assert kept(archive, segment) != 0
    assert there.read_bytes() == before
    assert fetched(archive, name, folder.parent / "back") == 0
    assert (folder.parent / "back").read_bytes() == b"as it was" * 1000
    assert fetched(archive, "000000010000000000000009", folder.parent / "none") != 0


def test_where_there_is_no_room_nothing_is_left_and_the_segment_is_asked_for_again(
    folder: Path, archive: Archive
) -> None:
    archive.folder.mkdir(parents=True)
    segment = folder.parent / "000000010000000000000002"
    segment.write_bytes(b"x" * 100_000)
    command = archive.settings["archive_command"].replace("%p", str(segment)).replace("%f", segment.name)
    # nothing larger than nothing can be written
    full = subprocess.run(["sh", "-c", f"trap '' XFSZ; ulimit -f 0; {command}"], check=False, capture_output=True)
    assert full.returncode != 0
    assert list(archive.folder.iterdir()) == []


def test_another_servers_archive_is_refused(folder: Path, archive: Archive) -> None:
    start(folder, durable=False, archive=archive).stop()
    shutil.rmtree(folder)
    with pytest.raises(EmbeddedPostgresError, match="is the archive of another server"):
        start(folder, durable=False, archive=archive)


def test_of_an_ephemeral_server_nothing_is_archived(archive: Archive) -> None:
    with pytest.raises(EmbeddedPostgresError, match="leave out --ephemeral or --archive"):
        start(ephemeral=True, archive=archive)


async def test_pruning_keeps_what_the_oldest_kept_backup_needs_and_nothing_before(
    folder: Path, ask: Ask, archive: Archive
) -> None:
    backups, taken = archive.folder.parent, []
    with start(folder, durable=False, archive=archive) as postgres:
        for number in range(3):
            before = await switched(postgres, ask, archive)
            base = take(postgres.url(), backups, Kind.BASE)
            taken.append((before, base.path.rename(base.path.with_name(f"2020-01-0{number + 1}T00-00-00Z"))))
        dump = take(postgres.url(), backups, Kind.DUMP)
        last = await switched(postgres, ask, archive)
    planned = plan(backups, 2, archive)
    assert [each.path for each in planned.gone] == [taken[0][1]]
    assert planned.first == first_segment(listed(backups)[1])
    assert prune(planned, archive) > 0
    assert [each.path for each in listed(backups)] == [taken[1][1], taken[2][1], dump.path]
    first = position_of(planned.first or "", SEGMENT)
    positions = [each.position for each in archive.segments(SEGMENT)]
    # one more where the server had something of its own to write before it stopped
    assert positions == list(
        range(first, position_of(last, SEGMENT) + 1 + (positions[-1] > position_of(last, SEGMENT)))
    )
    assert not list(missing(archive, first, SEGMENT))
    assert list(missing(archive, first - 2, SEGMENT)) == [first - 2, first - 1]


async def test_without_a_base_backup_of_its_server_an_archive_is_left_alone(
    folder: Path, ask: Ask, archive: Archive
) -> None:
    with start(folder, durable=False, archive=archive) as postgres:
        name = await switched(postgres, ask, archive)
        take(postgres.url(), archive.folder.parent, Kind.DUMP)
    assert plan(archive.folder.parent, 1, archive) == replace(plan(archive.folder.parent, 1, archive), first=None)
    assert prune(plan(archive.folder.parent, 1, archive), archive) == 0
    assert (archive.folder / f"{name}.gz").exists()


async def test_what_was_not_archived_is_rescued_up_to_the_last_change(folder: Path, ask: Ask, archive: Archive) -> None:
    with start(folder, durable=False, archive=archive) as postgres:
        await switched(postgres, ask, archive)
        archive.folder.chmod(0o500)
        for _ in range(2):
            await ask(postgres.url(), "select pg_logical_emit_message(false, 'test', repeat('much', 1000))")
            await ask(postgres.url(), "select pg_switch_wal()")
        present = str(await ask(postgres.url(), "select pg_walfile_name(pg_current_wal_lsn())"))
    archive.folder.chmod(0o700)
    archive.rescue(folder / "postgres", Account.for_data(folder / "postgres"))
    positions = [each.position for each in archive.segments(SEGMENT)]
    assert positions == list(range(1, position_of(present, SEGMENT) + 1))
    rescued = archive.folder / f"{present}.rescued"
    assert fetched(archive, present, folder.parent / "back") == 0
    assert (folder.parent / "back").read_bytes() == rescued.read_bytes()


async def test_a_backup_that_has_changed_is_found_out(folder: Path, ask: Ask) -> None:
    backups = folder.parent / "kept"
    with start(folder, durable=False) as postgres:
        await ask(postgres.url(), "create table told as select 7 as number")
        base: Backup = take(postgres.url(), backups, Kind.BASE)
        (base.path / "global" / "pg_control").touch()
    verify(base)
    changed = next(each for each in (base.path / "base").rglob("*") if each.is_file() and each.stat().st_size > 8192)
    with changed.open("r+b") as file:
        file.seek(5000)
        file.write(b"rot")
    with pytest.raises(EmbeddedPostgresError, match=r"pg_verifybackup failed: .*checksum mismatch"):
        verify(base)
