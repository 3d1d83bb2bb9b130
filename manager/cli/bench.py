"""`imctl bench`: a small load, to see that a manager is well, not what it can do."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import typer

from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.connection import Connection
from manager.cli.output import Printer, Shown
from manager.cli.progress import Advance, bar
from manager.cli.table import Column, Sheet
from manager.client import Client, ManagerError, new_id
from manager.pb.instance_manager_pb2 import (
    BROWSER_BACKEND,
    CHROME_BROWSER,
    InstanceDescription,
    InstanceRequest,
    KillRequest,
)

AT_ONCE = 32
LABELS = {"made-by": "imctl-bench"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of call. Times are milliseconds."""

    call: str
    count: int
    failed: int
    per_second: float
    p50_ms: float
    p99_ms: float


MEASURED: Sheet[Measured] = Sheet(
    columns=(
        Column("call", lambda told: told.call),
        Column("count", lambda told: told.count),
        Column("failed", lambda told: told.failed),
        Column("per_second", lambda told: told.per_second, lambda told: f"{told.per_second:,.0f}"),
        Column("p50_ms", lambda told: told.p50_ms, lambda told: f"{told.p50_ms:.1f}"),
        Column("p99_ms", lambda told: told.p99_ms, lambda told: f"{told.p99_ms:.1f}"),
    ),
    name=lambda told: told.call,
    document=asdict,
)


@dataclass(slots=True)
class Clocked:
    """Calls of one kind while they are made."""

    call: str
    took: list[float] = field(default_factory=list)
    failed: int = 0
    began: float = field(default_factory=time.monotonic)

    async def time(self, made: Awaitable[object]) -> None:
        """One more; a failure is counted."""
        began = time.monotonic()
        try:
            await made
        except ManagerError:
            self.failed += 1
        else:
            self.took.append(time.monotonic() - began)

    def measured(self) -> Measured:
        """All of them, up to now."""
        over = max(time.monotonic() - self.began, 1e-9)
        taken = sorted(self.took) or [0.0]
        middle, late = (taken[min(len(taken) - 1, int(len(taken) * part))] * 1000 for part in (0.5, 0.99))
        return Measured(
            self.call, len(self.took), self.failed, round(len(self.took) / over, 1), round(middle, 3), round(late, 3)
        )


def bench(
    at: Connection,
    shown: Shown,
    instances: Annotated[int, typer.Option("--instances", min=1, max=10_000, help="How many are registered.")] = 100,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=600, help="How long they check health.")] = 3,
) -> None:
    """Register some instances, check their health for a while, read them, kill them all; and tell how fast that was.

    They are real ones in a real fleet, below one parent, and labelled made-by=imctl-bench; in the end they are dead,
    after a Ctrl-C too. `make bench` measures what a manager can do.

    \b
    Examples:
      imctl bench
      imctl bench --instances 1000 --seconds 10 -o json
    """
    printer = shown.of(MEASURED)
    ask(at, lambda client: _bench(client, instances, seconds, printer))


async def _bench(client: Client, instances: int, seconds: float, printer: Printer[Measured]) -> int:
    parent = new_id()
    backend = InstanceDescription(instance_id=parent, instance_type=BROWSER_BACKEND, hostname="bench", labels=LABELS)
    await client.try_.TryAddInstance(backend)
    try:
        with bar("bench", 3 * instances + 10 * seconds, printer.shown.quiet) as advance:
            found = await _measure(client, parent, instances, seconds, advance)
    finally:
        await asyncio.shield(client.try_.TryKillInstance(KillRequest(instance_id=parent, note="imctl bench ended")))
    printer.many(found, arranged=not printer.shown.sort_by)
    return Exit.FAILED if any(each.failed for each in found) else Exit.OK


async def _measure(client: Client, parent: str, instances: int, seconds: float, advance: Advance) -> list[Measured]:
    ids = [new_id() for _ in range(instances)]

    def added(instance_id: str) -> Awaitable[object]:
        return client.try_.TryAddInstance(
            InstanceDescription(
                instance_id=instance_id, instance_type=CHROME_BROWSER, hostname="bench", labels=LABELS, parent_id=parent
            )
        )

    def read(instance_id: str) -> Awaitable[object]:
        return client.get.GetInstance(InstanceRequest(instance_id=instance_id))

    def killed(instance_id: str) -> Awaitable[object]:
        return client.try_.TryKillInstance(KillRequest(instance_id=instance_id))

    return [
        await _each("TryAddInstance", added, ids, advance),
        await _for_a_while(client, ids, seconds, advance),
        await _each("GetInstance", read, ids, advance),
        await _each("TryKillInstance", killed, ids, advance),
    ]


async def _each(call: str, made: Callable[[str], Awaitable[object]], ids: Sequence[str], advance: Advance) -> Measured:
    """One call for each of these, some at a time."""
    clocked, left = Clocked(call), iter(ids)

    async def work() -> None:
        for each in left:
            await clocked.time(made(each))
            advance()

    async with asyncio.TaskGroup() as workers:
        for _ in range(AT_ONCE):
            workers.create_task(work())
    return clocked.measured()


async def _for_a_while(client: Client, ids: list[str], seconds: float, advance: Advance) -> Measured:
    """Health checks of them all, over and over."""
    clocked = Clocked("TryHealthCheck")
    until = clocked.began + seconds

    async def work(first: int) -> None:
        place = first
        while time.monotonic() < until:
            request = InstanceRequest(instance_id=ids[place % len(ids)])
            await clocked.time(client.try_.TryHealthCheck(request))
            place += AT_ONCE

    async def pace() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(0.1)
            advance()

    async with asyncio.TaskGroup() as workers:
        workers.create_task(pace())
        for first in range(AT_ONCE):
            workers.create_task(work(first))
    return clocked.measured()
