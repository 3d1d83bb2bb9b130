"""What a drill does with a fleet: fills it, asks for everybody, and looks whether the record is sound."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter

import asyncpg

from manager.client import Client, End, Instance, Notice, Owner, RegisteredAgain, new_id
from manager.embedded import Postgres
from manager.pb import instance_manager_pb2 as pb
from manager.pb.fleet_pb2 import AddInstancesRequest, HealthCheckBatch, InstancesAtRequest
from manager.settings import Settings
from tests.conftest import serving

NAME = "instance_manager"
BATCH = 5_000
PACE = 0.02


async def served_url(postgres: Postgres) -> str:
    await postgres.grant_login("im_server")
    return postgres.url("im_server", NAME)


@asynccontextmanager
async def manager(postgres: Postgres, port: int = 0) -> AsyncIterator[Client]:
    """A manager on it, with a reaper, and a client."""
    async with managing(await served_url(postgres), port) as client:
        yield client


@asynccontextmanager
async def managing(url: str, port: int = 0) -> AsyncIterator[Client]:
    """The same on a database, by its address of the server's role."""
    settings = Settings(
        database_url=url,
        bind=("127.0.0.1",),
        port=port,
        http_port=0,
        timeout=timedelta(seconds=60),
        check_load=1_000_000,
    )
    async with serving(settings) as started, Client(started.addresses[0]) as client:
        yield client


async def add(client: Client, count: int) -> list[str]:
    """So many instances, each tenth a root and the others below one."""
    ids = [str(new_id()) for _ in range(count)]
    described = [
        pb.InstanceDescription(
            instance_id=each,
            instance_type=pb.CHROME_BROWSER,
            parent_id=ids[number - number % 10] if number % 10 else "",
        )
        for number, each in enumerate(ids)
    ]
    for begin in range(0, count, BATCH):
        waiting = described[begin : begin + BATCH]
        while waiting:  # a machine that is busy with a large fleet may answer UNAVAILABLE
            answer = await client.fleet.AddInstances(AddInstancesRequest(instances=waiting))
            waiting = [each for each, told in zip(waiting, answer.outcomes, strict=True) if not told.answer.value]
    return ids


QUIET = pb.InstanceDescription(instance_type=pb.VLLM, timeout_ms=5_000)  # and 20 s of grace, which is its type's


async def quiet(client: Client, url: str, count: int) -> list[str]:
    """So many, each alone on its host, who are stale on the record, and not due yet."""
    ids = [str(new_id()) for _ in range(count)]
    for each in ids:
        one = pb.InstanceDescription(instance_id=each, hostname=f"quiet-{each}")
        one.MergeFrom(QUIET)
        assert (await client.try_.TryAddInstance(one)).value
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "update heartbeat set last_seen = last_seen - interval '14 s' where instance_id = any($1)", ids
        )
        told = "select count(*) from heartbeat where instance_id = any($1) and told_stale"
        async with asyncio.timeout(15):
            while await connection.fetchval(told, ids) < count:
                await asyncio.sleep(0.05)
    finally:
        await connection.close()
    return ids


async def overdue(url: str) -> None:
    """Waits until the quiet would have been due, and the reaper has passed once more."""
    connection = await asyncpg.connect(url)
    waiting = """
        select count(*) from heartbeat h join instance i on i.id = h.instance_id, control c
        where i.hostname like 'quiet-%' and h.last_seen + 1.1 * h.timeout + interval '20 s' > c.ticked_at"""
    last = "select ticked_at from control"
    try:
        async with asyncio.timeout(60):
            while await connection.fetchval(waiting):
                await asyncio.sleep(0.1)
            before = await connection.fetchval(last)
            while await connection.fetchval(last) == before:
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


