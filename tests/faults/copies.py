"""Copies of a server: standbys to fail over to, and what an archive brings back of a point in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import Database
from tests.faults.server import PATIENCE, Server, copy_of, place, served

# ── standbys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def standby_of(
    primary: Server, *, name: str = "standby", synchronous: bool = False, through: str = ""
) -> AsyncIterator[Server]:
    """A server that follows the primary, as it is now; through a proxy's address where one is given.

    Where it is synchronous, what the primary has acknowledged since is on both. The primary goes on waiting for it
    when it is gone or promoted, until `forgotten`.
    """
    source = primary.url().replace(primary.address, through or primary.address)
    with place(primary.account) as folder:
        follower = copy_of(primary, folder)
        await _backup(primary, f"{source}?application_name={name}", follower.data, "--write-recovery-conf")
        _configure(follower)
        async with served(follower):
            if synchronous:
                await primary.set(synchronous_standby_names=name)
                await _until(primary, f"select sync_state = 'sync' from pg_stat_replication where {NAMED}", name)
            yield follower


NAMED = "application_name = $1 and state = 'streaming'"


async def forgotten(primary: Server) -> None:
    """The primary waits for no standby any more, as an old one that is left writable."""
    await primary.set(synchronous_standby_names="")


async def promote(follower: Server) -> Database:
    """Makes a primary of a standby; the old one is left as it is, writable. The fleet's database on the new one."""
    assert await follower.value("select pg_promote()")
    return follower.database


async def caught_up(primary: Server, follower: Server) -> None:
    """Returns once the standby has replayed all that the primary has flushed by now."""
    position = await primary.value("select pg_current_wal_flush_lsn()::text")
    await _until(follower, "select pg_last_wal_replay_lsn() >= cast($1 as text)::pg_lsn", position)


async def cut_off(follower: Server) -> None:
    """The standby hears of its primary no more."""
    await follower.set(primary_conninfo="")
    await _until(follower, "select count(*) = 0 from pg_stat_wal_receiver")


# ── a point in time ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Archive:
    """The log of a primary, and the backup from which it is played back."""

    primary: Server
    folder: Path

    async def point(self, name: str) -> None:
        """Gives the present moment a name."""
        await self.primary.value("select pg_create_restore_point($1)", name)

    async def complete(self) -> None:
        """Returns once the archive holds all that was committed by now; it takes a primary that runs."""
        segment = await self.primary.value("select pg_walfile_name(pg_switch_wal())")
        async with asyncio.timeout(PATIENCE):
            while not (self.folder / "log" / segment).exists():
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def restored(self, point: str, *, port: int | None = None) -> AsyncIterator[Server]:
        """A server as the primary was at that point, on a port of its own or the one given; as often as wanted."""
        with place(self.primary.account) as folder:
            server = copy_of(self.primary, folder, port)
            # as the account, so that all of it is the account's
            code, printed = await asyncio.to_thread(
                self.primary.account.run, "/bin/cp", "-a", self.folder / "backup", server.data
            )
            assert code == 0, printed
            _mark_for_recovery(server)
            _configure(server, f"restore_command = 'cp {self.folder}/log/%f %p'", f"recovery_target_name = '{point}'")
            async with served(server):
                await _until(server, "select not pg_is_in_recovery()")
                yield server


@asynccontextmanager
async def archived(primary: Server) -> AsyncIterator[Archive]:
    """The primary, restarted so that its log is archived from now on, and a backup of what it holds."""
    with place(primary.account) as folder:
        (folder / "log").mkdir()
        primary.account.own(folder / "log")
        await primary.value("alter system set archive_mode = on")
        # under another name first: a segment that is there is there wholly
        copy = f"cp %p {folder}/log/%f.new && mv {folder}/log/%f.new {folder}/log/%f"
        await primary.value(f"alter system set archive_command = '{copy}'")
        await primary.restart()
        await _backup(primary, primary.url(), folder / "backup")
        yield Archive(primary, folder)


def _mark_for_recovery(server: Server) -> None:
    (server.data / "recovery.signal").touch()
    server.account.own(server.data / "recovery.signal")


def _configure(server: Server, *settings: str) -> None:
    # a copy with its original's archive would write another timeline into it, and wait for its original's standby
    alone = ("archive_mode = off", "synchronous_standby_names = ''", "recovery_target_action = promote")
    with (server.data / "postgresql.auto.conf").open("a") as file:
        file.write("\n".join((*alone, *settings, "")))


async def _backup(server: Server, source: str, into: Path, *options: str) -> None:
    program = server.binaries.folder / "pg_basebackup"
    where: list[str | Path] = ["--pgdata", into, "--dbname", source]
    command = [program, *where, "--checkpoint=fast", "--no-sync", *options]
    code, printed = await asyncio.to_thread(server.account.run, *command)
    assert code == 0, printed


async def _until(server: Server, statement: str, *arguments: object) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await server.value(statement, *arguments):
            await asyncio.sleep(0.02)
