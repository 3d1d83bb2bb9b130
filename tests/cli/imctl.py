"""`imctl` as people run it: a process of its own, with its output kept."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

IMCTL = (sys.executable, "-m", "manager")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How it ended, and what it and its command wrote."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Running:
    """An `imctl run` under way."""

    process: Process

    def signal(self, sign: signal.Signals) -> None:
        """Signals imctl alone."""
        self.process.send_signal(sign)

    async def line(self) -> str:
        """The next line that its command writes."""
        assert self.process.stdout
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().strip()

    async def numbers(self) -> list[int]:
        """The next line, read as process ids."""
        return [int(each) for each in (await self.line()).split()]

    async def ended(self) -> Ended:
        """Waits for its end."""
        async with asyncio.timeout(45):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return Ended(self.process.returncode, out.decode(), err.decode())


def environment(address: str, **more: str) -> dict[str, str]:
    """Ours, without what an `imctl run` around the tests would have said."""
    kept = {name: value for name, value in os.environ.items() if name == "IM_NOTIFY" or not name.startswith("IM_")}
    return kept | {"IM_ADDRESS": address} | more


@asynccontextmanager
async def running(address: str, *options: str, **more: str) -> AsyncIterator[Running]:
    """`imctl run --type BROWSER_BACKEND` with these options and command, until left; nothing of it stays behind."""
    process = await asyncio.create_subprocess_exec(
        *IMCTL, "run", "--type", "BROWSER_BACKEND", *options, stdout=PIPE, stderr=PIPE, cwd=ROOT,
        env=environment(address, **more),
    )  # fmt: skip
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            below: list[psutil.Process] = []
            with suppress(psutil.NoSuchProcess):  # it may have ended and nobody have told us yet
                below = psutil.Process(process.pid).children(recursive=True)
                process.kill()
            for each in below:  # they hold its pipes open
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            await process.communicate()


async def run(address: str, *options: str, **more: str) -> Ended:
    """`imctl run` with these options and command, to its end."""
    async with running(address, *options, **more) as started:
        return await started.ended()


def alive(pids: list[int]) -> list[int]:
    """Which of these processes still run."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


async def gone(pids: list[int]) -> bool:
    """Whether these processes end soon; a machine at work may take seconds to come to it."""
    for _ in range(200):
        if not alive(pids):
            return True
        await asyncio.sleep(0.05)
    return False
