"""A server of our own, whose HTTP/2 is libnghttp2's: a tenth of the work for each call."""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from manager.wire.http2 import Connection
from manager.wire.manners import Manners
from manager.wire.ports import Sealing, accepting
from manager.wire.tls import Tls

EVERY = "::"
BACKLOG = 4096
FAREWELL = 1.0  # seconds for the last bytes of a connection


class Server:
    """As much of gRPC's server as we need."""

    def __init__(self, handlers: Mapping[str, Any], options: Sequence[tuple[str, Any]]) -> None:
        self._handlers = handlers
        self._manners = Manners.of(options)
        self._shared = bool(dict(options)["grpc.so_reuseport"])
        self._sockets: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        self._listening: list[asyncio.Server] = []
        self._connections: set[Connection] = set()

    def add_insecure_port(self, address: str) -> int:
        """Listens; the port. Raises RuntimeError where it is taken."""
        return self._listen(address, None)

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """The same with TLS."""
        return self._listen(address, tls.context())

    def _listen(self, address: str, context: ssl.SSLContext | None) -> int:
        host, _, port = address.rpartition(":")
        bare = host.strip("[]")
        one = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._shared:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if bare == EVERY:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            one.bind((bare, int(port)))
            one.listen(BACKLOG)
        except OSError as error:
            one.close()
            raise RuntimeError(f"cannot listen on {address}: {error}") from None
        self._sockets.append((one, context))
        return int(one.getsockname()[1])

    async def start(self) -> None:
        """Takes calls from now on."""
        for one, context in self._sockets:
            within = self._manners.handshake
            met = Sealing(self._connected, context, within, within) if context else self._connected
            self._listening.append(await accepting(met, one, BACKLOG))

    def _connected(self) -> Connection:
        return Connection(self._handlers, self._manners, self._connections)

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, and ends those that are still open after the grace, in seconds."""
        for listening in self._listening:
            listening.close()
        for each in tuple(self._connections):
            each.leave()
        await self._gone(grace or 0)
        for each in tuple(self._connections):
            each.stop()
        await self._gone(FAREWELL)
        for each in tuple(self._connections):
            each.abort()

    async def _gone(self, seconds: float) -> None:
        """Returns when there is no connection any more, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._connections:
                    await asyncio.sleep(0.01)


server = Server
