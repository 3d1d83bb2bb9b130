"""The doorbell: one LISTEN connection a process. A ring is only a hint; whoever hears it reads the history."""

import asyncio
import logging
from contextlib import suppress
from secrets import token_hex
from typing import Any, Protocol

from manager.repository.database import connect
from manager.repository.hosts import Hosts

log = logging.getLogger(__name__)

CHANNEL = "instance_manager"
ECHO_EVERY = 12.0
ECHO_WITHIN = 5.0
RETRY = 0.5


class Listener(Protocol):
    """Whoever the doorbell rings for; `heard` says whether it is in order."""

    heard: bool

    def ring(self) -> None: ...


class Doorbell:
    """Rings at each turn of any manager, and whenever it has just begun to listen.

    It rings itself now and then, since a connection can be dead without anybody having been told.
    """

    def __init__(self, hosts: Hosts, listener: Listener) -> None:
        self._hosts = hosts
        self._listener = listener
        self._echo = ""
        self._echoed = asyncio.Event()

    async def serve(self) -> None:
        """Listens for ever, on a new connection whenever the old one is gone or silent."""
        while True:
            try:
                await self._listen()
            except Exception as error:
                log.warning("the doorbell is out of order, and the history is polled: %s", error)
            finally:
                self._listener.heard = False
            await asyncio.sleep(RETRY)

    async def _listen(self) -> None:
        connection = await connect(self._hosts, name="doorbell")
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._ring)
            self._listener.heard = True
            self._listener.ring()  # what was committed before LISTEN took effect rang nobody
            while not lost.is_set():
                await self._probe(connection)
                with suppress(TimeoutError):
                    async with asyncio.timeout(ECHO_EVERY):
                        await lost.wait()
            raise ConnectionResetError("the connection was closed")
        finally:
            connection.terminate()

    async def _probe(self, connection: Any) -> None:
        self._echo = f"echo {token_hex(8)}"
        self._echoed.clear()
        await connection.execute("select pg_notify($1, $2)", CHANNEL, self._echo)
        async with asyncio.timeout(ECHO_WITHIN):
            await self._echoed.wait()

    def _ring(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        if payload == self._echo:
            self._echoed.set()
        elif not payload.startswith("echo "):
            self._listener.ring()
