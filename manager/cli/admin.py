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
from manager.repository.trim import NotYours, shorten, told
from manager.repository.turn import give_grace, open_epoch
from manager.settings import Settings
from manager.upkeep import retention_of


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
            help="`new-epoch`: the database's past was changed. `grace`: everybody deserves five more minutes."
            " `retention`: what is kept is kept for no longer than the settings say.",
            metavar="new-epoch|grace|retention",
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Kept with the epoch.")] = "an operator's word",
) -> None:
    """Tell the database of DATABASE_URL what nobody else can see.

    new-epoch: promotions and restores are seen by the managers themselves; a disk that was rolled back to a snapshot
    looks like before. Say it here, and streams from the lost future are refused, and everybody alive is given time.

    grace: nobody who is alive expires for five minutes, for instance while a network is mended.

    retention: managers lengthen what the database keeps, by IM_TRAIL_RETENTION and its like, and never shorten it. This
    does, by the same settings, as a member of im_retention or a superuser. What is older then goes at the next upkeep.

    \b
    Examples:
      imctl admin grace
      imctl admin new-epoch --reason "the volume was rolled back"
      DATABASE_URL=postgresql://im_retention@db/instance_manager IM_TRAIL_RETENTION=7776000 imctl admin retention
    """
    printer = shown.of(DONE)
    if action not in ACTIONS:
        raise typer.BadParameter(f"there are only {', '.join(ACTIONS)}")
    settings = settings_of()
    if not settings.database_url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://im_server@host/instance_manager")
    try:
        said = asyncio.run(ACTIONS[action](settings, reason))
    except NotYours as error:
        fail(str(error), "log in as such: create role somebody login in role im_retention")
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(f"the database cannot be used: {error}")
    printer.one(_Done(action, said))


async def _open(settings: Settings, reason: str) -> str:
    async with _session(settings) as connection:
        opened = await open_epoch(connection, reason, forced=True, operator=operator())
    number = opened[1] if opened else 0
    return f"epoch {number} is open: older resume tokens are good only up to where it began"


async def _forgive(settings: Settings, _reason: str) -> str:
    async with _session(settings) as connection:
        until = await give_grace(connection, EPOCH_GRACE, operator())
    if until is None:
        return "no more grace is left for this hour: those who are silent go on expiring"
    return f"nobody who is alive now expires before {until:%H:%M:%S} UTC"


async def retain(settings: Settings, _reason: str = "") -> str:
    """Has the database of these settings keep what they say and no more; what has changed."""
    async with _session(settings) as connection:
        before, after = await shorten(connection, retention_of(settings), operator())
    return told(before, after) or "nothing is kept for longer than the settings say"


@asynccontextmanager
async def _session(settings: Settings) -> AsyncIterator[Any]:
    session = Session(engine_of(settings.database_url, name="admin"))
    try:
        async with session.use() as connection:
            yield connection
    finally:
        await session.close()


ACTIONS = {"new-epoch": _open, "grace": _forgive, "retention": retain}
