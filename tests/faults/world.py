"""A small world to break: a PostgreSQL of its own, managers, clients of every kind, and a proxy between each two.

What clients do is recorded; `judged` says what was wrong with it in the end.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import asyncpg
from grpc import aio

from manager.client import Client as Sdk
from manager.client import Instance
from manager.client.errors import EpochChangedError, ManagerError, typed
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.conftest import Database
from tests.faults import invariants, linear, replay
from tests.faults.clock import Clock
from tests.faults.disk import Disk
from tests.faults.managers import HURRIED, Manager
from tests.faults.postgres import migrated, started
from tests.faults.proxy import Proxy, proxied
from tests.faults.record import Call, Client, Ledger, Operation, Recorder
from tests.faults.server import Server
from tests.stream.plain import Fact, facts
from tests.stream.reader import Ended, Story, Stream, listening
from tests.stream.validators import Case, broken

LEASE = float(HURRIED["IM_TIMEOUT"]) + float(HURRIED["IM_GRACE"])
EVERYTHING = [pb.EventType.ValueType(each) for each in range(1, 9)]
LOCAL = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
WRITERS, FAITHFUL, SUBSCRIBERS = 4, 12, 2


BASE = "select (select base_revision from history_epoch where number > 1 order by number desc limit 1)"


@dataclass(frozen=True)
class Ground:
    """What is special about a world's database."""

    clock: Clock | None = None
    disk: Disk | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: {"fsync": "off"})


