"""`imctl` as people run it: a process, its output, its exit code."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

IMCTL = (sys.executable, "-m", "manager")
BANNER_ENDS = "Ctrl-C stops it"
PATIENCE = 60.0


def environment(**more: str) -> dict[str, str]:
    """The present one, without what points at another manager or database.

    IM_NOTIFY, IM_TRANSPORT and IM_INSECURE_I_KNOW are for the whole suite. What is logged is in words, unless it is
    said how: no test is a terminal.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("IM_NOTIFY", "IM_TRANSPORT", "IM_INSECURE_I_KNOW")
        or (not name.startswith("IM_") and name != "DATABASE_URL")
    }
    return {**kept, "IM_LOG_FORMAT": "text", **more}


@dataclass(frozen=True)
class Ended:
    """What a process left behind."""

    code: int
    out: str
    err: str


async def imctl(*arguments: str, **variables: str) -> Ended:
    """Runs `imctl` to its end."""
    process = await asyncio.create_subprocess_exec(
        *IMCTL,
        *arguments,
        env=environment(**variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), err.decode())


@dataclass
class Running:
    """A server in a process of its own. `said` is its banner."""

    process: asyncio.subprocess.Process
    said: str

    @property
    def address(self) -> str:
        """127.0.0.1 and its port."""
        found = re.search(r"127\.0\.0\.1:\d+", self.said)
        assert found, self.said
        return found[0]

    @property
    def page(self) -> str:
        """Where it speaks HTTP."""
        found = re.search(r"https?://[^\s,]+", self.said)
        assert found, self.said
        return found[0]

    async def stop(self, sign: signal.Signals = signal.SIGINT) -> Ended:
        """Sends a signal and waits for the end; `err` is what it said from the banner on."""
        if self.process.returncode is None:
            self.process.send_signal(sign)
        async with asyncio.timeout(PATIENCE):
            _, err = await self.process.communicate()
        return Ended(self.process.returncode or 0, "", err.decode())


@asynccontextmanager
async def started(*arguments: str, program: Sequence[str] = IMCTL, **variables: str) -> AsyncIterator[Running]:
    """`imctl` with these arguments, once its banner is out; it is stopped in the end."""
    process = await asyncio.create_subprocess_exec(
        *program,
        *arguments,
        env=environment(**variables),
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,  # what it says after the banner is read in the end
    )
    try:
        yield Running(process, await _banner(process))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(PATIENCE):
                await process.communicate()


async def _banner(process: asyncio.subprocess.Process) -> str:
    """What it says up to the last line of the banner, or up to its end where it cannot start."""
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stderr.readline()).decode():
            lines.append(line)
            if BANNER_ENDS in line:  # in words, or in an entry as JSON
                break
    return "".join(lines)
