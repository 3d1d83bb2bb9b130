"""Ports on which there are no files left for connections."""

import asyncio
import errno
import logging
import socket

import pytest

from manager.wire import ports


class Full(socket.socket):
    """A listening socket of a process that has opened all files that it may, for a while."""

    tries = 0
    full = True

    def accept(self) -> tuple[socket.socket, object]:
        """As the system's."""
        self.tries += 1
        if self.full:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


class Met(asyncio.Protocol):
    """Tells that somebody came."""

    def __init__(self, came: asyncio.Event) -> None:
        self._came = came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        self._came.set()
        transport.close()


async def test_without_files_new_connections_wait_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "told_at", float("-inf"))
    came = asyncio.Event()
    with Full(socket.AF_INET) as one:
        one.bind(("127.0.0.1", 0))
        with caplog.at_level(logging.DEBUG):
            server = await ports.accepting(lambda: Met(came), one, 4096)
            begun = asyncio.get_running_loop().time()
            _, writer = await asyncio.open_connection(*one.getsockname())
            async with asyncio.timeout(10):
                while one.tries < 3:
                    await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - begun > 1.9  # asyncio looks once a second
        (told,) = caplog.records
        assert "no file descriptor is left" in told.getMessage()
        assert told.exc_info is None
        one.full = False
        async with asyncio.timeout(10):
            await came.wait()
        writer.close()
        server.close()


class Kept(asyncio.Protocol):
    """Tells how what came was set up."""

    def __init__(self, came: "asyncio.Future[int]") -> None:
        self._came = came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        taken: socket.socket = transport.get_extra_info("socket")
        self._came.set_result(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        transport.close()


async def test_an_answer_in_two_pieces_waits_for_no_acknowledgement() -> None:
    came: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    server = await ports.accepting(lambda: Kept(came), one, 8)
    async with server:
        _, writer = await asyncio.open_connection(*one.getsockname())
        assert await came
        writer.close()