@dataclass
class World:
    """Everything, by what it is for: `links` are between managers and the database, `doors` before the managers."""

    server: Server
    database: Database
    managers: list[Manager]
    links: list[Proxy]
    doors: list[Proxy]
    recorder: Recorder
    seed: int
    faithful: list[Instance] = field(default_factory=list)
    stories: list[Story] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    writing: list["asyncio.Task[None]"] = field(default_factory=list)
    reading: list["asyncio.Task[None]"] = field(default_factory=list)
    ground: Ground = field(default_factory=lambda: Ground())
    kept: AsyncExitStack = field(default_factory=AsyncExitStack)  # what a fault left behind, ended with the world
    # what was acknowledged after `base` may be lost, an epoch having been announced; but nothing of after `moved_at`
    base: int | None = None
    moved_at: float = 0.0

    @property
    def addresses(self) -> list[str]:
        return [each.address for each in self.doors]

    async def restart(self, number: int) -> None:
        """Starts a manager anew, behind the same door."""
        self.doors[number].to(await self.managers[number].start())

    def moved(self, server: Server) -> None:
        """From now on that server is the database."""
        self.server, self.database = server, server.database
        for each in self.links:
            each.to(server.address)
            each.cut()

    async def announced(self) -> None:
        """Once the managers have opened an epoch: what came after its base may be lost, and they have said so."""
        async with asyncio.timeout(10):
            while (base := await self.database.value(BASE)) is None:
                await asyncio.sleep(0.05)
        self.base, self.moved_at = base, monotonic()

    # ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def write(self, number: int) -> None:
        """One writer, until stopped; through another door after each call that was not answered."""
        chance = random.Random(self.seed * 100 + number)
        while not self.stopped.is_set():
            async with aio.insecure_channel(chance.choice(self.addresses), LOCAL) as channel:
                client = Client(number, channel, self.recorder)
                while not self.stopped.is_set():
                    operation = await client.ask(drawn(chance, self.ids))
                    await asyncio.sleep(chance.random() * 0.02)
                    if operation.returned is None:
                        await asyncio.sleep(0.1)
                        break

    async def subscribe(self, number: int) -> None:
        """One story, gone on with through another door whenever its stream ends."""
        chance = random.Random(self.seed * 100 + 50 + number)

        async def read(stream: Stream) -> None:
            until = monotonic() + 1 + chance.random() * 4
            while not self.stopped.is_set():
                await stream.next(max(0.01, until - monotonic()))  # whose timeout ends the stream

        while not self.stopped.is_set():
            await self._told(number, chance, read)
            await asyncio.sleep(0.05)

    async def finish(self, number: int, upto: int) -> None:
        """Reads a story to the end."""

        async def read(stream: Stream) -> None:
            await stream.until(upto)

        while not await self._told(number, random.Random(), read):
            await asyncio.sleep(0.1)

    async def _told(self, number: int, chance: random.Random, read: Callable[[Stream], Awaitable[None]]) -> bool:
        """One connection on which a story goes on, and whether all was read. What tells of lost changes begins anew."""
        story = self.stories[number]
        try:
            async with listening(chance.choice(self.addresses), story, token=story.token) as stream:
                await read(stream)
                return True
        except TimeoutError:
            pass
        except aio.AioRpcError as error:
            if isinstance(typed(error), EpochChangedError):
                self.stories[number] = Story(story.request, bundled=story.bundled)
        hung_up(story)
        return False

    async def rest(self) -> None:
        """Writers and subscribers stop; all calls are answered, or given up."""
        self.stopped.set()
        await asyncio.gather(*self.writing)
        for each in self.reading:
            each.cancel()
        for result in await asyncio.gather(*self.reading, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        for story in self.stories:
            hung_up(story)

    async def lively(self, within: float) -> float:
        """How long it takes until every kind of call is answered through every door; fails after `within` seconds."""
        begun, last = monotonic(), dict[str, Exception]()
        try:
            async with asyncio.timeout(within):
                await asyncio.gather(*(self._answered(each, last) for each in self.addresses))
        except TimeoutError as error:
            error.add_note(f"the last failures, by manager: {last}")
            raise
        return monotonic() - begun

    async def _answered(self, address: str, last: dict[str, Exception]) -> None:
        async with Sdk(address) as sdk:
            while True:
                try:
                    await every_kind(sdk)
                except (ManagerError, aio.AioRpcError, TimeoutError) as error:
                    last[address] = error
                    await asyncio.sleep(0.05)
                else:
                    return

    # ── the judgement ────────────────────────────────────────────────────────────────────────────────────────────────

    async def judged(self, *, clocks: bool = True) -> list[str]:
        """All that was wrong. With `clocks` the database's clock was this machine's all the time."""
        head = await self.database.value("select max(revision) from event")
        async with asyncio.timeout(30):
            await asyncio.gather(*(self.finish(number, head) for number in range(len(self.stories))))
        history = await facts(self.database)
        operations = self.recorder.operations if self.base is None else self._afterwards()
        found = [*self.recorder.faults, *await invariants.violations(self.database)]
        found += replay.violations(operations, history)
        found += linear.violations(operations, history)
        found += self._misled(history, head)
        found += invariants.lost(self.recorder.ledger.read(), history, self.base, self.moved_at)
        found += invariants.massacred(history, [each.id for each in self.faithful])
        if clocks:
            found += invariants.early(operations, await invariants.expiries(self.database), LEASE)
        for each in self.managers:
            said = each.said()
            found += [line for line in said.splitlines() if "incident" in line or "Traceback" in line]
        return found

    def _afterwards(self) -> list[Operation]:
        """What was asked about instances, and parents of theirs, of which nothing had been asked before the loss."""
        before: set[str] = set()
        for each in self.recorder.operations:  # in the order of their calls
            if each.called < self.moved_at or (each.call.method == "add" and each.call.other in before):
                before.update(each.call.about)
        return [each for each in self.recorder.operations if before.isdisjoint(each.call.about)]

    def _misled(self, history: Sequence[Fact], head: int) -> list[str]:
        """What was wrong with what subscribers were told."""
        found: list[str] = []
        for story in self.stories:
            try:
                violations = broken(Case(story, history, head, bookmark_within=60.0))
            except KeyError as error:  # no fleet can be made of it
                found.append(f"the history speaks of {error}, who was not there")
            else:
                found += [f"{promise}: {each[:3]}" for promise, each in violations.items()]
        return found


def hung_up(story: Story) -> None:
    """Whatever ended its connection, the story says that it ended."""
    if story.entries and not isinstance(story.entries[-1], Ended):
        story.entries.append(Ended(monotonic()))


async def every_kind(sdk: Sdk) -> None:
    """One of each call, all of which must be answered well."""
    deadline = 2.0
    parent, child = (str(new_id()) for _ in range(2))
    for each in (parent, child):
        # never stale within what a round allows
        described = pb.InstanceDescription(instance_id=each, instance_type=pb.CHROME_BROWSER, timeout_ms=60_000)
        assert (await sdk.try_.TryAddInstance(described, timeout=deadline)).value
    asked = pb.InstanceRequest(instance_id=parent)
    service = pb.Service(service_type=pb.CHROME_DEBUG_PORT, host="10.0.0.1", port=9222)
    assert (await sdk.try_.TryAddChild(pb.AddChildRequest(parent_id=parent, child_id=child), timeout=deadline)).value
    offered = pb.AddServiceRequest(instance_id=parent, service=service)
    assert (await sdk.try_.TryAddService(offered, timeout=deadline)).value
    assert (await sdk.try_.TryHealthCheck(asked, timeout=deadline)).value
    updated = pb.InstanceDescription(instance_id=parent, instance_type=pb.CHROME_BROWSER, hostname="other")
    assert (await sdk.try_.TryUpdateInstance(updated, timeout=deadline)).value
    assert (await sdk.get.GetInstance(asked, timeout=deadline)).instance_id == parent
    assert (await sdk.get.GetHealthCheck(asked, timeout=deadline)).healthy
    assert len((await sdk.get.GetChildren(asked, timeout=deadline)).instances) == 1
    await sdk.get.GetAllInstances(pb.InstanceFilter(page_size=10), timeout=deadline)
    await sdk.post.PostSystemMetrics(pb.SystemMetrics(instance_id=parent, timestamp_ms=1), timeout=deadline)
    assert (await sdk.fleet.DescribeInstance(asked, timeout=deadline)).instance.instance_id == parent
    assert (await sdk.try_.TryKillInstance(pb.KillRequest(instance_id=parent), timeout=deadline)).value


def drawn(chance: random.Random, ids: list[str]) -> Call:
    """A call such as clients make, about few enough instances that they get in each other's way."""
    kind = chance.random()
    if kind < 0.3 or len(ids) < 3:
        parent = chance.choice(ids[-12:]) if len(ids) > 3 and chance.random() < 0.4 else ""
        ids.append(str(new_id()))
        return Call("add", ids[-1], parent)
    one, other = chance.choice(ids[-10:]), chance.choice(ids[-10:])
    if kind < 0.4:
        return Call("kill", one)
    if kind < 0.5:
        return Call("link", one, other)
    if kind < 0.6:
        return Call("offer", one, str(9222 + chance.randrange(3)))
    return Call("check" if kind < 0.85 else "get", one)


@asynccontextmanager
async def world_of(
    folder: Path, seed: int, *, through: Sequence[tuple[str, ...]] = ((), ()), ground: Ground | None = None
) -> AsyncIterator[World]:
    """A world with one manager for each of `through` (see tests.faults.launch), and everybody at work."""
    async with AsyncExitStack() as stack:
        ground = ground or Ground()
        server = await stack.enter_async_context(
            started(
                settings={**ground.settings, **(ground.disk.settings if ground.disk else {})},
                env=ground.clock.env if ground.clock else None,
                initdb=ground.disk.initdb if ground.disk else (),
            )
        )
        database = await migrated(server)
        connection = await asyncpg.connect(database.admin)
        await connection.execute("create sequence mutant_revisions; grant usage on mutant_revisions to im_server")
        await connection.close()
        links = [await stack.enter_async_context(proxied(server.address, seed=seed)) for _ in through]
        managers = []
        for link, each in zip(links, through, strict=True):
            managers.append(Manager(link.instead(database.url), each))
        yield await stack.enter_async_context(inhabited(folder, seed, server, managers, links=links, ground=ground))


@asynccontextmanager
async def inhabited(
    folder: Path,
    seed: int,
    server: Server,
    managers: list[Manager],
    *,
    links: Sequence[Proxy] = (),
    ground: Ground | None = None,
) -> AsyncIterator[World]:
    """The same on a server that is there, whose database is `migrated`; the managers are started, and ended with it."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(ended, managers)
        addresses = await asyncio.gather(*(each.start() for each in managers))
        doors = [await stack.enter_async_context(proxied(each, seed=seed)) for each in addresses]
        recorder = Recorder(Ledger(folder / f"ledger-{seed}"))
        stack.callback(recorder.ledger.close)
        world = World(server, server.database, managers, list(links), doors, recorder, seed, ground=ground or Ground())
        stack.push_async_callback(world.kept.aclose)
        await peopled(world, stack)
        yield world


async def peopled(world: World, stack: AsyncExitStack) -> None:
    """Faithful instances and a cache by the SDK, writers and subscribers of our own."""
    sdk = await stack.enter_async_context(Sdk(*world.addresses))
    for _ in range(FAITHFUL):
        described = pb.InstanceDescription(instance_type=pb.CHROME_BROWSER, hostname="faithful", timeout_ms=3_000)
        instance = Instance(sdk, described)
        await instance.start()
        stack.push_async_callback(instance._stop)
        world.faithful.append(instance)
    world.stories += [
        Story(pb.SubscribeRequest(event_types=EVERYTHING, send_bookmarks=True), bundled=bool(number % 2))
        for number in range(SUBSCRIBERS)
    ]
    world.writing = [asyncio.create_task(world.write(number)) for number in range(WRITERS)]
    world.reading = [asyncio.create_task(world.subscribe(number)) for number in range(SUBSCRIBERS)]
    stack.push_async_callback(world.rest)


async def ended(managers: Sequence[Manager]) -> None:
    for each in managers:
        if each.running:
            await each.kill()
        each.log.close()
