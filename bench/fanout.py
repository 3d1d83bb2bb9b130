"""One change to many subscribers: beside a stalled one, of a hundred thousand at once, and what each costs in memory.

.venv/bin/python -m bench.fanout [--healthy 1000] [--rounds 5] [--kill 100000]
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
from grpc import aio

from bench.scene import NAME, SERVE, cpu, machine, prepared, quantile, resident
from bench.stream import VERSION, register, write
from manager.domain.calls import Registration
from manager.domain.instance import InstanceId, InstanceType
from manager.embedded import Postgres, start
from manager.pb import instance_manager_pb2 as pb
from manager.pb.instance_manager_pb2_grpc import SubscribeServiceStub, TryServiceStub
from manager.presence import new_id
from tests.conftest import Database
from tests.fleet import fleet_of
from tests.processes import Running, started

PROCESSES = 2
RATE = 4
SECONDS = 8.0
FILL = 600  # messages that no window of the stalled one holds
PATIENCE = 35.0  # more than a subscriber may take nothing for
NARROW = (("grpc.http2.lookahead_bytes", 65_536), ("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))


class Readers:
    """Healthy subscribers, in processes of their own."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def take(self, count: int, of: int) -> list[list[float]]:
        """The times at which each of `of` got its next so many messages. A reader whose stream ended is an error."""
        for each in self._processes:
            assert each.stdin
            each.stdin.write(f"take {count}\n".encode())
        taken = []
        for each in self._processes:
            assert each.stdout
            for _ in range(of // len(self._processes)):
                line = json.loads(await each.stdout.readline())
                if isinstance(line, str):
                    raise ConnectionError(f"a healthy reader was cut off: {line}")
                taken.append(line)
        return taken


@asynccontextmanager
async def readers(address: str, count: int) -> AsyncIterator[Readers]:
    """So many subscribers, connected."""
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.readers",
            address,
            str(count // PROCESSES),
            stdin=pipe,
            stdout=pipe,
            limit=2**26,
        )
        for _ in range(PROCESSES)
    ]
    for each in processes:
        assert each.stdout
        assert await each.stdout.readline() == b"ready\n"
    try:
        yield Readers(processes)
    finally:
        for each in processes:
            assert each.stdin
            each.stdin.write(b"end\n")
            await each.communicate()


@asynccontextmanager
async def stalled(address: str) -> AsyncIterator[aio.UnaryStreamCall[pb.SubscribeRequest, pb.InstanceUpdate]]:
    """A subscriber that takes nothing."""
    async with aio.insecure_channel(address, NARROW) as channel:
        call = SubscribeServiceStub(channel).SubscribeToInstanceUpdates(
            pb.SubscribeRequest(event_types=[pb.UPDATED]), metadata=VERSION
        )
        await call.initial_metadata()
        yield call


async def told(call: aio.UnaryStreamCall[pb.SubscribeRequest, pb.InstanceUpdate]) -> tuple[int, str]:
    """How many messages the stalled one had been sent, and how its stream ended."""
    count = 0
    try:
        async with asyncio.timeout(60):
            async for _ in call:
                count += 1
    except aio.AioRpcError as error:
        return count, error.code().name
    return count, grpc.StatusCode.OK.name


async def round_of(manager: Running, tries: TryServiceStub, ids: Sequence[str], healthy: int) -> tuple[float, float]:
    """One round of steady changes: p50 and p99 of the healthy, from the write's call to the message in hand."""
    await write(tries, ids, 100, FILL / 100)  # so that the stalled one is
    async with readers(manager.address, healthy) as crowd:
        sent: list[float] = []
        for _ in range(int(RATE * SECONDS)):
            sent.append(time.time())
            await write(tries, ids, 1, 1.0)
            await asyncio.sleep(max(0.0, sent[-1] + 1 / RATE - time.time()))
        delays = [
            at - begun for times in await crowd.take(len(sent), healthy) for at, begun in zip(times, sent, strict=True)
        ]
    return quantile(delays, 0.5) * 1000, quantile(delays, 0.99) * 1000


async def beside_a_stalled_one(url: str, healthy: int, rounds: int) -> None:
    """Rounds with and without it, in turns."""
    async with started(*SERVE, DATABASE_URL=url) as manager, aio.insecure_channel(manager.address) as channel:
        tries = TryServiceStub(channel)
        ids = await register(tries)
        ratios, count, ended = [], 0, ""
        for number in range(rounds):
            used, begun = cpu(manager.process.pid), time.monotonic()
            without = await round_of(manager, tries, ids, healthy)
            share = (cpu(manager.process.pid) - used) / (time.monotonic() - begun)
            async with stalled(manager.address) as call:
                beside = await round_of(manager, tries, ids, healthy)
                if number == rounds - 1:
                    await asyncio.sleep(PATIENCE)
                    count, ended = await told(call)
            ratios.append(beside[1] / without[1])
            print(
                f"  {healthy} readers, {RATE} changes/s, manager at {share:.0%} of a core; ms p50/p99:"
                f" {without[0]:.0f}/{without[1]:.0f} alone, {beside[0]:.0f}/{beside[1]:.0f} beside a stalled one"
            )
        print(f"  p99 beside / alone, median of {rounds}: {statistics.median(ratios):.2f}")
        print(f"  the stalled one had {count} messages in its window, and its stream ended with {ended}")


