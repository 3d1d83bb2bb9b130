"""`imctl migrate` and `imctl serve` on a database of somebody's own."""

import asyncpg

from manager.repository.migrations import newest
from tests.conftest import PASSWORD, _recreate, at
from tests.processes import imctl, started


async def test_a_schema_is_refused_before_it_was_migrated_and_served_afterwards(cluster: str) -> None:
    await _recreate(cluster, "im_fresh")
    admin, server = (
        at(cluster, database="im_fresh"),
        at(cluster, database="im_fresh", user="im_server", password=PASSWORD),
    )
    connection = await asyncpg.connect(admin)
    await connection.execute("do $$ begin create role im_server; exception when duplicate_object then null; end $$")
    await connection.execute(f"alter role im_server login password '{PASSWORD}'")
    refused = await imctl("serve", "--port", "0", DATABASE_URL=server)
    assert refused.code == 1
    assert "run `imctl migrate`" in refused.err
    migrated = await imctl("migrate", DATABASE_URL=admin)
    assert migrated.code == 0, migrated.err
    assert f"the schema is at {newest()}" in migrated.err
    async with started("serve", "--port", "0", "--bind", "127.0.0.1", DATABASE_URL=server) as running:
        assert (await imctl("get", "--address", running.address)).code == 0
    assert await connection.fetchval("select count(*) from live_instance") == 0  # it took itself out
    await connection.execute("update control set serves_from = '99.0.0'")
    refused = await imctl("serve", "--port", "0", DATABASE_URL=server)
    assert "serves releases from 99.0.0 on" in refused.err
    await connection.close()
