"""Which instances a verb is about: the filters of the contract, as options."""

from dataclasses import astuple, dataclass
from typing import Annotated

import typer

from manager.cli import identity, parse
from manager.client import Client, Wanted


@dataclass(frozen=True, slots=True)
class Selection:
    """Every filter is optional, and all that are given must hold; of one that is given several times, any."""

    types: Annotated[
        list[str] | None, typer.Option("--type", "-t", help="Only of this type. May be repeated.", metavar="TYPE")
    ] = None
    hostnames: Annotated[
        list[str] | None, typer.Option("--host", help="Only on this host. May be repeated.", metavar="NAME")
    ] = None
    services: Annotated[
        list[str] | None, typer.Option("--service", help="Only those that offer it. May be repeated.", metavar="NAME")
    ] = None
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", help="Only with this label; all of several.", metavar="KEY=VALUE"),
    ] = None
    parent: Annotated[str, typer.Option("--parent", help="Only the direct children of this one.", metavar="ID")] = ""
    subtree: Annotated[str, typer.Option("--subtree", help="Only this one and all below it.", metavar="ID")] = ""

    @property
    def given(self) -> bool:
        """Whether anything is filtered."""
        return any(astuple(self))

    def check(self) -> None:
        """Raises BadParameter for what is no type, service or label: before any call."""
        self._plain()

    async def wanted(self, client: Client, *, dead: bool = False) -> Wanted:
        """As a manager takes it; ids in full, with `dead` of the dead too. Raises BadParameter."""
        found = self._plain()
        if self.parent:
            found["parent_id"] = await identity.whole_one(client, self.parent, dead=dead)
        if self.subtree:
            found["subtree_of"] = await identity.whole_one(client, self.subtree, dead=dead)
        return found

    def _plain(self) -> Wanted:
        return Wanted(
            types=[parse.instance_type(each) for each in self.types or ()],
            hostnames=self.hostnames or [],
            service_types=[parse.service_type(each) for each in self.services or ()],
            labels=dict(parse.label(each) for each in self.labels or ()),
        )
