"""A TCP proxy between a client and a manager, whose connections a test can cut, refuse or let fall silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Link:
    """One connection through the proxy. A `dead` one swallows what comes, and neither side learns of it."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.ends = (near, far)
        self.dead = False

    def cut(self) -> None:
        """Resets both sides."""
        for each in self.ends:
            each.transport.abort()


class Proxy:
    """Forwards to `target`. `accepted_at`: the loop's time at which the last connection was let through."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.address = ""
        self.links: set[Link] = set()
        self.refusing = False
        self.accepted_at = 0.0
        self.budget: int | None = None  # bytes towards the client before the next cut
        self.cuts = 0

    def cut(self) -> None:
        """Resets every connection."""
        for each in list(self.links):
            each.cut()

    def down(self) -> None:
        """Resets every connection, and those to come."""
        self.refusing = True
        self.cut()

    def up(self) -> None:
        """Lets connections through again."""
        self.refusing = False

    def swallow(self) -> None:
        """The present connections fall silent, and stay open."""
        for each in self.links:
            each.dead = True

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        if self.refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, far_writer)
        self.links.add(link)
        self.accepted_at = asyncio.get_running_loop().time()
        try:
            there = asyncio.ensure_future(self._pump(reader, far_writer, link, counted=False))
            back = asyncio.ensure_future(self._pump(far_reader, writer, link, counted=True))
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
        finally:
            self.links.discard(link)
            link.cut()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, *, counted: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if link.dead:
                    continue
                if counted and self._spent(len(data)):
                    return
                writer.write(data)
                await writer.drain()

    def _spent(self, size: int) -> bool:
        if self.budget is None:
            return False
        self.budget -= size
        if self.budget > 0:
            return False
        self.budget = None
        self.cuts += 1
        return True


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[Proxy]:
    """A proxy on a free port, until left."""
    proxy = Proxy(target)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(proxy.carry(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield proxy
    finally:
        proxy.down()
        await asyncio.sleep(0.02)  # a connection that was just accepted must find its server open, or is never closed
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)
