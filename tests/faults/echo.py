"""A server that answers with what it was told, and a client that notices how it is treated: to try a proxy on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from tests.faults.proxy import Proxy

SILENCE = 0.15  # seconds in which something would long have come
PATIENCE = 10.0


@dataclass
class Echo:
    """A server that sends back what it gets, after its name. `pieces`: as they came, over all connections."""

    name: bytes = b""
    address: str = ""
    pieces: list[bytes] = field(default_factory=list)
    ends: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(65_536):
                self.pieces.append(data)
                writer.write(self.name + data)
                await writer.drain()
            self.ends.put_nowait("closed")
        except ConnectionError:
            self.ends.put_nowait("reset")
        finally:
            writer.close()

    async def ended(self) -> str:
        """How the next connection ended."""
        async with asyncio.timeout(PATIENCE):
            return await self.ends.get()


@asynccontextmanager
async def answering(name: bytes = b"") -> AsyncIterator[Echo]:
    """Such a server."""
    one = Echo(name)
    listener = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.address = "{}:{}".format(*listener.sockets[0].getsockname()[:2])
    yield one
    listener.close()
    for each in one.writers:
        each.close()


@dataclass
class Caller:
    """A client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, data: bytes = b"hello") -> float:
        """Seconds until all of it was back."""
        begun = monotonic()
        self.writer.write(data)
        assert await self.heard(len(data)) == data
        return monotonic() - begun

    async def heard(self, size: int) -> bytes:
        """So many bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def end(self) -> str:
        """How it ends."""
        try:
            async with asyncio.timeout(PATIENCE):
                return "closed" if await self.reader.read() == b"" else "more came"
        except ConnectionResetError:
            return "reset"

    async def is_open(self) -> bool:
        """Whether for a moment nothing comes, neither bytes nor an end."""
        try:
            async with asyncio.timeout(SILENCE):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def calling(proxy: Proxy) -> AsyncIterator[Caller]:
    """A client's connection to it."""
    caller = Caller(*await asyncio.open_connection("127.0.0.1", proxy.port))
    yield caller
    caller.writer.transport.abort()
    await asyncio.sleep(0)
