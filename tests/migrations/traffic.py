"""Those who use a fleet while something is done to its database, and take an answer that is right, or "again"."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc

from manager.client import Client, End, Fleet, Instance, Owner
from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from tests.wire.caller import Caller, Refused, calling, outcome

AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED}
SERVE = ("serve", "--port", "0", "--http-port", "0", "--bind", "127.0.0.1")
# whoever is only written about never falls silent; those of the client have a timeout of their own
CALM = {"IM_TIMEOUT": "300", "IM_WARMPOOL_TIMEOUT": "300", "IM_VLLM_TIMEOUT": "300", "IM_GRACE": "1"}


@dataclass
class Asked:
    """What became of the calls of readers: how many were answered, and with what status the others ended."""

    answered: int = 0
    again: Counter[grpc.StatusCode] = field(default_factory=Counter)

    async def ask(self, addresses: list[str], stopped: asyncio.Event) -> None:
        """All kinds of reads and health checks in turn, until stopped."""
        async with AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(calling(each)) for each in addresses]
            while not stopped.is_set():
                for caller in callers:
                    for call in questions(caller):
                        self.hear(await outcome(call()))
                await asyncio.sleep(0.02)

    def hear(self, answer: object) -> None:
        """Nothing but an answer, or a status upon which every client tries again."""
        if isinstance(answer, Refused):
            assert answer.code in AGAIN, answer
            self.again[answer.code] += 1
        else:
            self.answered += 1


def questions(caller: Caller) -> list[Callable[[], Awaitable[object]]]:
    """What readers and auditors ask."""
    return [
        lambda: caller.gets.GetAllInstances(pb.InstanceFilter(page_size=20)),
        lambda: caller.gets.GetAllInstances(pb.InstanceFilter(page_size=20, types=[pb.VLLM], hostnames=["alpha"])),
        lambda: caller.fleet.GetInstancesAt(fleet_pb2.InstancesAtRequest(revision=1, page_size=20)),
        lambda: caller.fleet.Diff(fleet_pb2.DiffRequest(from_revision=1)),
        lambda: caller.fleet.ListEvents(fleet_pb2.EventFilter(page_size=20)),
        lambda: caller.tries.TryHealthCheck(pb.InstanceRequest(instance_id="00000000-0000-0000-0000-000000000001")),
    ]


@asynccontextmanager
async def living(addresses: list[str], number: int, ended: list[End]) -> AsyncIterator[Fleet]:
    """Instances of the Python client, whose timeout is short, and a router that knows them all."""
    async with Client(*addresses) as client, AsyncExitStack() as stack:
        for _ in range(number):
            described = pb.InstanceDescription(instance_type=pb.CHROME_BROWSER, hostname="sdk", timeout_ms=3_000)
            await stack.enter_async_context(Instance(client, described, owner=Owner(ended=ended.append)))
        fleet = await stack.enter_async_context(Fleet(client))
        await fleet.wait_synced(10)
        yield fleet
        assert sum(each.hostname == "sdk" for each in fleet.instances(healthy=None)) == number
