"""The servers of others, from Debian's packages: found, started until they listen, and stopped in the end."""

import asyncio
import os
import shutil
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def installed(name: str, package: str) -> str:
    """The path of a program or a file; exits with a line that says what to install where it is missing."""
    found = shutil.which(name, os.F_OK)
    if not found:
        raise SystemExit(f"the benchmarks need {name}: apt-get install {package}")
    return found


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def listening(port: int, *command: str) -> AsyncIterator[Process]:
    """A server, once it listens on its port."""
    silent = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=silent, stderr=silent)
    try:
        await _reachable(port)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _reachable(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
