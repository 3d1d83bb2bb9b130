"""`imctl service`: what is offered, and where."""

from dataclasses import dataclass
from typing import Annotated

import typer

from manager.cli import identity, parse, words
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.document import document
from manager.cli.living import living
from manager.cli.messages import refused
from manager.cli.output import Printer, Shown
from manager.cli.progress import spinning
from manager.cli.table import Column, Document, Sheet
from manager.client import Client
from manager.pb.instance_manager_pb2 import (
    AddServiceRequest,
    InstanceDescription,
    InstanceRequest,
    Service,
    ServiceType,
)


@dataclass(frozen=True, slots=True)
class _Offer:
    """A service, and whose it is."""

    instance: InstanceDescription
    service: Service

    def document(self) -> Document:
        return {"instance_id": self.instance.instance_id} | document(self.service)


OFFERS: Sheet[_Offer] = Sheet(
    columns=(
        Column("service", lambda offer: ServiceType.Name(offer.service.service_type)),
        Column("host", lambda offer: offer.service.host),
        Column("port", lambda offer: offer.service.port),
        Column("path", lambda offer: offer.service.path or None),
        Column("id", lambda offer: offer.instance.instance_id),
        Column(
            "status",
            lambda offer: words.status_name(offer.instance.status),
            lambda offer: words.status(offer.instance.status),
        ),
        Column("type", lambda offer: words.kind(offer.instance.instance_type), wide=True),
        Column("hostname", lambda offer: offer.instance.hostname, wide=True),
    ),
    name=lambda offer: words.service(offer.service),
    document=_Offer.document,
)


def service(
    at: Connection,
    shown: Shown,
    instance_id: Annotated[str, typer.Argument(help="Only this one's.", metavar="[ID]", **ID)] = "",
    added: Annotated[
        str, typer.Argument(help="One that it offers from now on: NAME=HOST:PORT/PATH.", metavar="[SERVICE]")
    ] = "",
) -> None:
    """List what the living fleet offers, and where; or what one instance does; or add one service to an instance.

    \b
    Examples:
      imctl service --columns host,port,id
      imctl service 7f3a
      imctl service 7f3a CHROME_DEBUG_PORT=10.0.0.1:9222/devtools/browser/1
    """
    printer = shown.of(OFFERS)
    offered = parse.whole_service(added) if added else None
    ask(at, lambda client: _service(client, instance_id, offered, printer))


async def _service(client: Client, written: str, offered: Service | None, printer: Printer[_Offer]) -> int:
    if not written:
        async with spinning("listing the fleet", printer.shown.quiet):
            fleet = await living(client)
        printer.many([_Offer(one, each) for one in fleet.instances for each in one.services])
        return Exit.OK
    wanted = await identity.whole_one(client, written)
    if offered is not None:
        answer = await client.try_.TryAddService(AddServiceRequest(instance_id=wanted, service=offered))
        if not answer.value:
            return refused(f"the service of {wanted}", answer)
    one = (await client.fleet.DescribeInstance(InstanceRequest(instance_id=wanted))).instance
    printer.many([_Offer(one, each) for each in one.services])
    return Exit.OK
