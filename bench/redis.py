"""Redis from Debian, as many do it by hand: a key of each instance that expires, and each change published.

It writes its log to disk once a second (appendfsync everysec), the durability that people run it with and weaker than
ours: the last second of what was acknowledged may be lost. What is published is kept for nobody.
"""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from bench import debian, pipeline
from bench.arena import UNARY
from bench.load import Loaded


@dataclass(frozen=True)
class Redis:
    """Where it serves, and its process."""

    port: int
    pid: int

    async def load(self, messages: Sequence[bytes], expected: bytes, answers: int = 1) -> Loaded:
        """The messages; the answers to one, so many, begin as expected."""

        def fault(answer: bytes) -> str:
            return "" if answer.startswith(expected) else repr(answer[:40])

        async with pipeline.connected(self.port, UNARY["connections"], partial(size, answers)) as connections:
            return await pipeline.load(connections, messages, fault)

    @asynccontextmanager
    async def durable(self) -> AsyncIterator[None]:
        """Meanwhile, what is acknowledged is on disk."""
        await self._flushing("always")
        yield
        await self._flushing("everysec")

    async def _flushing(self, when: str) -> None:
        async with pipeline.connected(self.port, 1, partial(size, 1)) as (connection,):
            answer = await connection.ask(command("CONFIG", "SET", "appendfsync", when))
        if answer != b"+OK\r\n":
            raise RuntimeError(f"Redis says {answer!r}")


def program() -> str:
    """Its path; exits where it is missing."""
    return debian.installed("redis-server", "redis-server")


@asynccontextmanager
async def redis() -> AsyncIterator[Redis]:
    """A server that keeps its log; it is stopped in the end, and its folder removed."""
    port = debian.free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = (
            program(),
            *("--bind", "127.0.0.1", "--port", str(port), "--dir", folder),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        )
        async with debian.listening(port, *command) as process:
            yield Redis(port, process.pid)


def command(*words: str | bytes) -> bytes:
    """As its protocol writes it."""
    encoded = [each.encode() if isinstance(each, str) else each for each in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in encoded)


def size(answers: int, received: bytes) -> int:
    """What so many answers take, none of them an array; 0 where they are not all there."""
    end = 0
    for _ in range(answers):
        line = received.find(b"\r\n", end) + 2
        if line < 2:
            return 0
        text = int(received[end + 1 : line - 2]) if received[end : end + 1] == b"$" else -1
        end = line if text < 0 else line + text + 2
    return end if end <= len(received) else 0
