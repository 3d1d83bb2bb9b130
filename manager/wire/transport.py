"""The seam between the services and what carries them: the same handlers, by their paths, on either server."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import grpc

from manager.domain.refusals import Refusal
from manager.settings import Transport
from manager.wire import grpcio
from manager.wire.tls import Tls

# gRPC's class has type parameters for the type checker alone
Handlers: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
Options: TypeAlias = Sequence[tuple[str, Any]]


class NotInstalled(Refusal):
    """The transport that was chosen is an extra."""


class Server(Protocol):
    """As much of gRPC's server as we need."""

    def add_insecure_port(self, address: str) -> int:
        """Listens; the port. Raises RuntimeError where it is taken."""

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """The same with TLS."""

    async def start(self) -> None:
        """Takes calls from now on."""

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, and ends those that are still open after the grace, in seconds."""


def usual() -> Transport:
    """Where nobody chose one: native, if it is installed."""
    try:
        importlib.import_module("manager.wire.native")
    except ImportError:
        return Transport.GRPCIO
    return Transport.NATIVE


def server(transport: Transport, handlers: Handlers, options: Options) -> Server:
    """A server for all these methods. The options are gRPC's."""
    return SERVERS[transport](handlers, options)


def _native(handlers: Handlers, options: Options) -> Server:
    try:
        from manager.wire import native
    except ImportError:
        raise NotInstalled(
            "the native transport is not installed: pip install 'instance-manager[native]', or serve by --transport"
            " grpcio"
        ) from None
    return native.server(handlers, options)


SERVERS: Mapping[Transport, Callable[[Handlers, Options], Server]] = {
    Transport.GRPCIO: grpcio.server,
    Transport.NATIVE: _native,
}
