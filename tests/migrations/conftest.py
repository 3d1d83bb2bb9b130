"""Databases of their own for migrations, which are nobody's template."""

import os
from collections.abc import AsyncIterator
from itertools import count

import asyncpg
import pytest

from tests.conftest import PASSWORD, Database, at

numbers = count(1)


@pytest.fixture
async def empty(cluster: str, template: str) -> AsyncIterator[Database]:
    """A database that was never migrated; the template's migration made the roles."""
    name = f"im_empty_{os.getpid()}_{next(numbers)}"
    connection = await asyncpg.connect(cluster)
    await connection.execute(f'create database "{name}"')
    yield Database(name, at(cluster, database=name, user="im_server", password=PASSWORD), at(cluster, database=name))
    await connection.execute(f'drop database "{name}" with (force)')
    await connection.close()
