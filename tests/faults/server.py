"""A PostgreSQL as a direct child, which can be killed, frozen and started anew.

A postmaster that nobody waits for would stay as a zombie, and keep its successor from starting. Nothing here holds up
the event loop for longer than it takes to start a process. From the main thread only.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg

from manager.embedded import postmaster
from manager.embedded.account import Account
from manager.embedded.binaries import Binaries
from manager.embedded.cluster import SUPERUSER
from tests.conftest import PASSWORD, Database, addressed
from tests.faults import trees

NAME = "fleet"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "dynamic_shared_memory_type": "mmap",  # in the data folder, so that nothing stays behind a server that was killed
}
ROOM = 2 * 2**30  # bytes that memory must have free for a cluster
PATIENCE = 30.0
# what a statement may meet while its server is being broken
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class Missing(Exception):
    """A tool or a right is missing on this machine; the message says which. A round is skipped with it."""


class NotStarted(Exception):
    """PostgreSQL did not start; the message is the end of its log."""


@dataclass
class Server:
    """One PostgreSQL on 127.0.0.1:`port`; the port stays its own over restarts. Everything of it is in `folder`."""

    account: Account
    binaries: Binaries
    folder: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def address(self) -> str:
        """What a proxy is to forward to."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def database(self) -> Database:
        """The fleet's, once it was `migrated`."""
        return addressed(self.url(NAME))

    def url(self, database: str = "postgres") -> str:
        """A superuser's address."""
        return f"postgresql://{SUPERUSER}:{PASSWORD}@{self.address}/{database}"

    def said(self) -> str:
        """All that it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    async def value(self, statement: str, *arguments: object, database: str = "postgres") -> Any:
        """The one value of a statement, None where it has no row; as a superuser, in a connection of its own."""
        connection = await asyncpg.connect(self.url(database), timeout=PATIENCE)
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close(timeout=PATIENCE)

    async def set(self, **settings: str) -> None:
        """Changes settings that need no restart."""
        for name, value in settings.items():
            await self.value(f"alter system set {name} = '{value}'")
        await self.value("select pg_reload_conf()")

    # ── to begin and to end ──────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Starts it, also after a crash, and returns once it takes connections. Raises NotStarted."""
        give_up = monotonic() + PATIENCE
        while True:
            begun = len(self.said()) if (self.folder / "log").exists() else 0
            self._spawn()
            if await self._becomes_ready(give_up):
                return
            told = self.said()[begun:]
            # children of one that was killed may still be leaving
            if monotonic() > give_up or not any(each in told for each in postmaster.PASSING):
                raise NotStarted(told[-2000:])
            await asyncio.sleep(0.05)

    def _spawn(self) -> None:
        settings = {**SETTINGS, **self.settings, "port": str(self.port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # by env, for the server alone: neither setpriv nor the account's own lookups meet what is preloaded
        prefix = [*postmaster._ending_with_us(), "/usr/bin/env", *(f"{k}={v}" for k, v in self.environment.items())]
        with (self.folder / "log").open("ab") as log:
            self.process = self.account.spawn([*prefix, self.binaries.postgres, "-D", self.data, *options], log)

    async def _becomes_ready(self, give_up: float) -> bool:
        while self.running and monotonic() < give_up:
            if postmaster._says_ready(self.pid, self.data / "postmaster.pid"):
                return True
            await asyncio.sleep(0.01)
        return False

    async def stop(self) -> None:
        """Ends it in order: sessions are cut, everything is flushed, a checkpoint is made."""
        await self._end(signal.SIGINT, PATIENCE)

    async def restart(self) -> None:
        """Stops it, whatever state it is in, and starts it anew."""
        await self.stop()
        await self.start()

    async def kill9(self, *, children: bool = True) -> None:
        """kill -9 of the postmaster, and of its children, who would otherwise notice in a moment and leave."""
        if self.running and children:  # else its number may be somebody else's by now
            await trees.kill(self.pid)
        elif self.running:
            os.kill(self.pid, signal.SIGKILL)
        await self.ended()

    async def ended(self) -> int:
        """Its exit code, once it is gone."""
        async with asyncio.timeout(PATIENCE):
            while self.running:
                await asyncio.sleep(0.01)
        assert self.process is not None
        return self.process.returncode

    async def freeze(self) -> None:
        """It stands still, all of it; the kernel goes on taking connections for it. All stand still on return."""
        await trees.freeze(self.pid)

    def thaw(self) -> None:
        """It goes on, if it is still there."""
        if self.running:
            trees.thaw(self.pid)

    async def discard(self) -> None:
        """Ends it at once and without care for the data, whatever state it is in."""
        await self._end(signal.SIGQUIT, 5.0)

    async def _end(self, sign: signal.Signals, patience: float) -> None:
        if self.process is None:
            return
        self.thaw()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                self.process.send_signal(sign)
                await self.ended()
        if self.running:
            await self.kill9()


@contextmanager
def place(account: Account, parent: Path | None = None) -> Iterator[Path]:
    """A temporary folder of the account's, in memory where there is room."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    with tempfile.TemporaryDirectory(
        prefix="im-fault-", dir=parent or (memory if roomy else "/tmp"), ignore_cleanup_errors=True
    ) as folder:
        account.own(Path(folder))
        yield Path(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[None]:
    """Started, and gone when left."""
    try:
        await server.start()
        yield
    finally:
        await server.discard()


def copy_of(server: Server, folder: Path, port: int | None = None) -> Server:
    """Another server with the same settings, whose data are yet to be put into `folder`."""
    return replace(server, folder=folder, port=port or free_port(), settings=dict(server.settings), process=None)
