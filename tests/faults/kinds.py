"""The faults: each breaks a world for some seconds, and heals it."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from grpc import aio

from manager.cli.codes import Exit
from manager.pb import instance_manager_pb2 as pb
from manager.pb.instance_manager_pb2_grpc import TryServiceStub
from manager.repository.hosts import ASK_EVERY, ASK_WITHIN
from tests.cli.imctl import running
from tests.faults.clock import clock
from tests.faults.copies import archived, promote, standby_of
from tests.faults.disk import failing_fsync, small_disk
from tests.faults.managers import HURRIED
from tests.faults.memory import at_most
from tests.faults.postgres import terminate_backends
from tests.faults.proxy import Proxy, proxied
from tests.faults.record import VERSION
from tests.faults.toxics import (
    UNDIRECTED,
    Bandwidth,
    Direction,
    Down,
    HalfOpen,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Stall,
    Timeout,
    Toxic,
)
from tests.faults.world import LEASE, LOCAL, Ground, World

HOLD = 2.5  # seconds that a fault lasts, if nothing else is said
# Who is cut off from every manager for no longer than the grace lives on for certain: the last check may have been two
# fifths of the timeout before it, and the next one has a third for a call that is lost and a third for its retry.
GRACE = float(HURRIED["IM_GRACE"])


@contextmanager
def plain() -> Iterator[Ground]:
    """A database without anything special."""
    yield Ground()


@contextmanager
def with_clock() -> Iterator[Ground]:
    """One whose clock can be set."""
    with clock() as settable:
        yield Ground(clock=settable)


@contextmanager
def on_small_disk() -> Iterator[Ground]:
    """One whose log has a disk of its own."""
    with small_disk() as disk:
        yield Ground(disk=disk, settings={})


@contextmanager
def durable() -> Iterator[Ground]:
    """One that flushes what it commits."""
    yield Ground(settings={})


@dataclass(frozen=True)
class Fault:
    """What breaks; `within`: seconds after which every kind of call is answered again; `through`: see launch."""

    breaks: Callable[[World], Awaitable[None]]
    within: float = 10.0
    through: tuple[str, ...] = ()
    clocks: bool = True
    ground: Callable[[], AbstractContextManager[Ground]] = plain


# ── managers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def one_manager_is_killed(world: World) -> None:
    await world.managers[0].kill()
    await asyncio.sleep(HOLD)
    await world.restart(0)


async def all_managers_are_killed(world: World) -> None:
    """For longer than any lease."""
    await asyncio.gather(*(each.kill() for each in world.managers))
    await asyncio.sleep(LEASE + 1.5)
    await asyncio.gather(*(world.restart(number) for number in range(len(world.managers))))


async def a_manager_stands_still(world: World) -> None:
    world.managers[0].freeze()
    await asyncio.sleep(LEASE + 1)
    world.managers[0].thaw()


async def all_managers_stand_still(world: World) -> None:
    for each in world.managers:
        each.freeze()
    await asyncio.sleep(LEASE + 1)
    for each in world.managers:
        each.thaw()


async def an_event_loop_stalls(world: World) -> None:
    for _ in range(2):
        world.managers[0].signal(signal.SIGUSR1)
        await asyncio.sleep(3.0)


async def a_manager_is_asked_to_end(world: World) -> None:
    assert await world.managers[0].stop() == 0
    await world.restart(0)


async def a_manager_is_out_of_files(world: World) -> None:
    await world.managers[0].kill()
    world.managers[0].through = ("few_files",)
    await world.restart(0)
    connections = [await asyncio.open_connection(*_endpoint(world.doors[0])) for _ in range(100)]
    await asyncio.sleep(HOLD)
    for _, writer in connections:
        writer.transport.abort()
    world.managers[0].through = ()
    await world.managers[0].kill()
    await world.restart(0)


def _endpoint(proxy: Proxy) -> tuple[str, int]:
    host, _, port = proxy.address.rpartition(":")
    return host, int(port)


async def a_manager_is_out_of_memory(world: World) -> None:
    """The kernel ends it amid large requests."""
    manager, large = world.managers[0], pb.InstanceDescription(hostname="x" * 1_000_000)
    with at_most(manager.pid, 8 << 20):
        async with asyncio.timeout(15), aio.insecure_channel(world.doors[0].address, LOCAL) as channel:
            send = TryServiceStub(channel).TryAddInstance
            while manager.running:
                calls = (send(large, metadata=VERSION, timeout=5) for _ in range(50))
                await asyncio.gather(*calls, return_exceptions=True)
    assert await manager.ended() == -signal.SIGKILL
    await asyncio.sleep(0.5)
    await world.restart(0)


async def a_client_stands_still(world: World) -> None:
    """Whoever is silent for so long expires in time, though its process is there, and is told so as soon as it asks."""
    async with running(",".join(world.addresses), "--timeout=3", "--", "sleep", "1000") as client:
        await true(world, f"exists ({CLIENT})")
        await true(world, "(select coalesce(grace_until < clock_timestamp(), true) from control)")
        client.signal(signal.SIGSTOP)
        dead = f"exists ({CLIENT} and death_cause = 2)"
        spared = "(select coalesce(grace_until > clock_timestamp(), false) from control)"
        await true(world, f"{dead} or {spared}", within=1.1 * LEASE + 4)
        # at once, unless a stall of the machine has earned everybody grace meanwhile
        await true(world, dead, within=float(HURRIED["IM_OUTAGE_GRACE"]) + 1.1 * LEASE + 4)
        client.signal(signal.SIGCONT)
        assert (await client.ended()).code == Exit.DEAD


CLIENT = "select from instance where type = 6"


async def true(world: World, condition: str, within: float = 15) -> None:
    """Returns once the condition holds in the database."""
    async with asyncio.timeout(within):
        while not await world.database.value(f"select {condition}"):
            await asyncio.sleep(0.1)


async def a_failpoint_is_reached(world: World) -> None:
    """The first manager dies at the point that it was launched with; the second one does not do all its work."""
    first, second = world.managers
    first.signal(signal.SIGUSR1)
    with suppress(TimeoutError):
        async with asyncio.timeout(3):
            await first.ended()
    if first.running:
        second.freeze()
        async with asyncio.timeout(12):
            await first.ended()
        second.thaw()
    await asyncio.sleep(0.5)
    world.managers[0].through = ()
    await world.restart(0)


# ── the database ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def the_database_is_killed(world: World) -> None:
    await world.server.kill9()
    await asyncio.sleep(0.5)
    await world.server.start()


async def the_database_is_away_for_longer_than_any_lease(world: World) -> None:
    await world.server.kill9()
    await asyncio.sleep(LEASE * 2)
    await world.server.start()


async def the_database_stands_still(world: World) -> None:
    await world.server.freeze()
    await asyncio.sleep(LEASE * 2)
    world.server.thaw()


async def backends_are_terminated(world: World) -> None:
    await terminate_backends(world.server, rate=20, seconds=HOLD, seed=world.seed)


async def the_disk_of_the_log_is_full(world: World) -> None:
    assert world.ground.disk
    await world.ground.disk.exhaust(world.server)
    await asyncio.sleep(HOLD)
    world.ground.disk.free()
    await world.server.restart()


async def the_disk_fails(world: World) -> None:
    async with failing_fsync(world.server):
        await asyncio.sleep(HOLD)
    await world.server.kill9()
    await world.server.start()


async def the_databases_clock_is_set_forward(world: World) -> None:
    assert world.ground.clock
    world.ground.clock.set(timedelta(minutes=10))
    await asyncio.sleep(LEASE + 1)


async def the_databases_clock_is_set_back(world: World) -> None:
    assert world.ground.clock
    world.ground.clock.set(timedelta(hours=-1))
    await asyncio.sleep(LEASE + 1)


async def a_managers_clock_is_a_day_off(world: World) -> None:
    """Each of them, one ahead and the other behind."""
    with clock() as ahead, clock() as behind:
        for number, (each, days) in enumerate(((ahead, 1), (behind, -1))):
            each.set(timedelta(days=days))
            await world.managers[number].kill()
            world.managers[number].variables |= each.env
            await world.restart(number)
        await asyncio.sleep(LEASE + 1)
        for number, manager in enumerate(world.managers):
            await manager.kill()
            manager.variables = {}
            await world.restart(number)


# ── copies of the database ───────────────────────────────────────────────────────────────────────────────────────────


async def a_standby_is_promoted(world: World) -> None:
    """An asynchronous one, cut off a moment before: what it never heard of is lost, and announced."""
    async with AsyncExitStack() as kept:
        link = await kept.enter_async_context(proxied(world.server.address))
        follower = await kept.enter_async_context(standby_of(world.server, through=link.address))
        await asyncio.sleep(1)
        link.add(Timeout())
        await asyncio.sleep(0.5)
        await world.server.kill9()
        await promote(follower)
        world.moved(follower)
        await world.announced()
        world.kept.push_async_callback(kept.pop_all().aclose)


async def a_synchronous_standby_is_promoted(world: World) -> None:
    """It has all that was acknowledged."""
    async with AsyncExitStack() as kept:
        follower = await kept.enter_async_context(standby_of(world.server, synchronous=True))
        await asyncio.sleep(1)
        await world.server.kill9()
        await promote(follower)
        world.moved(follower)
        world.kept.push_async_callback(kept.pop_all().aclose)


async def the_old_primary_is_left_writable(world: World) -> None:
    """A standby is promoted that was cut off a moment before, and nobody tells the old primary, nor the managers."""
    old = world.server
    async with AsyncExitStack() as kept:
        replication = await kept.enter_async_context(proxied(old.address))
        follower = await kept.enter_async_context(standby_of(old, through=replication.address))
        for number, link in enumerate(world.links):
            second = await kept.enter_async_context(proxied(follower.address))
            await world.managers[number].stop()
            world.managers[number].database_url = old.database.url.replace(
                old.address, f"{link.address},{second.address}"
            )
            await world.restart(number)
        await asyncio.sleep(1)
        replication.add(Timeout())
        await asyncio.sleep(0.5)
        await promote(follower)
        world.server, world.database = follower, follower.database
        await asyncio.sleep(ASK_EVERY + ASK_WITHIN)
        await world.announced()
        left_at = await old.database.value("select max(revision) from event")
        await asyncio.sleep(2)
        assert await old.database.value("select max(revision) from event") == left_at, "somebody went on writing to it"
        world.kept.push_async_callback(kept.pop_all().aclose)


async def the_database_is_restored_to_a_point_in_time(world: World) -> None:
    async with AsyncExitStack() as kept:
        archive = await kept.enter_async_context(archived(world.server))
        await asyncio.sleep(1)
        await archive.point("before")
        await asyncio.sleep(1)
        await archive.complete()
        await world.server.kill9()
        restored = await kept.enter_async_context(archive.restored("before"))
        world.moved(restored)
        await world.announced()
        world.kept.push_async_callback(kept.pop_all().aclose)


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────────


WAYS: dict[str, Toxic] = {
    "is slow": Latency(0.2, jitter=0.1),
    "is narrow": Bandwidth(20_000),
    "is sliced": Slicer(7, variation=5),
    "swallows all": Timeout(),
    "stands still": Stall(),
    "is half open": HalfOpen(),
    "is reset": ResetPeer(0.3),
    "closes slowly": SlowClose(1.0),
    "ends after some data": LimitData(20_000),
    "is refused": Down(),
}


def network(toxic: Toxic, of: Callable[[World], list[Proxy]], seconds: float, of_all: float) -> Fault:
    """That befalls one of the proxies of `of` for so long, or all of them; some of it in one direction alone."""

    async def breaks(world: World) -> None:
        chance = random.Random(world.seed)
        proxies = of(world)
        hit = proxies if chance.random() < 0.5 else [chance.choice(proxies)]
        ways: tuple[Direction | None, ...] = (None,) if isinstance(toxic, UNDIRECTED) else (None, "up", "down")
        direction = chance.choice(ways)
        for each in hit:
            each.add(toxic, direction)
        await asyncio.sleep(of_all if hit is proxies else seconds)
        for each in hit:
            each.heal()

    return Fault(breaks)


FAULTS: dict[str, Fault] = {
    "one manager is killed": Fault(one_manager_is_killed, within=3),
    "all managers are killed": Fault(all_managers_are_killed, within=3),
    "a manager stands still": Fault(a_manager_stands_still),
    "all managers stand still": Fault(all_managers_stand_still),
    "an event loop stalls": Fault(an_event_loop_stalls, through=("stalled_loop",)),
    "a manager is asked to end": Fault(a_manager_is_asked_to_end, within=3),
    "a manager is out of files": Fault(a_manager_is_out_of_files),
    "a manager is out of memory": Fault(a_manager_is_out_of_memory, within=3),
    "a client stands still": Fault(a_client_stands_still),
    "killed before a commit": Fault(a_failpoint_is_reached, through=("before_commit",)),
    "killed after a commit": Fault(a_failpoint_is_reached, through=("after_commit",)),
    "killed in a cascade": Fault(a_failpoint_is_reached, through=("mid_cascade",)),
    "killed in the reaper": Fault(a_failpoint_is_reached, through=("in_the_reaper",)),
    "the database is killed": Fault(the_database_is_killed, within=5),
    "the database is away": Fault(the_database_is_away_for_longer_than_any_lease, within=5),
    "the database stands still": Fault(the_database_stands_still),
    "backends are terminated": Fault(backends_are_terminated),
    "the log's disk is full": Fault(the_disk_of_the_log_is_full, ground=on_small_disk),
    "fsync fails": Fault(the_disk_fails, ground=durable),
    "the database's clock is set forward": Fault(the_databases_clock_is_set_forward, clocks=False, ground=with_clock),
    "the database's clock is set back": Fault(the_databases_clock_is_set_back, clocks=False, ground=with_clock),
    "the managers' clocks are a day off": Fault(a_managers_clock_is_a_day_off),
    "a standby is promoted": Fault(a_standby_is_promoted),
    "a synchronous standby is promoted": Fault(a_synchronous_standby_is_promoted),
    "an old primary is left writable": Fault(the_old_primary_is_left_writable),
    "the database is restored": Fault(the_database_is_restored_to_a_point_in_time),
    **{
        f"a database link {way}": network(each, lambda world: world.links, LEASE + 1, LEASE + 1)
        for way, each in WAYS.items()
    },
    **{f"a client link {way}": network(each, lambda world: world.doors, HOLD, GRACE) for way, each in WAYS.items()},
}
