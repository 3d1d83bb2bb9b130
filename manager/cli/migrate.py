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
from manager.domain.refusals import Refusal
from manager.repository import migrations, versions
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
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL that leads to VERSION, or from one to another: 0004:0007.")
    ] = False,
    patience: Annotated[
        float, typer.Option("--patience", help="For how long to try again while others hold locks.", metavar="SECONDS")
    ] = migrations.PATIENCE,
) -> None:
    """Bring the schema of DATABASE_URL up to this release's.

    Managers may go on serving meanwhile. A schema of a later release is left as it is. Going down is refused as long
    as managers of this release live, and so is what living managers could not serve.

    The role in DATABASE_URL must own the database or be a superuser. The schema belongs to the role im_owner, and
    managers serve as im_server; both are made here. Let managers log in by psql: `alter role im_server login;`, and
    `\\password im_server`, which asks for it.

    \b
    Examples:
      DATABASE_URL=postgresql://postgres@db/instance_manager imctl migrate
      imctl migrate --down 0001
      imctl migrate --sql 0007:head > review.sql
    """
    if sql and down:
        raise typer.BadParameter("the way down is not printed", param_hint="--sql")
    if sql:
        print(migrations.statements(to), end="")
        return
    printer = shown.of(MIGRATED)
    url = settings_of().database_url
    if not url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://postgres@host/instance_manager")
    try:
        reached = asyncio.run(_migrate(url, to, down, patience, shown.quiet))
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(str(error) if isinstance(error, Refusal) else f"the database cannot be used: {error}")
    if not shown.quiet:
        say(f"the schema is at {reached}{'' if reached in (*versions.known(), 'base') else AHEAD}")
    printer.one(_Migrated(reached))


AHEAD = ", of a later release than this one, and stays there"


async def _migrate(url: str, to: str, down: bool, patience: float, quiet: bool) -> str:
    go = migrations.downgrade if down else migrations.upgrade
    async with spinning("migrating", quiet):
        return await go(url, to, patience=patience, told=say)
