"""`imctl wait`: until an instance is healthy, stale or dead."""

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from manager.cli import identity
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.follow import followed
from manager.cli.output import Printer, Shown
from manager.cli.progress import spinning
from manager.cli.say import say
from manager.cli.sheets import INSTANCES
from manager.client import Client, Fleet, NotFoundError
from manager.pb.instance_manager_pb2 import STATUS_DEAD, InstanceDescription, InstanceRequest


class State(StrEnum):
    """What may be waited for."""

    HEALTHY = "healthy"
    STALE = "stale"
    DEAD = "dead"


def wait(
    at: Connection,
    shown: Shown,
    instance_id: Annotated[str, typer.Argument(help="For whom.", metavar="ID", **ID)],
    state: Annotated[State, typer.Option("--for", help="What it has to be.", metavar="|".join(State))] = State.HEALTHY,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="For how many seconds at most; for ever otherwise.")
    ] = None,
) -> None:
    """Wait until an instance is healthy, stale or dead, and show it as it is then.

    An id that was never registered may be registered yet: name it in full, and it is waited for. The exit code is 8
    when the time is over, or when what is waited for cannot come any more, since the instance is dead.

    \b
    Examples:
      imctl wait 7f3a --for dead --timeout 30
      imctl wait 0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f && echo it is there
    """
    printer = shown.of(INSTANCES)

    async def waited(client: Client) -> int:
        wanted = await identity.whole_one(client, instance_id, dead=True)
        try:
            async with asyncio.timeout(timeout) as limit, spinning(f"waiting for {wanted} to be {state}", shown.quiet):
                found = await _wait(client, wanted, state)
        except TimeoutError:
            if not limit.expired():
                raise
            say(f"{wanted} is not {state} after {timeout:g} s", "wait longer with --timeout")
            return Exit.CONDITION
        return _told(found, wanted, state, printer)

    ask(at, waited)


def _told(found: InstanceDescription | None, wanted: str, state: State, printer: Printer[InstanceDescription]) -> Exit:
    """What came of it."""
    if found is None:
        say(f"no instance {wanted} was ever registered", "`imctl get` lists the living")
        return Exit.NOT_FOUND
    if found.status == STATUS_DEAD and state is not State.DEAD:
        say(f"{wanted} is dead, and will never be {state}", f"`imctl why {wanted}` tells what killed it")
        return Exit.CONDITION
    printer.many([found])
    return Exit.OK


async def _wait(client: Client, wanted: str, state: State) -> InstanceDescription | None:
    """The instance once it is so, or dead; None where it never was, and is to be dead."""
    async with followed(client, {"ids": [wanted]}) as fleet:
        changes = fleet.changes()
        while not reached(fleet, wanted, state):
            found = None if fleet.get(wanted) else await _known(client, wanted)
            if found is not None and found.status == STATUS_DEAD:
                return found
            if found is None and not fleet.get(wanted) and state is State.DEAD:
                return None
            await anext(changes)
    return await _known(client, wanted)


def reached(fleet: Fleet, wanted: str, state: State) -> bool:
    """Whether it is alive and as it should be."""
    member = fleet.get(wanted)
    return member is not None and state is (State.STALE if member.stale else State.HEALTHY)


async def _known(client: Client, wanted: str) -> InstanceDescription | None:
    try:
        return (await client.fleet.DescribeInstance(InstanceRequest(instance_id=wanted))).instance
    except NotFoundError:
        return None
