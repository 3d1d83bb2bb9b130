"""`imctl watch`: what changes, as it changes."""

from typing import Annotated

import typer

from manager.cli import follow, parse
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.connection import Connection
from manager.cli.output import Shown
from manager.cli.selection import Selection
from manager.cli.sheets import UPDATES
from manager.client import Client


def watch(
    at: Connection,
    shown: Shown,
    selection: Selection,
    kinds: Annotated[
        list[str] | None, typer.Option("--event", help="Only these, as REMOVED. May be repeated.", metavar="EVENT")
    ] = None,
) -> None:
    """Tell every change from now on, one a line, until it is interrupted; nothing is missed, nothing told twice.

    Whoever is registered comes with its parent and services, in one line. It goes on by itself over breaks and
    restarts, at any manager. `-o json` is one object a line. `imctl get --watch` shows who is there, and `imctl events`
    what was before.

    \b
    Examples:
      imctl watch
      imctl watch --type VLLM --event ADDED --event REMOVED
      imctl watch -o json | jq -r 'select(.event_type == "REMOVED").instance_id'
    """
    printer = shown.of(UPDATES)
    printer.unsorted()
    selection.check()
    wanted_kinds = [parse.event_type(each) for each in kinds or ()]

    async def watched(client: Client) -> int:
        await follow.lines(client, await selection.wanted(client), printer, wanted_kinds)
        return Exit.OK

    ask(at, watched)
