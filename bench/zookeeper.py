"""ZooKeeper from Debian, in a folder of its own, and the few messages of its protocol that are needed.

A session is a connection; a ping is all that keeps its ephemeral nodes, and writes nothing. A create is on disk before
it is answered. getData is answered from the memory of the server that is asked: among several, not linearizable.
"""

import asyncio
import struct
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import debian, pipeline
from bench.arena import DAY, UNARY
from bench.load import Loaded

JAR = "/usr/share/java/zookeeper.jar"
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
SESSIONS = 200


def buffer(value: bytes) -> bytes:
    """Its length and itself: a frame, a text or data."""
    return len(value).to_bytes(4) + value


def create(path: str, value: bytes) -> bytes:
    """An ephemeral node, for everybody."""
    acl = struct.pack(">ii", 1, 31) + buffer(b"world") + buffer(b"anyone")
    return buffer(struct.pack(">ii", 1, 1) + buffer(path.encode()) + buffer(value) + acl + struct.pack(">i", 1))


def get_data(path: str) -> bytes:
    """Without a watch."""
    return buffer(struct.pack(">ii", 1, 4) + buffer(path.encode()) + b"\0")


PING = buffer(struct.pack(">ii", -2, 11))
CONNECT = buffer(struct.pack(">iqiq", 0, 0, DAY, 0) + buffer(bytes(16)))


@dataclass(frozen=True)
class Zookeeper:
    """Its process, and the sessions that it has for the benchmark."""

    pid: int
    sessions: Sequence[pipeline.Connection]

    async def load(self, messages: Sequence[bytes]) -> Loaded:
        """The messages, in a few sessions."""
        return await pipeline.load(self.sessions[: UNARY["connections"]], messages, fault)

    async def pings(self, number: int) -> Loaded:
        """So many, of all the sessions in turn."""
        return await pipeline.load(self.sessions, [PING] * number, fault)


def program() -> tuple[str, ...]:
    """How it is started; exits where it is missing."""
    return (debian.installed("java", "default-jre-headless"), "-cp", debian.installed(JAR, "zookeeper"), MAIN)


@asynccontextmanager
async def zookeeper() -> AsyncIterator[Zookeeper]:
    """A server that keeps what it is told; it is stopped in the end, and its folder removed."""
    port = debian.free_port()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "zoo.cfg"
        settings.write_text(
            f"dataDir={folder}\nclientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n"
            f"maxSessionTimeout={DAY}\nforceSync=yes\nadmin.enableServer=false\n"
        )
        async with debian.listening(port, *program(), str(settings)) as process:
            await _ready(port)
            async with pipeline.connected(port, SESSIONS, size) as sessions:
                for each in sessions:
                    await each.ask(CONNECT)
                yield Zookeeper(process.pid, sessions)


async def _ready(port: int) -> None:
    """It listens before it serves, and closes or forgets who comes in between."""
    async with asyncio.timeout(30):
        while True:
            try:
                async with asyncio.timeout(1), pipeline.connected(port, 1, size) as (session,):
                    await session.ask(CONNECT)
                return
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(0.05)


def size(received: bytes) -> int:
    """What the first answer takes; 0 where it is not all there."""
    end = 4 + int.from_bytes(received[:4])
    return end if 4 <= end <= len(received) else 0


def fault(answer: bytes) -> str:
    """The error of its header, behind length, xid and zxid."""
    error = int.from_bytes(answer[16:20], signed=True)
    return f"error {error}" if error else ""
