"""`imctl why`: what killed an instance."""

from dataclasses import dataclass
from typing import Annotated

import typer

from manager.cli import identity, words
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.document import document, moment
from manager.cli.messages import death
from manager.cli.output import Printer, Shown
from manager.cli.say import say
from manager.cli.sheets import INSTANCES, part
from manager.cli.table import Column, Document, Sheet
from manager.client import Client
from manager.pb.instance_manager_pb2 import STATUS_DEAD, InstanceDescription, InstanceRequest


@dataclass(frozen=True, slots=True)
class _Link:
    """One of the chain of deaths; the last, whose death began it, has who asked for it and the note."""

    instance: InstanceDescription
    actor: str = ""
    note: str = ""

    def document(self) -> Document:
        return document(self.instance) | {"actor": self.actor, "note": self.note}


LINKS: Sheet[_Link] = Sheet(
    columns=(
        *(part(each, lambda link: link.instance) for each in INSTANCES.columns if each.name in ("id", "type")),
        *(part(each, lambda link: link.instance) for each in INSTANCES.columns if each.name == "hostname"),
        Column("cause", lambda link: words.cause(link.instance.death_cause)),
        Column(
            "died",
            lambda link: moment(link.instance.died_at_ms),
            lambda link: words.ago(moment(link.instance.died_at_ms)),
        ),
        Column("note", lambda link: link.note or None),
        Column("actor", lambda link: link.actor or None),
    ),
    name=lambda link: link.instance.instance_id,
    document=_Link.document,
)


def why(
    at: Connection, shown: Shown, instance_id: Annotated[str, typer.Argument(help="Whom.", metavar="ID", **ID)]
) -> None:
    """Tell what killed an instance: the chain of deaths from its own up to the one that began it.

    The exit code is 8 where it is alive.

    \b
    Examples:
      imctl why 0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f
      imctl why 3a2b1c0d9e8f -o json
    """
    printer = shown.of(LINKS)
    ask(at, lambda client: _why(client, instance_id, printer))


async def _why(client: Client, written: str, printer: Printer[_Link]) -> int:
    wanted = await identity.whole_one(client, written, dead=True)
    told = await client.fleet.DescribeInstance(InstanceRequest(instance_id=wanted))
    if told.instance.status != STATUS_DEAD:
        say(f"{wanted} is not dead: {words.status_name(told.instance.status)}")
        return Exit.CONDITION
    if not printer.shown.quiet:
        say(death(told))
    *before, root = (told.instance, *told.causes)
    printer.many([*map(_Link, before), _Link(root, told.actor, told.note)], arranged=True)
    return Exit.OK
