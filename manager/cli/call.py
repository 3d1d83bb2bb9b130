"""What the client verbs share: where the manager is, and what the end of a call means to a shell."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, NoReturn

import typer

from manager.cli import parse
from manager.cli.exits import exit_of
from manager.cli.messages import ADVICE_OF_EXIT, say
from manager.client import Client, ManagerError

Address = Annotated[
    str, typer.Option("--address", envvar="IM_ADDRESS", help="The manager; several with commas.", metavar="HOST:PORT")
]
NEAR = "127.0.0.1:50052"


def ask(address: str, question: Callable[[Client], Awaitable[int]]) -> NoReturn:
    """Puts a question to the manager at `address`, and exits with the question's code or that of its failure."""
    raise typer.Exit(asyncio.run(_ask(parse.addresses(address), address, question)))


async def _ask(addresses: tuple[str, ...], where: str, question: Callable[[Client], Awaitable[int]]) -> int:
    async with Client(*addresses) as client:
        try:
            return await question(client)
        except ManagerError as error:
            code = exit_of(error)
            say(f"{where}: {error}", ADVICE_OF_EXIT.get(code, ""))
            return code
