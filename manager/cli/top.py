"""`imctl top`: the fleet on a whole screen, live."""

import sys

import typer

from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.connection import Connection
from manager.cli.follow import followed
from manager.cli.say import say
from manager.cli.selection import Selection
from manager.cli.top_screen import Top
from manager.client import Client


def top(at: Connection, selection: Selection) -> None:
    """Show the fleet on a whole screen, live, with what it measures. Keys are listed at its foot.

    \b
    Examples:
      imctl top
      imctl top --type VLLM --host gpu-7
    """
    selection.check()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        say("top draws on a terminal, and there is none", "`imctl get --watch` tells the same in lines")
        raise typer.Exit(Exit.USAGE)

    async def shown(client: Client) -> int:
        async with followed(client, await selection.wanted(client)) as fleet:
            await Top(client, fleet).run_async()
        return Exit.OK

    ask(at, shown)
