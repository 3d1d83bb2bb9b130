"""A subscriber as its validators see it: what it asked, when it was connected, and every message it took."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import grpc
from grpc import aio

from manager.pb import instance_manager_pb2 as pb
from manager.pb.fleet_pb2 import InstanceUpdates
from manager.pb.fleet_pb2_grpc import FleetServiceStub
from manager.pb.instance_manager_pb2_grpc import SubscribeServiceStub
from manager.wire import decode
from tests.wire.caller import VERSION, Refused, refusal

HEADER = "resume_token-bin"
PATIENCE = 15.0
WHOLE = 2**31 - 1

# Revision, ordinal, and how many messages of that event: WHOLE for all of them.
Place = tuple[int, int, int]


def place_of(token: bytes) -> Place:
    """Where a token stands. Clients do not look inside; the validators do."""
    place = decode.resume_token("resume_token", token)
    return (place.revision, place.ordinal, place.part or WHOLE)


@dataclass(frozen=True, slots=True)
class Connected:
    """The headers arrived: `sent` is the token that was sent, if any, and `place` the one that came back."""

    at: float
    sent: bytes
    place: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """A message."""

    at: float
    update: pb.InstanceUpdate


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream ended, with a status or because the subscriber left (None)."""

    at: float
    code: grpc.StatusCode | None = None


Entry = Connected | Taken | Ended


@dataclass
class Story:
    """All of one subscriber, over however many connections."""

    request: pb.SubscribeRequest
    entries: list[Entry] = field(default_factory=list)
    bundled: bool = False  # by WatchInstances

    @property
    def updates(self) -> list[pb.InstanceUpdate]:
        """What it took, in the order of arrival."""
        return [each.update for each in self.entries if isinstance(each, Taken)]

    @property
    def token(self) -> bytes:
        """Where it can go on."""
        for each in reversed(self.entries):
            if isinstance(each, Connected):
                return each.place
            if isinstance(each, Taken) and each.update.resume_token:
                return each.update.resume_token
        return b""


class Stream:
    """One connection of a subscriber; each message goes into its story too."""

    def __init__(self, call: Any, story: Story, sent: bytes) -> None:
        self._call = call
        self._sent = sent
        self._bundle: deque[pb.InstanceUpdate] = deque()
        self.story = story
        self.token = b""  # that of the headers

    async def open(self) -> "Stream":
        """Returns once the headers are here. Raises AioRpcError where the server refuses."""
        async with asyncio.timeout(PATIENCE):
            found = dict(await self._call.initial_metadata())
            if HEADER not in found:  # refused: the status came instead of headers
                assert await self._call.read() is not aio.EOF
        self.token = found[HEADER]
        self.story.entries.append(Connected(monotonic(), self._sent, self.token))
        return self

    async def next(self, patience: float = PATIENCE) -> pb.InstanceUpdate:
        """The next message. Raises AioRpcError where the server ends the stream."""
        async with asyncio.timeout(patience):
            while not self._bundle:
                try:
                    message = await self._call.read()
                except aio.AioRpcError as error:
                    self.story.entries.append(Ended(monotonic(), error.code()))
                    raise
                assert message is not aio.EOF, "ended with OK, which no stream of ours does"
                self._bundle.extend(_unbundled(message) if self.story.bundled else [message])
        update = self._bundle.popleft()
        self.story.entries.append(Taken(monotonic(), update))
        return update

    async def take(self, count: int) -> list[pb.InstanceUpdate]:
        """So many messages."""
        return [await self.next() for _ in range(count)]

    async def until(self, revision: int) -> list[pb.InstanceUpdate]:
        """All messages up to the bookmark that says that everything up to `revision` was sent, without bookmarks."""
        taken: list[pb.InstanceUpdate] = []
        while True:
            update = await self.next()
            if update.event_type != pb.BOOKMARK:
                taken.append(update)
            elif update.revision >= revision:
                return taken

    async def end(self) -> Refused:
        """How the server ends the stream; messages before that are taken."""
        return await refusal(self._drain())

    async def _drain(self) -> None:
        while True:
            await self.next()

    def leave(self) -> None:
        """The subscriber hangs up."""
        self._call.cancel()
        self.story.entries.append(Ended(monotonic()))


def _unbundled(message: InstanceUpdates) -> Sequence[pb.InstanceUpdate]:
    """The events of a message."""
    assert message.updates
    assert message.ByteSize() <= 2**20
    assert message.resume_token == message.updates[-1].resume_token
    return message.updates


@asynccontextmanager
async def listening(
    address: str, story: Story | None = None, *, token: bytes = b"", narrow: bool = False, **fields: Any
) -> AsyncIterator[Stream]:
    """A subscription on a channel of its own, from `token` on; `story` goes on where one is given.

    A `narrow` one lets the transport keep little of what was not read.
    """
    story = story or Story(pb.SubscribeRequest(**fields))
    request = pb.SubscribeRequest()
    request.CopyFrom(story.request)
    if token:
        request.ClearField("send_initial_state")
        request.resume_token = token
    # never slow to find a server again that was away for a moment
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)]
    if narrow:
        options += [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    async with aio.insecure_channel(address, options=options) as channel:
        single, bundled = SubscribeServiceStub(channel), FleetServiceStub(channel)
        subscribe: Any = bundled.WatchInstances if story.bundled else single.SubscribeToInstanceUpdates
        call = subscribe(request, metadata=VERSION)
        stream = Stream(call, story, token)
        try:
            yield await stream.open()
        finally:
            if not call.done():
                stream.leave()


async def refused(address: str, **fields: Any) -> Refused:
    """How a subscription is refused."""

    async def subscribe() -> None:
        async with listening(address, **fields) as stream:
            await stream.next()

    return await refusal(subscribe())


def said(updates: Sequence[pb.InstanceUpdate]) -> list[tuple[str, str]]:
    """Type and instance of each, by name: what a test compares at a glance."""
    return [(pb.EventType.Name(each.event_type), each.instance_id) for each in updates]
