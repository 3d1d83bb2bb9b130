"""What a subscriber costs the manager: little while it listens, and no more while it takes nothing."""

import asyncio
from contextlib import AsyncExitStack

from manager.pb import instance_manager_pb2 as pb
from tests.conftest import Database
from tests.faults.managers import resident
from tests.processes import Running, started
from tests.stream.changes import Changes
from tests.stream.reader import Story, listening
from tests.wire.caller import calling

MANY = 200
EACH = 128 * 1024  # bytes; 30 KiB were measured, see bench/RESULTS.md


async def grown(manager: Running, *, narrow: bool) -> float:
    """The memory that each of many subscribers takes who listen, and read nothing of what comes then."""
    async with AsyncExitStack() as stack, calling(manager.address) as caller:
        changes = Changes(1)
        await changes.many(caller, 30)
        before = resident(manager.process.pid)
        for _ in range(MANY):
            await stack.enter_async_context(listening(manager.address, Story(pb.SubscribeRequest()), narrow=narrow))
        for _ in range(2 if narrow else 1):
            await changes.many(caller, 300)
        await asyncio.sleep(0.5)
        return (resident(manager.process.pid) - before) / MANY


async def test_a_subscriber_costs_the_manager_little_whether_it_reads_or_not(database: Database) -> None:
    async with started("serve", "--port=0", "--bind=127.0.0.1", DATABASE_URL=database.url) as manager:
        assert await grown(manager, narrow=False) < EACH
        assert await grown(manager, narrow=True) < EACH
