"""`imctl migrate`: the schema, brought to this release's."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from manager.cli.output import Shown
from manager.cli.progress import spinning
from manager.cli.say import say
from manager.cli.serve import fail, settings_of
from manager.cli.table import Column, Sheet
from manager.repository import migrations
from manager.repository.database import refusal_of


@dataclass(frozen=True, slots=True)
class _Migrated:
    version: str


MIGRATED: Sheet[_Migrated] = Sheet(
    columns=(Column("version", lambda told: told.version),), name=lambda told: told.version, document=asdict
)


def migrate(
    shown: Shown,
    to: Annotated[str, typer.Argument(help="The version to go to.", metavar="VERSION")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go down to VERSION (`base`: remove everything).")] = False,
) -> None:
    """Bring the schema of DATABASE_URL up to this release's.

    The role in DATABASE_URL must own the database or be a superuser. The schema belongs to the role im_owner, and
    managers serve as im_server; both are made here. Let managers log in with: ALTER ROLE im_server LOGIN PASSWORD '...'

    \b
    Examples:
      DATABASE_URL=postgresql://postgres@db/instance_manager imctl migrate
      imctl migrate --down 0001
    """
    printer = shown.of(MIGRATED)
    url = settings_of().database_url
    if not url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://postgres@host/instance_manager")
    try:
        asyncio.run(_migrate(url, to, down, shown.quiet))
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(f"the database cannot be used: {error}")
    reached = migrations.newest() if to == "head" else to
    if not shown.quiet:
        say(f"the schema is at {reached}")
    printer.one(_Migrated(reached))


async def _migrate(url: str, to: str, down: bool, quiet: bool) -> None:
    async with spinning("migrating", quiet):
        await (migrations.downgrade(url, to) if down else migrations.upgrade(url, to))
