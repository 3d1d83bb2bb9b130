"""Following the fleet: as lines, one a change, or as a table that is drawn anew; for ever, over breaks and restarts."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from manager.cli import words
from manager.cli.messages import spoken
from manager.cli.output import DRAWN, Printer, Shown
from manager.cli.say import say
from manager.cli.told import described, told
from manager.client import Added, Client, Fleet, ManagerError, Wanted
from manager.pb.instance_manager_pb2 import EventType, InstanceDescription, InstanceUpdate

Judge = Callable[[InstanceDescription], bool]
PATIENCE = 10.0
LOOK = 0.25


@asynccontextmanager
async def followed(client: Client, wanted: Wanted) -> AsyncIterator[Fleet]:
    """A live copy of those wanted, complete. Raises ManagerError or TimeoutError where there is none to begin with."""
    async with Fleet(client, **wanted) as fleet:
        waiting = asyncio.ensure_future(fleet.wait_synced(PATIENCE))
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=LOOK)
            if isinstance(fleet.trouble, ManagerError) and not waiting.done():  # breaks are mended only later on
                waiting.cancel()
                raise fleet.trouble
        await waiting
        yield fleet


async def lines(
    client: Client, wanted: Wanted, printer: Printer[InstanceUpdate], kinds: Sequence[EventType.ValueType]
) -> None:
    """One line a change from now on, of these kinds or of all. Ends only by an error."""
    async with followed(client, wanted) as fleet, minding(fleet, printer.shown.quiet):
        async for change in fleet.changes():
            _print(printer, (each for each in told(change) if not kinds or each.event_type in kinds))


async def lines_from_the_beginning(client: Client, wanted: Wanted, printer: Printer[InstanceUpdate], of: Judge) -> None:
    """The same, of those who are admitted; who is there already comes first, as ADDED."""
    async with followed(client, wanted) as fleet, minding(fleet, printer.shown.quiet):
        changes = fleet.changes()
        present = [update for each in fleet.instances(healthy=None) for update in told(Added(each, fleet.revision))]
        _print(printer, (each for each in present if of(each.instance)))
        async for change in changes:
            _print(printer, (each for each in told(change) if of(each.instance)))


def _print(printer: Printer[InstanceUpdate], updates: Iterable[InstanceUpdate]) -> None:
    for update in updates:
        printer.next(update)


async def redrawn(client: Client, wanted: Wanted, printer: Printer[InstanceDescription], of: Judge) -> None:
    """A table of those who are admitted, drawn anew while anything changes, and once a second, since ages do."""
    from manager.cli.screen import Redrawing

    async with followed(client, wanted) as fleet:
        with Redrawing() as screen:
            while True:
                rows = [one for one in map(described, fleet.instances(healthy=None)) if of(one)]
                screen.show(summary(fleet, rows), printer.grid(printer.sorted(rows)), headed=printer.headed)
                await _news(fleet)


async def _news(fleet: Fleet) -> None:
    """Until the fleet is another, a second at most."""
    seen = fleet.revision
    for _ in range(round(1 / LOOK)):
        await asyncio.sleep(LOOK)
        if fleet.revision != seen:
            return


def summary(fleet: Fleet, rows: Sequence[InstanceDescription]) -> str:
    """How many there are of each state, and as of when."""
    states = Counter(one.status for one in rows)
    counted = "  ".join(f"{words.status(state)} {number}" for state, number in sorted(states.items())) or "nobody"
    seen = f"revision {fleet.revision}" if fleet.fresh else f"as of {fleet.age:.0f} s ago: {spoken(fleet.trouble)}"
    return f"{counted}   {seen}"


def drawable(shown: Shown) -> bool:
    """Whether a person looks at it."""
    return shown.output in DRAWN and sys.stdout.isatty()


@asynccontextmanager
async def minding(fleet: Fleet, quiet: bool) -> AsyncIterator[None]:
    """Says when the stream breaks, and when it goes on."""
    task = None if quiet else asyncio.create_task(_mind(fleet))
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


async def _mind(fleet: Fleet) -> None:
    while True:
        while fleet.trouble is None:
            await asyncio.sleep(LOOK)
        say(f"the stream broke: {spoken(fleet.trouble)}", "it goes on without a gap as soon as a manager answers")
        await _mended(fleet)
        say("the stream goes on")


async def _mended(fleet: Fleet) -> None:
    while fleet.trouble is not None:
        await asyncio.sleep(LOOK)
