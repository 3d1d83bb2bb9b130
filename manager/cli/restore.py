"""`imctl restore`: the database, brought back."""

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from manager.cli import parse
from manager.cli.address import unreadable
from manager.cli.backup import BACKUPS
from manager.cli.dev import DATABASE
from manager.cli.output import Shown
from manager.cli.playback import Playback, Wanted
from manager.cli.progress import spinning
from manager.cli.say import say
from manager.cli.serve import fail, settings_of
from manager.cli.table import Column, Document, Sheet, rfc3339
from manager.embedded import EmbeddedPostgresError, restoring, start, undump
from manager.embedded.archive import NAME, Archive
from manager.embedded.backup import Backup, Kind, listed
from manager.embedded.keeping import verify
from manager.embedded.restoring import Place
from manager.embedded.undump import Into


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back, or would. `aside`: where what was there is now; `revision`: the newest change that is there."""

    backup: Backup
    into: str
    moment: str
    aside: str = ""
    revision: int | None = None
    done: bool = True


def document(told: Restored) -> Document:
    """As json and yaml have it."""
    return {
        "backup": str(told.backup.path),
        "kind": str(told.backup.kind),
        "taken_at": rfc3339(told.backup.taken_at),
        "into": told.into,
        "moment": told.moment,
        "aside": told.aside,
        "revision": "" if told.revision is None else str(told.revision),
        "done": told.done,
    }


RESTORED: Sheet[Restored] = Sheet(
    columns=(
        Column("backup", lambda told: str(told.backup.path)),
        Column("kind", lambda told: str(told.backup.kind)),
        Column("taken_at", lambda told: told.backup.taken_at),
        Column("into", lambda told: told.into),
        Column("moment", lambda told: told.moment),
        Column("aside", lambda told: told.aside or None),
        Column("revision", lambda told: told.revision),
        Column("done", lambda told: told.done),
    ),
    name=lambda told: told.into,
    document=document,
)


@dataclass(frozen=True, slots=True)
class Moment:
    """The options that say what is to come back."""

    to_time: Annotated[
        str, typer.Option("--to-time", help="As it was then: 2026-01-31T12:00:00Z, or 15m (ago).", metavar="TIME")
    ] = ""
    to_revision: Annotated[
        int | None,
        typer.Option("--to-revision", help="Up to this change, and those of the same transaction.", min=1),
    ] = None
    dump: Annotated[bool, typer.Option("--dump", help="From the newest dump, in place of the base backups.")] = False

    def wanted(self) -> Wanted:
        """Raises BadParameter where they do not go together."""
        if self.to_time and self.to_revision is not None:
            raise typer.BadParameter("one of them", param_hint="--to-time, --to-revision")
        return Wanted(parse.moment(self.to_time) if self.to_time else None, self.to_revision)


@dataclass(frozen=True, slots=True)
class Whereto:
    """The options that say where to."""

    into: Annotated[
        Path | None,
        typer.Option("--into", help="The data folder of a server of your own, which is stopped.", metavar="PGDATA"),
    ] = None
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="As given to `imctl dev`.")
    ] = None
    url: Annotated[
        str,
        typer.Option(
            "--url",
            envvar="IM_SUPERUSER_URL",
            callback=unreadable,
            help="For a dump: the server, as a superuser.",
            metavar="URL",
        ),
    ] = ""
    database: Annotated[str, typer.Option("--database", help="The fleet's database.")] = DATABASE
    archive: Annotated[
        Path | None, typer.Option("--archive", help="The archive, where it is not `wal` in FOLDER.", metavar="FOLDER")
    ] = None
    replace: Annotated[bool, typer.Option("--replace", help="Set aside what is there; nothing is ever removed.")] = (
        False
    )
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False

    def place(self, bin_dir: Path | None) -> AbstractContextManager[Place]:
        """The data folder."""
        return restoring.own(self.into, bin_dir) if self.into else restoring.embedded(self.data_dir, bin_dir)

    def archived(self, folder: Path) -> Archive | None:
        """The archive, if there is one."""
        found = (self.archive or folder / NAME).expanduser().absolute()
        return Archive(found) if found.is_dir() else None


def restore(
    shown: Shown,
    folder: Annotated[Path, typer.Argument(help="Where backups are kept.")],
    moment: Moment,
    whereto: Whereto,
    name: Annotated[str, typer.Argument(help="One of them; else the newest that leads there.", metavar="[NAME]")] = "",
    show: Annotated[bool, typer.Option("--list", help="Bring none back: list those that are there.")] = False,
) -> None:
    """Bring back the database of `imctl dev`, or of a server of your own, from a backup and its archive.

    The server is to be stopped, and for a dump it is the managers. Without --to-time or --to-revision all comes back
    that the archive has. All is done beside the present data, which are set aside in the end: what fails changes
    nothing. The managers that are started then see another history, open a new epoch, and forgive everybody.

    \b
    Examples:
      imctl restore /var/backups/fleet --list
      imctl restore /var/backups/fleet --dry-run
      imctl restore /var/backups/fleet --replace --to-revision 4711
      imctl restore /var/backups/fleet --into /var/lib/postgresql/17/main --to-time 15m
      imctl restore /var/backups/fleet --dump --url postgresql://postgres@db/postgres
    """
    kept, wanted = folder.expanduser().absolute(), moment.wanted()
    if show:
        shown.of(BACKUPS).many(listed(kept))
        return
    printer = shown.of(RESTORED)
    try:
        chosen = candidates(kept, name, Kind.DUMP if moment.dump else Kind.BASE)
        if chosen[0].kind is Kind.DUMP:
            printer.one(_undump(chosen[-1], wanted, whereto, shown.quiet))
        else:
            printer.one(_play(chosen, wanted, kept, whereto, shown.quiet))
    except EmbeddedPostgresError as error:
        fail(str(error), "nothing was changed; --list shows the backups, --dry-run what would be done")


def candidates(folder: Path, name: str, kind: Kind) -> list[Backup]:
    """The backup of that name, or all of a kind. Raises EmbeddedPostgresError where there is none."""
    there = listed(folder)
    found = (
        [each for each in there if each.path.name == Path(name).name] if name else [x for x in there if x.kind is kind]
    )
    if not found:
        raise EmbeddedPostgresError(f"There is no {f'backup {name}' if name else f'{kind} backup'} in {folder}.")
    return found


def _play(bases: list[Backup], wanted: Wanted, folder: Path, whereto: Whereto, quiet: bool) -> Restored:
    with whereto.place(settings_of().postgres_bin) as place:
        aside = _may_go_aside(place.occupied, str(place.data), whereto) and place.aside
        playback = Playback(place, whereto.archived(folder), whereto.database, quiet)
        if whereto.dry_run:
            base, _ = asyncio.run(playback.aim(bases, wanted))
            return Restored(base, str(place.data), wanted.said, str(aside or ""), done=False)
        came = asyncio.run(playback.bring_back(bases, wanted))
    if not quiet:
        say(
            f"restored up to revision {came.revision}",
            "start PostgreSQL, then the managers, and take a base backup" if whereto.into else "start `imctl dev`",
        )
    return Restored(came.base, str(place.data), wanted.said, str(came.aside or ""), came.revision)


def _may_go_aside(occupied: bool, what: str, whereto: Whereto) -> bool:
    """Whether something has to. Exits where nobody said that it may."""
    if occupied and not whereto.replace and not whereto.dry_run:
        fail(f"{what} is not empty", "--replace sets it aside, under another name beside it")
    return occupied


def _undump(dump: Backup, wanted: Wanted, whereto: Whereto, quiet: bool) -> Restored:
    if wanted.aims or whereto.into:
        raise typer.BadParameter("a dump is one moment, and comes back into a running server: --url")
    if whereto.url:
        return asyncio.run(_filled(dump, Into(whereto.url, whereto.database), whereto, quiet))
    with start(whereto.data_dir, bin_dir=settings_of().postgres_bin) as postgres:
        return asyncio.run(_filled(dump, Into(postgres.url(), whereto.database), whereto, quiet))


async def _filled(dump: Backup, into: Into, whereto: Whereto, quiet: bool) -> Restored:
    there = _may_go_aside(await undump.occupied(into), f"the database {into.database}", whereto)
    moment = f"{dump.taken_at:%Y-%m-%dT%H:%M:%SZ}"
    if whereto.dry_run:
        return Restored(dump, into.database, moment, into.aside if there else "", done=False)
    bin_dir = settings_of().postgres_bin
    async with spinning("restoring the dump", quiet):
        await asyncio.to_thread(verify, dump, bin_dir)
        await undump.make_draft(into)
        await asyncio.to_thread(undump.fill, into, dump, bin_dir)
        revision = await undump.note(into, f"restored from the dump {dump.path.name}")
    aside = await undump.take_place(into)
    return Restored(dump, into.database, moment, aside or "", revision)
