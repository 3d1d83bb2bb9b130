"""A server's data folder, brought back: all is done beside it, and in the end the two change places.

So what fails leaves everything as it was. What was in the folder is set aside, never removed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from manager.embedded import binaries, home, leftovers
from manager.embedded.account import Account
from manager.embedded.archive import Archive, control, missing, position_of, system_of
from manager.embedded.backup import TAKEN, Backup
from manager.embedded.binaries import Binaries
from manager.embedded.cluster import SUPERUSER
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.home import Home
from manager.embedded.keeping import first_segment
from manager.embedded.lock import Lock
from manager.embedded.passwords import Passwords
from manager.embedded.recovery import Recovery

SEGMENT_SIZE = "Bytes per WAL segment"
DRAFT, SCRATCH, ASIDE = ".restoring", ".searching", ".before-"


@dataclass(frozen=True, slots=True)
class Place:
    """A data folder that nothing serves. `home`: of `imctl dev`, where it is its; `account`: who is to own it."""

    data: Path
    account: Account
    binaries: Binaries
    home: Home | None

    @property
    def draft(self) -> Path:
        """Where it is made ready, on the same disk."""
        return self.data.with_name(self.data.name + DRAFT)

    @property
    def scratch(self) -> Path:
        """Where the log is played once just to be asked."""
        return self.data.with_name(self.data.name + SCRATCH)

    @property
    def occupied(self) -> bool:
        """Whether there is anything in it that would have to go aside."""
        return self.data.exists() and any(self.data.iterdir())

    @property
    def aside(self) -> Path:
        """Where the present data would go."""
        return self.data.with_name(f"{self.data.name}{ASIDE}{datetime.now(UTC).strftime(TAKEN)}")


@contextmanager
def embedded(data_dir: Path | None, bin_dir: Path | None) -> Iterator[Place]:
    """The folder of `imctl dev`, held so that none starts meanwhile. Raises EmbeddedPostgresError where one runs."""
    kept = Home((data_dir or home.default_folder()).expanduser().resolve())
    account = Account.for_data(kept.data)
    home.prepare(kept, account)
    lock = Lock(kept.lock)
    try:
        leftovers.end_server(kept.data)
        found = binaries.reachable(binaries.find(bin_dir), account, kept.binaries)
        yield Place(kept.data, account, found, kept)
    finally:
        lock.release()


@contextmanager
def own(data: Path, bin_dir: Path | None) -> Iterator[Place]:
    """The data folder of a server of one's own. Raises EmbeddedPostgresError where it runs, or cannot be reached."""
    folder = data.expanduser().absolute()
    if not folder.parent.is_dir():
        raise EmbeddedPostgresError(f"There is no folder {folder.parent}: make it, or name another --into.")
    if pid := _serving(folder):
        raise EmbeddedPostgresError(f"A server runs on {folder}, pid {pid}: stop it first.")
    account = Account.for_data(folder)
    if account.lent and not account.can_enter(folder.parent):
        raise EmbeddedPostgresError(f"PostgreSQL runs as '{account.name}', which cannot enter {folder.parent}.")
    yield Place(folder, account, binaries.find(bin_dir), None)


def _serving(data: Path) -> int | None:
    """The process that says it serves the folder, where it is there and can be PostgreSQL."""
    with suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
        if process.name().startswith("postgres") and process.status() != psutil.STATUS_ZOMBIE:
            return process.pid
    return None


def copy(base: Backup, into: Path, account: Account) -> Iterator[int]:
    """Copies a base backup, the account's in the end; the bytes of each file as it is done."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o700)
    account.own(into)
    for each in sorted(base.path.rglob("*")):
        target = into / each.relative_to(base.path)
        if each.is_symlink():
            raise EmbeddedPostgresError(f"{each} is a tablespace, which is not brought back: restore it by hand.")
        if each.is_dir():
            target.mkdir(mode=0o700)
        else:
            shutil.copy(each, target)
            yield each.stat().st_size
        account.own(target)


def check(base: Backup, place: Place, archive: Archive | None) -> None:
    """Raises EmbeddedPostgresError where that backup cannot come back there, or not with that archive."""
    found = int((base.path / "PG_VERSION").read_text())
    if found != place.binaries.major:
        raise EmbeddedPostgresError(
            f"{base.path} is of PostgreSQL {found}, and {place.binaries.folder} holds {place.binaries.version}: "
            f"name the other one by IM_POSTGRES_BIN, such as /usr/lib/postgresql/{found}/bin."
        )
    if archive and archive.owner not in (None, system_of(base.path)):
        raise EmbeddedPostgresError(f"{archive.folder} is the archive of another server than {base.path} is of.")


def same_server(data: Path, base: Backup) -> bool:
    """Whether the data in a folder are of the server that the backup was taken of."""
    with suppress(OSError):
        return system_of(data) == system_of(base.path)
    return False


def gap(base: Backup, archive: Archive, bin_dir: Path) -> int | None:
    """The first position of the log since a backup that the archive lacks, though it has later ones."""
    size = int(control(bin_dir, base.path)[SEGMENT_SIZE])
    return next(missing(archive, position_of(first_segment(base), size), size), None)


def segments(base: Backup, archive: Archive, bin_dir: Path) -> list[str]:
    """The names of those in the archive that are played after a backup, in their order."""
    size = int(control(bin_dir, base.path)[SEGMENT_SIZE])
    first = position_of(first_segment(base), size)
    return [each.path.name[:24] for each in archive.segments(size) if each.position >= first]


async def let_in(recovery: Recovery, kept: Home) -> None:
    """Has the superuser of a restored server know the password that this folder keeps."""
    password = Passwords(kept.passwords).obtain(SUPERUSER)
    statement = await recovery.value(
        "postgres", "select format('alter role %I password %L', $1::text, $2::text)", SUPERUSER, password
    )
    await recovery.execute("postgres", str(statement))


def take_place(place: Place) -> Path | None:
    """Puts the draft into its place; where the data went that were there, if any."""
    aside = place.aside if place.occupied else None
    if aside:
        place.data.rename(aside)
    elif place.data.exists():
        place.data.rmdir()
    place.draft.rename(place.data)
    _settle(place.data.parent)
    return aside


def _settle(folder: Path) -> None:
    """Has the new names on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
