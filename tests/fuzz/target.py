"""A manager in a process of its own that asks who calls; what it must keep to itself; what it says of its faults."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import manager
from manager import certificates
from manager.domain.principal import Role
from manager.settings import Transport
from tests.conftest import Database
from tests.credentials import granted
from tests.faults.managers import Manager
from tests.fuzz.judge import Judge

MEMORY = 512 << 20
OWN = 12  # files that a manager may have opened meanwhile for itself: its connections to the database
QUIET = 20.0  # seconds within which what bad connections have left is gone
# a line of the log that tells of a fault of ours
FAULT = re.compile(r"Traceback|incident|ERROR|CRITICAL|never retrieved|never awaited|Fatal|Exception|Segmentation")
# gRPC's own server prints this of a client that is gone before it is told of its path that is no UTF-8, and goes on
OF_GRPCIO = re.compile(r'Traceback .*\n(  File "src/python/grpcio/.*\n)+grpc\._cython\.cygrpc\.ExecuteBatchError: .*\n')
PATIENT = {"IM_TIMEOUT": "600", "IM_GRACE": "600", "IM_REAPER_INTERVAL": "2", "IM_OUTAGE_AFTER": "10"}
PATIENT |= {"IM_QUOTA_LISTS": "0", "IM_QUOTA_READS": "0"}  # or much of what is sent would not be looked at
PATIENT |= {"IM_AWAY_AFTER": "5", "IM_DRIFT_AFTER": "2", "IM_CHECK_PATIENCE": "2", "IM_OUTAGE_GRACE": "60"}


@dataclass
class Target:
    """One manager. `token` is a good one of the role admin; `ca` is whose certificate it shows, where it has TLS."""

    manager: Manager
    token: str
    http: str
    judge: Judge
    transport: Transport
    ca: Path | None = None

    @property
    def grpc(self) -> str:
        """Where gRPC is."""
        return self.manager.address

    def port(self, *, http: bool) -> int:
        """Either of its ports."""
        return int((self.http if http else self.grpc).rpartition(":")[2])

    @property
    def peak(self) -> int:
        """The most memory that it has had, in bytes."""
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.manager.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    async def at_rest(self, files: int) -> None:
        """Returns once it has about as many files open as it had before bad connections came."""
        async with asyncio.timeout(QUIET):
            while self.manager.open_files() > files + OWN:
                await asyncio.sleep(0.1)

    def check(self) -> None:
        """It runs, has kept within its memory, and its log tells of no fault and no secret."""
        process = self.manager.process
        assert process is not None
        assert process.returncode is None, (process.returncode, self.manager.said()[-5000:])
        assert self.peak < MEMORY, f"{self.peak >> 20} MiB"
        said = OF_GRPCIO.sub("", self.manager.said())
        faults = [line for line in said.splitlines() if FAULT.search(line)]
        assert not faults, said[max(0, said.index(faults[0]) - 200) :][:6000]
        self.judge.answer("the log", said.encode())


def secrets(database: Database, *more: str) -> tuple[bytes, ...]:
    """What no answer may hold: the database's password, name and place, our folders, tokens."""
    at = urlsplit(database.url)
    place = f"@{at.hostname}:{at.port}"
    folders = (str(Path(manager.__file__).parent), sys.prefix, os.path.dirname(os.__file__))
    return tuple(each.encode() for each in (str(at.password), database.name, place, *folders, *more))


def sealed(folder: Path) -> dict[str, str]:
    """The settings of TLS, with an authority and a certificate of its own in that folder."""
    by = certificates.authority("test")
    by.write(folder, "ca")
    certificates.for_server(by, ["127.0.0.1"], timedelta(days=1)).write(folder, "server")
    return {"IM_TLS_CERT": str(folder / "server.pem"), "IM_TLS_KEY": str(folder / "server.key")}


@asynccontextmanager
async def target(database: Database, transport: Transport, tls: Path | None = None) -> AsyncIterator[Target]:
    """One, up to its end: it stops as it is asked to, and was without a fault all the while.

    With TLS where there is a folder for its files.
    """
    token = await granted(database, Role.ADMIN)
    settings = {"IM_TRANSPORT": transport.value, "IM_AUTH": "true", "IM_HTTP_PORT": "0", **PATIENT}
    settings |= sealed(tls) if tls else {}
    one = Manager(database.url, variables=settings)
    try:
        await one.start()
        found = re.search(r"console +https?://(127\.0\.0\.1:\d+)", one.said())
        assert found, one.said()
        it = Target(one, token, found[1], Judge(secrets(database, token)), transport, tls and tls / "ca.pem")
        yield it
        it.check()
        assert await one.stop() == 0
        it.judge.answer("the log", one.said().encode())
    finally:
        await one.kill()
        one.log.close()
