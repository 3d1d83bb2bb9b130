"""What both ways to subscribe share: where a stream begins, what it shows, and how many there may be."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from grpc import aio

from manager.domain.filter import ResumeToken
from manager.domain.instance import Instance
from manager.domain.lens import Lens
from manager.domain.refusals import Exhausted, InvalidRequest, Stalled
from manager.feed import Feed
from manager.pages import Page, Update
from manager.pb import instance_manager_pb2 as pb
from manager.repository import history
from manager.repository.database import Readers
from manager.snapshots import Snapshot, Snapshots
from manager.subscription import Subscription
from manager.wire import decode, encode

Context = aio.ServicerContext[Any, Any]

HEADER = "resume_token-bin"
PAGE = 500


@dataclass(frozen=True, slots=True)
class Streams:
    """What subscriptions are made of, and how many there may be."""

    feed: Feed
    readers: Readers
    snapshots: Snapshots
    most: int


class Piece(NamedTuple):
    """A serialized event, the place after it (none within an initial state), and whether its revision ends with it."""

    content: bytes
    place: ResumeToken | None
    ends: bool


class Subscribing:
    """Serialized events in pages, since most of them are the same for all. `sent` hears how many were given."""

    def __init__(self, streams: Streams, sent: Callable[[int], None]) -> None:
        self._streams = streams
        self.sent = sent
        self.open = 0

    async def pages(self, request: pb.SubscribeRequest, context: Context) -> AsyncGenerator[Page[Piece], None]:
        """All that a subscription is sent, for ever; the headers first."""
        with self.one_more():
            async for page in self._pages(request, context):
                self.sent(len(page))
                yield page

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Counts a subscription, and has the history read for it; raises Exhausted where there are too many."""
        if self.open >= self._streams.most:
            raise Exhausted(f"{self._streams.most} subscriptions are open, which is the most: use another manager")
        self.open += 1
        try:
            with self._streams.feed.followed():
                yield
        finally:
            self.open -= 1

    async def _pages(self, request: pb.SubscribeRequest, context: Context) -> AsyncGenerator[Page[Piece], None]:
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
            for start in range(0, len(snapshot.instances), PAGE):
                async with self._streams.feed.in_turn():
                    some = snapshot.instances[start : start + PAGE]
                    pieces = [Piece(_initial(each, snapshot), None, ends=False) for each in some if lens.shows(each)]
                if pieces:
                    yield Page(pieces)
            yield Page([Piece(encode.synced(place), place, ends=True)])
        async for page in subscription.pages(bookmarks=request.send_bookmarks):
            yield page.once(_pieces)

    async def _place(self, request: pb.SubscribeRequest) -> ResumeToken:
        async with self._streams.readers.use() as connection:
            if not request.resume_token:
                return await history.head(connection)
            place = decode.resume_token("resume_token", request.resume_token)
            await history.judge(connection, place)
            return place


def stalled(error: Exception, place: ResumeToken | None) -> Stalled:
    """What ends the stream of a client that takes nothing, with the place that it was left at."""
    return Stalled(str(error), encode.resume_token(place) if place else b"")


def _pieces(page: Page[Update]) -> Page[Piece]:
    return Page([Piece(encode.update(each), each.place, each.last or each.sight is None) for each in page])


def _initial(instance: Instance, snapshot: Snapshot) -> bytes:
    """Encoded once for all who share the snapshot."""
    content = snapshot.encoded.get(instance.id)
    if content is None:
        snapshot.encoded[instance.id] = content = encode.initial(instance, snapshot.place)
    return content
