"""Loads over plain TCP, of messages that are encoded before: the client of protocols that answer in order.

Its CPU is Python's and does not count, nor does its rate: what the servers use of their own is what is compared.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle

from bench.arena import UNARY
from bench.load import Loaded

Size = Callable[[bytes], int]
"""How many bytes the first answer of what was received takes; 0 where it is not all there."""
Fault = Callable[[bytes], str]
"""What is wrong with an answer; empty where nothing is."""


class Connection(asyncio.Protocol):
    """What is asked in one turn of the loop goes in one write, as the native client has it."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._received = b""
        self._written: list[bytes] = []
        self._asked: deque[asyncio.Future[bytes]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self._received += data
        while self._received and (size := self._size(self._received)):
            self._asked.popleft().set_result(self._received[:size])
            self._received = self._received[size:]

    def connection_lost(self, error: Exception | None) -> None:
        """Of asyncio. Nobody waits for ever."""
        for each in self._asked:
            if not each.done():
                each.set_exception(error or ConnectionResetError("closed by the server"))

    def ask(self, message: bytes) -> asyncio.Future[bytes]:
        """Sends it; the answer is yet to come."""
        loop = asyncio.get_running_loop()
        if not self._written:
            loop.call_soon(self._write)
        self._written.append(message)
        self._asked.append(loop.create_future())
        return self._asked[-1]

    def close(self) -> None:
        """At once."""
        self._transport.close()

    def _write(self) -> None:
        self._transport.write(b"".join(self._written))
        self._written.clear()


@asynccontextmanager
async def connected(port: int, number: int, size: Size) -> AsyncIterator[Sequence[Connection]]:
    """So many connections."""
    loop = asyncio.get_running_loop()
    opened: list[Connection] = []
    try:
        for _ in range(number):
            _, connection = await loop.create_connection(lambda: Connection(size), "127.0.0.1", port)
            opened.append(connection)
        yield opened
    finally:
        for each in opened:
            each.close()


async def load(connections: Sequence[Connection], messages: Sequence[bytes], fault: Fault) -> Loaded:
    """Sends each message once, over the connections in turn, as many at once as the unary loads have."""
    left = zip(messages, cycle(connections), strict=False)
    failures: Counter[str] = Counter()

    async def one_by_one() -> None:
        for message, connection in left:
            if wrong := fault(await connection.ask(message)):
                failures[wrong] += 1

    begun, used = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as senders:
        for _ in range(UNARY["connections"] * UNARY["streams"]):
            senders.create_task(one_by_one())
    return Loaded(
        sent=len(messages),
        ok=len(messages) - failures.total(),
        answers=len(messages),
        events=0,
        bytes=sum(map(len, messages)),
        seconds=time.monotonic() - begun,
        unanswered=0,
        cpu=time.process_time() - used,
        failures=failures,
        ms={},
    )
