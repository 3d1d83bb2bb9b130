"""TryService: changes, and health checks."""

from typing import Any

from grpc import aio

from manager.checks import Checks
from manager.domain.calls import Checked
from manager.minting import Minting
from manager.pb import instance_manager_pb2 as pb
from manager.pb import instance_manager_pb2_grpc as grpc_pb
from manager.turns import Turns
from manager.wire import decode, encode
from manager.wire.actor import actor_of
from manager.wire.principal import calling

# in milliseconds; the seed's Bool has no room for it, nor for the token of an instance
NEXT_CHECK = "next_check_ms"
INSTANCE_TOKEN = "instance_token"  # noqa: S105 - its name

ALIVE = pb.Bool(value=True)

Context = aio.ServicerContext[Any, Any]


class TryService(grpc_pb.TryServiceServicer):
    """Every call is a value, submitted; its outcome is the answer."""

    def __init__(self, turns: Turns, checks: Checks, minting: Minting | None = None) -> None:
        self._turns = turns
        self._checks = checks
        self._minting = minting

    async def TryAddInstance(self, request: pb.InstanceDescription, context: Context) -> pb.Bool:
        registration = decode.registration(request, actor_of(context))
        outcome = await self._turns.submit(registration)
        registrar = calling()
        if self._minting and registrar and outcome.reason is None:
            token = await self._minting.mint(registration.id, outcome.revision, registrar)
            if token:
                context.set_trailing_metadata(((INSTANCE_TOKEN, token),))
        return encode.outcome(outcome)

    async def TryUpdateInstance(self, request: pb.InstanceDescription, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.update(request, actor_of(context))))

    async def TryKillInstance(self, request: pb.KillRequest, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.kill(request, actor_of(context))))

    async def TryHealthCheck(self, request: pb.InstanceRequest, context: Context) -> pb.Bool:
        outcome = await self._checks.submit(decode.instance_id("instance_id", request.instance_id))
        if isinstance(outcome, Checked):
            context.set_trailing_metadata(((NEXT_CHECK, str(encode.pause(outcome.pause))),))
            return ALIVE
        return encode.outcome(outcome)

    async def TryAddChild(self, request: pb.AddChildRequest, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.link(request, actor_of(context))))

    async def TryAddService(self, request: pb.AddServiceRequest, context: Context) -> pb.Bool:
        return encode.outcome(await self._turns.submit(decode.offer(request, actor_of(context))))