@dataclass
class Crowd:
    """Instances of the client, alive whatever becomes of the manager. `again`: who registered again, and when."""

    client: Client
    timeout: float
    members: list[Instance] = field(default_factory=list)
    again: list[tuple[str, float]] = field(default_factory=list)
    ended: list[End] = field(default_factory=list)

    async def join(self, count: int) -> None:
        """So many more."""
        for _ in range(count):
            one = pb.InstanceDescription(
                instance_id=str(new_id()), instance_type=pb.CHROME_BROWSER, timeout_ms=round(self.timeout * 1000)
            )
            member = Instance(self.client, one, owner=Owner(self._hears(one.instance_id), self.ended.append))
            await member.start()
            self.members.append(member)

    def _hears(self, instance_id: str) -> Callable[[Notice], None]:
        def told(notice: Notice) -> None:
            if isinstance(notice, RegisteredAgain):
                self.again.append((instance_id, perf_counter()))

        return told

    async def back(self, served_at: float) -> float:
        """How long after the manager served again the last was registered again: each was, within its timeout."""
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + 2 * self.timeout):
            while len(self.again) < len(self.members) and not self.ended:
                await asyncio.sleep(0.05)
        assert not self.ended
        assert {each for each, _ in self.again} == {each.id for each in self.members}, "each once"
        after = max(at for _, at in self.again) - served_at
        assert after < self.timeout
        return after


@asynccontextmanager
async def crowd(port: int, timeout: float) -> AsyncIterator[Crowd]:
    """Nobody at first, who will look for their manager there."""
    async with Client(f"127.0.0.1:{port}") as client:
        made = Crowd(client, timeout)
        try:
            yield made
        finally:
            await asyncio.gather(*(each.close() for each in made.members))


async def checked(client: Client, ids: list[str]) -> tuple[int, int]:
    """How many health checks are answered true, and how many with EPOCH_CHANGED; no other answer comes."""

    async def batches() -> AsyncIterator[HealthCheckBatch]:
        for begin in range(0, len(ids), BATCH):
            yield HealthCheckBatch(instance_ids=ids[begin : begin + BATCH])

    kept = lost = 0
    async for answer in client.fleet.HealthChecks(batches()):
        for each in answer.outcomes:
            kept += each.answer.value
            lost += each.failure.reason == "EPOCH_CHANGED"
    assert kept + lost == len(ids), "somebody was told to terminate"
    return kept, lost


@asynccontextmanager
async def registering(client: Client) -> AsyncIterator[list[tuple[float, str]]]:
    """Somebody registers all along: when each was acknowledged, and its id."""
    told: list[tuple[float, str]] = []

    async def register() -> None:
        while True:
            one = str(new_id())
            answer = await client.try_.TryAddInstance(pb.InstanceDescription(instance_id=one, instance_type=pb.VLLM))
            if answer.value:
                told.append((perf_counter(), one))
            await asyncio.sleep(PACE)

    task = asyncio.create_task(register())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.wait([task])


async def sound(url: str) -> None:
    """Nothing that may never be: a live child of a dead parent, a death without a root cause, a gap in the history."""
    connection = await asyncpg.connect(url)
    try:
        orphans = await connection.fetchval("""
            select count(*) from audit.instances c join audit.instances p on p.id = c.parent_id
            where c.status <> 'DEAD' and p.status = 'DEAD'""")
        causeless = await connection.fetchval("""
            select count(*) from audit.deaths d left join audit.root_causes r on r.id = d.root_cause
            where r.id is null""")
        gaps = await connection.fetchval("""
            select max(revision) - min(revision) + 1 - count(distinct revision) from audit.events""")
        assert (orphans, causeless, gaps) == (0, 0, 0)
    finally:
        await connection.close()


async def value(url: str, question: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(question))
    finally:
        await connection.close()


async def count(client: Client, revision: int) -> int:
    """How many lived then."""
    found, token = 0, b""
    while True:
        page = await client.fleet.GetInstancesAt(
            InstancesAtRequest(revision=revision, page_size=BATCH, page_token=token)
        )
        found, token = found + len(page.instances), page.next_page_token
        if not token:
            return found
