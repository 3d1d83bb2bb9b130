"""A TCP proxy with Toxiproxy's vocabulary, between a client and a manager or between a manager and PostgreSQL.

    async with proxied("127.0.0.1:5432") as proxy:
        proxy.add(Latency(0.2, jitter=0.05), "up")
        proxy.heal()

Toxics come and go on open connections too. Chance is drawn for each connection from the seed and its number.
"""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from tests.faults.link import Link, close
from tests.faults.toxics import Direction, Down, HalfOpen, Stall, Timeout, Toxic, Weather

HOST = "127.0.0.1"
PASSING = (errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.EAGAIN)


class Proxy:
    """Forwards from `address`, which stays the same, to `target` ("host:port"). `accepted`: connections so far."""

    def __init__(self, target: str, port: int, seed: int) -> None:
        self.target, self.accepted = target, 0
        self._seed, self._weather = seed, Weather()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        # bound and never listening: it keeps the port ours, and refuses whoever comes, while the proxy is down
        self._kept = _bound(port)
        self._listener: socket.socket | None = None
        self._listen()

    @property
    def port(self) -> int:
        return int(self._kept.getsockname()[1])

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    def instead(self, url: str) -> str:
        """The URL, with this proxy in the place of its server."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}{self.address}"))

    def to(self, target: str) -> None:
        """From now on new connections go there; the open ones stay where they are, see `cut`."""
        self.target = target

    def add(self, toxic: Toxic, direction: Direction | None = None) -> None:
        """Puts a toxic on, in both directions where none is named."""
        self._weather.add(toxic, direction)
        if isinstance(toxic, HalfOpen):
            for each in self._links:
                each.die()
        if isinstance(toxic, Down):
            self._close()
            self.cut()

    def remove(self, toxic: Toxic) -> None:
        """Takes a toxic away, in whichever direction it is on."""
        self._weather.keep([each for each in self._weather.on if each.toxic != toxic])
        if not self._weather.of(Down):
            self._listen()

    def heal(self) -> None:
        """Takes all toxics away. What was swallowed is lost, and with it the connections that it was on."""
        self._weather.keep([])
        self._listen()

    def cut(self) -> None:
        """Resets every open connection, once."""
        for each in list(self._tasks):
            each.cancel()

    async def close(self) -> None:
        """Ends everything. Raises what failed in the proxy itself, if anything did."""
        self._close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._kept.close()
        if self._failures:
            raise BaseExceptionGroup("the proxy failed", self._failures)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(512)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _close(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            near, _ = listener.accept()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            return
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._serve(near, f"{self._seed} {self.accepted}"))
        self._tasks.add(task)
        task.add_done_callback(self._served)
        # a task that is cancelled before its first step never gets to close what it was given
        task.add_done_callback(lambda _: close(near, torn=True))

    def _served(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failures.append(error)

    async def _serve(self, near: socket.socket, seed: str) -> None:
        near.setblocking(False)
        while any(self._weather.of(kind) for kind in (Timeout, Stall, HalfOpen)):
            await self._weather.lasts(float("inf"))
        if (far := await _connected(self.target)) is None:
            return
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(near, far, self._weather, seed)
        self._links.add(link)
        if self._weather.of(HalfOpen):
            link.die()
        try:
            await link.live()
        finally:
            self._links.discard(link)


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((HOST, port))
    return made


async def _connected(target: str) -> socket.socket | None:
    host, _, port = target.rpartition(":")
    far = socket.socket()
    far.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(far, (host, int(port)))
    except OSError:
        far.close()
        return None
    except BaseException:
        far.close()
        raise
    return far


def server_of(url: str) -> str:
    """The "host:port" of a database's URL."""
    return urlsplit(url).netloc.rpartition("@")[2]


@asynccontextmanager
async def proxied(target: str, *, port: int = 0, seed: int = 0) -> AsyncIterator[Proxy]:
    """A proxy on a port of its own, until left."""
    proxy = Proxy(target, port, seed)
    try:
        yield proxy
    finally:
        await proxy.close()
