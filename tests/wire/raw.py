"""A client of HTTP/2 that does what no gRPC library would: frame by frame, on a real socket."""

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import ngh2

E = TypeVar("E", bound=ngh2.Event)

PATIENCE = 10.0


def framed(content: bytes, compressed: int = 0) -> bytes:
    """A message as it travels."""
    return struct.pack(">BI", compressed, len(content)) + content


@dataclass
class Answer:
    """What came on one stream."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    closed: bool = False
    reset: int | None = None

    @property
    def status(self) -> int | None:
        """gRPC's status, once it is there."""
        told = self.headers.get(b"grpc-status")
        return None if told is None else int(told)

    @property
    def message(self) -> str:
        """And the text with it."""
        return self.headers.get(b"grpc-message", b"").decode()


class Raw:
    """One connection. `auto` says whether it takes what it is sent, so that more may come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, auto: bool) -> None:
        self._reader, self._writer = reader, writer
        self.http2 = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(auto_window_update=auto))
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.events: list[ngh2.Event] = []
        self.ended = False
        self._changed = asyncio.Event()

    async def call(
        self,
        path: str,
        body: bytes = b"",
        *more: tuple[bytes, bytes],
        end: bool = True,
        method: bytes = b"POST",
        content: bytes = b"application/grpc",
    ) -> int:
        """Begins a call, with this body; its number."""
        named = ((b":method", method), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"test"))
        number = self.http2.send_request((*named, (b"te", b"trailers"), (b"content-type", content), *more))
        await self.send(number, body, end=end)
        return number

    async def send(self, number: int, body: bytes, *, end: bool = False) -> None:
        """More of the body."""
        self.http2.send_data(number, body, end_stream=end)
        await self.flush()

    async def flush(self) -> None:
        """Sends what may be sent now."""
        self._writer.write(self.http2.data_to_send())
        await self._writer.drain()

    async def raw(self, content: bytes) -> None:
        """Sends bytes that may be no HTTP/2."""
        self._writer.write(content)
        await self._writer.drain()

    async def until(self, told: Callable[[], bool]) -> None:
        """Returns once that is so."""
        async with asyncio.timeout(PATIENCE):
            while not told():
                self._changed.clear()
                await self._changed.wait()

    async def answer(self, number: int) -> Answer:
        """What came, once the server has ended the stream."""
        await self.until(lambda: self.answers[number].closed)
        return self.answers[number]

    async def heard(self, kind: type[E]) -> E:
        """The first event of that kind."""
        await self.until(lambda: any(isinstance(each, kind) for each in self.events))
        return next(each for each in self.events if isinstance(each, kind))

    async def read(self) -> None:
        """Takes what comes until the connection ends."""
        try:
            while content := await self._reader.read(65536):
                self.http2.receive_data(content)
                for event in self.http2.events():
                    self._hear(event)
                await self.flush()
                self._changed.set()
        except (ConnectionError, ngh2.NGH2Error):
            pass
        self.ended = True
        self._changed.set()

    def _hear(self, event: ngh2.Event) -> None:
        self.events.append(event)
        match event:
            case ngh2.ResponseReceived() | ngh2.TrailersReceived():
                self.answers[event.stream_id].headers |= dict(event.headers)
                self.answers[event.stream_id].closed |= isinstance(event, ngh2.TrailersReceived) or event.end_stream
            case ngh2.DataReceived():
                self.answers[event.stream_id].body += event.data
            case ngh2.StreamReset():
                self.answers[event.stream_id].reset = event.error_code
                self.answers[event.stream_id].closed = True
            case ngh2.StreamClosed():
                self.answers[event.stream_id].closed = True


@asynccontextmanager
async def connected(port: int, host: str = "127.0.0.1", *, auto: bool = True, greet: bool = True) -> AsyncIterator[Raw]:
    """A connection, over which the greeting of HTTP/2 goes unless it is not to."""
    reader, writer = await asyncio.open_connection(host, port)
    raw = Raw(reader, writer, auto)
    if greet:
        raw.http2.initiate_connection()
        await raw.flush()
    reading = asyncio.create_task(raw.read())
    try:
        yield raw
    finally:
        reading.cancel()
        writer.close()
