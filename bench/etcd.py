"""etcd from Debian, in a folder of its own, and the few messages of its protocol that are needed."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench import debian

KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
GRANT = "/etcdserverpb.Lease/LeaseGrant"
REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
PUT = "/etcdserverpb.KV/Put"
TXN = "/etcdserverpb.KV/Txn"
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


def together(puts: Sequence[bytes]) -> bytes:
    """A transaction of these puts, 128 at most: its successful operations, each of which is a put."""
    return b"".join(message(b"", message(b"", each)) for each in puts)


@asynccontextmanager
async def etcd() -> AsyncIterator[Etcd]:
    """A server that keeps what it is told; it is stopped in the end, and its folder removed."""
    program = debian.installed("etcd", "etcd-server")
    client, peer = debian.free_port(), debian.free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = (
            program,
            *("--data-dir", folder, "--logger", "zap", "--log-level", "error", "--quota-backend-bytes", str(8 << 30)),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
        )
        async with debian.listening(client, *command) as process:
            yield Etcd(f"127.0.0.1:{client}", process.pid)
