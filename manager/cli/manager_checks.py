"""What can be seen of managers from outside: ports, the protocol, speed, the clock."""

import asyncio
import ssl
import time
from contextlib import suppress

from manager.cli.connection import Target
from manager.cli.exits import exit_of
from manager.cli.finding import Finding, State, judged
from manager.cli.messages import ADVICE_OF_EXIT
from manager.client import Access, Client, ManagerError
from manager.client.address import Address, address
from manager.pb.fleet_pb2 import METRICS_KIND_SYSTEM, MetricsHistoryRequest
from manager.pb.instance_manager_pb2 import INSTANCE_MANAGER, InstanceFilter
from manager.pb.version import PROTO_VERSION

PATIENCE = 3.0
CALLS = 5
SLOW = (0.1, 1.0)
SKEWED = (1.0, 10.0)


async def look(target: Target, http_port: int) -> list[Finding]:
    """All that a client can find out."""
    hosts = dict.fromkeys(address(each).host for each in target.addresses)
    tls = _tls(target.access)
    https = (_http(Address(each, http_port), tls) for each in hosts)
    ports = await asyncio.gather(*map(_port, target.addresses), *https)
    try:
        async with Client(*target.addresses, deadline=PATIENCE, access=target.access) as client:
            return [*ports, *await _asked(client)]
    except (ManagerError, OSError) as error:
        code = exit_of(error) if isinstance(error, ManagerError) else None
        return [*ports, Finding("manager", State.FAILED, str(error), ADVICE_OF_EXIT.get(code, "") if code else "")]


async def _port(where: str) -> Finding:
    place = address(where)
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(place.host, place.port)
    except TimeoutError:
        return Finding("port", State.FAILED, f"{where} does not answer within {PATIENCE:g} s", "look for a firewall")
    except OSError as error:
        return Finding("port", State.FAILED, f"nobody listens at {where}: {error.strerror}", "`imctl dev` starts one")
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return Finding("port", State.OK, f"{where} is open")


def _tls(access: Access) -> ssl.SSLContext | None:
    """What verifies a manager, where the connection is TLS: HTTP speaks it as gRPC does."""
    if access.credentials is None:
        return None
    return ssl.create_default_context(cadata=access.ca.decode() if access.ca else None)


async def _http(where: Address, tls: ssl.SSLContext | None) -> Finding:
    """Not failed without: a manager may serve gRPC alone."""
    scheme = "https" if tls else "http"
    try:
        async with asyncio.timeout(PATIENCE):
            said = await _status(where, tls)
    except (TimeoutError, OSError) as error:
        found = f"nobody answers at {where}: {getattr(error, 'strerror', '') or 'no answer in time'}"
        return Finding("http", State.WARNING, found, "no console and no /metrics; another port is named by --http-port")
    if said[:1] == ["HTTP/1.1"] and said[1:2] == ["200"]:
        return Finding("http", State.OK, f"{scheme}://{where} answers")
    found = f"{scheme}://{where} answers {' '.join(said)[:60] or 'nothing'}"
    return Finding("http", State.WARNING, found, "is it a manager's port? another is named by --http-port")


async def _status(where: Address, tls: ssl.SSLContext | None) -> list[str]:
    """The first line of what is said to who asks for the console, by its words."""
    reader, writer = await asyncio.open_connection(where.host, where.port, ssl=tls)
    try:
        writer.write(f"HEAD / HTTP/1.1\r\nhost: {where}\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        return (await reader.read(200)).decode(errors="replace").partition("\r\n")[0].split()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _asked(client: Client) -> list[Finding]:
    wanted = InstanceFilter(types=[INSTANCE_MANAGER], page_size=10)
    took = []
    for _ in range(CALLS):
        began = time.monotonic()
        managers = (await client.get.GetAllInstances(wanted)).instances
        took.append(time.monotonic() - began)
    middle = sorted(took)[CALLS // 2]
    found = [
        Finding(
            "manager", State.OK, f"{len(managers)} of them in the fleet: {', '.join(m.hostname for m in managers)}"
        ),
        Finding("protocol", State.OK, f"{PROTO_VERSION[:12]} is accepted"),
        judged("calls", middle, SLOW, f"{middle * 1000:.1f} ms", "look at the load of the manager and its database"),
    ]
    return [*found, await _clock(client, managers[0].instance_id)] if managers else found


async def _clock(client: Client, instance_id: str) -> Finding:
    """By the end of a range that ends now: the database says when that is."""
    began = time.time()
    request = MetricsHistoryRequest(instance_id=instance_id, kind=METRICS_KIND_SYSTEM, max_points=1)
    now = (await client.fleet.GetMetricsHistory(request)).to_ms / 1000
    skew = now - (began + time.time()) / 2
    return clock("clock", skew)


def clock(check: str, skew: float) -> Finding:
    """How far the database is ahead of this machine."""
    found = f"the database's clock is {abs(skew):.2f} s {'ahead' if skew > 0 else 'behind'}"
    return judged(check, abs(skew), SKEWED, found, "only ages shown here suffer: have this machine ask a time server")
