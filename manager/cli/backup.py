"""`imctl backup`: the database, kept elsewhere."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from manager.cli import words
from manager.cli.address import unreadable
from manager.cli.codes import Exit
from manager.cli.finding import SIGN_OF, State
from manager.cli.output import Shown
from manager.cli.progress import bar, bars, spinning
from manager.cli.progress import shown as shown_to_a_person
from manager.cli.say import say
from manager.cli.serve import fail, settings_of
from manager.cli.table import Column, Document, Sheet, rfc3339
from manager.embedded import EmbeddedPostgresError, published
from manager.embedded.archive import NAME, Archive
from manager.embedded.backup import Backup, Kind, listed, take
from manager.embedded.cluster import SUPERUSER
from manager.embedded.keeping import plan, prune, verify


def document(backup: Backup) -> Document:
    """As json and yaml have it."""
    return {
        "path": str(backup.path),
        "kind": str(backup.kind),
        "taken_at": rfc3339(backup.taken_at),
        "size_bytes": str(backup.size),
    }


COLUMNS: tuple[Column[Backup], ...] = (
    Column("path", lambda told: str(told.path)),
    Column("kind", lambda told: str(told.kind)),
    Column("taken_at", lambda told: told.taken_at),
    Column("size_bytes", lambda told: told.size, lambda told: words.size(told.size)),
)
BACKUPS: Sheet[Backup] = Sheet(columns=COLUMNS, name=lambda told: str(told.path), document=document)


@dataclass(frozen=True, slots=True)
class Verified:
    """A backup that was read again; `wrong` says what is not as it was."""

    backup: Backup
    wrong: str = ""

    @property
    def state(self) -> State:
        return State.FAILED if self.wrong else State.OK


VERIFIED: Sheet[Verified] = Sheet(
    columns=(
        Column("path", lambda told: str(told.backup.path)),
        Column("kind", lambda told: str(told.backup.kind)),
        Column("taken_at", lambda told: told.backup.taken_at),
        Column("state", lambda told: told.state, lambda told: words.signed(SIGN_OF[told.state], told.state)),
        Column("wrong", lambda told: told.wrong or None),
    ),
    name=lambda told: str(told.backup.path),
    document=lambda told: {**document(told.backup), "state": str(told.state), "wrong": told.wrong},
)


def backup(
    shown: Shown,
    folder: Annotated[Path, typer.Argument(help="Where backups are kept, each in a folder of its own.")],
    dump: Annotated[
        bool, typer.Option("--dump", help="The one database, for any server and version, in place of the whole server.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Take none: list those that are there.")] = False,
    again: Annotated[bool, typer.Option("--verify", help="Take none: read those that are there again.")] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            "--prune",
            help="Take none: remove all but the newest so many of each kind, and what is archived for none of them.",
            metavar="KEEP",
            min=1,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --prune: only show which would go.")] = False,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            envvar="IM_SUPERUSER_URL",
            callback=unreadable,
            help="The database, where it is not that of `imctl dev`: as a superuser, or a role that may replicate.",
            metavar="URL",
        ),
    ] = "",
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="As given to `imctl dev`.")
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option("--archive", help="The archive of a server of your own, for --prune.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Take a backup of a running `imctl dev`, or of a server of your own, and verify it.

    A base backup is the whole server, and with an archive every moment since; `imctl restore` brings it back. A folder
    that holds one is whole: what fails leaves nothing.

    \b
    Examples:
      imctl backup /var/backups/fleet
      imctl backup /var/backups/fleet --dump
      imctl backup /var/backups/fleet --list -o name
      imctl backup /var/backups/fleet --prune 7 --dry-run
    """
    if show + again + (keep is not None) > 1:
        raise typer.BadParameter("one at a time", param_hint="--list, --verify, --prune")
    kept = folder.expanduser().absolute()
    try:
        if show:
            shown.of(BACKUPS).many(listed(kept))
        elif again:
            _verify(shown, kept)
        elif keep is not None:
            _prune(shown, kept, keep, Archive(archive or kept / NAME), dry_run)
        else:
            _take(shown, kept, Kind.DUMP if dump else Kind.BASE, url, data_dir)
    except EmbeddedPostgresError as error:
        fail(str(error), "--url names another database, --data-dir the folder of `imctl dev`")


def _take(shown: Shown, folder: Path, kind: Kind, url: str, data_dir: Path | None) -> None:
    printer = shown.of(BACKUPS)
    printer.one(asyncio.run(_taken(url or published(data_dir, SUPERUSER), folder, kind, shown.quiet)))


async def _taken(address: str, folder: Path, kind: Kind, quiet: bool) -> Backup:
    bin_dir = settings_of().postgres_bin
    if kind is Kind.BASE and shown_to_a_person(quiet):
        with bars() as fill:
            return await asyncio.to_thread(take, address, folder, kind, bin_dir, fill)
    async with spinning("backing up", quiet):  # a dump does not know how much there will be
        return await asyncio.to_thread(take, address, folder, kind, bin_dir)


def _verify(shown: Shown, folder: Path) -> None:
    printer = shown.of(VERIFIED)
    looked = _looked_over(listed(folder), shown.quiet)
    printer.many(looked)
    raise typer.Exit(Exit.FAILED if any(each.wrong for each in looked) else Exit.OK)


def _looked_over(backups: Sequence[Backup], quiet: bool) -> list[Verified]:
    looked, bin_dir = [], settings_of().postgres_bin
    with bar("verifying", sum(each.size for each in backups), quiet) as advance:
        for each in backups:
            looked.append(_judged(each, bin_dir))
            advance(each.size)
    return looked


def _judged(backup: Backup, bin_dir: Path | None) -> Verified:
    try:
        verify(backup, bin_dir)
    except EmbeddedPostgresError as error:
        return Verified(backup, str(error))
    return Verified(backup)


def _prune(shown: Shown, folder: Path, keep: int, archive: Archive, dry_run: bool) -> None:
    printer = shown.of(BACKUPS)
    planned = plan(folder, keep, archive)
    files = 0 if dry_run else prune(planned, archive)
    if not shown.quiet and files:
        say(f"{files} files of the archive are gone: no backup that is kept needs them")
    printer.many(planned.gone)
