"""What one instance asks for, against etcd, Redis and ZooKeeper in one table, where nothing is judged."""

import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench import operations, redis, zookeeper
from bench.arena import DAY, Arena, Cost
from bench.operations import Scene, described, newcomers

PEERS = ("etcd", "Redis", "Redis, always", "ZooKeeper")
REPEATED = 10  # an operation of Redis takes so little that the clock, of 10 ms, needs more of them
WARMING = 5  # how often ZooKeeper does all of its work before it counts: Java compiles what runs often
SECONDS = str(DAY // 1000)


@dataclass(frozen=True)
class Company(Scene):
    """The scene, and the others that are in it."""

    redis: redis.Redis
    zookeeper: zookeeper.Zookeeper

    async def on_redis(self, messages: Sequence[bytes], expected: bytes, answers: int = 1) -> Cost:
        """A load on Redis."""
        return await Cost.at(self.redis.pid, self.redis.load(messages, expected, answers))

    async def on_zookeeper(self, messages: Sequence[bytes]) -> Cost:
        """A load on ZooKeeper."""
        return await Cost.at(self.zookeeper.pid, self.zookeeper.load(messages))


Side = Callable[[Company], Awaitable[Cost]]


async def expiries(company: Company) -> Cost:
    """EXPIRE of each key."""
    messages = [redis.command("EXPIRE", each, SECONDS) for each in company.ids]
    return await company.on_redis(messages * REPEATED, b":1\r\n")


async def keys(company: Company, ids: Sequence[str]) -> Cost:
    """A key that expires, and the news of it, for each."""
    values = [(each.instance_id, each.SerializeToString()) for each in described(ids)]
    messages = [
        redis.command("SET", key, value, "EX", SECONDS) + redis.command("PUBLISH", "changes", value)
        for key, value in values
    ]
    return await company.on_redis(messages, b"+OK\r\n:", answers=2)


async def new_keys(company: Company) -> Cost:
    """The same, of nobody who is known."""
    return await keys(company, [each.instance_id for each in newcomers(len(company.ids) * REPEATED)])


async def durable_keys(company: Company) -> Cost:
    """The same, each on disk before its answer."""
    async with company.redis.durable():
        return await new_keys(company)


async def gets(company: Company) -> Cost:
    """GET of each key."""
    value = described(company.ids[:1])[0].ByteSize()  # they are all of one length
    messages = [redis.command("GET", each) for each in company.ids]
    return await company.on_redis(messages * REPEATED, b"$%d\r\n" % value)


async def pings(company: Company) -> Cost:
    """As many as there are instances."""
    return await Cost.at(company.zookeeper.pid, company.zookeeper.pings(len(company.ids)))


async def nodes(company: Company, ids: Sequence[str]) -> Cost:
    """An ephemeral node for each."""
    made = [zookeeper.create(f"/{each.instance_id}", each.SerializeToString()) for each in described(ids)]
    return await company.on_zookeeper(made)


async def new_nodes(company: Company) -> Cost:
    """The same, of nobody who is known."""
    return await nodes(company, [each.instance_id for each in newcomers(len(company.ids))])


async def data(company: Company) -> Cost:
    """getData of each node."""
    return await company.on_zookeeper([zookeeper.get_data(f"/{each}") for each in company.ids])


@dataclass(frozen=True)
class Work:
    """Rows of ours, and what the others do for them."""

    ours: Mapping[str, Side]
    peers: Mapping[str, Side]


WORKS = (
    Work(
        {"health check": operations.checks, "health checks, batched": operations.batched_checks},
        {"etcd": operations.keep_alives, "Redis": expiries, "ZooKeeper": pings},
    ),
    Work(
        {"registering": operations.adds, "registering, batched": operations.batched_adds},
        {
            "etcd": operations.grants_and_puts,
            "Redis": new_keys,
            "Redis, always": durable_keys,
            "ZooKeeper": new_nodes,
        },
    ),
    Work(
        {"reading": operations.reads},
        {"etcd": operations.ranges, "Redis": gets, "ZooKeeper": data},
    ),
)


def installed() -> None:
    """Exits with a line that says what to install where one is missing."""
    redis.program()
    zookeeper.program()


async def compared(company: Company, work: Work, rounds: int) -> None:
    """Rounds in turns, after one that does not count; a row for each of ours is printed."""
    sides = {**work.ours, **work.peers}
    taken = [{name: await side(company) for name, side in sides.items()} for _ in range(rounds + 1)][1:]
    for row in work.ours:
        print(f"| {row} | {' | '.join(cells(row, taken))} |", flush=True)


def cells(row: str, taken: Sequence[Mapping[str, Cost]]) -> Iterator[str]:
    """What ours took, and each of the others with the ratio where it was there: medians."""
    server = statistics.median(each[row].server for each in taken)
    database = statistics.median(each[row].database for each in taken)
    yield f"{server:.1f} + {database:.1f}"
    for peer in PEERS:
        pairs = [(each[row].whole, each[peer].whole) for each in taken if peer in each]
        if not pairs:
            yield ""
            continue
        theirs = statistics.median(theirs for _, theirs in pairs)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        yield f"{theirs:.1f} ({ratio:.2f})"


async def judged(arena: Arena, rounds: int, size: int = 10_000) -> list[str]:
    """All of them; a table, and no bars."""
    async with redis.redis() as one, zookeeper.zookeeper() as other:
        scene = await operations.planted(arena, size)
        company = Company(scene.arena, scene.ids, one, other)
        await keys(company, company.ids)
        await nodes(company, company.ids)
        for side in (pings, new_nodes, data) * WARMING:
            await side(company)
        print("CPU of an operation in µs (ours: server + PostgreSQL), and in brackets ours over it")
        print(f"| work | ours | {' | '.join(PEERS)} |")
        print("|---" * (len(PEERS) + 2) + "|")
        for work in WORKS:
            await compared(company, work, rounds)
    return []
