"""The HTTP server: uvicorn on sockets of ours, in the loop and under the signals of the server that it is part of."""

import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import uvicorn
from starlette.types import ASGIApp

from manager.wire.limits import Limits
from manager.wire.ports import EVERY, Sealing, accepting, listened, taken
from manager.wire.tls import Tls
from manager.wire.waiting import UNTAKEN, Waiting

BACKLOG = 512
KEPT = 256 * 1024  # bytes of an answer that the system keeps until they are taken; left to itself it keeps megabytes
OPTION = "--http-port"
WHOLE = 3  # times the bound of headers: a line of as many bytes, the headers, and what stands between them


class Embedded(uvicorn.Server):
    """Leaves signals to whoever runs it, and waits for a handshake so many seconds, and no minute."""

    def __init__(self, config: uvicorn.Config, handshake: float) -> None:
        super().__init__(config)
        self._handshake = handshake

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """None are."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, on the sockets that it is given."""
        tls = self.config.ssl
        met = Sealing(self._met, tls, self._handshake, UNTAKEN) if tls else self._met
        self.servers = [await accepting(met, each, BACKLOG) for each in sockets or ()]
        self.started = True

    def _met(self) -> Waiting:
        return Waiting(self.config, self.server_state, {})


class Web:
    """One HTTP server on its addresses."""

    def __init__(self, app: ASGIApp, drain: timedelta, limits: Limits, tls: Tls | None = None) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            # that it starts and stops is said by the server that it is part of; and no stranger is to fill the log
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=limits.connections,
            http=Waiting,
            h11_max_incomplete_event_size=WHOLE * limits.metadata,
            timeout_graceful_shutdown=max(1, round(drain.total_seconds())),
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
        )
        self._server = Embedded(config, limits.handshake)
        self._sockets: list[socket.socket] = []

    def listen(self, hosts: Sequence[str], port: int) -> list[str]:
        """Takes one port (0: a free one) on all the hosts that this machine has; the addresses.

        Raises CannotListen where somebody has it.
        """
        return listened(hosts, port, self._listen, OPTION)

    def _listen(self, host: str, port: int) -> int:
        bare = host.strip("[]")
        one = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
        self._sockets.append(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT)  # its connections have the same
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != EVERY))
        try:
            one.bind((bare, port))
            one.listen(BACKLOG)
        except OSError:
            raise taken(port, OPTION) from None
        return int(one.getsockname()[1])

    async def serve(self) -> None:
        """Serves until it is stopped."""
        await self._server.serve(self._sockets)

    def stop(self) -> None:
        """Takes no more requests; those that are open have the drain's time to end."""
        self._server.should_exit = True

    def close(self) -> None:
        """Gives the ports back."""
        for each in self._sockets:
            each.close()
