"""etcd from Debian, in a folder of its own, and the few messages of its protocol that are needed."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

NEEDED = "the benchmarks need etcd: apt-get install etcd-server"

KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
GRANT = "/etcdserverpb.Lease/LeaseGrant"
REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"
WATCH = "/etcdserverpb.Watch/Watch"


@dataclass(frozen=True)
class Etcd:
    """Where it serves, and its process."""

    address: str
    pid: int


def varint(value: int) -> bytes:
    """As protobuf writes a number."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def message(*fields: int | bytes) -> bytes:
    """Fields 1, 2, ... of a message; what is zero or empty is left out."""
    encoded = b""
    for number, value in enumerate(fields, 1):
        if isinstance(value, int) and value:
            encoded += varint(number << 3) + varint(value)
        elif isinstance(value, bytes) and value:
            encoded += varint(number << 3 | 2) + varint(len(value)) + value
    return encoded


@asynccontextmanager
async def etcd() -> AsyncIterator[Etcd]:
    """A server that keeps what it is told; it is stopped in the end, and its folder removed."""
    program = shutil.which("etcd")
    if not program:
        raise SystemExit(NEEDED)
    client, peer = _free_port(), _free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            program,
            *("--data-dir", folder, "--logger", "zap", "--log-level", "error", "--quota-backend-bytes", str(8 << 30)),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _reachable(client)
            yield Etcd(f"127.0.0.1:{client}", process.pid)
        finally:
            process.terminate()
            await process.wait()


async def _reachable(port: int) -> None:
    """Waits until somebody listens."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
