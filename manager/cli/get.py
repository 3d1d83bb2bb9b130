"""`imctl get`: the living fleet, or one instance of it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson

from manager.cli import parse
from manager.cli.call import NEAR, Address, ask
from manager.cli.exits import Exit
from manager.client import Client
from manager.pb.instance_manager_pb2 import InstanceDescription, InstanceFilter, InstanceType, ServiceType
from manager.pb.instance_manager_pb2 import InstanceRequest as One

PAGE = 1_000
COLUMNS = ("ID", "TYPE", "HOSTNAME", "PARENT", "SERVICES")


def get(
    instance_id: Annotated[str, typer.Argument(help="One instance, dead or alive, in full.", metavar="[ID]")] = "",
    kinds: Annotated[list[str] | None, typer.Option("--type", help="Only of this type.", metavar="TYPE")] = None,
    subtree: Annotated[str, typer.Option("--subtree", help="Only this one and all below it.", metavar="ID")] = "",
    address: Address = NEAR,
) -> None:
    """List the living fleet; or say all that is known of one instance, and why it died."""
    wanted = InstanceFilter(types=[parse.instance_type(each) for each in kinds or ()], subtree_of=subtree)
    wanted.page_size = PAGE
    ask(address, lambda client: _describe(client, instance_id) if instance_id else _list(client, wanted))


async def _describe(client: Client, instance_id: str) -> int:
    report = await client.fleet.DescribeInstance(One(instance_id=instance_id))
    print(MessageToJson(report, preserving_proto_field_name=True))
    return Exit.OK


async def _list(client: Client, wanted: InstanceFilter) -> int:
    rows = [_row(each) async for each in _pages(client, wanted)]
    for line in _aligned([COLUMNS, *rows]):
        print(line)
    return Exit.OK


async def _pages(client: Client, wanted: InstanceFilter) -> AsyncIterator[InstanceDescription]:
    while True:
        page = await client.get.GetAllInstances(wanted)
        for each in page.instances:
            yield each
        if not page.next_page_token:
            return
        wanted.page_token = page.next_page_token


def _row(one: InstanceDescription) -> tuple[str, ...]:
    services = (f"{ServiceType.Name(each.service_type)}={each.host}:{each.port}{each.path}" for each in one.services)
    kind = InstanceType.Name(one.instance_type)
    return (one.instance_id, kind, one.hostname, one.parent_id or "-", " ".join(services) or "-")


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
