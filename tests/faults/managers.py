"""Managers in processes of their own, which a test may kill, freeze, starve or start anew."""

import asyncio
import os
import re
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.processes import environment

PATIENCE = 60.0

# A tenth of the defaults, as far as the contract admits: a round is to last seconds. Nothing holds deaths back but
# grace: self-preservation and a low rate would hide most of the false ones.
HURRIED = {
    "IM_TIMEOUT": "3",
    "IM_GRACE": "1",
    "IM_VLLM_TIMEOUT": "6",
    "IM_VLLM_GRACE": "2",
    "IM_WARMPOOL_TIMEOUT": "1.5",
    "IM_WARMPOOL_GRACE": "0.5",
    "IM_REAPER_INTERVAL": "0.25",
    "IM_OUTAGE_AFTER": "1",
    "IM_AWAY_AFTER": "0.6",
    "IM_DRIFT_AFTER": "0.5",
    "IM_OUTAGE_GRACE": "6",
    "IM_CHECK_PATIENCE": "0.5",
    "IM_DRAIN": "3",
    "IM_PRESERVE_SIZE": "1000000",
    "IM_EXPIRY_RATE": "1000",
    "IM_EXPIRY_BURST": "1000",
}


@dataclass
class Manager:
    """One `imctl serve`, or a changed one by `through`: see `tests.faults.launch`."""

    database_url: str
    through: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    address: str = ""
    log: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    async def start(self) -> str:
        """Starts it, on a port of its own; the address, once it serves."""
        begun = os.fstat(self.log.fileno()).st_size
        module = ("tests.faults.launch", *self.through) if self.through else ("manager",)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *module,
            "serve",
            "--port=0",
            "--bind=127.0.0.1",
            cwd=Path(__file__).parents[2],
            env=environment(**{**HURRIED, "DATABASE_URL": self.database_url, **self.variables}),
            stderr=self.log,
            stdout=self.log,
        )
        async with asyncio.timeout(PATIENCE):
            while b"Ctrl-C" not in (text := os.pread(self.log.fileno(), 1 << 20, begun)):
                if self.process.returncode is not None:
                    raise ChildProcessError(text.decode())
                await asyncio.sleep(0.02)
        found = re.search(rb"gRPC +(127\.0\.0\.1:\d+)", text)
        assert found
        self.address = found[1].decode()
        return self.address

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def signal(self, sign: signal.Signals) -> None:
        """Signals it, where it is still there."""
        if self.running:
            os.kill(self.pid, sign)

    async def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        await self.ended()

    def freeze(self) -> None:
        """Stops it where it stands."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self.signal(signal.SIGCONT)

    async def stop(self) -> int:
        """Asks it to end, as an orchestrator does; its exit code."""
        self.thaw()
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Its exit code, once it is gone."""
        assert self.process is not None
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    def said(self) -> str:
        """All that it has logged."""
        return os.pread(self.log.fileno(), 64 << 20, 0).decode(errors="replace")

    def open_files(self) -> int:
        """Its file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def resident(pid: int) -> int:
    """The memory of a process, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024
