"""`imctl kill`: an instance, and everything below it."""

from typing import Annotated

import typer

from manager.cli.call import NEAR, Address, ask
from manager.cli.exits import Exit
from manager.cli.messages import say
from manager.client import Client
from manager.pb.instance_manager_pb2 import KillRequest, Reason


def kill(
    instance_id: Annotated[str, typer.Argument(help="Whom.", metavar="ID")],
    note: Annotated[str, typer.Option("--note", help="Kept with the event, for whoever asks later.")] = "",
    address: Address = NEAR,
) -> None:
    """Kill an instance and all its descendants; their processes end at their next health check."""
    ask(address, lambda client: _kill(client, KillRequest(instance_id=instance_id, note=note)))


async def _kill(client: Client, request: KillRequest) -> int:
    answer = await client.try_.TryKillInstance(request)
    if answer.value:
        print(f"killed {request.instance_id} and all below it, in revision {answer.revision}")
        return Exit.OK
    say(f"{request.instance_id} was not killed: {Reason.Name(answer.reason).removeprefix('REASON_')}")
    return Exit.CONFLICT
