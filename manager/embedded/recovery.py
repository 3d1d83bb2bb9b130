"""Recovery: a PostgreSQL that plays the log into a copy of a base backup, up to a moment, and reached by nobody else.

It has settings of its own and none of the backup's, so that it plays back the data of any server, wherever that has
its configuration; and a socket in a folder of its own, so that it needs no password, and no port.
"""

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import asyncpg

from manager.embedded import home, postmaster
from manager.embedded.account import Account
from manager.embedded.archive import Archive, control
from manager.embedded.binaries import Binaries
from manager.embedded.cluster import SUPERUSER
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.leftovers import cluster_name

PLACE = "instance-manager-restore-"
PORT = "5432"  # a part of the socket's name
PACE = 0.05
ASK_WITHIN = 10.0

SETTINGS = {
    "listen_addresses": "",
    "port": PORT,
    "ssl": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_startup_progress_interval": "10s",
    "hot_standby": "on",
    "recovery_target_timeline": "latest",
    "recovery_target_action": "promote",
    "wal_retrieve_retry_interval": "100ms",
    # whoever waits for a standby, or follows another server, is the one that the backup was taken of
    "synchronous_standby_names": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
}
TARGETS = tuple(f"recovery_target{each}" for each in ("", "_lsn", "_name", "_time", "_xid"))
# a hot standby needs as much as the primary had: what pg_controldata calls them, and their names
NEEDED = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}
ENDS_BEFORE = "recovery ended before configured recovery target was reached"
IS_YOUNGER = "requested recovery stop point is before consistent recovery point"
# a standby ends questions that are in its way, and in its first moments may know neither database nor table
NOT_YET = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class TooYoung(EmbeddedPostgresError):
    """The moment is before the end of the base backup: an older one leads to it."""


@dataclass(frozen=True, slots=True)
class Target:
    """The moment to come back to: the end of a transaction, or a time; the end of the log where neither is given."""

    time: datetime | None = None
    xid: int | None = None

    @property
    def settings(self) -> dict[str, str]:
        """In PostgreSQL's words. Whatever the backup's own settings aim at is none of it."""
        aimed: dict[str, str] = {}
        if self.xid is not None:
            aimed = {"recovery_target_xid": str(self.xid)}
        elif self.time:
            aimed = {"recovery_target_time": self.time.isoformat()}
        # the one that is meant comes last: after it not even an empty one is taken
        return {**{each: "" for each in TARGETS if each not in aimed}, **aimed}


@dataclass
class Recovery:
    """A server that plays back. `url(database)` works as soon as it `answers`."""

    data: Path
    account: Account
    binaries: Binaries
    archive: Archive | None
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None
    keeps: bool = field(default=False, kw_only=True)

    def url(self, database: str) -> str:
        """A superuser's address, for this user of the machine alone."""
        return f"postgresql://{SUPERUSER}@/{database}?host={self.folder}&port={PORT}"

    @property
    def answers(self) -> bool:
        """Whether it can be asked: it is consistent. Raises EmbeddedPostgresError if it has died."""
        if self.process is None or self.process.poll() is not None:
            raise self._why()
        return self._status == "ready"

    async def done(self) -> bool:
        """Whether it has played back all that was wanted, and takes writes. Raises EmbeddedPostgresError if it died."""
        if self.answers:
            with suppress(*NOT_YET):
                return not await self.value("postgres", "select pg_is_in_recovery()")
        return False

    @property
    def _status(self) -> str:
        with suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            if self.process and lines[:1] == [str(self.process.pid)] and len(lines) > postmaster.STATUS_LINE:
                return lines[postmaster.STATUS_LINE].strip()
        return ""

    def start(self, target: Target) -> None:
        """Starts it; from the main thread, with which it ends."""
        settings = {**SETTINGS, **target.settings, **self._files(), **self._archiving(), **self._needed()}
        settings["cluster_name"] = cluster_name(self.data)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._write(self.data / "recovery.signal", "")
        with (self.folder / "log").open("ab") as log:
            self.process = postmaster.spawn(self.account, self.binaries, self.data, options, log)

    def stop(self) -> None:
        """Ends it, with all on the disk and in the archive; more than once does no harm."""
        if self.process is not None:
            postmaster.end(self.process)

    async def value(self, database: str, question: str, *arguments: object) -> object:
        """The one value of a question."""
        connection = await asyncpg.connect(self.url(database), ssl=False, timeout=ASK_WITHIN)
        try:
            return await connection.fetchval(question, *arguments)
        finally:
            await connection.close(timeout=ASK_WITHIN)

    async def execute(self, database: str, statement: str, *arguments: object) -> None:
        """Runs a statement; once it is done."""
        connection = await asyncpg.connect(self.url(database), ssl=False, timeout=ASK_WITHIN)
        try:
            await connection.execute(statement, *arguments)
        finally:
            await connection.close(timeout=ASK_WITHIN)

    async def finish(self) -> None:
        """Returns once it is done. Raises EmbeddedPostgresError with why it cannot be."""
        while not await self.done():
            await asyncio.sleep(PACE)

    def place(self) -> str:
        """The segment that it reads at present, as its process says; nothing where nobody knows."""
        found = re.findall(r'restored log file "([0-9A-F]{24})"', (self.folder / "log").read_text(errors="replace"))
        return found[-1] if found else ""

    def _files(self) -> dict[str, str]:
        self._write(self.folder / "postgresql.conf", "")
        self._write(self.folder / "pg_ident.conf", "")
        self._write(self.folder / "pg_hba.conf", "local all all trust\n")
        return {
            "config_file": str(self.folder / "postgresql.conf"),
            "hba_file": str(self.folder / "pg_hba.conf"),
            "ident_file": str(self.folder / "pg_ident.conf"),
            "unix_socket_directories": str(self.folder),
        }

    def _archiving(self) -> dict[str, str]:
        """Without an archive it plays what the backup has in itself."""
        fetch = {"restore_command": self.archive.restore_command if self.archive else "false"}
        if not self.keeps:  # it goes as soon as it was asked
            return {**fetch, "archive_mode": "off", "fsync": "off"}
        # the timeline that begins is known to the archive from its first moment, or the next restore begins it again
        return {**fetch, **(self.archive.settings if self.archive else {"archive_mode": "off"})}

    def _needed(self) -> dict[str, str]:
        said = control(self.binaries.folder, self.data)
        return {name: said[label] for label, name in NEEDED.items() if label in said}

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        self.account.own(path)

    def _why(self) -> EmbeddedPostgresError:
        said = (self.folder / "log").read_text(errors="replace")
        if IS_YOUNGER in said:
            return TooYoung("That moment is before the end of the base backup: name an older one.")
        if ENDS_BEFORE in said:
            return EmbeddedPostgresError(f"The log ends before that moment{self._end(said)}.")
        return EmbeddedPostgresError(f"PostgreSQL cannot play the log back; what it said last:\n{said[-2000:]}")

    @staticmethod
    def _end(said: str) -> str:
        found = re.findall(r"last completed transaction was at log time (\S+ [\d:.]+\S*)", said)
        return f": its last transaction was at {found[-1]}" if found else ""


