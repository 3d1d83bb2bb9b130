"""Against etcd, side by side: what an operation costs the server and its database in CPU, in paired rounds.

    .venv/bin/python -m bench.peers [--rounds 5] [--size 10000]

The rounds take turns (ours, etcd, ours, etcd ...), and the medians are told, and that of the ratios.
"""

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from bench import etcd as peer
from bench.load import Loaded, compiled, load
from bench.scene import NAME, SERVE, family_cpu, machine, prepared
from manager.embedded import Postgres, start
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb
from manager.pb.version import PROTO_VERSION
from manager.presence import new_id
from tests.processes import started

T = TypeVar("T")

TRY, GET, FLEET = (f"/instance_manager.{each}Service" for each in ("Try", "Get", "Fleet"))
VERSION = {"metadata": f"proto_version={PROTO_VERSION}"}
UNARY = {"connections": 4, "streams": 16}  # so many calls of each connection at once
TRUE = "0801"  # how an answer with `value = true` begins
BATCH = 500
DAY = 86_400_000
# the patience with a herd that returns after an outage is no part of what is measured
OPEN = {"IM_REGISTRATION_RATE": "1e9", "IM_REGISTRATION_BURST": "1e9"}


@dataclass(frozen=True)
class Scene:
    """All that takes part, and the instances and leases that are there."""

    postgres: Postgres
    manager: str
    manager_pid: int
    etcd: peer.Etcd
    ids: Sequence[str]

    async def ours(self, path: str, messages: Sequence[bytes], items: int = 1, **options: object) -> "Cost":
        """A load on the manager; `items` operations a message."""
        before = family_cpu(self.manager_pid), family_cpu(self.postgres.process.pid)
        done = await load(self.manager, path, messages, **VERSION, **options)
        after = family_cpu(self.manager_pid), family_cpu(self.postgres.process.pid)
        return Cost.of(done, items, after[0] - before[0], after[1] - before[1])

    async def theirs(self, path: str, messages: Sequence[bytes], **options: object) -> "Cost":
        """A load on etcd."""
        before = family_cpu(self.etcd.pid)
        done = await load(self.etcd.address, path, messages, **options)
        return Cost.of(done, 1, family_cpu(self.etcd.pid) - before)


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

    @property
    def whole(self) -> float:
        """Server and database."""
        return self.server + self.database

    def __add__(self, other: "Cost") -> "Cost":
        """One operation of each, one after the other."""
        rate = 1 / (1 / self.rate + 1 / other.rate)
        return Cost(self.server + other.server, self.database + other.database, self.client + other.client, rate)


Side = Callable[[Scene], Awaitable[Cost]]


async def due(scene: Scene) -> None:
    """Everybody was last heard of three hours ago, so that a check writes its row."""
    connection = await asyncpg.connect(scene.postgres.url(database=NAME))
    await connection.execute("update heartbeat set last_seen = clock_timestamp() - interval '3 hours'")
    await connection.execute("vacuum heartbeat")
    await connection.execute("checkpoint")
    await connection.close()


async def checks(scene: Scene) -> Cost:
    """TryHealthCheck of each instance once."""
    await due(scene)
    messages = [pb.InstanceRequest(instance_id=each).SerializeToString() for each in scene.ids]
    return await scene.ours(f"{TRY}/TryHealthCheck", messages, **UNARY, expect=TRUE)


async def batched_checks(scene: Scene) -> Cost:
    """The same, in batches on streams."""
    await due(scene)
    messages = [fleet.HealthCheckBatch(instance_ids=each).SerializeToString() for each in chunks(scene.ids)]
    return await scene.ours(f"{FLEET}/HealthChecks", messages, BATCH, mode="stream", connections=4, depth=2)


async def keep_alives(scene: Scene) -> Cost:
    """LeaseKeepAlive of each lease once."""
    messages = [peer.message(number) for number in range(1, len(scene.ids) + 1)]
    return await scene.theirs(peer.KEEP_ALIVE, messages, **UNARY, mode="stream")


def newcomers(count: int) -> list[pb.InstanceDescription]:
    """Instances that nobody knows yet, of a timeout that outlasts the run."""
    return [
        pb.InstanceDescription(
            instance_id=str(new_id()), instance_type=pb.CHROME_BROWSER, hostname="host", timeout_ms=DAY
        )
        for _ in range(count)
    ]


async def adds(scene: Scene) -> Cost:
    """TryAddInstance."""
    messages = [each.SerializeToString() for each in newcomers(len(scene.ids))]
    return await scene.ours(f"{TRY}/TryAddInstance", messages, **UNARY, expect=TRUE)


async def batched_adds(scene: Scene) -> Cost:
    """AddInstances."""
    new = newcomers(len(scene.ids))
    messages = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(new)]
    cost = await scene.ours(f"{FLEET}/AddInstances", messages, BATCH, connections=4)
    connection = await asyncpg.connect(scene.postgres.url(database=NAME))
    ids = [each.instance_id for each in new]
    there = await connection.fetchval("select count(*) from instance where id = any(cast($1::text[] as uuid[]))", ids)
    await connection.close()
    if there != len(ids):  # each item has an outcome of its own, which the client does not look at
        raise RuntimeError(f"{there} of {len(ids)} were registered")
    return cost


