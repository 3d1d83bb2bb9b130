"""An hour of steady work: does anything grow, and is the end as fast as the beginning?

    .venv/bin/python -m bench.soak [--minutes 60] [--instances 10000] [--timeout 60] [--changes 50]

Two managers on one PostgreSQL. The instances check their health every third of their timeout; changes are updates,
registrations and kills at a steady rate; of 200 subscribers half see every change and half those of one host. Every
minute is measured by itself, and the last ones are compared with the first, in pairs.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import asyncpg
from grpc import aio

from bench.scene import NAME, SERVE, machine, open_files, prepared, quantile, resident
from manager.embedded import Postgres, start
from manager.pb import instance_manager_pb2 as pb
from manager.pb.instance_manager_pb2_grpc import TryServiceStub
from manager.pb.version import PROTO_VERSION
from manager.presence import new_id
from tests.processes import Running, started

VERSION = (("proto_version", PROTO_VERSION),)
HOSTS, FULL, NARROW = 50, 100, 100  # subscribers that see everything, and those that see one host
WARM_UP = 2  # minutes that are not judged: caches fill, plans are made
PAIRS = 10
BATCHES = re.compile(r"^im_batch_calls_count\{.*\} (\S+)$", re.MULTILINE)

# Its own count of events reads them all, and is left out of what is read.
COUNTERS = """
select (select xact_commit from pg_stat_database where datname = current_database()) as transactions,
       (select sum(case relname when 'event' then 0 else seq_tup_read end + coalesce(idx_tup_fetch, 0))
        from pg_stat_user_tables)::bigint as rows_read,
       (select count(*) from pg_stat_activity where usename = 'im_server')::int as connections,
       pg_relation_size('heartbeat') as heartbeat,
       (select n_dead_tup from pg_stat_user_tables where relname = 'heartbeat') as dead,
       (select count(*) from event where type = 2 and cause <> 1) as expired
