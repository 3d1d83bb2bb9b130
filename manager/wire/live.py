"""The console's stream: the fleet as it is, then what changes, a few frames a second, as server-sent events.

    event: glimpse   {"rows": [...]}    the first of the fleet, while all of it is being read
    event: state     {"rows": [...], "total": N, "first": true, "done": false}    the fleet, in pages
    event: changes   {"rows": [...], "gone": [...], "events": [...], "skipped": N}    what has changed since
    event: pulse     {"degraded": {...}}    at the beginning, and every 5 s

A frame's id is the place after it, from which a browser that lost the connection goes on. Every frame has `now`, this
manager's clock in milliseconds, by which ages are reckoned. Rows and events are lists, see `row` and `story`.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

from manager.domain.event import EventType, Told
from manager.domain.filter import Filter, ResumeToken
from manager.domain.instance import Instance, InstanceId
from manager.domain.lens import Lens
from manager.domain.refusals import EpochChanged, HistoryGone, InvalidRequest
from manager.repository import history, listing
from manager.repository.database import refusal_of
from manager.snapshots import Snapshot
from manager.subscription import Subscription
from manager.wire import decode, encode
from manager.wire.subscribing import Streams, Subscribing

FIRST, PAGE = 200, 1_000
PACE = 0.25
PULSE = 5.0
EVENTS = 200  # in one frame; a kill of thousands is not read one by one

Json = Mapping[str, object]
Sure = Callable[[], Awaitable[None]]


def row(value: Instance) -> list[object]:
    """An instance: id, type, hostname, status, parent, created, services (type, host, port, path), labels, timeout."""
    return [
        str(value.id),
        int(value.type),
        value.hostname,
        int(value.status),
        value.parent and str(value.parent),
        encode.milliseconds(value.created_at),
        [[int(each.type), each.host, each.port, each.path] for each in value.services],
        dict(value.labels),
        value.timeout // encode.MILLISECOND,
    ]


def story(told: Told) -> list[object]:
    """An event: revision, ordinal, time, type, instance, its type, its hostname, related, cause, root cause."""
    known = told.after or told.before
    return [
        told.revision,
        told.ordinal,
        encode.milliseconds(told.at),
        int(told.type),
        str(told.instance),
        known and int(known.type),
        known and known.hostname,
        told.related and str(told.related),
        told.cause and int(told.cause),
        told.root and str(told.root),
    ]


def frame(kind: str, content: Json, place: ResumeToken | None = None) -> bytes:
    """One server-sent event."""
    at = f"id: {base64.urlsafe_b64encode(encode.resume_token(place)).decode()}\n" if place else ""
    told = json.dumps({**content, "now": round(time() * 1000)}, separators=(",", ":"))
    return f"{at}event: {kind}\ndata: {told}\n\n".encode()


@dataclass
class Changes:
    """What has happened and was not sent yet: of each instance what became of it, however often it changed."""

    rows: dict[InstanceId, Instance | None] = field(default_factory=dict)
    events: list[Told] = field(default_factory=list)
    skipped: int = 0
    place: ResumeToken | None = None

    def add(self, told: Told) -> None:
        """One more event."""
        if told.after is not None or told.type is EventType.REMOVED:
            self.rows[told.instance] = None if told.type is EventType.REMOVED else told.after
        self.events.append(told)
        if len(self.events) > EVENTS:
            del self.events[0]
            self.skipped += 1

    def frame(self) -> bytes:
        """All of it."""
        content = {
            "rows": [row(each) for each in self.rows.values() if each is not None],
            "gone": [str(each) for each, now in self.rows.items() if now is None],
            "events": [story(each) for each in self.events],
            "skipped": self.skipped,
        }
        return frame("changes", content, self.place)


class Live:
    """Streams for browsers. `degraded` says what is amiss with this manager."""

    def __init__(self, streams: Streams, subscribing: Subscribing, degraded: Callable[[], Mapping[str, str]]) -> None:
        self._streams = streams
        self._subscribing = subscribing
        self._degraded = degraded

    async def frames(self, last: str, ended: asyncio.Event, sure: Sure) -> AsyncGenerator[bytes, None]:
        """Until it is ended. `last`: the id of the last frame that the browser has, or nothing; who cannot go on begins
        anew. `sure` is asked before each frame but pulses, which tell nothing of the fleet; a refusal is the end."""
        with self._subscribing.one_more():
            place = await self._place(last)
            yield await self._glimpse() if place is None else self._pulse()
            try:
                if place is None:
                    snapshot = await self._streams.snapshots.get()
                    place = snapshot.place
                    for each in _state(snapshot):
                        await sure()
                        yield each
                    yield self._pulse()
                async for each in self._changes(place, ended, sure):
                    yield each
            except Exception as error:
                if refusal_of(error) is None:
                    raise
                return  # the browser comes again, and is told the state anew where it cannot go on

    async def _glimpse(self) -> bytes:
        """A few, before all have been read, so that something is seen at once."""
        rows: list[list[object]] = []
        async with self._streams.readers.snapshot() as connection:
            head = await history.head(connection)
            async for each in listing.living(
                connection, Filter(), after=None, revision=head.revision, most=FIRST, as_told=True
            ):
                rows.append(row(each))
                if len(rows) == FIRST:
                    break
        return frame("glimpse", {"rows": rows})

    async def _place(self, last: str) -> ResumeToken | None:
        try:
            place = decode.resume_token("Last-Event-ID", base64.urlsafe_b64decode(last)) if last else None
            if place is not None:
                async with self._streams.readers.use() as connection:
                    await history.judge(connection, place)
        except (ValueError, InvalidRequest, EpochChanged, HistoryGone):
            return None
        return place

    async def _changes(self, place: ResumeToken, ended: asyncio.Event, sure: Sure) -> AsyncIterator[bytes]:
        changes, news = Changes(place=place), asyncio.Event()

        async def follow() -> None:
            lens = Lens(Filter(), tuple(EventType))
            subscription = Subscription(self._streams.feed, self._streams.readers, Filter(), lens, place)
            async for page in subscription.pages(bookmarks=False):
                self._subscribing.sent(len(page))
                for update in page:
                    if update.sight is not None:
                        changes.add(update.sight.told)
                changes.place = page.shown[-1].place
                news.set()

        following, due = asyncio.ensure_future(follow()), monotonic() + PULSE
        try:
            while not ended.is_set():
                await _either((news, ended), following, due - monotonic())
                if monotonic() >= due:  # however much else comes
                    due = monotonic() + PULSE
                    yield self._pulse()
                if news.is_set():
                    await sure()
                    news.clear()
                    told, changes = changes, Changes(place=changes.place)
                    yield told.frame()
                    await asyncio.sleep(PACE)
        finally:
            following.cancel()

    def _pulse(self) -> bytes:
        return frame("pulse", {"degraded": dict(self._degraded())})


async def _either(events: Sequence[asyncio.Event], following: "asyncio.Future[None]", timeout: float) -> None:
    """Returns when one of these happens, or after so many seconds; raises what ended the subscription."""
    coming: list[asyncio.Future[Any]] = [asyncio.ensure_future(each.wait()) for each in events]
    try:
        await asyncio.wait((*coming, following), timeout=max(0, timeout), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in coming:
            each.cancel()
    if following.done():
        following.result()


def _state(snapshot: Snapshot) -> Iterator[bytes]:
    """The fleet in pages, each made as it is sent."""
    everybody = snapshot.instances
    for begin in range(0, max(len(everybody), 1), PAGE):
        done = begin + PAGE >= len(everybody)
        rows = [row(each) for each in everybody[begin : begin + PAGE]]
        content = {"rows": rows, "total": len(everybody), "first": begin == 0, "done": done}
        yield frame("state", content, snapshot.place if done else None)
