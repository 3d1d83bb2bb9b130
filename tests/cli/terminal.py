"""`imctl` at a pseudo-terminal: what a person sees, and what they type."""

import asyncio
import fcntl
import os
import re
import struct
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.processes import IMCTL, environment

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>78]")
PATIENCE = 40.0


@dataclass
class Terminal:
    """One process at a terminal of its own. `raw` is all that it wrote, `text` the same without the escapes."""

    process: Process
    master: int
    raw: str = ""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        """What was written, as words."""
        return ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        """Presses keys."""
        os.write(self.master, keys.encode())

    async def shows(self, words: str, after: int = 0) -> int:
        """Waits until these words were written, after so many characters of the text; where the text ends then."""
        async with asyncio.timeout(PATIENCE):
            while words not in self.text[after:]:
                self.news.clear()
                await self.news.wait()
        return len(self.text)

    async def ended(self) -> int:
        """Waits for its end; the exit code."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self.closed.wait()  # all that it wrote is read
        return code


@asynccontextmanager
async def at_terminal(
    address: str, *arguments: str, width: int = 120, program: Sequence[str] = IMCTL, **variables: str
) -> AsyncIterator[Terminal]:
    """`imctl` with these arguments at this manager, until left; or another program."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    told = environment(IM_ADDRESS=address, TERM="xterm-256color", LANG="C.UTF-8", PYTHONUTF8="1", **variables)
    told.pop("NO_COLOR", None) if "NO_COLOR" not in variables else None
    process = await asyncio.create_subprocess_exec(
        *program, *arguments, stdin=slave, stdout=slave, stderr=slave, env=told, start_new_session=True
    )
    os.close(slave)
    terminal = Terminal(process, master)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            terminal.raw += os.read(master, 65_536).decode(errors="replace")
        except OSError:  # the other side is closed
            loop.remove_reader(master)
            terminal.closed.set()
        terminal.news.set()

    loop.add_reader(master, read)
    try:
        yield terminal
    finally:
        loop.remove_reader(master)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)


assert sys.platform != "win32"
