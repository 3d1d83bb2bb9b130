"""What one instance asks for: health checks, registrations and reads, one by one and in batches, against etcd."""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count

import asyncpg

from bench import etcd as peer
from bench.arena import BATCH, DAY, FLEET, GET, TRY, UNARY, Arena, Cost, at_least, at_most, chunks
from bench.scene import NAME
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id

TRUE = "0801"  # how an answer with `value = true` begins
TOGETHER = 1_000  # health checks a message
LEASES = count(1_000_000)


@dataclass(frozen=True)
class Scene:
    """The arena, and the instances and leases that are in it."""

    arena: Arena
    ids: Sequence[str]


Side = Callable[[Scene], Awaitable[Cost]]


async def due(scene: Scene) -> None:
    """Everybody was last heard of three hours ago, so that a check writes its row."""
    connection = await asyncpg.connect(scene.arena.postgres.url(database=NAME))
    await connection.execute("update heartbeat set last_seen = clock_timestamp() - interval '3 hours'")
    await connection.execute("vacuum heartbeat")
    await connection.execute("checkpoint")
    await connection.close()


async def checks(scene: Scene) -> Cost:
    """TryHealthCheck of each instance once."""
    await due(scene)
    messages = [pb.InstanceRequest(instance_id=each).SerializeToString() for each in scene.ids]
    return await scene.arena.ours(f"{TRY}/TryHealthCheck", messages, **UNARY, expect=TRUE)


async def batched_checks(scene: Scene) -> Cost:
    """The same, in batches on streams."""
    await due(scene)
    messages = [fleet.HealthCheckBatch(instance_ids=each).SerializeToString() for each in chunks(scene.ids, TOGETHER)]
    return await scene.arena.ours(f"{FLEET}/HealthChecks", messages, TOGETHER, mode="stream", connections=4, depth=2)


async def keep_alives(scene: Scene) -> Cost:
    """LeaseKeepAlive of each lease once."""
    messages = [peer.message(number) for number in range(1, len(scene.ids) + 1)]
    return await scene.arena.theirs(peer.KEEP_ALIVE, messages, **UNARY, mode="stream")


def described(ids: Sequence[str]) -> list[pb.InstanceDescription]:
    """Instances of a timeout that outlasts the run."""
    return [
        pb.InstanceDescription(instance_id=each, instance_type=pb.CHROME_BROWSER, hostname="host", timeout_ms=DAY)
        for each in ids
    ]


def newcomers(count: int) -> list[pb.InstanceDescription]:
    """Such that nobody knows yet."""
    return described([str(new_id()) for _ in range(count)])


async def adds(scene: Scene) -> Cost:
    """TryAddInstance."""
    messages = [each.SerializeToString() for each in newcomers(len(scene.ids))]
    return await scene.arena.ours(f"{TRY}/TryAddInstance", messages, **UNARY, expect=TRUE)


async def batched_adds(scene: Scene) -> Cost:
    """AddInstances."""
    new = newcomers(len(scene.ids))
    messages = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(new)]
    cost = await scene.arena.ours(f"{FLEET}/AddInstances", messages, BATCH, connections=4)
    connection = await asyncpg.connect(scene.arena.postgres.url(database=NAME))
    ids = [each.instance_id for each in new]
    there = await connection.fetchval("select count(*) from instance where id = any(cast($1::text[] as uuid[]))", ids)
    await connection.close()
    if there != len(ids):  # each item has an outcome of its own, which the client does not look at
        raise RuntimeError(f"{there} of {len(ids)} were registered")
    return cost


async def grants_and_puts(scene: Scene) -> Cost:
    """A lease, and a key with it."""
    leases = [next(LEASES) for _ in scene.ids]
    grants = [peer.message(DAY // 1000, each) for each in leases]
    new = zip(newcomers(len(scene.ids)), leases, strict=True)
    puts = [peer.message(each.instance_id.encode(), each.SerializeToString(), lease) for each, lease in new]
    return await scene.arena.theirs(peer.GRANT, grants, **UNARY) + await scene.arena.theirs(peer.PUT, puts, **UNARY)


async def reads(scene: Scene) -> Cost:
    """GetInstance."""
    messages = [pb.InstanceRequest(instance_id=each).SerializeToString() for each in scene.ids]
    return await scene.arena.ours(f"{GET}/GetInstance", messages, **UNARY)


async def ranges(scene: Scene) -> Cost:
    """A linearizable Range of one key."""
    return await scene.arena.theirs(peer.RANGE, [peer.message(each.encode()) for each in scene.ids], **UNARY)


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


async def planted(arena: Arena, size: int) -> Scene:
    """The instances, the leases and the keys that the rounds are about."""
    scene = Scene(arena, [str(new_id()) for _ in range(size)])
    instances = described(scene.ids)
    batches = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(instances)]
    await scene.arena.ours(f"{FLEET}/AddInstances", batches, BATCH)
    numbers = range(1, len(scene.ids) + 1)
    await scene.arena.theirs(peer.GRANT, [peer.message(DAY // 1000, number) for number in numbers], **UNARY)
    puts = [
        peer.message(each.encode(), one.SerializeToString(), number)
        for number, each, one in zip(numbers, scene.ids, instances, strict=True)
    ]
    await scene.arena.theirs(peer.PUT, puts, **UNARY)
    return scene


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
    judged = [at_most(f"{bar.name}-cpu", ratio, bar.share)]
    if bar.rate:
        judged.append(at_least(f"{bar.name}-rate", middle(ours, "rate"), bar.rate))
    return judged


async def judged(arena: Arena, rounds: int, size: int = 10_000) -> list[str]:
    """All of them; a table, and the line of each bar."""
    scene = await planted(arena, size)
    print("| work | CPU, ours: server + PostgreSQL, µs | etcd's | ratio | a second, ours | etcd's | client, µs |")
    print("|---|---|---|---|---|---|---|")
    return [line for bar in BARS for line in await compared(scene, bar, rounds)]
