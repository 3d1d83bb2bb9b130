"""Ports: a server has its own alone, or holds it for its workers, who share it among themselves."""

import asyncio
import errno
import logging
import resource
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import Any

from manager.domain.refusals import Refusal

log = logging.getLogger(__name__)

EVERY, EVERY_IPV4 = "[::]", "0.0.0.0"  # noqa: S104 - what the operator asked for; the second where there is no IPv6


HANDSHAKES = 3000  # as many may come at once after a restart, from clients that are slower than we
TOLD_EVERY = 10.0  # seconds
told_at = float("-inf")


def _ours(record: logging.LogRecord) -> bool:
    """Whether it is to be logged. What asyncio says anew at each connection that it has no file for is said once."""
    global told_at
    if not str(record.msg).startswith("socket.accept() out of system resource"):
        return True
    if monotonic() - told_at >= TOLD_EVERY:
        told_at = monotonic()
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        log.warning("no file descriptor is left of %d (ulimit -n): new connections wait until others end", most)
    return False


logging.getLogger("asyncio").addFilter(_ours)


class Sealed(sslproto.SSLProtocol):
    """TLS of one connection.

    asyncio would keep a quarter of a mebibyte ready for each, before its client has said a word. What is read into is
    emptied at once, so that all of a port share it.
    """

    max_size = 16 * 1024  # bytes that are opened at once: a record

    def __init__(self, protocol: asyncio.BaseProtocol, sealing: "Sealing") -> None:
        loop = asyncio.get_running_loop()
        made = loop.create_future()
        made.add_done_callback(lambda done: sealing.ended(self, done))
        super().__init__(
            loop,
            protocol,
            sealing.context,
            made,
            server_side=True,
            ssl_handshake_timeout=sealing.handshake,  # type: ignore[arg-type] # whole seconds, says typeshed wrongly
            ssl_shutdown_timeout=sealing.goodbye,
        )
        self._ssl_buffer, self._ssl_buffer_view = sealing.read, memoryview(sealing.read)
        self._begins = sealing.begins

    def connection_made(self, transport: Any) -> None:
        """As asyncio calls it."""
        self.give_up = transport.abort
        self._begins(self)
        super().connection_made(transport)


class Sealing:
    """TLS for whoever comes to a port. `handshake`, `goodbye`: seconds for either.

    Of handshakes that are under way there are HANDSHAKES at most: whoever has been at it longest makes room for the
    next, since those who mean it are done in a moment.
    """

    def __init__(
        self, protocol: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext, handshake: float, goodbye: float
    ) -> None:
        self.context, self.handshake, self.goodbye = context, handshake, goodbye
        self.read = bytearray(Sealed.max_size)
        self._protocol = protocol
        self._under_way: dict[Sealed, None] = {}  # in the order in which they came

    def __call__(self) -> Sealed:
        """For one more connection."""
        return Sealed(self._protocol(), self)

    def begins(self, one: Sealed) -> None:
        """A handshake has begun."""
        if len(self._under_way) >= HANDSHAKES:
            first = next(iter(self._under_way))
            del self._under_way[first]
            first.give_up()
        self._under_way[one] = None

    def ended(self, one: Sealed, how: asyncio.Future[None]) -> None:
        """It is done, or will never be."""
        how.exception()  # which is the client's affair, and nobody else's to hear of
        self._under_way.pop(one, None)


async def accepting(protocol: Callable[[], asyncio.BaseProtocol], one: socket.socket, backlog: int) -> asyncio.Server:
    """A server on a socket that is bound; so many connections may wait for it.

    They are taken one a turn of the loop: as many as asyncio would take in a turn it tries in vain, and tries again for
    each of those a second later, where there are no files left.
    """
    # connections inherit it; asyncio sees to it only where a socket was made as TCP's by number, and without it the
    # second piece of an answer waits 40 ms until the first is acknowledged
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made = await asyncio.get_running_loop().create_server(protocol, sock=one, backlog=1)
    one.listen(backlog)
    return made


class CannotListen(Refusal):
    """No address to serve on."""


def taken(port: int, option: str = "--port") -> CannotListen:
    """Somebody else has it."""
    return CannotListen(f"port {port} is taken: choose another with {option}, or 0 for a free one")


def listened(hosts: Sequence[str], port: int, listen: Callable[[str, int], int], option: str = "--port") -> list[str]:
    """Has `listen` take one port (0: a free one) on each of the hosts that this machine has; the addresses.

    Raises CannotListen where somebody listens there already, or where the machine has none of them.
    """
    addresses: list[str] = []
    for host in (EVERY_IPV4 if each == EVERY and not _available(each, port, option) else each for each in hosts):
        if _available(host, port, option):
            port = listen(host, port)
            addresses.append(f"{host}:{port}")
    if not addresses:
        raise CannotListen(f"this machine has none of the addresses {', '.join(hosts)}: choose with --bind")
    return addresses


def _available(host: str, port: int, option: str) -> bool:
    """Whether this machine has the address; raises where somebody listens on it already."""
    try:
        _alone(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise taken(port, option) from None
        return False
    return True


def _alone(host: str, port: int) -> socket.socket:
    """Listens where nobody else does, whatever the others allow; connections of former servers may linger there."""
    bare = host.strip("[]")
    one = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((bare, port))
        one.listen(1)
    except OSError:
        one.close()
        raise
    return one


class Reservation:
    """A port that is held for workers, on all the hosts that this machine has: `addresses`. Linux alone.

    Servers that ask for SO_REUSEPORT may share it, if they are of the same account; all others find it taken, also
    while no worker listens. The kernel tells no worker from a stranger of its account that asks for the same.
    """

    def __init__(self, hosts: Sequence[str], port: int) -> None:
        self._held: list[socket.socket] = []
        self.addresses = tuple(listened(hosts, port, self._hold))

    def _hold(self, host: str, port: int) -> int:
        port = port or _free_port(host)
        try:
            held = _alone(host, port)
        except OSError:
            raise taken(port) from None
        # taken as its only listener, so that of two supervisors one has it. From here on it takes no connections, and
        # is shared; and without SO_REUSEADDR again, or others could bind beside it while nobody listens
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.shutdown(socket.SHUT_RDWR)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        self._held.append(held)
        return port

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for each in self._held:
            each.close()


def _free_port(host: str) -> int:
    """Chosen by the kernel, but to be asked for by number: only then does a socket that stops listening keep it."""
    with _alone(host, 0) as one:
        return int(one.getsockname()[1])
