"""A server of one empty method, on a transport: what any call costs before anything is done. Prints its port.

.venv/bin/python -m bench.empty grpcio
"""

import asyncio
import sys
from typing import Any

import grpc

from manager.settings import Transport
from manager.wire.listener import OPTIONS
from manager.wire.transport import server

PATH = "/bench.Empty/Call"
ANSWER = bytes.fromhex("0801")


async def empty(_request: bytes, _context: Any) -> bytes:
    """As large as the answer to a health check."""
    return ANSWER


async def main() -> None:
    """Serves until it is killed."""
    handlers: dict[str, Any] = {PATH: grpc.unary_unary_rpc_method_handler(empty, bytes, bytes)}
    serving = server(Transport(sys.argv[1]), handlers, (*OPTIONS, ("grpc.so_reuseport", 0)))
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