@asynccontextmanager
async def recovering(
    data: Path, account: Account, binaries: Binaries, archive: Archive | None, *, keeps: bool = False
) -> AsyncIterator[Recovery]:
    """A recovery on those data, yet to be started, and stopped when left; `keeps`: what it begins is archived."""
    folder = Path(tempfile.mkdtemp(prefix=PLACE, dir=home.temporary_place(account)))
    account.own(folder)
    recovery = Recovery(data, account, binaries, archive, folder, keeps=keeps)
    try:
        yield recovery
    finally:
        recovery.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Change:
    """The transaction that wrote a revision, and when."""

    xid: int
    at: datetime


WRITTEN = "select xid, at from event where revision = $1 limit 1"


async def written(recovery: Recovery, database: str, revision: int) -> Change | None:
    """Which transaction wrote that revision, as the log tells while it is played; None where it tells of none.

    Asked all along, since by the end of the log the history may not go back as far.
    """
    while True:
        done = await recovery.done()
        with nullcontext() if done else suppress(*NOT_YET):
            if recovery.answers and (found := await _written(recovery, database, revision)):
                return found
        if done:
            return None
        await asyncio.sleep(PACE)


async def _written(recovery: Recovery, database: str, revision: int) -> Change | None:
    connection = await asyncpg.connect(recovery.url(database), ssl=False, timeout=ASK_WITHIN)
    try:
        row = await connection.fetchrow(WRITTEN, revision)
    finally:
        await connection.close(timeout=ASK_WITHIN)
    return None if row is None else Change(row["xid"], row["at"])


# the managers take it for the reason of the epoch that they open
NOTE = "update control set restored = $1"
HEAD = "select greatest((select max(revision) from event), (select compacted_revision from control))"


async def note(recovery: Recovery, database: str, reason: str) -> int | None:
    """Leaves word of why its history is another one; the newest revision, None where no fleet is in it."""
    try:
        connection = await asyncpg.connect(recovery.url(database), ssl=False, timeout=ASK_WITHIN)
    except asyncpg.InvalidCatalogNameError:
        return None
    return await left(connection, reason)


async def left(connection: asyncpg.Connection, reason: str) -> int | None:
    """The same, on a connection, which is closed then."""
    try:
        revision: int | None = await connection.fetchval(HEAD)
        with suppress(asyncpg.UndefinedColumnError):  # a release that does not know of it opens the epoch all the same
            await connection.execute(NOTE, reason)
    except asyncpg.UndefinedTableError:
        return None
    else:
        return revision
    finally:
        await connection.close(timeout=ASK_WITHIN)
