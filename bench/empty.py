"""A server of one empty method, on a transport: what any call costs before anything is done. Prints its port.

.venv/bin/python -m bench.empty grpcio [CERTIFICATE KEY]
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc

from manager.settings import Transport
from manager.wire.listener import OPTIONS
from manager.wire.tls import Tls
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
    address, files = "127.0.0.1:0", [Path(each) for each in sys.argv[2:]]
    port = serving.add_secure_port(address, Tls(*files)) if files else serving.add_insecure_port(address)
    await serving.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
