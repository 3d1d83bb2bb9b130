"""gRPC's own server, for everything."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from grpc import aio

from manager.wire.tls import Tls

# what gRPC says, with a traceback and the client's own bytes, of metadata or a path that is no UTF-8, and of a client
# that is gone: it goes on, and these are no faults of ours
OF_CLIENTS = (
    "Invalid encoding on",
    "Unexpected [UnicodeDecodeError]",
    "Failed sending error status",
    "ExecuteBatchError raised in core",
)


def _ours(record: logging.LogRecord) -> bool:
    """Whether it is to be logged."""
    return not str(record.msg).startswith(OF_CLIENTS)


logging.getLogger("grpc._cython.cygrpc").addFilter(_ours)


class Methods(grpc.GenericRpcHandler):
    """All methods in one table. Servers that were given services ask each of them in turn, at every call."""

    def __init__(self, handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]") -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The handler of a method; None for an unknown one, which gRPC answers itself."""
        return self._handlers.get(handler_call_details.method)


class Server:
    """gRPC's server, with the certificate as all of our servers take it."""

    def __init__(
        self, handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]", options: Sequence[tuple[str, Any]]
    ) -> None:
        self._server = aio.server(options=options)
        self._server.add_generic_rpc_handlers((Methods(handlers),))

    def add_insecure_port(self, address: str) -> int:
        """Listens; the port. Raises RuntimeError where it is taken."""
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """The same with TLS."""
        return self._server.add_secure_port(address, tls.credentials())

    async def start(self) -> None:
        """Takes calls from now on."""
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, and ends those that are still open after the grace, in seconds."""
        await self._server.stop(grace)


server = Server
