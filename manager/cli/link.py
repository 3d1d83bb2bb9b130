"""`imctl link`: a child to its parent."""

from typing import Annotated

import typer

from manager.cli import identity
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.messages import refused
from manager.cli.output import Printer, Shown
from manager.cli.sheets import INSTANCES
from manager.client import Client
from manager.pb.instance_manager_pb2 import AddChildRequest, InstanceDescription, InstanceRequest


def link(
    at: Connection,
    shown: Shown,
    parent: Annotated[str, typer.Argument(help="With whom it dies from now on.", metavar="PARENT", **ID)],
    child: Annotated[str, typer.Argument(help="Whom.", metavar="CHILD", **ID)],
) -> None:
    """Give a child its one parent, for life: it dies with it. The child, as it is then, is the answer.

    \b
    Examples:
      imctl link 7f3a 3a2b
    """
    printer = shown.of(INSTANCES)
    ask(at, lambda client: _link(client, [parent, child], printer))


async def _link(client: Client, written: list[str], printer: Printer[InstanceDescription]) -> int:
    parent, child = await identity.whole(client, written)
    answer = await client.try_.TryAddChild(AddChildRequest(parent_id=parent, child_id=child))
    if not answer.value:
        return refused(f"the link of {child} to {parent}", answer)
    printer.many([(await client.fleet.DescribeInstance(InstanceRequest(instance_id=child))).instance])
    return Exit.OK
