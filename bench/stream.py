"""From commit on one replica to delivery on another: a histogram, with NOTIFY and poll-only.

    .venv/bin/python -m bench.stream [--rate 100 --rate 1000] [--seconds 10]

Two managers, each a process of its own, on a PostgreSQL of their own that keeps the time of every commit (taken when
its record is written, before it is flushed). One client process writes through the first, at a steady rate whatever
the answers take, and listens at the second. The time of a delivery is when the client has the message in hand, so its
own decoding counts too.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count

import asyncpg
from grpc import aio

from bench.scene import NAME, SERVE, machine, prepared, quantile
from manager.embedded import Postgres, start
from manager.pb import instance_manager_pb2 as pb
from manager.pb.instance_manager_pb2_grpc import SubscribeServiceStub, TryServiceStub
from manager.pb.version import PROTO_VERSION
from manager.presence import new_id
from tests.processes import started

VERSION = (("proto_version", PROTO_VERSION),)
BOUNDS = (1, 2, 3, 5, 8, 13, 20, 30, 50, 80, 130, 200, 500, 1000, 2000)  # milliseconds
INSTANCES = 200
WARM_UP = 2.0


@dataclass
class Run:
    """What was measured: delays in seconds, and how many changes a second there really were."""

    delays: Sequence[float]
    rate: float

    def show(self, title: str) -> None:
        """The histogram, one line a bucket."""
        delays = sorted(each * 1000 for each in self.delays)
        points = {name: quantile(delays, share) for name, share in SHARES.items()}
        shown = ", ".join(f"{name} {value:.1f}" for name, value in points.items())
        print(f"\n{title}: {len(delays)} deliveries, {self.rate:.0f} changes/s; ms: {shown}, max {delays[-1]:.1f}")
        low = 0.0
        for high in (*BOUNDS, float("inf")):
            inside = sum(low < each <= high for each in delays)
            if inside:
                print(f"  {low:>5g} to {high:>5g} ms {inside:>7} {'#' * max(1, 60 * inside // len(delays))}")
            low = high


numbers = count()
SHARES = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "p99.9": 0.999}


async def timed(postgres: Postgres) -> str:
    """A migrated database whose commits are timed; its address for the server's role."""
    url = await prepared(postgres)
    connection = await asyncpg.connect(postgres.url())
    await connection.execute("alter system set track_commit_timestamp = on")
    await connection.close()
    postgres.restart()
    return url


async def measure(postgres: Postgres, url: str, rate: int, seconds: float, *, notify: bool) -> Run:
    """One run on two fresh managers."""
    async with AsyncExitStack() as stack:
        managers = [
            await stack.enter_async_context(started(*SERVE, DATABASE_URL=url, IM_NOTIFY=str(notify))) for _ in range(2)
        ]
        writing, reading = [await stack.enter_async_context(aio.insecure_channel(each.address)) for each in managers]
        tries = TryServiceStub(writing)
        ids = await register(tries)
        arrived: dict[int, float] = {}
        listening = asyncio.create_task(listen(reading, arrived))
        await asyncio.sleep(0.5)
        await write(tries, ids, rate, WARM_UP)
        first = await head(postgres)
        began = time.monotonic()
        await write(tries, ids, rate, seconds)
        took = time.monotonic() - began
        last = await head(postgres)
        while max(arrived, default=0) < last:
            await asyncio.sleep(0.05)
        listening.cancel()
        committed = await commits(postgres, first, last)
    return Run([arrived[each] - at for each, at in committed.items()], len(committed) / took)


async def register(tries: TryServiceStub) -> list[str]:
    """The instances that are changed again and again."""
    ids = [str(new_id()) for _ in range(INSTANCES)]
    for each in ids:
        described = pb.InstanceDescription(instance_id=each, instance_type=pb.CHROME_BROWSER, timeout_ms=86_400_000)
        assert (await tries.TryAddInstance(described, metadata=VERSION)).value
    return ids


async def listen(channel: aio.Channel, arrived: dict[int, float]) -> None:
    """Notes when each revision came."""
    request = pb.SubscribeRequest(event_types=[pb.UPDATED])
    async for update in SubscribeServiceStub(channel).SubscribeToInstanceUpdates(request, metadata=VERSION):
        arrived[update.revision] = time.time()


async def write(tries: TryServiceStub, ids: Sequence[str], rate: int, seconds: float) -> None:
    """Updates at a steady rate: a slow answer does not put the next one off."""
    began = time.monotonic()
    calls: set[asyncio.Future[pb.Bool]] = set()
    for step in range(int(rate * seconds)):
        due, number = began + step / rate, next(numbers)  # a hostname that was there already changes nothing
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        described = pb.InstanceDescription(
            instance_id=ids[number % len(ids)],
            instance_type=pb.CHROME_BROWSER,
            hostname=f"host-{number}",
            timeout_ms=86_400_000,
        )
        call = asyncio.ensure_future(tries.TryUpdateInstance(described, metadata=VERSION))
        calls.add(call)
        call.add_done_callback(calls.discard)
    await asyncio.gather(*calls)


async def head(postgres: Postgres) -> int:
    """The latest revision of an update."""
    connection = await asyncpg.connect(postgres.url(database=NAME))
    revision: int = await connection.fetchval("select coalesce(max(revision), 0) from event where type = 8")
    await connection.close()
    return revision


async def commits(postgres: Postgres, first: int, last: int) -> dict[int, float]:
    """When each update after `first` was committed, on the clock of this machine."""
    connection = await asyncpg.connect(postgres.url(database=NAME))
    rows = await connection.fetch(
        "select revision, extract(epoch from pg_xact_commit_timestamp(cast(cast(xid as text) as xid)))::float8 as at"
        " from event where type = 8 and revision > $1 and revision <= $2",
        first,
        last,
    )
    await connection.close()
    return {row["revision"]: row["at"] for row in rows}


async def main() -> None:
    """All runs, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=int, action="append", help="changes a second; may be given more than once")
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    with start(None, ephemeral=True) as postgres:
        print(machine(postgres))
        url = await timed(postgres)
        for rate in asked.rate or (100, 1000):
            for notify in (True, False):
                run = await measure(postgres, url, rate, asked.seconds, notify=notify)
                run.show(f"{rate}/s asked, {'NOTIFY' if notify else 'poll-only'}")


if __name__ == "__main__":
    asyncio.run(main())
