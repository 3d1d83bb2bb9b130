"""`imctl tree`: who belongs to whom."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import typer

from manager.cli import identity
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.document import document
from manager.cli.encoding import unicode
from manager.cli.living import living
from manager.cli.output import Format, Printer, Shown
from manager.cli.progress import spinning
from manager.cli.say import say
from manager.cli.sheets import INSTANCES, part
from manager.cli.table import Column, Document, Sheet
from manager.client import Client
from manager.pb.instance_manager_pb2 import InstanceDescription, InstanceRequest


@dataclass(frozen=True, slots=True)
class Twigs:
    """What a tree is drawn with: before the last child, before another, and past those that follow."""

    last: str
    other: str
    past: str


DRAWN = Twigs("└─ ", "├─ ", "│  ")
PLAIN = Twigs("`- ", "|- ", "|  ")
# what json and yaml can nest, and people can read
DEEPEST = 300


@dataclass(slots=True)
class Node:
    """An instance, those below it, and how it is drawn."""

    instance: InstanceDescription
    below: "list[Node]" = field(default_factory=list)
    depth: int = 0
    branch: str = ""

    def document(self) -> Document:
        """With all below it."""
        return {"instance": document(self.instance), "children": [each.document() for each in self.below]}


NODES: Sheet[Node] = Sheet(
    columns=(
        Column("id", lambda node: node.instance.instance_id, lambda node: node.branch + node.instance.instance_id),
        *(part(each, lambda node: node.instance) for each in INSTANCES.columns if each.name not in ("id", "parent")),
        Column("depth", lambda node: node.depth, wide=True),
        Column("parent", lambda node: node.instance.parent_id or None, wide=True),
    ),
    name=lambda node: node.instance.instance_id,
    document=Node.document,
)


def tree(
    at: Connection,
    shown: Shown,
    instance_id: Annotated[str, typer.Argument(help="Only this one and all below it.", metavar="[ID]", **ID)] = "",
    up: Annotated[bool, typer.Option("--up", help="The other way: from the root down to this one.")] = False,
) -> None:
    """Show who belongs to whom: the whole fleet, one tree of it, or with --up the line of ancestors, dead ones too.

    \b
    Examples:
      imctl tree
      imctl tree 7f3a --sort-by hostname
      imctl tree --up 7f3a
    """
    printer = shown.of(NODES)
    if up and not instance_id:
        raise typer.BadParameter("name the instance whose ancestors are meant", param_hint="--up")
    ask(at, lambda client: _tree(client, instance_id, up, printer))


async def _tree(client: Client, written: str, up: bool, printer: Printer[Node]) -> int:
    wanted = await identity.whole_one(client, written, dead=up) if written else ""
    async with spinning("looking for who belongs to whom", printer.shown.quiet):
        if up:
            roots = lined(await ancestors(client, wanted))
        else:
            roots = planted((await living(client, subtree_of=wanted)).instances)
    if wanted and not roots:
        say(f"{wanted} is not alive", f"`imctl why {wanted}` tells what is known of it")
        return Exit.NOT_FOUND
    flat = list(walked(roots, printer.sorted))
    if printer.format not in (Format.JSON, Format.YAML):
        printer.many(flat, arranged=True)
    elif max((node.depth for node in flat), default=0) <= DEEPEST:
        printer.many(printer.sorted(roots), arranged=True)
    else:
        say(f"the tree is deeper than {DEEPEST}: too deep to be nested", "take another format: -o csv has the depth")
        return Exit.FAILED
    return Exit.OK


async def ancestors(client: Client, instance_id: str) -> list[InstanceDescription]:
    """The instance, its parent, and so on up to its root."""
    line: list[InstanceDescription] = []
    while instance_id:
        report = await client.fleet.DescribeInstance(InstanceRequest(instance_id=instance_id))
        line.append(report.instance)
        instance_id = report.instance.parent_id
    return line


def lined(line: Sequence[InstanceDescription]) -> list[Node]:
    """The root of a line of ancestors, of which each has one below it."""
    top: list[Node] = []
    for one in line:
        top = [Node(one, top)]
    return top


def planted(instances: Iterable[InstanceDescription]) -> list[Node]:
    """The roots: those whose parent is not among them."""
    nodes = {one.instance_id: Node(one) for one in instances}
    below: dict[str, list[Node]] = defaultdict(list)
    for node in nodes.values():
        below[node.instance.parent_id if node.instance.parent_id in nodes else ""].append(node)
    for name, node in nodes.items():
        node.below = below[name]
    return below[""]


def walked(roots: Sequence[Node], order: Callable[[Iterable[Node]], list[Node]]) -> Iterator[Node]:
    """Every node, drawn, parents before children; siblings in order."""
    twigs = DRAWN if unicode() else PLAIN
    waiting = [(node, "", True, 0) for node in reversed(order(roots))]
    while waiting:
        node, indent, last, depth = waiting.pop()
        node.below = order(node.below)
        branch = indent + ("" if not depth else twigs.last if last else twigs.other)
        inner = indent + ("" if not depth else "   " if last else twigs.past)
        yield replace(node, depth=depth, branch=branch)
        children = [(each, inner, each is node.below[-1], depth + 1) for each in node.below]
        waiting.extend(reversed(children))
