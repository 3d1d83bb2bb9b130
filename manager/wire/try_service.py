"""TryService: changes, and health checks."""

from typing import Any

from grpc import aio

from manager.checks import Checks
from manager.domain.calls import Checked
from manager.pb import instance_manager_pb2 as pb
from manager.pb import instance_manager_pb2_grpc as grpc_pb
from manager.turns import Turns
from manager.wire import decode, encode
from manager.wire.actor import actor_of

# in milliseconds; the seed's Bool has no room for it
NEXT_CHECK = "next_check_ms"

Context = aio.ServicerContext[Any, Any]


class TryService(grpc_pb.TryServiceServicer):
    """Every call is a value, submitted; its outcome is the answer."""

    def __init__(self, turns: Turns, checks: Checks) -> None:
        self._turns = turns
        self._checks = checks

    async def TryAddInstance(self, request: pb.InstanceDescription, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.registration(request, actor_of(context))))

    async def TryUpdateInstance(self, request: pb.InstanceDescription, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.update(request, actor_of(context))))

    async def TryKillInstance(self, request: pb.KillRequest, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.kill(request, actor_of(context))))

    async def TryHealthCheck(self, request: pb.InstanceRequest, context: Context) -> pb.Bool:
        outcome = await self._checks.submit(decode.instance_id("instance_id", request.instance_id))
        if isinstance(outcome, Checked):
            context.set_trailing_metadata(((NEXT_CHECK, str(encode.pause(outcome.pause))),))
        return encode.outcome(outcome)

    async def TryAddChild(self, request: pb.AddChildRequest, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.link(request, actor_of(context))))

    async def TryAddService(self, request: pb.AddServiceRequest, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.offer(request, actor_of(context))))
