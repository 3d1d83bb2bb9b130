"""What the gauges say of durability and of the archive is what the database does at present."""

import asyncio
from collections.abc import Callable
from math import isnan

import pytest

from manager import safeguards
from manager.repository.database import Database
from manager.safeguards import Safeguards
from tests.faults.postgres import migrated, started

ARCHIVING = {"archive_mode": "on", "archive_timeout": "1"}


async def test_an_archive_that_fails_and_works_again_is_known_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safeguards, "EVERY", 0.05)
    async with started(settings=ARCHIVING) as server:
        await server.set(archive_command="false")
        database = Database((await migrated(server)).url, 1)
        seen = Safeguards(database.readers)
        assert isnan(seen.holds)
        watch = asyncio.create_task(seen.watch())
        try:
            await server.value("select pg_switch_wal()")
            await true(lambda: seen.unarchived)
            assert seen.holds == 1
            await server.set(archive_command="true")
            await server.value("select pg_switch_wal()")
            await true(lambda: not seen.unarchived)
        finally:
            watch.cancel()
            await asyncio.wait([watch])
            await database.close()


async def true(condition: Callable[[], bool]) -> None:
    """Returns once it holds."""
    async with asyncio.timeout(90):
        while not condition():
            await asyncio.sleep(0.05)
