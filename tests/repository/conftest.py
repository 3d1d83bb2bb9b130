"""Managers without their wire, on one database."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Database
from tests.fleet import Fleet, fleet_of


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    """A manager on this test's database."""
    async with fleet_of(database) as one:
        yield one


@pytest.fixture
async def other(database: Database) -> AsyncIterator[Fleet]:
    """A second manager on the same database."""
    async with fleet_of(database, actor="another") as one:
        yield one
