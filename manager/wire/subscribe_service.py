"""SubscribeService: every change, in order, once, from any place in the kept history."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from grpc import aio

from manager.domain.filter import ResumeToken
from manager.domain.instance import Instance
from manager.domain.lens import Lens
from manager.domain.refusals import Exhausted, InvalidRequest, Stalled
from manager.feed import Feed
from manager.pb import instance_manager_pb2 as pb
from manager.pb import instance_manager_pb2_grpc as grpc_pb
from manager.repository import history
from manager.repository.database import Readers
from manager.snapshots import Snapshot, Snapshots
from manager.subscription import Subscription
from manager.wire import decode, encode
from manager.wire.interceptors import NothingTaken

Context = aio.ServicerContext[Any, Any]

HEADER = "resume_token-bin"


@dataclass(frozen=True, slots=True)
class Streams:
    """What subscriptions are made of, and how many there may be."""

    feed: Feed
    readers: Readers
    snapshots: Snapshots
    most: int


class SubscribeService(grpc_pb.SubscribeServiceServicer):
    """Messages leave here serialized, since most of them are the same for all."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._open = 0

    async def SubscribeToInstanceUpdates(
        self, request: pb.SubscribeRequest, context: Context
    ) -> AsyncIterator[pb.InstanceUpdate]:
        if self._open >= self._streams.most:
            raise Exhausted(f"{self._streams.most} subscriptions are open, which is the most: use another manager")
        self._open += 1
        place: ResumeToken | None = None
        try:
            async for content, after in self._stream(request, context):
                place = after  # what has been given to the transport arrives, and before any status
                yield cast(pb.InstanceUpdate, content)
        except NothingTaken as error:
            raise Stalled(str(error), encode.resume_token(place) if place else b"") from None
        finally:
            self._open -= 1

    async def _stream(
        self, request: pb.SubscribeRequest, context: Context
    ) -> AsyncIterator[tuple[bytes, ResumeToken | None]]:
        """Serialized messages, each with the place that it leaves the subscriber at."""
        wanted, kinds = decode.wanted(request), decode.event_types(request)
        if request.send_initial_state and request.resume_token:
            raise InvalidRequest("send_initial_state", "must not be given with a resume_token: it is one or the other")
        snapshot = await self._streams.snapshots.get() if request.send_initial_state else None
        place = snapshot.place if snapshot else await self._place(request)
        await context.send_initial_metadata(((HEADER, encode.resume_token(place)),))
        lens = Lens(wanted, kinds)
        subscription = Subscription(self._streams.feed, self._streams.readers, wanted, lens, place)
        await subscription.enter()
        if snapshot:
            for each in snapshot.instances:
                if lens.shows(each):
                    yield snapshot.encoded.get(each.id) or _initial(each, snapshot), None
            yield encode.synced(place), place
        async for update in subscription.updates(bookmarks=request.send_bookmarks):
            yield encode.update(update), update.place

    async def _place(self, request: pb.SubscribeRequest) -> ResumeToken:
        async with self._streams.readers.use() as connection:
            if not request.resume_token:
                return await history.head(connection)
            place = decode.resume_token("resume_token", request.resume_token)
            await history.judge(connection, place)
            return place


def _initial(instance: Instance, snapshot: Snapshot) -> bytes:
    """Encoded once for all who share the snapshot."""
    snapshot.encoded[instance.id] = content = encode.initial(instance, snapshot.place)
    return content
