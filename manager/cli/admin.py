"""`imctl admin`: what only an operator can know, told to the database."""

import asyncio
from typing import Annotated

import typer

from manager.cli.serve import fail, say, settings_of
from manager.repository.database import Session, engine_of, refusal_of
from manager.repository.turn import open_epoch


def admin(
    action: Annotated[str, typer.Argument(help="`new-epoch`: the database's past was changed.", metavar="new-epoch")],
    reason: Annotated[str, typer.Option("--reason", help="Kept with the epoch.")] = "an operator's word",
) -> None:
    """Open a new epoch of the history in the database of DATABASE_URL.

    Promotions and restores are seen by the managers themselves. A disk that was rolled back to a snapshot looks like
    before: say it here, and streams from the lost future are refused, and everybody alive is given time.
    """
    if action != "new-epoch":
        raise typer.BadParameter("there is only `new-epoch`")
    url = settings_of().database_url
    if not url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://im_server@host/instance_manager")
    try:
        number = asyncio.run(_open(url, reason))
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(f"the database cannot be used: {error}")
    say(f"epoch {number} is open: older resume tokens are good only up to where it began")


async def _open(url: str, reason: str) -> int:
    session = Session(engine_of(url, name="admin"))
    try:
        async with session.use() as connection:
            opened = await open_epoch(connection, reason, forced=True)
    finally:
        await session.close()
    return opened[1] if opened else 0
