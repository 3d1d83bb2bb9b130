"""`imctl backup`: the database, kept elsewhere."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from manager.cli import words
from manager.cli.output import Shown
from manager.cli.progress import spinning
from manager.cli.serve import fail, settings_of
from manager.cli.table import Column, Document, Sheet, rfc3339
from manager.embedded import EmbeddedPostgresError, published
from manager.embedded.backup import Backup, Kind, listed, take
from manager.embedded.cluster import SUPERUSER


def document(backup: Backup) -> Document:
    """As json and yaml have it."""
    return {
        "path": str(backup.path),
        "kind": str(backup.kind),
        "taken_at": rfc3339(backup.taken_at),
        "size_bytes": str(backup.size),
    }


BACKUPS: Sheet[Backup] = Sheet(
    columns=(
        Column("path", lambda told: str(told.path)),
        Column("kind", lambda told: str(told.kind)),
        Column("taken_at", lambda told: told.taken_at),
        Column("size_bytes", lambda told: told.size, lambda told: words.size(told.size)),
    ),
    name=lambda told: str(told.path),
    document=document,
)


def backup(
    shown: Shown,
    folder: Annotated[Path, typer.Argument(help="Where backups are kept, each in a folder of its own.")],
    dump: Annotated[
        bool, typer.Option("--dump", help="The one database, for any server and version, in place of the whole server.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Take none: list those that are there.")] = False,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            envvar="IM_SUPERUSER_URL",
            help="The database, where it is not that of `imctl dev`: as a superuser, or a role that may replicate.",
            metavar="URL",
        ),
    ] = "",
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="As given to `imctl dev`.")
    ] = None,
) -> None:
    """Take a backup of a running `imctl dev`, or of a server of your own, and verify it.

    A base backup is the whole server, and with an archive every moment since; docs/operations.md has how it is brought
    back. A folder that holds one is whole: what fails leaves nothing.

    \b
    Examples:
      imctl backup /var/backups/fleet
      imctl backup /var/backups/fleet --dump
      imctl backup /var/backups/fleet --list -o name
    """
    printer = shown.of(BACKUPS)
    kept = folder.expanduser().absolute()
    if show:
        printer.many(listed(kept))
        return
    try:
        address = url or published(data_dir, SUPERUSER)
        printer.one(asyncio.run(_taken(address, kept, Kind.DUMP if dump else Kind.BASE, shown.quiet)))
    except EmbeddedPostgresError as error:
        fail(str(error), "--url names another database, --data-dir the folder of `imctl dev`")


async def _taken(address: str, folder: Path, kind: Kind, quiet: bool) -> Backup:
    bin_dir = settings_of().postgres_bin
    async with spinning("backing up", quiet):
        return await asyncio.to_thread(take, address, folder, kind, bin_dir)
