"""A fleet is served while its schema expands, contracts, goes back and comes again: nobody dies of it.

Two managers in processes of their own, who know this release's schema only; instances and a router of the Python
client; writers, readers and subscribers who take no other answer than one that is right, or "again". A manager that
needs the later schema comes and goes.
"""

import asyncio
import os
import random
from collections.abc import Awaitable
from contextlib import AsyncExitStack

import pytest

from manager import server
from manager.client import End
from manager.repository import migrations
from manager.repository.migrating import SchemaInUse
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.migrations.traffic import CALM, SERVE, Asked, living
from tests.processes import started
from tests.stream.crowd import Crowd, judged
from tests.stream.plain import facts

SEED = int(os.environ.get("IM_STREAM_SEED", random.randrange(10**6)))
LATER = "0.2.0"


@pytest.mark.timeout(240)
async def test_a_fleet_is_served_while_its_schema_goes_up_and_down_and_up_again(
    database: Database, settings: Settings, later: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "__version__", LATER)  # of the managers in this process
    ended: list[End] = []
    asked = Asked()
    async with AsyncExitStack() as stack:
        variables = {"DATABASE_URL": database.url, **CALM}
        managers = [await stack.enter_async_context(started(*SERVE, **variables)) for _ in range(2)]
        addresses = [each.address for each in managers]
        crowd = Crowd(database, addresses, SEED, pace=0.05)
        await stack.enter_async_context(living(list(addresses), 20, ended))
        async with asyncio.TaskGroup() as everybody:
            for number in range(4):
                everybody.create_task(crowd.write(number))
            for _ in range(6):
                everybody.create_task(crowd.subscribe())
            everybody.create_task(asked.ask(list(addresses), crowd.stopped))
            changes = await upgraded_and_back(Upgrade(database, later, crowd), settings, addresses)
            crowd.stopped.set()
    events, violations = judged(crowd.reads, await facts(database))
    print(f"\n{changes} changes beside each step; {asked}, {crowd.tally}, {events} events; {violations or 'all kept'}")
    assert not violations, f"IM_STREAM_SEED={SEED}"
    assert ended == []
    assert await database.value("select count(*) from event where type = 2 and cause = 2") == 0
    assert asked.answered > 5 * sum(asked.again.values())
    assert min(changes) > 0
    assert events > 100


class Upgrade:
    """What `imctl migrate` of the later release does; `beside` counts what was acknowledged meanwhile."""

    def __init__(self, database: Database, newest: str, crowd: Crowd) -> None:
        self._database, self._newest, self._crowd = database, newest, crowd
        self.beside: list[int] = []

    async def up(self) -> None:
        """Expands, fills, contracts."""
        assert await self._counted(migrations.upgrade(self._database.admin, release=LATER)) == "later3"

    async def down(self) -> None:
        """All the way back."""
        going = migrations.downgrade(self._database.admin, self._newest, release=LATER)
        assert await self._counted(going) == self._newest

    async def registered(self, manager: str) -> None:
        """A manager serves before it is part of the fleet itself."""
        async with asyncio.timeout(10):
            while not await self._database.run("select from instance where id = cast($1 as uuid)", manager):
                await asyncio.sleep(0.05)

    async def _counted(self, step: Awaitable[str]) -> str:
        before = self._crowd.tally.changes
        reached = await step
        self.beside.append(self._crowd.tally.changes - before)
        return reached


async def upgraded_and_back(upgrade: Upgrade, settings: Settings, addresses: list[str]) -> list[int]:
    """Up; a manager of the later release comes, works beside the others, and leaves; down, and up again."""
    await asyncio.sleep(0.5)
    await upgrade.up()
    async with serving(settings) as later:
        addresses.append(later.addresses[0])
        await upgrade.registered(later.instance_id)
        with pytest.raises(SchemaInUse, match=r"does not serve 0\.2\.0"):
            await upgrade.down()
        await asyncio.sleep(2)
        addresses.remove(later.addresses[0])
    await upgrade.down()
    await upgrade.up()
    await asyncio.sleep(0.5)
    return upgrade.beside
