"""What a manager takes: memory with a great fleet and a hundred subscribers, and the time of its start."""

import asyncio
import statistics
import time

from bench.arena import FLEET, OPEN, VERSION, Arena, at_most, chunks
from bench.load import load, watching
from bench.operations import newcomers
from bench.scene import SERVE, resident
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb
from tests.processes import started

INSTANCES = 100_000
WATCHERS = {"connections": 10, "streams": 10}


async def judged(arena: Arena, rounds: int) -> list[str]:
    """A line, and that of each bar."""
    described = newcomers(INSTANCES)
    batches = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(described)]
    wanted = pb.SubscribeRequest().SerializeToString()
    watch = f"{FLEET}/WatchInstances"
    async with watching(arena.manager, watch, wanted, until=INSTANCES, count=1, **VERSION, **WATCHERS) as done:
        await load(arena.manager, f"{FLEET}/AddInstances", batches, **VERSION)
        await asyncio.wait_for(done(), 120)
    starts = []
    for _ in range(rounds):
        begun = time.monotonic()
        async with started(*SERVE, DATABASE_URL=arena.url, **OPEN):
            starts.append(time.monotonic() - begun)
    async with watching(arena.manager, watch, wanted, until=1, count=1, **VERSION, **WATCHERS) as done:
        checks = [fleet.HealthCheckBatch(instance_ids=[one.instance_id for one in each]) for each in chunks(described)]
        sent = [each.SerializeToString() for each in checks]
        await load(arena.manager, f"{FLEET}/HealthChecks", sent, **VERSION, mode="stream", connections=4)
        memory = resident(arena.manager_pid)
    begin = statistics.median(starts)
    print(f"{INSTANCES} instances, 100 subscribers: {memory:.0f} MiB; from the start to serving {begin:.2f} s")
    return [at_most("memory-mb", memory * 1.048576, 150), at_most("start-s", begin, 1.5)]
