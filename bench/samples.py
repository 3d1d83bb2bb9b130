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
RATE = 170_000  # samples a second that are offered: more than the bar


async def stored(arena: Arena, connection: asyncpg.Connection, ids: list[str]) -> tuple[float, float, float]:
    """Samples a second from the first call until all are in the table, and the microseconds of CPU of each."""
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
    async with asyncio.timeout(30):
        while await connection.fetchval("select count(*) from system_metrics") < SAMPLES:
            await asyncio.sleep(0.05)
    took, after = time.monotonic() - begun, arena.used()
    return SAMPLES / took, (after[0] - before[0]) / SAMPLES * 1e6, (after[1] - before[1]) / SAMPLES * 1e6


async def judged(arena: Arena, rounds: int) -> list[str]:
    """The rounds; a line, and that of the bar. Every sample must be there in the end."""
    described = newcomers(INSTANCES)
    adds = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(described)]
    await load(arena.manager, f"{FLEET}/AddInstances", adds, **VERSION)
    connection = await asyncpg.connect(arena.postgres.url(database=NAME))
    ids = [each.instance_id for each in described]
    rounds_ = [await stored(arena, connection, ids) for _ in range(rounds + 1)][1:]
    await connection.close()
    rate, server, database = (statistics.median(each) for each in zip(*rounds_, strict=True))
    print(f"{SAMPLES} samples: {rate:.0f}/s stored, {server:.2f} + {database:.2f} µs of CPU each", flush=True)
    return [at_least("samples-stored-rate", rate, 150_000)]
