"""`imctl audit`: whether the trail of who did what is as it was written."""

import asyncio
from typing import Annotated

import typer

from manager.cli.output import Shown
from manager.cli.serve import fail, settings_of
from manager.cli.table import Column, Sheet
from manager.domain.trail import Broken, Head, Verified
from manager.repository.database import Database, refusal_of
from manager.repository.trail import verify

VERIFIED: Sheet[Verified] = Sheet(
    columns=(
        Column("rows", lambda found: found.rows),
        Column("head", lambda found: str(found.head)),
        Column("seal", lambda found: str(found.seal), wide=True),
    ),
    name=lambda found: str(found.head),
    document=lambda found: {"rows": found.rows, "head": str(found.head), "seal": str(found.seal)},
)


def audit(
    shown: Shown,
    action: Annotated[str, typer.Argument(help="`verify`: read the whole trail.", metavar="verify")],
    head: Annotated[
        str,
        typer.Option(
            "--head", help="A head that was kept elsewhere, such as in a log: it must lie on the way.", metavar="N:HASH"
        ),
    ] = "",
) -> None:
    """Prove that the trail in DATABASE_URL is as it was written: no row changed, swapped or missing.

    Each row holds the hash of the one before. Whoever owns the database could write all of them anew; so managers log
    the head every few minutes, and --head proves that the trail still leads there. The exit code is 1 when it is
    broken.

    \b
    Examples:
      imctl audit verify
      imctl audit verify --head 4711:9f3c... -o json
    """
    printer = shown.of(VERIFIED)
    if action != "verify":
        raise typer.BadParameter("there is only verify")
    url = settings_of().database_url
    if not url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://im_server@host/instance_manager")
    try:
        found = asyncio.run(_verified(url, Head.parsed(head) if head else None))
    except ValueError:
        raise typer.BadParameter("a head is NUMBER:HASH, as the log has it") from None
    except Broken as broken:
        fail(f"the trail is broken: {broken}", "look for who could write to the database, and compare with a backup")
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(f"the database cannot be used: {error}")
    printer.one(found)


async def _verified(url: str, head: Head | None) -> Verified:
    database = Database(url, 1)
    try:
        async with database.readers.snapshot() as connection:
            return await verify(connection, head)
    finally:
        await database.close()
