"""SubscribeService: every change, in order, once, from any place in the kept history."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import cast

from manager.domain.filter import ResumeToken
from manager.pb import instance_manager_pb2 as pb
from manager.pb import instance_manager_pb2_grpc as grpc_pb
from manager.wire.interceptors import NothingTaken
from manager.wire.subscribing import Context, Subscribing, stalled


class SubscribeService(grpc_pb.SubscribeServiceServicer):
    """One event a message. They leave here serialized."""

    def __init__(self, subscribing: Subscribing) -> None:
        self._subscribing = subscribing

    async def SubscribeToInstanceUpdates(
        self, request: pb.SubscribeRequest, context: Context
    ) -> AsyncIterator[pb.InstanceUpdate]:
        place: ResumeToken | None = None
        try:
            async with aclosing(self._subscribing.pages(request, context)) as pages:
                async for page in pages:
                    for piece in page:
                        place = piece.place  # what has been given to the transport arrives, and before any status
                        yield cast(pb.InstanceUpdate, piece.content)
        except NothingTaken as error:
            raise stalled(error, place) from None
