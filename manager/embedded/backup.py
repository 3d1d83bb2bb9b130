"""Backups by PostgreSQL's own programs: taken beside the others, looked over, and only then called by their name."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE

from manager.embedded import binaries
from manager.embedded.argument import without_password
from manager.embedded.errors import EmbeddedPostgresError

TAKEN = "%Y-%m-%dT%H-%M-%SZ"  # a name that sorts by time, and that every file system takes
UNFINISHED = ".unfinished"
MANIFEST, DUMP, ROLES = "backup_manifest", "database.dump", "roles.sql"
DONE = re.compile(r"\s*(\d+)/(\d+) \S+ \(\d+%\)")  # as pg_basebackup says it each second

# Hears what is being done and how much of that is, from 0 to 1; None where nobody can know.
Told = Callable[[str, float | None], object]


class Kind(StrEnum):
    """`base`: the whole server, for any moment since with an archive; `dump`: one database, for any server."""

    BASE = "base"
    DUMP = "dump"


@dataclass(frozen=True, slots=True)
class Backup:
    """One that is whole. `size` in bytes."""

    path: Path
    kind: Kind
    taken_at: datetime
    size: int


def take(url: str, folder: Path, kind: Kind, bin_dir: Path | None = None, told: Told | None = None) -> Backup:
    """Takes a backup of the server at the address, or of its database, into a new folder in `folder`; verified.

    Base backups need a role that may replicate, dumps one that may read everything. Raises EmbeddedPostgresError with
    what the program said. `told` is called in the thread that takes it.
    """
    name = datetime.now(UTC).strftime(TAKEN)
    draft, final = folder / f"{name}{UNFINISHED}", folder / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if final.exists():
            raise EmbeddedPostgresError(f"{final} is there already: take the next one a second later.")
        draft.mkdir(mode=0o700)
    except OSError as error:
        raise EmbeddedPostgresError(f"Nothing can be kept in {folder}: {error.strerror}.") from None
    address, environment = without_password(url)
    try:
        for what, program, *arguments in _commands(address, draft, kind, progress=told is not None):
            tell = partial(told or _nobody, what)
            tell(None)
            run([str(binaries.find(bin_dir).folder / program), *arguments], environment, partial(_tell, tell))
            tell(1.0)
        draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _read(final)


def _nobody(what: str, share: float | None) -> None:
    """Nobody is told."""


def _tell(tell: Callable[[float], object], line: str) -> None:
    """What a line says of the share that is done, where it says any."""
    if found := DONE.match(line):
        done, total = map(int, found.groups())
        tell(min(1.0, done / max(1, total)))


def _commands(address: str, draft: Path, kind: Kind, *, progress: bool) -> Iterator[Sequence[str]]:
    """What is done, by which program. Each backup is looked over by the one that would have to read it."""
    if kind is Kind.BASE:
        # with the changes that are made meanwhile, so that it can be started without an archive too
        how = ("--checkpoint=fast", "--wal-method=stream", "--no-password")
        # the server adds up all of its files for it beforehand: only where somebody watches
        watched = ("--progress",) if progress else ()
        yield "backing up", "pg_basebackup", f"--dbname={address}", f"--pgdata={draft}", *how, *watched
        yield "verifying", "pg_verifybackup", "--quiet", str(draft)
        return
    roles = ("--roles-only", "--no-role-passwords", "--no-password")
    yield "backing up", "pg_dumpall", f"--dbname={address}", *roles, f"--file={draft / ROLES}"
    yield "backing up", "pg_dump", f"--dbname={address}", "--format=custom", "--no-password", f"--file={draft / DUMP}"
    yield "verifying", "pg_restore", f"--file={os.devnull}", str(draft / DUMP)


def run(command: Sequence[str], environment: dict[str, str], hear: Callable[[str], object] | None = None) -> None:
    """Runs one of PostgreSQL's programs to its end. Raises EmbeddedPostgresError with what it said.

    `hear` is given each line that it says on stderr, as it comes.
    """
    said = []
    try:
        with subprocess.Popen(  # noqa: S603 - PostgreSQL's own programs
            command, env={**os.environ, **environment}, stdout=DEVNULL, stderr=PIPE, text=True
        ) as process:
            for line in process.stderr or ():
                said.append(line.rstrip())
                if hear:
                    hear(line)
    except FileNotFoundError:
        raise EmbeddedPostgresError(f"There is no {command[0]}: apt-get install postgresql-client.") from None
    if process.returncode:
        said = said or [f"it ended with {process.returncode}"]
        why = next((line for line in said if "error:" in line), said[-1]).partition("error: ")
        raise EmbeddedPostgresError(f"{Path(command[0]).name} failed: {why[2] or why[0]}")


def listed(folder: Path) -> list[Backup]:
    """The backups in a folder, the oldest first; whatever else is there is passed over."""
    if not folder.is_dir():
        return []
    return [_read(each) for each in sorted(folder.iterdir()) if _is_backup(each)]


def _is_backup(path: Path) -> bool:
    try:
        datetime.strptime(path.name, TAKEN).replace(tzinfo=UTC)
    except ValueError:
        return False
    return (path / MANIFEST).exists() or (path / DUMP).exists()


def _read(path: Path) -> Backup:
    kind = Kind.BASE if (path / MANIFEST).exists() else Kind.DUMP
    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return Backup(path, kind, datetime.strptime(path.name, TAKEN).replace(tzinfo=UTC), size)
