"""`imctl doctor`: what is wrong, and what to do about it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from manager.cli import manager_checks
from manager.cli.codes import Exit
from manager.cli.connection import Connection
from manager.cli.finding import FINDINGS, Finding, State
from manager.cli.output import Shown
from manager.cli.progress import spinning

NOT_INSTALLED = "pip install 'instance-manager[server]' to look at it from here"


def doctor(
    at: Connection,
    shown: Shown,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="As given to `imctl dev`.", metavar="FOLDER")
    ] = None,
    http_port: Annotated[
        int, typer.Option("--http-port", envvar="IM_HTTP_PORT", help="As given to the managers.", min=1, max=65535)
    ] = 50053,
) -> None:
    """Look at the managers, and at their database where DATABASE_URL or a running `imctl dev` say where it is.

    It looks at ports, HTTP's too, the version of the protocol, how fast calls are, clocks, the schema, connections, how
    long the doorbell takes, who holds back the sweeping, and the disk; and changes nothing. The exit code is 1 when
    anything failed.

    \b
    Examples:
      imctl doctor
      DATABASE_URL=postgresql://im_server@db/instance_manager imctl doctor -o json
    """
    printer = shown.of(FINDINGS)
    target = at.target()

    async def looked() -> list[Finding]:
        async with spinning("looking", shown.quiet):
            return [*await manager_checks.look(target, http_port), *await _database(data_dir)]

    found = asyncio.run(looked())
    printer.many(found)
    raise typer.Exit(Exit.FAILED if any(each.state is State.FAILED for each in found) else Exit.OK)


async def _database(data_dir: Path | None) -> list[Finding]:
    try:
        from manager.cli import database_checks
    except ModuleNotFoundError:
        return [Finding("database", State.SKIPPED, "the server is not installed here", NOT_INSTALLED)]
    return await database_checks.look(data_dir)
