"""The gRPC server: which services it serves, where, and within which limits."""

from collections.abc import Sequence
from datetime import timedelta

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from manager.settings import Transport
from manager.wire.interceptors import Gate
from manager.wire.limits import Limits
from manager.wire.manners import DEADLINE, LONGEST
from manager.wire.ports import listened, taken
from manager.wire.services import NAMES
from manager.wire.tls import Tls
from manager.wire.transport import Options, server

FIXED = (
    # a few bytes of gzip inflate to megabytes before any limit is looked at: nothing but plain messages
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # it counts streams that have ended and are not cleared away yet, so that of the calls of whoever keeps to the bound
    # it refuses every third, with a bare UNAVAILABLE
    ("grpc.http.overload_protection", 0),
    # gRPC drops calls with a bare CANCELLED when some thousand wait for a moment; our own queues refuse with advice
    ("grpc.server.max_pending_requests", 50_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
)


def options(limits: Limits) -> Options:
    """As gRPC's servers take them."""
    deadlines = limits.deadlines
    return (
        *FIXED,
        ("grpc.max_receive_message_length", limits.message),
        # up to the first, and not at random above it
        ("grpc.max_metadata_size", limits.metadata),
        ("grpc.absolute_max_metadata_size", limits.metadata),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake)),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(limits.pings)),
        # quiet streams behind NAT stay open, and half-open connections are found
        ("grpc.keepalive_time_ms", _ms(limits.keepalive)),
        ("grpc.keepalive_timeout_ms", _ms(limits.keepalive_timeout)),
        # none of these pings is sent while another of gRPC's own is not answered, which waits for a minute
        ("grpc.http2.ping_timeout_ms", _ms(limits.keepalive_timeout)),
        # clients spread anew over the managers, and what nobody uses goes; whoever follows a stream goes on from its
        # token
        ("grpc.max_connection_idle_ms", _ms(limits.idle)),
        ("grpc.max_connection_age_ms", _ms(limits.age)),
        ("grpc.max_connection_age_grace_ms", _ms(limits.age_grace)),
        (DEADLINE, _ms(deadlines.default)),
        (LONGEST, _ms(deadlines.most)),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


OPTIONS = options(Limits())


def reflect(gate: Gate) -> None:
    """Serves the contract itself, to tools that have not got it."""
    names = [*NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), gate)


class Listener:
    """One gRPC server on its addresses, with the health of each service. The services are in the gate already."""

    def __init__(
        self, gate: Gate, transport: Transport, limits: Limits, tls: Tls | None = None, *, shared: bool = False
    ) -> None:
        self._shared = shared
        self._tls = tls
        self.port = 0  # until it is known
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, gate)
        # 0: or a second server would share the port silently
        self._server = server(transport, gate.handlers, (*options(limits), ("grpc.so_reuseport", int(shared))))

    async def start(self, hosts: Sequence[str], port: int) -> list[str]:
        """Serves on all the hosts, at one port (0: a free one); the addresses.

        A shared port is held by whoever shares it out, so that nobody else has to be looked for.
        """
        if self._shared:
            addresses = [f"{host}:{self._bind(host, port)}" for host in hosts]
        else:
            addresses = listened(hosts, port, self._bind)
        await self._server.start()
        self.port = int(addresses[0].rpartition(":")[2])
        return addresses

    def _bind(self, host: str, port: int) -> int:
        try:
            if self._tls:
                return self._server.add_secure_port(f"{host}:{port}", self._tls)
            return self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise taken(port) from None

    async def tell(self, serving: bool) -> None:
        """Sets the health of every service, and of the server as a whole."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if serving else states.NOT_SERVING
        for service in ("", *NAMES):
            await self._health.set(service, state)

    async def stop(self, drain: timedelta) -> None:
        """Takes no more calls, and ends those that are still open after `drain`."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(drain.total_seconds())
