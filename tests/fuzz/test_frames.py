"""Our own connection, fed without a socket: whatever frames come, it raises nothing, and forgets its calls."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from manager.wire.http2 import Connection
from manager.wire.listener import OPTIONS
from manager.wire.manners import Manners
from tests.fuzz import frames
from tests.fuzz.amount import INPUTS, chance
from tests.wire.caller import METHODS, path

EACH = max(10, INPUTS // 100 // len(frames.KINDS))


class Ending(asyncio.Transport):
    """Takes all that is written, until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.closed = bytearray(), False

    def write(self, data: Any) -> None:
        assert not self.closed, "a closed connection was written to"
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default


def _same(content: bytes) -> bytes:
    return content


async def _echo(request: bytes, _context: Any) -> bytes:
    await asyncio.sleep(0)
    return request


async def _tell(request: bytes, context: Any) -> None:
    while True:
        await context.write(request * 100)
        await asyncio.sleep(0.001)


async def _talk(requests: Any, _context: Any) -> AsyncIterator[bytes]:
    async for each in requests:
        yield each


def handlers() -> dict[str, Any]:
    """Of the contract's paths, each with a handler of its kind."""
    tell: Any = _tell
    talk: Any = _talk
    return {
        path(method): grpc.stream_stream_rpc_method_handler(talk, _same, _same)
        if method.client_streaming
        else grpc.unary_stream_rpc_method_handler(tell, _same, _same)
        if method.server_streaming
        else grpc.unary_unary_rpc_method_handler(_echo, _same, _same)
        for method in METHODS
    }


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", frames.KINDS)
async def test_no_frames_break_our_own_connection(kind: str) -> None:
    gc.collect()  # what earlier tests have left tells of itself now
    wrong: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: wrong.append(context))
    random, table, manners = chance("frames", kind), handlers(), Manners.of([*OPTIONS])
    try:
        for number in range(EACH):
            script, open_ones = frames.KINDS[kind](random), set[Connection]()
            transport, connection = Ending(), Connection(table, manners, open_ones)
            connection.connection_made(transport)
            for piece in script:
                if not transport.closed:
                    connection.data_received(piece)
                    if random.random() < 0.5:
                        await asyncio.sleep(0)
            await asyncio.sleep(0)
            connection.connection_lost(None)
            for _ in range(5):
                await asyncio.sleep(0)
            assert not wrong, (number, wrong)
            assert not connection._calls, number
            assert not open_ones
            assert connection.held == 0, number
    finally:
        loop.set_exception_handler(None)
