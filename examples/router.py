"""A router for model servers: forwards each HTTP request to the next live VLLM_OPENAI_COMPATIBLE endpoint.

Who is alive it knows from the fleet alone. Run it beside `imctl dev`, then start what it is to forward to:

    python examples/router.py --port 8000
    imctl run --type VLLM --service VLLM_OPENAI_COMPATIBLE=127.0.0.1:9000 -- python -m http.server 9000
    curl http://127.0.0.1:8000/

`GET /-/endpoints` shows its list. It goes on with what it knows while no manager answers.
"""

import argparse
import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from manager.client import Access, Client, Endpoint, Fleet
from manager.pb.instance_manager_pb2 import VLLM_OPENAI_COMPATIBLE

CONNECT_WITHIN = 5.0
HEAD_WITHIN = 30.0
HEAD_LIMIT = 65_536
# what concerns one connection, and not the request
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"upgrade"}


@dataclass(frozen=True, slots=True)
class Head:
    """A request up to its body: its first line, cut in three, and its header lines as they came."""

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[bytes, ...]

    def towards(self, endpoint: Endpoint) -> bytes:
        """As it is sent to an endpoint: below its path, and for one answer a connection."""
        path = endpoint.path.rstrip("/").encode()
        kept = (each for each in self.headers if each.partition(b":")[0].strip().lower() not in HOP_BY_HOP)
        first = b" ".join((self.method, path + self.target, self.version))
        return b"\r\n".join((first, *kept, b"Connection: close", b"", b""))


def head_of(received: bytes) -> Head:
    """Reads a request's head. Raises ValueError for what is none."""
    first, *headers = received.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, version = first.split(b" ")
    if not target.startswith(b"/") or not version.startswith(b"HTTP/1."):
        raise ValueError(f"neither HTTP/1 nor a path: {first!r}")
    return Head(method, target, version, tuple(headers))


def answer(status: str, content: object) -> bytes:
    """A whole response of the router's own."""
    body = json.dumps(content).encode() + b"\n"
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Retry-After: 1\r\nConnection: close\r\n\r\n"
    ).encode() + body


class Router:
    """Takes the endpoints of the fleet in turns."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._turn = 0

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Where it forwards to at this moment."""
        return self.fleet.endpoints(VLLM_OPENAI_COMPATIBLE)

    def choose(self) -> list[Endpoint]:
        """The endpoint whose turn it is, and the next one, should that refuse."""
        found = self.endpoints
        self._turn += 1
        return [found[(self._turn + step) % len(found)] for step in range(min(2, len(found)))]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection: one request, one answer."""
        try:
            await self._answer(reader, writer)
        except (OSError, EOFError, TimeoutError):
            pass  # one of the two went away in the middle: so does the other
        except (ValueError, asyncio.LimitOverrunError) as error:
            writer.write(answer("400 Bad Request", {"error": str(error)}))
        finally:
            with suppress(OSError):
                writer.close()
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_WITHIN):
            head = head_of(await reader.readuntil(b"\r\n\r\n"))
        if head.target == b"/-/endpoints":
            writer.write(answer("200 OK", self._listed()))
            return
        connection = await connect(self.choose())
        if connection is None:
            writer.write(answer("503 Service Unavailable", {"error": self._missing()}))
            return
        endpoint, there, back = connection
        try:
            back.write(head.towards(endpoint))
            if not await splice((reader, back), (there, writer)):
                writer.write(answer("502 Bad Gateway", {"error": f"{endpoint.address} closed without an answer"}))
        finally:
            back.transport.abort()

    def _listed(self) -> object:
        listed = [
            {"instance_id": each.instance_id, "address": each.address, "path": each.path} for each in self.endpoints
        ]
        return {"endpoints": listed, "revision": self.fleet.revision, "age": self.fleet.age, "fresh": self.fleet.fresh}

    def _missing(self) -> str:
        known = len(self.endpoints)
        what = f"none of {known} endpoints could be reached" if known else "no VLLM_OPENAI_COMPATIBLE endpoint is alive"
        return what if self.fleet.fresh else f"{what}, as far as was known {self.fleet.age:.0f} s ago"


async def connect(
    choice: Sequence[Endpoint],
) -> tuple[Endpoint, asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A connection to the first of the choice that takes one. Nothing of the request's body has been read yet."""
    for each in choice:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_WITHIN):
                there, back = await asyncio.open_connection(each.host, each.port)
            return each, there, back
    return None


Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def splice(request: Pipe, response: Pipe) -> bool:
    """Passes both bodies on until the answer is over or the client has left; whether there was an answer."""
    sent = asyncio.ensure_future(passed_on(*request))
    got = asyncio.ensure_future(passed_on(*response))
    try:
        # a client that leaves takes its request with it: what nobody reads is not worth generating
        await asyncio.wait([sent, got], return_when=asyncio.FIRST_COMPLETED)
        return got.result() > 0 if got.done() else True
    finally:
        sent.cancel()
        got.cancel()
        await asyncio.gather(sent, got, return_exceptions=True)


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """How many bytes there were, up to the end or a break."""
    size = 0
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
            size += len(data)
    return size


@asynccontextmanager
async def routing(client: Client, host: str, port: int) -> AsyncIterator[tuple[Router, str]]:
    """A router, and the address where it listens, until left."""
    async with Fleet(client, service_types=[VLLM_OPENAI_COMPATIBLE]) as fleet:
        await fleet.wait_synced(30)
        router = Router(fleet)
        server = await asyncio.start_server(router.serve, host, port, limit=HEAD_LIMIT)
        try:
            yield router, "{}:{}".format(*server.sockets[0].getsockname()[:2])
        finally:
            server.close()


async def main(options: argparse.Namespace) -> None:
    """Forwards until Ctrl-C or SIGTERM, which are heard also where a shell started it in the background."""
    here = asyncio.current_task()
    assert here is not None  # noqa: S101 - asyncio.run gives us one
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, here.cancel)
    async with (
        Client(options.manager, access=Access.of_environment()) as client,
        routing(client, options.host, options.port) as (router, address),
    ):
        print(f"forwarding http://{address} to {len(router.endpoints)} endpoints", flush=True)
        async for change in router.fleet:
            print(f"{type(change).__name__}: {[each.address for each in router.endpoints]}", flush=True)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Forwards HTTP requests to the live model servers of the fleet.")
    parser.add_argument("--manager", default="[::1]:50052", metavar="HOST:PORT")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args()


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        asyncio.run(main(options()))
