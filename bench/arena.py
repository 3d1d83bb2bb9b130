"""Where ours and etcd stand side by side, and what a load on either costs in CPU."""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from bench import etcd as peer
from bench.load import Loaded, load
from bench.scene import SERVE, family_cpu, prepared
from manager.embedded import Postgres
from manager.pb.version import PROTO_VERSION
from tests.processes import started

T = TypeVar("T")

TRY, GET, FLEET = (f"/instance_manager.{each}Service" for each in ("Try", "Get", "Fleet"))
VERSION = {"metadata": f"proto_version={PROTO_VERSION}"}
UNARY = {"connections": 4, "streams": 16}  # so many calls of each connection at once
BATCH = 500
DAY = 86_400_000
# the patience with a herd that returns after an outage is no part of what is measured
OPEN = {"IM_REGISTRATION_RATE": "1e9", "IM_REGISTRATION_BURST": "1e9"}


@dataclass(frozen=True)
class Arena:
    """All that takes part. `url` is the database for the server's role."""

    postgres: Postgres
    url: str
    manager: str
    manager_pid: int
    etcd: peer.Etcd
    tls: bool = False

    async def ours(self, path: str, messages: Sequence[bytes], items: int = 1, **options: object) -> "Cost":
        """A load on the manager; `items` operations a message."""
        before = self.used()
        done = await load(self.manager, path, messages, **VERSION, **secured(self.tls), **options)
        after = self.used()
        return Cost.of(done, items, after[0] - before[0], after[1] - before[1])

    async def theirs(self, path: str, messages: Sequence[bytes], **options: object) -> "Cost":
        """A load on etcd."""
        return await Cost.at(self.etcd.pid, load(self.etcd.address, path, messages, **options))

    def used(self) -> tuple[float, float]:
        """The seconds of CPU of the manager and of PostgreSQL until now."""
        return family_cpu(self.manager_pid), family_cpu(self.postgres.process.pid)


@dataclass(frozen=True)
class Cost:
    """Of one operation, in microseconds of CPU; and how many there were a second."""

    server: float
    database: float
    client: float
    rate: float

    @classmethod
    def of(cls, done: Loaded, items: int, server: float, database: float = 0.0) -> "Cost":
        """What a load cost; raises where anything of it failed, since a failure is cheap."""
        if done.ok != done.sent or done.unanswered:
            raise RuntimeError(f"{done.sent - done.ok} of {done.sent} calls failed: {dict(done.failures)}")
        number = done.ok * items
        a_second = number / done.seconds
        return cls(server / number * 1e6, database / number * 1e6, done.cpu / number * 1e6, a_second)

    @classmethod
    async def at(cls, pid: int, loading: Awaitable[Loaded]) -> "Cost":
        """What a load costs the process that serves it."""
        before = family_cpu(pid)
        done = await loading
        return cls.of(done, 1, family_cpu(pid) - before)

    @property
    def whole(self) -> float:
        """Server and database."""
        return self.server + self.database

    def __add__(self, other: "Cost") -> "Cost":
        """One operation of each, one after the other."""
        rate = 1 / (1 / self.rate + 1 / other.rate)
        return Cost(self.server + other.server, self.database + other.database, self.client + other.client, rate)


@asynccontextmanager
async def arena(postgres: Postgres, transport: str) -> AsyncIterator[Arena]:
    """A manager on a database of its own, and etcd."""
    url = await prepared(postgres)
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(started(*SERVE, "--transport", transport, DATABASE_URL=url, **OPEN))
        etcd = await stack.enter_async_context(peer.etcd())
        yield Arena(postgres, url, manager.address, manager.process.pid, etcd)


def secured(tls: bool) -> Mapping[str, object]:
    """The load client's options for it."""
    return {"tls": True} if tls else {}


def chunks(of: Sequence[T], size: int = BATCH) -> list[Sequence[T]]:
    """The same in batches."""
    return [of[place : place + size] for place in range(0, len(of), size)]


def at_most(name: str, value: float, limit: float) -> str:
    """The line of a bar that is a ceiling."""
    return f"{name} {value:.3g} {limit:.3g} {'ok' if value <= limit else 'short'}"


def at_least(name: str, value: float, limit: float) -> str:
    """The line of a bar that is a floor."""
    return f"{name} {value:.6g} {limit:.6g} {'ok' if value >= limit else 'short'}"
