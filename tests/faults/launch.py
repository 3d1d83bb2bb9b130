"""`python -m tests.faults.launch NAME serve ...`: a manager with a fault built in, for tests alone.

Failpoints wait until the process gets SIGUSR1; the next time one is reached then, the process is gone, as by kill -9.
Mutants break one promise for good: they prove that the checkers would see it.
"""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import text

from manager import reaper, server, subscription, turns
from manager.__main__ import main
from manager.domain.event import Event
from manager.repository import kill, tick
from manager.repository import turn as turn_module
from manager.repository.turn import Turn

armed = False


def arm(*_: object) -> None:
    global armed
    armed = True


def die_if_armed() -> None:
    if armed:
        os.kill(os.getpid(), signal.SIGKILL)


# ── failpoints ───────────────────────────────────────────────────────────────────────────────────────────────────────


def before_commit() -> None:
    """All of the turn is done but COMMIT."""
    append = turn_module._append

    async def appended(present: Turn, *, ring: bool) -> None:
        await append(present, ring=ring)
        if present.events:
            die_if_armed()

    turn_module._append = appended


def after_commit() -> None:
    """The turn is committed, and nobody has been answered."""
    run = turns.Turns._turn

    async def ran(self: turns.Turns, calls: Sequence[Any]) -> Any:
        outcomes = await run(self, calls)
        if any(outcome.revision for outcome in outcomes if hasattr(outcome, "revision")):
            die_if_armed()
        return outcomes

    turns.Turns._turn = ran  # type: ignore[method-assign]


def mid_cascade() -> None:
    """A tree is dead in its transaction, its events not yet all told."""
    slay = kill.slay

    async def slain(*arguments: Any) -> Any:
        revisions = await slay(*arguments)
        if revisions:
            die_if_armed()
        return revisions

    vars(kill)["slay"] = slain


def in_the_reaper() -> None:
    """A tick has told who is stale, and is not committed."""
    told = tick._tell

    async def telling(*arguments: Any) -> None:
        await told(*arguments)
        die_if_armed()

    vars(tick)["_tell"] = telling


def stalled_loop() -> None:
    """The event loop stands still for a while, at each SIGUSR1."""
    original = reaper.reap

    async def reaping(*arguments: Any) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, time.sleep, 2.5)
        await original(*arguments)

    vars(server)["reap"] = reaping


def few_files() -> None:
    """A limit of file descriptors that a server soon meets."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


# ── mutants ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def sequence() -> None:
    """Revisions come from a sequence, before the work and without the lock."""
    skipped_lock()
    turn_module.OPEN = text(
        str(turn_module.OPEN).replace(
            "greatest(c.compacted_revision, e.base_revision, (select max(revision) from event)) as head",
            "nextval('mutant_revisions') * 1000 as head",
        )
    )
    append = turn_module._append

    async def slow(present: Turn, *, ring: bool) -> None:
        await asyncio.sleep(0.01 * (os.getpid() % 3))
        await append(present, ring=ring)

    turn_module._append = slow


def reply_before_commit() -> None:
    """Who waits for a turn is answered before it is committed."""

    async def ran(self: turns.Turns, calls: Sequence[Any]) -> Any:
        if previous := getattr(self, "_late", None):
            await previous
        async with self._session.use() as connection:
            manager = turn_module.turn(connection)
            present = await manager.__aenter__()
            outcomes = await self._carry_out(present, calls)

        async def finish() -> None:
            await asyncio.sleep(0.05)
            await manager.__aexit__(None, None, None)

        self._late = asyncio.create_task(finish())  # type: ignore[attr-defined]
        return outcomes

    turns.Turns._turn = ran  # type: ignore[method-assign]


def skipped_lock() -> None:
    """Turns of several managers do not wait for each other; the first epoch is opened as ever."""
    ours = turns.turn  # type: ignore[attr-defined]

    def unlocked(*arguments: Any, **options: Any) -> Any:
        turn_module.LOCK = "select 1"
        return ours(*arguments, **options)

    vars(turns)["turn"] = unlocked


def local_clock() -> None:
    """The reaper judges by the clock of its own machine, which is wrong."""
    for name in ("DUE", "EXPIRED", "ROOTS"):
        fast = str(getattr(tick, name)).replace("l.now >", "l.now + interval '3 seconds' >")
        setattr(tick, name, text(fast))


def resume_off_by_one() -> None:
    """A subscription goes on one event after its token."""
    init = subscription.Subscription.__init__

    def later(self: Any, feed: Any, readers: Any, wanted: Any, lens: Any, place: Any) -> None:
        init(self, feed, readers, wanted, lens, place)
        self._key = (place.revision, place.ordinal + 1)

    subscription.Subscription.__init__ = later  # type: ignore[method-assign]


def split_revision() -> None:
    """The events of one change get revisions of their own."""
    tell = Turn.tell

    def split(self: Turn, *events: Event) -> None:
        for each in events:
            if self.events and self.events[-1].revision >= each.revision:
                self.head += 1
                each = replace(each, revision=self.head)
            tell(self, each)

    Turn.tell = split  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        before_commit,
        after_commit,
        mid_cascade,
        in_the_reaper,
        stalled_loop,
        few_files,
        sequence,
        reply_before_commit,
        skipped_lock,
        local_clock,
        resume_off_by_one,
        split_revision,
    )
}

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, arm)
    FAULTS[sys.argv.pop(1)]()
    main()
