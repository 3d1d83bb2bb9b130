"""Five times as many registrations as can be carried out, beside the health checks and kills of a living fleet."""

import asyncio
import statistics

from bench.arena import FLEET, TRY, VERSION, Arena, Cost, at_least, at_most, chunks
from bench.load import Loaded, load
from bench.operations import TRUE, newcomers
from bench.scene import resident
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb

PEAK = {"connections": 4, "streams": 32}
SECONDS = 5
TIMES = 5
WITHIN = 10_000  # ms: the deadline of the client's calls
LIVING = 2_000
CHECKS, KILLS = 200, 20  # a second


async def peak(arena: Arena) -> Cost:
    """As many as there can be."""
    messages = [each.SerializeToString() for each in newcomers(10_000)]
    return await arena.ours(f"{TRY}/TryAddInstance", messages, **PEAK, expect=TRUE)


async def flooded(arena: Arena, rate: float, ids: list[str]) -> tuple[Loaded, Loaded, Loaded]:
    """Registrations at so many a second, and what becomes of them, of the health checks and of the kills."""
    adds = [each.SerializeToString() for each in newcomers(int(rate * SECONDS))]
    checks = [pb.InstanceRequest(instance_id=each).SerializeToString() for each in ids[: CHECKS * SECONDS]]
    kills = [pb.KillRequest(instance_id=each).SerializeToString() for each in ids[-KILLS * SECONDS :]]
    flood = load(
        arena.manager, f"{TRY}/TryAddInstance", adds, **VERSION, connections=4, rate=rate, within=WITHIN, expect=TRUE
    )
    beside = (
        load(arena.manager, f"{TRY}/TryHealthCheck", checks, **VERSION, rate=CHECKS, expect=TRUE),
        load(arena.manager, f"{TRY}/TryKillInstance", kills, **VERSION, rate=KILLS, expect=TRUE),
    )
    added, checked, killed = await asyncio.gather(flood, *beside)
    return added, checked, killed


async def judged(arena: Arena, rounds: int) -> list[str]:
    """The rounds; a table, and the line of each bar."""
    print("| peak/s | offered/s | good/s | of the peak | check p99, ms | kill p99, ms | not served | MiB |")
    print("|---|---|---|---|---|---|---|---|")
    shares, refused, memory = [], 0, 0.0
    for _ in range(rounds):
        most = (await peak(arena)).rate
        living = newcomers(LIVING)
        batches = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(living)]
        await load(arena.manager, f"{FLEET}/AddInstances", batches, **VERSION)
        added, checked, killed = await flooded(arena, most * TIMES, [each.instance_id for each in living])
        shares.append(added.rate / most)
        left_out = sum(each.sent - each.ok for each in (checked, killed))
        refused += left_out
        memory = max(memory, resident(arena.manager_pid))
        print(
            f"| {most:.0f} | {most * TIMES:.0f} | {added.rate:.0f} | {shares[-1]:.2f} | {checked.ms['p99']:.0f}"
            f" | {killed.ms['p99']:.0f} | {left_out} | {memory:.0f} |",
            flush=True,
        )
    return [
        at_least("overload-goodput-of-peak", statistics.median(shares), 0.7),
        at_most("overload-checks-and-kills-not-served", refused, 0),
        at_most("overload-memory-mib", memory, 512),
    ]
