"""A manager of the release before and one of this serve one database, on this one's schema: `make previous`."""

import asyncio
import os
import random
from contextlib import AsyncExitStack

import pytest

from tests.conftest import Database
from tests.migrations.traffic import CALM, SERVE, Asked
from tests.processes import started
from tests.stream.crowd import Crowd, judged
from tests.stream.plain import facts

SEED = int(os.environ.get("IM_STREAM_SEED", random.randrange(10**6)))
OLDER = os.environ.get("IM_PREVIOUS_IMCTL", "")

pytestmark = pytest.mark.skipif(not OLDER, reason="the release before is not there: make previous")


async def test_managers_of_two_releases_serve_side_by_side(database: Database) -> None:
    variables = {"DATABASE_URL": database.url, **CALM}
    asked = Asked()
    async with AsyncExitStack() as stack:
        older = await stack.enter_async_context(started(*SERVE, program=(OLDER,), **variables))
        newer = await stack.enter_async_context(started(*SERVE, **variables))
        crowd = Crowd(database, [older.address, newer.address], SEED, pace=0.05)
        async with asyncio.TaskGroup() as everybody:
            for number in range(4):
                everybody.create_task(crowd.write(number))
            for _ in range(6):
                everybody.create_task(crowd.subscribe())
            everybody.create_task(asked.ask([older.address, newer.address], crowd.stopped))
            await asyncio.sleep(6)
            crowd.stopped.set()
    events, violations = judged(crowd.reads, await facts(database))
    print(f"\n{asked}, {crowd.tally}, {events} events; {violations or 'all kept'}")
    assert not violations, f"IM_STREAM_SEED={SEED}"
    assert not asked.again
    assert crowd.tally.changes > 100
    assert events > 100
