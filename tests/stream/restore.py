"""A restore to a point in time: an archive of the log, a backup, and the cluster as it was at a named point."""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from manager.embedded import Postgres, binaries
from manager.embedded.account import Account
from tests.conftest import Database
from tests.stream import standby


@dataclass(frozen=True)
class Archive:
    """Where the log of a primary goes, and the backup from which it is played back."""

    primary: Postgres
    account: Account
    folder: Path

    @property
    def backup(self) -> Path:
        return self.folder / "backup"

    async def point(self, name: str) -> None:
        """Gives the present moment a name."""
        await _run(self.primary, f"select pg_create_restore_point('{name}')")

    async def complete(self) -> None:
        """Returns once the archive holds all that was committed."""
        segment = await _run(self.primary, "select pg_walfile_name(pg_switch_wal())")
        while not (self.folder / "log" / str(segment)).exists():
            await asyncio.sleep(0.05)

    def lose_primary(self) -> None:
        """Takes the primary away at once; what it had, the archive has up to `complete`."""
        self.primary.process.kill()
        self.primary.process.wait(20)

    @asynccontextmanager
    async def restored(self, point: str) -> AsyncIterator[Database]:
        """The cluster as it was at that point, at the port of the primary, which must be gone."""
        (self.backup / "recovery.signal").touch()
        with (self.backup / "postgresql.auto.conf").open("a") as settings:
            settings.write(
                f"archive_mode = off\nrestore_command = 'cp {self.folder}/log/%f %p'\n"
                f"recovery_target_name = '{point}'\nrecovery_target_action = promote\n"
            )
        self.account.own(self.backup / "recovery.signal")
        found = binaries.reachable(binaries.find(None), self.account, self.primary.data_dir / "binaries")
        process = standby.run(self.account, found.postgres, self.backup, self.primary.port)
        try:
            while await standby.value(self.primary.url(database=standby.NAME), "select pg_is_in_recovery()"):
                await asyncio.sleep(0.05)
            yield standby.addressed(self.primary.url(database=standby.NAME))
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(20)


@asynccontextmanager
async def archived(primary: Postgres) -> AsyncIterator[Archive]:
    """The primary, restarted with an archive; and a backup of what it holds now."""
    account = Account.for_data(None)
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        (folder / "log").mkdir()
        account.own(folder)
        account.own(folder / "log")
        await _run(primary, "alter system set archive_mode = on")
        await _run(primary, f"alter system set archive_command = 'cp %p {folder}/log/%f'")
        primary.restart()
        found = binaries.reachable(binaries.find(None), account, primary.data_dir / "binaries")
        source = primary.url(database="postgres")
        code, printed = account.run(
            found.folder / "pg_basebackup", "--pgdata", folder / "backup", "--dbname", source, "--checkpoint=fast"
        )
        assert code == 0, printed
        yield Archive(primary, account, folder)
        shutil.rmtree(folder / "backup", ignore_errors=True)


async def _run(primary: Postgres, statement: str) -> object:
    connection = await asyncpg.connect(primary.url(database="postgres"))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()
