"""Samples in batches, until they are stored."""

import asyncio
import statistics
import time

import asyncpg

from bench.arena import FLEET, VERSION, Arena, at_least, chunks
from bench.load import load
from bench.operations import newcomers
from bench.scene import NAME
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb

INSTANCES = 10_000
SAMPLES = 600_000
TOGETHER = 1_000
GIVEN_UP = 3.0  # seconds without another one
RATE = 170_000  # samples a second that are offered: more than the bar


async def stored(arena: Arena, connection: asyncpg.Connection, ids: list[str]) -> tuple[float, ...]:
    """Samples a second from the first call until the last is in the table; which share was not dropped; and the
    microseconds of CPU of each, the manager's and PostgreSQL's."""
    await connection.execute("truncate system_metrics")
    now = time.time_ns() // 1_000_000
    batches = [
        fleet.MetricsBatch(
            system=[
                pb.SystemMetrics(
                    instance_id=ids[(start + place) % len(ids)],
                    timestamp_ms=now + start // TOGETHER,
                    used_memory_bytes=start + place,
                    total_memory_bytes=2**34,
                )
                for place in range(TOGETHER)
            ]
        ).SerializeToString()
        for start in range(0, SAMPLES, TOGETHER)
    ]
    before, begun = arena.used(), time.monotonic()
    await arena.ours(f"{FLEET}/PostMetrics", batches, TOGETHER, connections=4, rate=RATE / TOGETHER)
    count, grown = 0, time.monotonic()
    while count < SAMPLES and time.monotonic() - grown < GIVEN_UP:  # what a full buffer has dropped never comes
        if (now_there := await connection.fetchval("select count(*) from system_metrics")) > count:
            count, grown = now_there, time.monotonic()
        await asyncio.sleep(0.05)
    took, after = grown - begun, arena.used()
    return (
        count / took,
        count / SAMPLES,
        *(1e6 * (late - early) / count for early, late in zip(before, after, strict=True)),
    )


async def judged(arena: Arena, rounds: int) -> list[str]:
    """The rounds; a line, and those of the bar, for which none may be dropped."""
    described = newcomers(INSTANCES)
    adds = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(described)]
    await load(arena.manager, f"{FLEET}/AddInstances", adds, **VERSION)
    connection = await asyncpg.connect(arena.postgres.url(database=NAME))
    ids = [each.instance_id for each in described]
    rounds_ = [await stored(arena, connection, ids) for _ in range(rounds + 1)][1:]
    await connection.close()
    rate, share, server, database = (statistics.median(each) for each in zip(*rounds_, strict=True))
    print(
        f"{share:.3f} of {SAMPLES} samples: {rate:.0f}/s stored, {server:.2f} + {database:.2f} µs of CPU each",
        flush=True,
    )
    return [at_least("samples-stored-rate", rate, 150_000), at_least("samples-stored-share", share, 1.0)]