async def grants_and_puts(scene: Scene) -> Cost:
    """A lease, and a key with it."""
    grants = [peer.message(DAY // 1000)] * len(scene.ids)
    puts = [peer.message(each.instance_id.encode(), each.SerializeToString(), 1) for each in newcomers(len(scene.ids))]
    return await scene.theirs(peer.GRANT, grants, **UNARY) + await scene.theirs(peer.PUT, puts, **UNARY)


async def reads(scene: Scene) -> Cost:
    """GetInstance."""
    messages = [pb.InstanceRequest(instance_id=each).SerializeToString() for each in scene.ids]
    return await scene.ours(f"{GET}/GetInstance", messages, **UNARY)


async def ranges(scene: Scene) -> Cost:
    """A linearizable Range of one key."""
    return await scene.theirs(peer.RANGE, [peer.message(each.encode()) for each in scene.ids], **UNARY)


@dataclass(frozen=True)
class Bar:
    """What is compared with what, and how much of the peer's CPU it may take; `rate` is what it has to reach."""

    name: str
    ours: Side
    theirs: Side
    share: float
    rate: float = 0.0


BARS = (
    Bar("health-check", checks, keep_alives, 0.3),
    Bar("health-checks-batched", batched_checks, keep_alives, 1 / 15, 100_000),
    Bar("registering", adds, grants_and_puts, 0.5),
    Bar("registering-batched", batched_adds, grants_and_puts, 0.5, 20_000),
    Bar("reading", reads, ranges, 0.5),
)


def chunks(of: Sequence[T]) -> list[Sequence[T]]:
    """The same in batches."""
    return [of[place : place + BATCH] for place in range(0, len(of), BATCH)]


async def planted(scene: Scene) -> None:
    """The instances, the leases and the keys that the rounds are about."""
    described = [
        pb.InstanceDescription(instance_id=each, instance_type=pb.CHROME_BROWSER, hostname="host", timeout_ms=DAY)
        for each in scene.ids
    ]
    batches = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(described)]
    await scene.ours(f"{FLEET}/AddInstances", batches, BATCH)
    numbers = range(1, len(scene.ids) + 1)
    await scene.theirs(peer.GRANT, [peer.message(DAY // 1000, number) for number in numbers], **UNARY)
    puts = [
        peer.message(each.encode(), one.SerializeToString(), number)
        for number, each, one in zip(numbers, scene.ids, described, strict=True)
    ]
    await scene.theirs(peer.PUT, puts, **UNARY)


async def compared(scene: Scene, bar: Bar, rounds: int) -> list[str]:
    """Rounds in turns, after one of each that does not count; a row is printed, and the judgement given back."""
    pairs = [(await bar.ours(scene), await bar.theirs(scene)) for _ in range(rounds + 1)][1:]
    ratio = statistics.median(ours.whole / theirs.whole for ours, theirs in pairs)
    ours, theirs = zip(*pairs, strict=True)

    def middle(side: Sequence[Cost], name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in side))

    print(
        f"| {bar.name} | {middle(ours, 'server'):.1f} + {middle(ours, 'database'):.1f} | {middle(theirs, 'whole'):.1f}"
        f" | {ratio:.3f} | {middle(ours, 'rate'):.0f} | {middle(theirs, 'rate'):.0f} | {middle(ours, 'client'):.1f} |",
        flush=True,
    )
    judged = [f"{bar.name}-cpu {ratio:.3f} {bar.share:.3f} {'ok' if ratio <= bar.share else 'short'}"]
    if bar.rate:
        rate = middle(ours, "rate")
        judged.append(f"{bar.name}-rate {rate:.0f} {bar.rate:.0f} {'ok' if rate >= bar.rate else 'short'}")
    return judged


async def main() -> None:
    """All of it; one table, then a line for each bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=10_000, help=f"operations a round, a multiple of {BATCH}")
    parser.add_argument("--only", action="append", help="the name of a bar; may be given more than once")
    asked = parser.parse_args()
    compiled()
    with start(None, ephemeral=True) as postgres:
        print(machine(postgres))
        url = await prepared(postgres)
        async with AsyncExitStack() as stack:
            manager = await stack.enter_async_context(started(*SERVE, DATABASE_URL=url, **OPEN))
            etcd = await stack.enter_async_context(peer.etcd())
            ids = [str(new_id()) for _ in range(asked.size)]
            scene = Scene(postgres, manager.address, manager.process.pid, etcd, ids)
            await planted(scene)
            print(
                "| work | CPU, ours: server + PostgreSQL, µs | etcd's | ratio | a second, ours | etcd's | client, µs |"
            )
            print("|---|---|---|---|---|---|---|")
            wanted = [each for each in BARS if not asked.only or each.name in asked.only]
            judged = [line for bar in wanted for line in await compared(scene, bar, asked.rounds)]
    print(*judged, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
