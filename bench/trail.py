"""What the trail costs: the same turns with it and without, in turns, on one PostgreSQL.

CPU is that of the backend of the turns' connection, by the kernel's count, and of this process; so the disk is left
out, and what goes to it is told as bytes of WAL.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

from sqlalchemy import text

from bench.kills import planted
from bench.scene import NAME, prepared
from manager.domain.actor import Actor
from manager.domain.calls import Call, Kill, Registration
from manager.domain.instance import InstanceId, InstanceType
from manager.embedded import start
from manager.ids import new_id
from manager.repository import kill, turn
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of

ANN = Actor("ann", new_id(), "ipv4:10.0.0.9:40000")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one round: microseconds of CPU, of time, and bytes."""

    backend: float
    manager: float
    wall: float
    wal: float


@contextmanager
def trail(kept: bool) -> Iterator[None]:
    """With it, or as it was before there was one."""
    with ExitStack() as stack:
        if not kept:
            plain = kill.KILL.text.rpartition("select r.root")[0] + "select v.root from victim v where false"
            stack.enter_context(patch.object(turn, "acts_of", lambda *_: []))
            stack.enter_context(patch.object(kill, "KILL", text(plain)))
        yield


async def measured(fleet: Fleet, backend: int, turns: Sequence[Sequence[Call]]) -> Cost:
    """What these turns cost."""
    lsn = "select pg_current_wal_insert_lsn() - '0/0'"
    wal, cpu, own, wall = await fleet.value(lsn), _ran(backend), time.process_time(), time.perf_counter()
    outcomes = [each for calls in turns for each in await fleet.do(*calls)]
    cost = (_ran(backend) - cpu, 1e6 * (time.process_time() - own), 1e6 * (time.perf_counter() - wall))
    if any(each.reason for each in outcomes):
        raise RuntimeError("a call was refused")
    return Cost(*cost, wal=float(await fleet.value(lsn) - wal))


def _ran(process: int) -> float:
    """Microseconds that it has run, in ticks of 10 ms."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return 1e6 * (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def registrations(count: int) -> list[Call]:
    """Of browsers such as there are."""
    labels = {"team": "search", "pool": "eu-1"}
    return [
        Registration(new_id(), InstanceType.CHROME_BROWSER, f"host-{n % 50}", labels, actor=ANN) for n in range(count)
    ]


async def told(database: Database, rounds: int, tree: int) -> None:
    """A table: with it and without."""
    async with fleet_of(database) as fleet:
        await fleet.do(*registrations(2000))
        backend = await fleet.value("select pid from pg_stat_activity where application_name like '%turns'")
        print(
            "| a turn of | CPU of PostgreSQL, µs | of the manager, µs | time, µs | WAL, bytes |\n|---|---|---|---|---|"
        )
        for size, turns in ((1, 300), (100, 40), (2000, 3)):
            costs = {True: list[Cost](), False: list[Cost]()}
            for number in range(2 * rounds):
                kept = number % 4 in (0, 3)  # each goes first as often as the other
                with trail(kept):
                    costs[kept].append(await measured(fleet, backend, [registrations(size) for _ in range(turns)]))
            print(f"| {size} registrations, for each {_cells(costs, size * turns)}")
        costs = {True: [], False: []}
        for number in range(2 * 3 if tree else 0):
            root = InstanceId(UUID(await planted(fleet.sql, tree)))
            with trail(number % 4 in (0, 3)):
                costs[number % 4 in (0, 3)].append(await measured(fleet, backend, [[Kill(root, actor=ANN)]]))
        if tree:
            print(f"| the kill of {tree:,}, for each {_cells(costs, tree)}")


def _cells(costs: Mapping[bool, Sequence[Cost]], size: int) -> str:
    cells = []
    for field in fields(Cost):
        on, off = (statistics.mean(getattr(each, field.name) for each in costs[kept]) / size for kept in (True, False))
        cells.append(f"{on:.1f} / {off:.1f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Means, with the trail and without it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tree", type=int, default=0)
    asked = parser.parse_args()
    with start(ephemeral=True, durable=False) as postgres:
        url = asyncio.run(prepared(postgres))
        asyncio.run(told(Database(NAME, url, postgres.url(database=NAME)), asked.rounds, asked.tree))


if __name__ == "__main__":
    main()
