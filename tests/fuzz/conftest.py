"""A manager of each transport for all tests of this folder."""

import os
from collections.abc import AsyncIterator
from itertools import count

import asyncpg
import pytest

from manager.settings import Transport
from tests.conftest import Database, _recreate, addressed, at
from tests.fuzz.target import Target, target

numbers = count(1)


@pytest.fixture(scope="package", params=list(Transport), ids=str)
async def it(request: pytest.FixtureRequest, cluster: str, template: str) -> AsyncIterator[Target]:
    """One, on a database of its own."""
    name = f"im_canary_{os.getpid()}_{next(numbers)}"
    await _recreate(cluster, name, f"template {template} strategy file_copy")
    database: Database = addressed(at(cluster, database=name))
    async with target(database, request.param) as made:
        yield made
    connection = await asyncpg.connect(cluster)
    await connection.execute(f'drop database if exists "{name}" with (force)')
    await connection.close()
