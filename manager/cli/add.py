"""`imctl add`: a registration by hand."""

from manager.cli import identity
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.connection import Connection
from manager.cli.description import Described
from manager.cli.messages import refused
from manager.cli.output import Printer, Shown
from manager.cli.say import say
from manager.cli.sheets import INSTANCES
from manager.client import Client, new_id
from manager.pb.instance_manager_pb2 import InstanceDescription, InstanceRequest


def add(at: Connection, shown: Shown, described: Described) -> None:
    """Register an instance, and leave it to others to check its health: it expires when nobody does.

    `imctl run` registers a command and keeps it alive.

    \b
    Examples:
      imctl add --type VLLM --hostname gpu-7 --service VLLM_OPENAI_COMPATIBLE=8000
      imctl add --type CHROME_BROWSER --parent 7f3a -o name
    """
    printer = shown.of(INSTANCES)
    one = described.message()
    one.instance_id = one.instance_id or new_id()
    ask(at, lambda client: _add(client, one, printer))


async def _add(client: Client, one: InstanceDescription, printer: Printer[InstanceDescription]) -> int:
    if one.parent_id:
        one.parent_id = await identity.whole_one(client, one.parent_id)
    answer = await client.try_.TryAddInstance(one)
    if not answer.value:
        return refused(f"the registration of {one.instance_id}", answer)
    told = await client.fleet.DescribeInstance(InstanceRequest(instance_id=one.instance_id))
    if not printer.shown.quiet:
        seconds = told.instance.timeout_ms / 1000
        say(f"{one.instance_id} is registered, and stale in {seconds:g} s unless it is heard of")
    printer.many([told.instance])
    return Exit.OK
