"""`imctl admin`: what only an operator can know, told to the database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from manager.cli.operator import operator
from manager.cli.output import Shown
from manager.cli.serve import fail, settings_of
from manager.cli.table import Column, Sheet
from manager.domain.grace import EPOCH_GRACE
from manager.repository.database import Session, engine_of, refusal_of
from manager.repository.turn import give_grace, open_epoch


@dataclass(frozen=True, slots=True)
class _Done:
    action: str
    result: str


DONE: Sheet[_Done] = Sheet(
    columns=(Column("action", lambda told: told.action), Column("result", lambda told: told.result)),
    name=lambda told: told.action,
    document=asdict,
)


def admin(
    shown: Shown,
    action: Annotated[
        str,
        typer.Argument(
            help="`new-epoch`: the database's past was changed. `grace`: everybody deserves five more minutes.",
            metavar="new-epoch|grace",
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Kept with the epoch.")] = "an operator's word",
) -> None:
    """Tell the database of DATABASE_URL what nobody else can see.

    new-epoch: promotions and restores are seen by the managers themselves; a disk that was rolled back to a snapshot
    looks like before. Say it here, and streams from the lost future are refused, and everybody alive is given time.

    grace: nobody who is alive expires for five minutes, for instance while a network is mended.

    \b
    Examples:
      imctl admin grace
      imctl admin new-epoch --reason "the volume was rolled back"
    """
    printer = shown.of(DONE)
    if action not in ACTIONS:
        raise typer.BadParameter(f"there are only {' and '.join(ACTIONS)}")
    url = settings_of().database_url
    if not url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://im_server@host/instance_manager")
    try:
        said = asyncio.run(ACTIONS[action](url, reason))
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(f"the database cannot be used: {error}")
    printer.one(_Done(action, said))


async def _open(url: str, reason: str) -> str:
    async with _session(url) as connection:
        opened = await open_epoch(connection, reason, forced=True, operator=operator())
    number = opened[1] if opened else 0
    return f"epoch {number} is open: older resume tokens are good only up to where it began"


async def _forgive(url: str, _reason: str) -> str:
    async with _session(url) as connection:
        until = await give_grace(connection, EPOCH_GRACE, operator())
    if until is None:
        return "no more grace is left for this hour: those who are silent go on expiring"
    return f"nobody who is alive now expires before {until:%H:%M:%S} UTC"


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[Any]:
    session = Session(engine_of(url, name="admin"))
    try:
        async with session.use() as connection:
            yield connection
    finally:
        await session.close()


ACTIONS = {"new-epoch": _open, "grace": _forgive}