async def one_great_kill(postgres: Postgres, url: str, size: int) -> None:
    """A tree of that size dies, with 20 full readers on each of two managers."""
    tree = await planted(postgres, url, size)
    async with started(*SERVE, DATABASE_URL=url) as one, started(*SERVE, DATABASE_URL=url) as other:
        before = [resident(each.process.pid) for each in (one, other)]
        async with (
            readers(one.address, 20) as near,
            readers(other.address, 20) as far,
            aio.insecure_channel(one.address) as channel,
        ):
            begun = time.time()
            answer = await TryServiceStub(channel).TryKillInstance(
                pb.KillRequest(instance_id=str(tree)), metadata=VERSION
            )
            answered = time.time() - begun
            assert answer.value
            times = await near.take(size, 20) + await far.take(size, 20)
            after = [resident(each.process.pid) for each in (one, other)]
    last = max(each[-1] for each in times) - begun
    print(
        f"  {size} dead: answered after {answered:.1f} s; 40 readers on two managers had all of it after {last:.1f} s"
    )
    print(f"  {40 * size / (last - answered):.0f} deliveries/s; none was cut off")
    print(
        f"  MiB of the managers before and after: {[round(each) for each in before]} {[round(each) for each in after]}"
    )


async def planted(postgres: Postgres, url: str, size: int) -> InstanceId:
    """The root of a tree of `size` instances: a hundred below each that has any."""
    ids = [new_id() for _ in range(size)]
    calls = [
        Registration(
            each,
            InstanceType.CHROME_BROWSER,
            "host",
            parent=ids[(number - 1) // 100] if number else None,
            timeout=timedelta(days=1),
        )
        for number, each in enumerate(ids)
    ]
    async with fleet_of(Database(NAME, url, postgres.url(database=NAME))) as fleet:
        for place in range(0, size, 2_000):
            await fleet.do(*calls[place : place + 2_000])
    return ids[0]


async def memory(url: str) -> None:
    """What an idle subscriber costs, and one that is behind and takes nothing."""
    async with (
        started(*SERVE, DATABASE_URL=url) as manager,
        aio.insecure_channel(manager.address) as channel,
    ):
        pid, tries = manager.process.pid, TryServiceStub(channel)
        ids = await register(tries)
        await write(tries, ids, 500, 1.0)
        async with readers(manager.address, 200) as _:
            await asyncio.sleep(2)  # what is made once is made
        before = resident(pid)
        for count in (500, 1_000):
            async with readers(manager.address, count) as crowd:
                await asyncio.sleep(2)
                idle = resident(pid)
                await write(tries, ids, 50, 1.0)
                await crowd.take(50, count)
                used = resident(pid)
            each = f"{(idle - before) * 1024 / count:.0f} KiB each idle, {(used - before) * 1024 / count:.0f} after 50"
            print(f"  {count} subscribers: {each} messages")
        async with Stalled(manager.address, 100) as crowd_of_stalled:
            idle = resident(pid)
            await write(tries, ids, 1_000, 4.0)
            await asyncio.sleep(3)
            print(f"  100 stalled ones, 4,000 events behind: {(resident(pid) - idle) * 1024 / 100:.0f} KiB more each")
            assert crowd_of_stalled


class Stalled:
    """Several that take nothing."""

    def __init__(self, address: str, count: int) -> None:
        self._contexts = [stalled(address) for _ in range(count)]

    async def __aenter__(self) -> "Stalled":
        for each in self._contexts:
            await each.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self._contexts:
            await each.__aexit__(None, None, None)


async def main() -> None:
    """All of it, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--healthy", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kill", type=int, default=100_000)
    asked = parser.parse_args()
    with start(None, ephemeral=True) as postgres:
        print(machine(postgres))
        url = await prepared(postgres)
        print("\nmemory of a manager")
        await memory(url)
        print("\none stalled subscriber")
        await beside_a_stalled_one(url, asked.healthy, asked.rounds)
        print("\none great kill")
        await one_great_kill(postgres, url, asked.kill)


if __name__ == "__main__":
    asyncio.run(main())
