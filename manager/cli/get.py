"""`imctl get`: the living fleet, a part of it, or single instances."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from manager.cli import identity, parse
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.connection import Connection
from manager.cli.living import living
from manager.cli.output import Printer, Shown
from manager.cli.selection import Selection
from manager.cli.sheets import INSTANCES
from manager.client import Client
from manager.pb.instance_manager_pb2 import InstanceDescription, InstanceRequest


@dataclass(frozen=True, slots=True)
class _Asked:
    ids: Sequence[str]
    selection: Selection
    states: frozenset[int]


def get(
    at: Connection,
    shown: Shown,
    selection: Selection,
    ids: Annotated[list[str] | None, typer.Argument(help="Only these, dead or alive.", metavar="[ID]...")] = None,
    states: Annotated[
        list[str] | None,
        typer.Option("--status", help="healthy or stale; both otherwise.", metavar="STATUS"),
    ] = None,
) -> None:
    """List the living fleet, or a part of it.

    \b
    Examples:
      imctl get
      imctl get --type CHROME_BROWSER --host gpu-7 -o wide
      imctl get --label team=search --sort-by=-created
      imctl get -o name --status stale
      imctl get 7f3a -o yaml
    """
    printer = shown.of(INSTANCES)
    selection.check()
    asked = _Asked(ids or (), selection, frozenset(map(parse.status, states or ())))
    if asked.ids and (selection.given or asked.states):
        raise typer.BadParameter("ids and filters exclude each other")
    ask(at, lambda client: _get(client, asked, printer))


async def _get(client: Client, asked: _Asked, printer: Printer[InstanceDescription]) -> int:
    found = await (_named(client, asked.ids) if asked.ids else _selected(client, asked))
    printer.many(found)
    return Exit.OK


async def _named(client: Client, ids: Sequence[str]) -> list[InstanceDescription]:
    wanted = await identity.whole(client, ids)
    return [(await client.fleet.DescribeInstance(InstanceRequest(instance_id=each))).instance for each in wanted]


async def _selected(client: Client, asked: _Asked) -> list[InstanceDescription]:
    fleet = await living(client, **await asked.selection.wanted(client))
    return [one for one in fleet.instances if not asked.states or one.status in asked.states]
