"""`imctl events`: what has changed."""

from dataclasses import dataclass
from typing import Annotated

import typer

from manager.cli import identity, parse
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.output import Shown
from manager.cli.progress import spinning
from manager.cli.sheets import EVENTS
from manager.client import Client
from manager.pb.fleet_pb2 import Event, EventFilter

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Past:
    """Which events are meant: every criterion is optional, and all that are given must hold."""

    kinds: Annotated[
        list[str] | None, typer.Option("--event", help="Only these, as REMOVED. May be repeated.", metavar="EVENT")
    ] = None
    types: Annotated[
        list[str] | None, typer.Option("--type", "-t", help="Only of this type. May be repeated.", metavar="TYPE")
    ] = None
    hostnames: Annotated[
        list[str] | None, typer.Option("--host", help="Only on this host. May be repeated.", metavar="NAME")
    ] = None
    subtree: Annotated[
        str, typer.Option("--subtree", help="Of this one and all that were ever below it.", metavar="ID")
    ] = ""
    since: Annotated[str, typer.Option("--since", help="From then on: 15m (ago), or a time.", metavar="TIME")] = ""
    until: Annotated[str, typer.Option("--until", help="Up to then: 15m (ago), or a time.", metavar="TIME")] = ""
    limit: Annotated[int, typer.Option("--limit", min=1, help="Only the last so many.")] = 100

    def wanted(self) -> EventFilter:
        """As a manager takes it, still without ids. Raises BadParameter."""
        return EventFilter(
            event_types=[parse.event_type(each) for each in self.kinds or ()],
            types=[parse.instance_type(each) for each in self.types or ()],
            hostnames=self.hostnames or (),
            from_ms=milliseconds(self.since),
            to_ms=milliseconds(self.until),
        )


def events(
    at: Connection,
    shown: Shown,
    past: Past,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Only of these, dead or alive.", metavar="[ID]...", **ID)
    ] = None,
) -> None:
    """Tell what has changed, the oldest first, as far back as the history is kept. `imctl watch` tells what will.

    \b
    Examples:
      imctl events --since 1h
      imctl events 7f3a
      imctl events --event REMOVED --type VLLM --since 2026-01-31T12:00:00Z --limit 1000 -o csv
    """
    printer = shown.of(EVENTS)
    wanted = past.wanted()

    async def told(client: Client) -> int:
        async with spinning("reading the history", shown.quiet):
            wanted.ids.extend(await identity.whole(client, ids or (), dead=True))
            wanted.subtree_of = await identity.whole_one(client, past.subtree, dead=True) if past.subtree else ""
            found = await listed(client, wanted, past.limit)
        printer.many(reversed(found))
        return Exit.OK

    ask(at, told)


def milliseconds(text: str) -> int:
    """A time as the contract has it; 0 for none."""
    return round(parse.moment(text).timestamp() * 1000) if text else 0


async def listed(client: Client, wanted: EventFilter, limit: int) -> list[Event]:
    """The last events, the newest first."""
    found: list[Event] = []
    while True:
        wanted.page_size = min(PAGE, limit - len(found))
        page = await client.fleet.ListEvents(wanted)
        found += page.events
        wanted.page_token = page.next_page_token
        if not page.next_page_token or len(found) >= limit:
            return found
