"""The faults: each breaks a world for some seconds, and heals it."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.proxy import Proxy
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
from tests.faults.world import LEASE, World

HOLD = 2.5  # seconds that a fault lasts, if nothing else is said


@dataclass(frozen=True)
class Fault:
    """What breaks; `within`: seconds after which every kind of call is answered again; `through`: see launch."""

    breaks: Callable[[World], Awaitable[None]]
    within: float = 10.0
    through: tuple[str, ...] = ()
    clocks: bool = True


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


async def a_failpoint_is_reached(world: World) -> None:
    """The first manager dies at the point that it was launched with."""
    world.managers[0].signal(signal.SIGUSR1)
    async with asyncio.timeout(15):
        await world.managers[0].ended()
    await asyncio.sleep(0.5)
    world.managers[0].through = ()
    await world.restart(0)


# ── the database ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def the_database_is_killed(world: World) -> None:
    world.kill_database()
    await asyncio.sleep(0.5)
    world.postgres.restart()


async def the_database_is_away_for_longer_than_any_lease(world: World) -> None:
    world.kill_database()
    await asyncio.sleep(LEASE * 2)
    world.postgres.restart()


async def the_database_stands_still(world: World) -> None:
    world.freeze_database()
    await asyncio.sleep(LEASE * 2)
    world.thaw_database()


async def backends_are_terminated(world: World) -> None:
    for _ in range(40):
        await world.database.run(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'instance-manager%' order by random() limit 1"
        )
        await asyncio.sleep(0.05)


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


def network(toxic: Toxic, of: Callable[[World], list[Proxy]], seconds: float) -> Fault:
    """That befalls all the proxies of `of`, or one of them; some of it in one direction alone."""

    async def breaks(world: World) -> None:
        chance = random.Random(world.seed)
        proxies = of(world)
        hit = proxies if chance.random() < 0.5 else [chance.choice(proxies)]
        ways: tuple[Direction | None, ...] = (None,) if isinstance(toxic, UNDIRECTED) else (None, "up", "down")
        direction = chance.choice(ways)
        for each in hit:
            each.add(toxic, direction)
        await asyncio.sleep(seconds)
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
    "killed before a commit": Fault(a_failpoint_is_reached, through=("before_commit",)),
    "killed after a commit": Fault(a_failpoint_is_reached, through=("after_commit",)),
    "killed in a cascade": Fault(a_failpoint_is_reached, through=("mid_cascade",)),
    "killed in the reaper": Fault(a_failpoint_is_reached, through=("in_the_reaper",)),
    "the database is killed": Fault(the_database_is_killed, within=5),
    "the database is away": Fault(the_database_is_away_for_longer_than_any_lease, within=5),
    "the database stands still": Fault(the_database_stands_still),
    "backends are terminated": Fault(backends_are_terminated),
    **{f"a database link {way}": network(each, lambda world: world.links, LEASE + 1) for way, each in WAYS.items()},
    **{f"a client link {way}": network(each, lambda world: world.doors, HOLD) for way, each in WAYS.items()},
}
