"""`python -m bench.auditor`: what a heavy question to the record costs those who are served.

Rounds take turns, with and without an auditor who asks a question that reads everything over and over, as the role
im_auditor. In each, 200 health checks and 20 registrations a second go on; compared is the p99 of either, each round
with the one before it, and a latency counts from when its call was due. The bar is a median ratio of 1.25. The client,
the manager, the database and the auditor share the machine, of which the auditor takes a core.
"""

import asyncio
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import random
from statistics import median
from time import perf_counter

import asyncpg

from bench.scene import NAME, machine, prepared, quantile
from manager.client import Client, new_id
from manager.embedded import start
from manager.embedded.niceness import stand_back
from manager.pb.instance_manager_pb2 import CHROME_BROWSER, InstanceDescription, InstanceRequest
from manager.server import serve
from manager.settings import Settings

INSTANCES = 2_000
CHECKERS, ADDERS = 20, 2
PACE = 0.1  # seconds between two calls of each
BAR = 1.25
HEAVY = """
select count(*), max(length(e.before::text)), sum(length(e.after::text))
from events e join instances i on i.id = e.instance_id cross join generate_series(1, 200)
"""


def described(instance_id: str) -> InstanceDescription:
    """One that may be silent for a day: what is measured is no fleet that dies."""
    return InstanceDescription(instance_id=instance_id, instance_type=CHROME_BROWSER, timeout_ms=86_400_000)


async def loop(until: float, call: Callable[[], Awaitable[object]], taken: list[float]) -> None:
    """Calls at its pace, until then; those that begin together do not stay together."""
    due = perf_counter() + random() * PACE
    while due < until:
        await asyncio.sleep(max(0.0, due - perf_counter()))
        await call()
        taken.append((perf_counter() - due) * 1_000)
        due += PACE


async def round_of(client: Client, ids: list[str], seconds: float) -> tuple[float, float]:
    """The p99 of health checks and of registrations, in milliseconds."""
    places = iter(range(1 << 60))
    checks: list[float] = []
    adds: list[float] = []

    async def check() -> None:
        await client.try_.TryHealthCheck(InstanceRequest(instance_id=ids[next(places) % len(ids)]))

    async def add() -> None:
        await client.try_.TryAddInstance(described(str(new_id())))

    until = perf_counter() + seconds
    await asyncio.gather(
        *(loop(until, check, checks) for _ in range(CHECKERS)), *(loop(until, add, adds) for _ in range(ADDERS))
    )
    return quantile(checks, 0.99), quantile(adds, 0.99)


async def audit(url: str, niceness: int) -> None:
    """Asks, again and again, by a process of that niceness; what is cut off by the timeout is asked anew."""
    connection = await asyncpg.connect(url)
    if niceness:
        stand_back(connection.get_server_pid(), niceness)
    try:
        while True:
            with suppress(asyncpg.QueryCanceledError):
                await connection.fetch(HEAVY)
    finally:
        connection.terminate()


async def measured(url: str, auditor: str, rounds: int, seconds: float, niceness: int) -> list[tuple[float, float]]:
    """The ratios of each pair of rounds: of health checks, and of registrations."""
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(Settings(database_url=url, bind=("127.0.0.1",), port=0), stop, started.set_result)
    )
    ratios = []
    try:
        async with Client((await started).addresses[0]) as client:
            ids = [str(new_id()) for _ in range(INSTANCES)]
            for each in ids:
                await client.try_.TryAddInstance(described(each))
            await round_of(client, ids, seconds)
            for _ in range(rounds):
                alone = await round_of(client, ids, seconds)
                asking = asyncio.create_task(audit(auditor, niceness))
                await asyncio.sleep(0.5)
                beside = await round_of(client, ids, seconds)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                ratios.append((beside[0] / alone[0], beside[1] / alone[1]))
                print(f"checks {alone[0]:6.1f} {beside[0]:6.1f} ms   registrations {alone[1]:6.1f} {beside[1]:6.1f} ms")
    finally:
        stop.set()
        await serving
    return ratios


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--nice", type=int, default=0, help="how far the auditor's process stands back, up to 19")
    chosen = parser.parse_args()
    with start(ephemeral=True) as postgres:
        url = asyncio.run(prepared(postgres))
        asyncio.run(postgres.grant_login("im_auditor"))
        print(machine(postgres))
        auditor = postgres.url("im_auditor", NAME)
        ratios = asyncio.run(measured(url, auditor, chosen.rounds, chosen.seconds, chosen.nice))
    for name, each in zip(("checks", "registrations"), zip(*ratios, strict=True), strict=True):
        ratio = median(each)
        print(f"audit_{name}_p99_ratio {ratio:.2f} {BAR} {'ok' if ratio <= BAR else 'short'}")


if __name__ == "__main__":
    main()
