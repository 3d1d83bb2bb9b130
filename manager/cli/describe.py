"""`imctl describe`: all that is known of one instance."""

from typing import Annotated

import typer

from manager.cli import identity
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.output import Printer, Shown
from manager.cli.sheets import REPORTS
from manager.client import Client
from manager.pb.fleet_pb2 import InstanceReport
from manager.pb.instance_manager_pb2 import InstanceRequest


def describe(
    at: Connection,
    shown: Shown,
    instance_id: Annotated[str, typer.Argument(help="Whom, dead or alive.", metavar="ID", **ID)],
) -> None:
    """Tell all that is known of one instance, dead or alive.

    \b
    Examples:
      imctl describe 7f3a
      imctl describe 7f3a -o json
    """
    printer = shown.of(REPORTS)
    ask(at, lambda client: _describe(client, instance_id, printer))


async def _describe(client: Client, written: str, printer: Printer[InstanceReport]) -> int:
    wanted = await identity.whole_one(client, written, dead=True)
    printer.one(await client.fleet.DescribeInstance(InstanceRequest(instance_id=wanted)))
    return Exit.OK
