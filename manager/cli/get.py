"""`imctl get`: the living fleet, a part of it, or single instances."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from manager.cli import follow, identity, parse
from manager.cli.call import Question, ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.living import living
from manager.cli.output import Printer, Shown
from manager.cli.past import past
from manager.cli.progress import spinning
from manager.cli.selection import Selection
from manager.cli.sheets import INSTANCES, UPDATES
from manager.client import Client
from manager.pb.fleet_pb2 import InstancesAtRequest
from manager.pb.instance_manager_pb2 import InstanceDescription, InstanceRequest, Status


@dataclass(frozen=True, slots=True)
class _Asked:
    """Whom, and how they are shown."""

    shown: Shown
    selection: Selection
    states: frozenset[Status.ValueType]

    def admits(self, one: InstanceDescription) -> bool:
        return not self.states or one.status in self.states


def get(
    at: Connection,
    shown: Shown,
    selection: Selection,
    ids: Annotated[list[str] | None, typer.Argument(help="Only these, dead or alive.", metavar="[ID]...", **ID)] = None,
    states: Annotated[
        list[str] | None, typer.Option("--status", help="healthy or stale; both otherwise.", metavar="STATUS")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="And go on with what changes, for ever.")] = False,
    then: Annotated[
        str, typer.Option("--at", help="As it was then: 15m (ago), a time, or @REVISION.", metavar="MOMENT")
    ] = "",
) -> None:
    """List the living fleet, or a part of it; with --at as it was, as far back as the dead are remembered.

    With --watch a terminal shows a table that is drawn anew; elsewhere every change is a line, with `-o json` an object
    a line, and who is there already comes first. It goes on by itself over breaks and restarts.

    \b
    Examples:
      imctl get
      imctl get --type CHROME_BROWSER --host gpu-7 -o wide
      imctl get --label team=search --sort-by=-created
      imctl get --status stale -o name
      imctl get 7f3a -o yaml
      imctl get --watch -o json
      imctl get --at 2026-01-31T16:20:00Z --type VLLM
    """
    asked = _Asked(shown, selection, frozenset(map(parse.status, states or ())))
    selection.check()
    if then:
        if watch:
            raise typer.BadParameter("the past does not change: leave out --watch, or --at")
        ask(at, _past(asked, ids or (), parse.point(then)))
    if ids and (selection.given or states or watch):
        raise typer.BadParameter("ids come without filters and without --watch")
    if ids:
        printer = shown.of(INSTANCES)
        ask(at, lambda client: _named(client, ids, printer))
    if states and watch and not follow.drawable(shown):
        raise typer.BadParameter("a line is a change, and has no state: see `imctl watch --event STALE`")
    ask(at, _watching(asked) if watch else _listing(asked))


async def _named(client: Client, ids: Sequence[str], printer: Printer[InstanceDescription]) -> int:
    wanted = await identity.whole(client, ids, dead=True)
    found = [await client.fleet.DescribeInstance(InstanceRequest(instance_id=each)) for each in wanted]
    printer.many([each.instance for each in found])
    return Exit.OK


def _listing(asked: _Asked) -> Question:
    printer = asked.shown.of(INSTANCES)

    async def listed(client: Client) -> int:
        async with spinning("listing the fleet", asked.shown.quiet):
            fleet = await living(client, **await asked.selection.wanted(client))
        printer.many(filter(asked.admits, fleet.instances))
        return Exit.OK

    return listed


def _past(asked: _Asked, ids: Sequence[str], point: dict[str, Any]) -> Question:
    printer = asked.shown.of(INSTANCES)

    async def listed(client: Client) -> int:
        async with spinning("looking back", asked.shown.quiet):
            wanted = await asked.selection.wanted(client, dead=True)
            wanted["ids"] = await identity.whole(client, ids, dead=True)
            found = await past(client, InstancesAtRequest(**wanted, **point))
        printer.many(filter(asked.admits, found))
        return Exit.OK

    return listed


def _watching(asked: _Asked) -> Question:
    if follow.drawable(asked.shown):
        table = asked.shown.of(INSTANCES)

        async def redrawn(client: Client) -> int:
            await follow.redrawn(client, await asked.selection.wanted(client), table, asked.admits)
            return Exit.OK

        return redrawn
    printer = asked.shown.of(UPDATES)
    printer.unsorted()

    async def told(client: Client) -> int:
        wanted = await asked.selection.wanted(client)
        await follow.lines_from_the_beginning(client, wanted, printer, asked.admits)
        return Exit.OK

    return told
