"""What the failures of a database mean."""

import asyncio

import asyncpg
import pytest

from manager.domain.refusals import Unavailable
from manager.embedded import start
from manager.repository import migrations
from tests.conftest import Database
from tests.fleet import fleet_of


async def test_a_commit_that_no_standby_has_is_unknown_and_not_acknowledged() -> None:
    with start(ephemeral=True, durable=False) as postgres:
        await migrations.upgrade(postgres.url())
        admin = await asyncpg.connect(postgres.url())
        async with fleet_of(Database("postgres", postgres.url(), postgres.url())) as fleet:
            await fleet.add()
            await admin.execute("alter system set synchronous_standby_names = 'a_standby_that_is_away'")
            await admin.execute("select pg_reload_conf()")
            await asyncio.sleep(0.2)
            adding = asyncio.create_task(fleet.add())
            async with asyncio.timeout(10):
                while not await admin.fetchval("""
                    select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"""):
                    await asyncio.sleep(0.05)
            with pytest.raises(Unavailable, match="no standby"):
                await adding
            await admin.execute("alter system reset synchronous_standby_names")
            await admin.execute("select pg_reload_conf()")
            await asyncio.sleep(0.2)
            await fleet.add()
        await admin.close()