"""


@dataclass
class Minute:
    """What was measured in one; times in ms, memory in MiB, `heartbeat` in bytes.

    A transaction carries as many calls as wait together, more on a slow machine than on a quick one. So what must not
    grow is what each batch costs; how many calls make one is told, and not judged.
    """

    number: int
    checks: int
    changes: int
    check_p50: float
    check_p99: float
    change_p50: float
    change_p99: float
    delivery_p50: float
    delivery_p99: float
    memory: list[float]
    files: list[int]
    connections: int
    calls_a_batch: float
    transactions_a_batch: float
    rows_a_call: float
    heartbeat: int
    dead: int
    resumed: int  # subscribers whose connection came to its age, since the beginning
    failures: dict[str, int] = field(default_factory=dict)


class Child:
    """A process of clients, which obeys its stdin."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """Its next line."""
        assert self._process.stdout
        return (await self._process.stdout.readline()).decode()

    async def ask(self, command: str, lines: int = 1) -> list[Any]:
        """What it answers."""
        assert self._process.stdin
        self._process.stdin.write(f"{command}\n".encode())
        return [json.loads(await self.line()) for _ in range(lines)]

    async def end(self) -> None:
        """Lets it go."""
        assert self._process.stdin
        self._process.stdin.write(b"end\n")
        await self._process.communicate()


@asynccontextmanager
async def child(module: str, *arguments: object) -> AsyncIterator[Child]:
    """One, once it is ready."""
    pipe = asyncio.subprocess.PIPE
    words = (sys.executable, "-m", module, *map(str, arguments))
    made = Child(await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, limit=2**28))
    try:
        assert await made.line() == "ready\n"
        yield made
    finally:
        await made.end()


class Writer:
    """Changes at a steady rate: one registration and one kill for every two updates."""

    def __init__(self, channels: Sequence[aio.Channel]) -> None:
        self._tries = [TryServiceStub(each) for each in channels]
        self._ids = [str(new_id()) for _ in range(200)]
        self._fresh: list[str] = []
        self._number = 0
        self.sent: dict[int, float] = {}  # when each revision was asked for, by time()
        self.took: list[float] = []

    async def prepare(self) -> None:
        """The instances that are updated are there."""
        for each in self._ids:
            await self._tries[0].TryAddInstance(self._described(each, "first"), metadata=VERSION)

    async def write(self, rate: float, seconds: float) -> None:
        """For so long; a slow answer does not put the next call off."""
        begun = time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        for step in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + step / rate - time.monotonic()))
            call = asyncio.create_task(self._change())
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)

    async def _change(self) -> None:
        self._number += 1
        number, tries = self._number, self._tries[self._number % len(self._tries)]
        sent = time.time()
        if number % 4 == 1:
            name = str(new_id())
            answer = await tries.TryAddInstance(self._described(name, f"host-{number % HOSTS}"), metadata=VERSION)
            self._fresh.append(name)
        elif number % 4 == 3 and self._fresh:
            asked = pb.KillRequest(instance_id=self._fresh.pop(0))
            answer = await tries.TryKillInstance(asked, metadata=VERSION)
        else:
            described = self._described(self._ids[number // 2 % len(self._ids)], f"host-{number}")
            answer = await tries.TryUpdateInstance(described, metadata=VERSION)
        assert answer.value, answer
        self.took.append(time.time() - sent)
        self.sent[answer.revision] = sent

    @staticmethod
    def _described(name: str, host: str) -> pb.InstanceDescription:
        return pb.InstanceDescription(
            instance_id=name, instance_type=pb.CHROME_BROWSER, hostname=host, timeout_ms=86_400_000
        )


@dataclass
class Soak:
    """All that is at work."""

    postgres: Postgres
    managers: list[Running]
    herd: Child
    full: list[Child]
    narrow: Child
    writer: Writer
    last: dict[str, int] = field(default_factory=dict)

    async def minute(self, number: int, rate: float, seconds: float) -> Minute:
        """One more, measured."""
        self.writer.sent, self.writer.took = {}, []
        await self.writer.write(rate, seconds)
        sent = [at for _, at in sorted(self.writer.sent.items())]
        delays = []
        for each in self.full:
            for times in await each.ask(f"take {len(sent)}", FULL // len(self.full)):
                assert isinstance(times, list), f"a subscriber was cut off: {times}"
                delays += [at - begun for at, begun in zip(times, sent, strict=True)]
        dropped = await self.narrow.ask("drop", NARROW)
        assert all(isinstance(each, int) for each in dropped), dropped
        herd = (await self.herd.ask("take"))[0]
        assert not herd["told"], "somebody who is alive was told to end"
        before, self.last = self.last, await self.counters()
        assert not self.last["expired"], "somebody who is alive expired"
        calls = len(herd["latencies"]) + len(sent)
        batches = self.last["batches"] - before.get("batches", 0)
        pids = [each.process.pid for each in self.managers]
        return Minute(
            number,
            len(herd["latencies"]),
            len(sent),
            *_points(herd["latencies"]),
            *_points(self.writer.took),
            *_points(delays),
            [round(resident(each), 1) for each in pids],
            [open_files(each) for each in pids],
            self.last["connections"],
            calls / batches,
            (self.last["transactions"] - before.get("transactions", 0)) / batches,
            (self.last["rows_read"] - before.get("rows_read", 0)) / calls,
            self.last["heartbeat"],
            self.last["dead"],
            sum([sum(await each.ask("resumed")) for each in (*self.full, self.narrow)]),
            herd["failures"],
        )

    async def counters(self) -> dict[str, int]:
        """What PostgreSQL and the managers count."""
        batches = sum([await asyncio.to_thread(_batches, each.page) for each in self.managers])
        connection = await asyncpg.connect(self.postgres.url(database=NAME))
        try:
            return {**dict(await connection.fetchrow(COUNTERS)), "batches": batches}
        finally:
            await connection.close()


def _batches(page: str) -> int:
    with urllib.request.urlopen(f"{page}/metrics") as answer:
        return int(sum(map(float, BATCHES.findall(answer.read().decode()))))


def _points(values: Sequence[float]) -> tuple[float, float]:
    return round(quantile(values, 0.5) * 1000, 1), round(quantile(values, 0.99) * 1000, 1)


@asynccontextmanager
async def soaking(postgres: Postgres, url: str, instances: int, timeout: float) -> AsyncIterator[Soak]:
    """Everybody at work."""
    async with AsyncExitStack() as stack:
        managers = [await stack.enter_async_context(started(*SERVE, DATABASE_URL=url)) for _ in range(2)]
        addresses = [each.address for each in managers]
        channels = [await stack.enter_async_context(aio.insecure_channel(each)) for each in addresses]
        writer = Writer(channels)
        await writer.prepare()
        herd = await stack.enter_async_context(child("bench.herd", ",".join(addresses), instances, timeout))
        full = [await stack.enter_async_context(child("bench.readers", each, FULL // 2)) for each in addresses]
        narrow = await stack.enter_async_context(child("bench.readers", addresses[0], NARROW, HOSTS))
        yield Soak(postgres, managers, herd, full, narrow, writer)


def judged(minutes: Sequence[Minute]) -> list[str]:
    """What grew, or became slower, by more than it may."""
    minutes = minutes[WARM_UP:]
    count = min(PAIRS, len(minutes) // 2)
    pairs = list(zip(minutes[:count], minutes[-count:], strict=True))
    found = []
    limits = {
        "check_p99": 1.25,
        "change_p99": 1.25,
        "delivery_p99": 1.25,
        "transactions_a_batch": 1.1,
        "rows_a_call": 1.1,
        "heartbeat": 1.25,
    }
    for name, limit in limits.items():
        ratio = statistics.median(getattr(end, name) / max(getattr(begin, name), 0.001) for begin, end in pairs)
        print(f"  {name}: the end is {ratio:.2f} of the beginning, median of {count} pairs")
        if ratio > limit:
            found.append(name)
    for name, more in {"memory": 1.1, "files": 1.05}.items():
        begin, end = (
            [statistics.median(column) for column in zip(*(getattr(pair[side], name) for pair in pairs), strict=True)]
            for side in (0, 1)
        )
        print(f"  {name}: {begin} at the beginning, {end} at the end")
        if any(last > first * more for first, last in zip(begin, end, strict=True)):
            found.append(name)
    connections = sorted({each.connections for each in minutes})
    print(f"  connections: {connections[0]} to {connections[-1]}")
    if pairs[-1][1].connections > pairs[0][0].connections + 2:
        found.append("connections")
    return found


async def main() -> None:
    """The whole run; exits with 1 where something grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a minute is")
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--changes", type=float, default=50.0)
    asked = parser.parse_args()
    with start(None, ephemeral=True) as postgres:
        print(machine(postgres), flush=True)
        url = await prepared(postgres)
        async with soaking(postgres, url, asked.instances, asked.timeout) as soak:
            await soak.minute(0, asked.changes, 5)
            minutes = []
            for number in range(1, asked.minutes + 1):
                minutes.append(await soak.minute(number, asked.changes, asked.seconds))
                print(json.dumps(asdict(minutes[-1])), flush=True)
    found = judged(minutes)
    if found:
        sys.exit(f"grew, or became slower: {', '.join(found)}")


if __name__ == "__main__":
    asyncio.run(main())
